"""Hydra sweeper plugin for Optuna (conf/hydra/sweeper/optuna.yaml).

The search is `heatpose.sweeps.optuna`. Hydra finds plugins only in the package `hydra_plugins`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class OptunaSweeper(Sweeper):
    """Runs the trials that Optuna suggests and reports their objectives to it.

    Args:
        directions: "maximize" or "minimize" for each of the configuration's `objectives`.
        trials: Number of successful trials, those of earlier calls included.
        jobs: Number of trials per batch; more than one needs a parallel launcher to be useful.
        seed: Seed of the sampler.
        params: Key -> range in Hydra's grammar, such as "choice(0.5, 0.75, 1.0)", "range(160, 257,
            32)", "interval(1e-4, 1e-2)" or "tag(log, interval(1e-4, 1e-2))". Ranges of the command
            line are added.
    """

    def __init__(
        self,
        directions: Sequence[str],
        trials: int,
        jobs: int,
        seed: int,
        params: Mapping[str, str] | None = None,
    ) -> None:
        self.directions, self.trials, self.jobs, self.seed = list(directions), trials, jobs, seed
        self.params = dict(params or {})
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Called by Hydra with the command line's overrides."""
        # Imported here: Hydra imports every plugin at every start.
        from heatpose.errors import exit_on_user_error
        from heatpose.sweeps.optuna import Search, write_best

        assert self.config is not None and self.hydra_context is not None
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(
            [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        )
        with exit_on_user_error():
            search = Search.open(
                folder, overrides, self.directions, list(self.config.objectives), self.seed
            )
            search.run(self._launch, self.trials, self.jobs)
        write_best(search, folder)

    def _launch(self, batch: list[list[str]], first: int) -> list[Any]:
        """Runs a batch of trials and returns the return value of each."""
        assert self.launcher is not None
        self.validate_batch_is_legal(batch)
        return [ended.return_value for ended in self.launcher.launch(batch, initial_job_idx=first)]
