"""Search by Optuna over ranges in Hydra's override grammar.

Replaces hydra-optuna-sweeper, whose release for Hydra 1.3 needs optuna < 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from heatpose.errors import HeatposeError
from heatpose.sweeps.summary import SEARCH
from heatpose.utils.files import write_json

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

BEST = "best.json"
DIRECTIONS = ("maximize", "minimize")
_SILENT = 10
"""Consecutive failed trials after which a search stops."""

Launch = Callable[[list[list[str]], int], list[Any]]
"""(overrides of each sweep run, number of the first) -> return value of each."""


def distribution(override: Override) -> BaseDistribution:
    """Converts an override to an Optuna distribution.

    A choice (or `a,b,c`) is categorical, a range is stepped, an interval is continuous; `tag(log,
    ...)` is logarithmic and `int(...)` integer.

    Raises:
        HeatposeError: The override's range cannot be searched.
    """
    from optuna import distributions as of

    sweep, key = override.value(), override.get_key_element()
    if isinstance(sweep, ChoiceSweep):
        return of.CategoricalDistribution(list(override.sweep_string_iterator()))
    logarithmic = "log" in getattr(sweep, "tags", ())
    if isinstance(sweep, RangeSweep):
        start, stop, step = float(sweep.start or 0), float(sweep.stop or 0), float(sweep.step)
        # Hydra's ranges exclude their end
        last = start + step * (math.ceil((stop - start) / step) - 1)
        if all(value.is_integer() for value in (start, step)):
            return of.IntDistribution(
                int(start), int(last), step=1 if logarithmic else int(step), log=logarithmic
            )
        return of.FloatDistribution(
            start, last, step=None if logarithmic else step, log=logarithmic
        )
    if isinstance(sweep, IntervalSweep):
        low, high = cast(Any, sweep.start), cast(Any, sweep.end)
        # int(interval(...)), or as Hydra parsed them
        whole = isinstance(low, int) and isinstance(high, int)
        return (
            of.IntDistribution(low, high, log=logarithmic)
            if whole
            else of.FloatDistribution(float(low), float(high), log=logarithmic)
        )
    raise HeatposeError(
        f"{key}={override.get_value_element_as_str()} cannot be searched; write choice(...),"
        " range(...) or interval(...)."
    )


@dataclass
class Search:
    """A search stored in a folder, which can be resumed.

    Attributes:
        study: Optuna's study.
        space: Key -> distribution.
        fixed: Overrides of all sweep runs.
        objectives: Names of the objectives.
    """

    study: Study
    space: dict[str, BaseDistribution]
    fixed: list[str]
    objectives: list[str]

    @staticmethod
    def open(
        folder: Path,
        overrides: Sequence[Override],
        directions: Sequence[str],
        objectives: Sequence[str],
        seed: int,
    ) -> Search:
        """Creates a search, or resumes the one in the folder.

        Args:
            folder: Folder of the sweep.
            overrides: Parsed overrides, fixed and swept.
            directions: "maximize" or "minimize" for each objective.
            objectives: Names of the objectives.
            seed: Seed of the sampler.

        Raises:
            HeatposeError: Optuna is not installed, nothing is swept, or directions and objectives
                do not match.
        """
        swept = {
            override.get_key_element(): override
            for override in overrides
            if override.is_sweep_override()
        }
        fixed = [
            f"{o.get_key_element()}={o.get_value_element_as_str()}"
            for o in overrides
            if not o.is_sweep_override()
        ]
        if not swept:
            raise HeatposeError(
                "The search has no range; give one on the command line, such as"
                " resolution=192,224,256."
            )
        if len(directions) != len(objectives) or any(
            direction not in DIRECTIONS for direction in directions
        ):
            raise HeatposeError(
                "hydra.sweeper.directions must have maximize or minimize for each of the objectives"
                f" {', '.join(objectives)}."
            )
        try:
            study = _study(folder, directions, seed)
        except ImportError as error:
            raise HeatposeError(
                "Optuna is not installed; install heatpose[sweep], or run uv sync --extra sweep."
            ) from error
        return Search(
            study,
            {key: distribution(override) for key, override in swept.items()},
            fixed,
            list(objectives),
        )

    def run(self, launch: Launch, trials: int, jobs: int) -> None:
        """Runs trials, `jobs` at a time, until `trials` of the study have succeeded."""
        self._requeue()
        failed = 0
        while (left := trials - len(self.succeeded())) > 0 and failed < _SILENT:
            batch = [self.study.ask(self.space) for _ in range(min(jobs, left))]
            results = launch(
                [[*self.fixed, *_overrides(trial)] for trial in batch], batch[0].number
            )
            for trial, result in zip(batch, results, strict=True):
                failed = 0 if self._tell(trial, result) else failed + 1

    def succeeded(self) -> list[FrozenTrial]:
        """Successful trials."""
        return [trial for trial in self.study.trials if trial.state.name == "COMPLETE"]

    def best(self) -> list[FrozenTrial]:
        """Pareto-optimal trials, sorted by the first objective."""
        ordered = sorted(
            self.study.best_trials,
            key=lambda trial: trial.values,
            reverse=self.study.directions[0].name == "MAXIMIZE",
        )
        return list(
            {tuple(sorted(trial.params.items())): trial for trial in reversed(ordered)}.values()
        )[::-1]

    def _tell(self, trial: Trial, result: Any) -> bool:
        """Reports the objectives of a trial to Optuna; returns False for a failed trial."""
        from optuna.trial import TrialState

        values = [
            float(value)
            for value in (result if isinstance(result, list | tuple) else [result])
            if value is not None
        ]
        good = len(values) == len(self.objectives) and all(map(math.isfinite, values))
        self.study.tell(
            trial, values if good else None, state=TrialState.COMPLETE if good else TrialState.FAIL
        )
        return good

    def _requeue(self) -> None:
        """Queues interrupted trials again with the same values, so that their runs resume."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                self.study.enqueue_trial(trial.params)


def _study(folder: Path, directions: Sequence[str], seed: int) -> Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / SEARCH)))
    known = {
        summary.study_name: summary.n_trials for summary in optuna.get_all_study_summaries(storage)
    }
    # the same seed would repeat the same values
    sampler = optuna.samplers.TPESampler(seed=seed + known.get("search", 0))
    return optuna.create_study(
        storage=storage,
        study_name="search",
        load_if_exists=True,
        directions=cast(list[Any], directions),
        sampler=sampler,
    )


def _overrides(trial: Trial) -> list[str]:
    return [
        f"{key}={f'{value:.6g}' if isinstance(value, float) else value}"
        for key, value in trial.params.items()
    ]


def write_best(search: Search, folder: Path) -> None:
    """Prints the best trials and writes them to `best.json`."""
    best = [
        {
            "values": dict(zip(search.objectives, trial.values, strict=True)),
            "params": dict(trial.params),
        }
        for trial in search.best()
    ]
    write_json(folder / BEST, {"trials": len(search.succeeded()), "best": best})
    print(
        f"\nBest of {len(search.succeeded())} runs"
        + (" (Pareto-optimal):" if len(search.objectives) > 1 else ":")
    )
    for entry in best:
        numbers = ", ".join(f"{name} {value:.2f}" for name, value in entry["values"].items())
        print(
            f"  {numbers}: {' '.join(f'{key}={value}' for key, value in entry['params'].items())}"
        )
