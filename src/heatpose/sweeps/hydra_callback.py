"""Sweeps (`train.py -m ...`).

Every member has a name of its own, one that fails stops no other, and one that is done is not run
again.
"""

from __future__ import annotations

import hashlib
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from heatpose.errors import (
    HeatposeError,
    InterruptedRun,
    as_bug,
    exit_on_user_error,
    first_line,
    sentence_of,
)
from heatpose.sweeps import summary as sweep_runs
from heatpose.sweeps.summary import SweepRun
from heatpose.training import result as record
from heatpose.training.distributed import in_sweep
from heatpose.training.result import RunResult
from heatpose.utils.files import require_writable
from heatpose.utils.process import is_first_process

if TYPE_CHECKING:
    from heatpose.data.sources import Source

LONGEST = 80
"""Characters that a member's name adds at most.

File systems allow 255 for a name, and the model files add theirs.
"""
RESOLUTIONS = "data.module.resolutions"
Task = Callable[[DictConfig], RunResult | None]


def sweep_suffix() -> str:
    """What tells this member of a sweep from the others, "_resolution-224_model.width-0.5".

    "" outside sweeps.
    """
    swept = HydraConfig.get().job.override_dirname if in_sweep() else ""
    return f"_{safe_name(swept)}" if swept else ""


def safe_name(text: str) -> str:
    """A text as part of one folder's name: different texts give different names.

    What a name should not have (a path's slashes, quotes, commas) becomes "-"; then, and where the
    text is long, a piece of its hash follows.
    """
    plain = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)
    if plain == text and len(text) <= LONGEST:
        return text
    return f"{plain[: LONGEST - 9].strip('-.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


# For `run: ${name}${member_suffix:}` in conf/train.yaml. Registered on import, because launchers
# build members in processes of their own.
OmegaConf.register_new_resolver("sweep_suffix", sweep_suffix, replace=True)


class SweepRuns(Callback):
    """Hydra's callback (conf/train.yaml).

    Members are named after what is swept alone, and told together at the end.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuses a folder of runs that cannot be written.

        Before Hydra's own records meet it with a traceback.
        """
        with exit_on_user_error():
            require_writable(Path(str(config.runs)))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Names the sweep's folder and drops common overrides from `hydra.job.override_dirname`."""
        self.on_run_start(config)
        overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
        same = {RESOLUTIONS, *(override.key_or_group for override in overrides)} - swept
        swept |= {str(key) for key in config.hydra.sweeper.get("params") or {}} - same
        if "name" not in same:
            same |= {"name", "experiment"}  # either gives the run its name already
        folder = Path(config.runs) / _sweep_name(config, sorted(swept))
        sweep_runs.begin(folder)
        with open_dict(config):
            config.hydra.sweep.dir = str(folder)
            config.hydra.overrides.hydra += [
                "hydra.job.config.override_dirname.exclude_keys=[{}]".format(
                    ",".join(f"'{key}'" for key in sorted(same))
                ),
                "hydra.sweep.dir='{}'".format(str(folder).replace("'", "\\'")),
                *(_resolutions(overrides) if config.shared_weights else []),
            ]

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Table, sweep.csv and report.html; exit status 1 where a member failed."""
        failed = sweep_runs.tell(Path(config.hydra.sweep.dir), str(config.name))
        for sweep_run in failed:
            print(f"error: {sweep_run.run}: {sweep_run.result.reason}", file=sys.stderr)
        if failed:
            print(
                f"error: {len(failed)} of the sweep's runs failed; the same command runs them"
                " again, and only them.",
                file=sys.stderr,
            )
            sys.exit(1)


def _sweep_name(config: DictConfig, swept: list[str]) -> str:
    """Of the sweep's folder: quickstart_sweep_model.width_resolution."""
    return "_".join(
        [
            str(config.name),
            *(["shared"] if config.shared_weights else []),
            "sweep",
            *([safe_name("_".join(swept))] if swept else []),
        ]
    )


def _resolutions(overrides: list[Override]) -> list[str]:
    """What tells each member of all the resolutions that are swept."""
    sides = [
        str(side)
        for o in overrides
        if o.key_or_group == "resolution" and o.is_discrete_sweep()
        for side in o.sweep_string_iterator()
    ]
    return [f"{RESOLUTIONS}=[{','.join(sides)}]"] if sides else []


def run_entry(task: Task, config: DictConfig) -> float | tuple[float, ...] | None:
    """Runs an entry's task; a user's mistake.

    And an export that a gate refused, become a sentence on stderr and exit status 1.

    Returns:
        The configured objectives. In a sweep the other members run even if this one fails: its
        objectives are NaN then, which a search takes as a failed trial.
    """
    if in_sweep():
        return _run_one(task, config)
    with exit_on_user_error():
        result = _run(task, config)
        if result is not None and result.status == "failed":
            raise HeatposeError(result.reason)
        return None if result is None else result.objectives(list(config.objectives))


def _run(task: Task, config: DictConfig) -> RunResult | None:
    """The task's result, kept in the run's folder."""
    began = time.monotonic()
    result = task(config)
    if result is None:
        return None
    result = replace(result, seconds=time.monotonic() - began)
    record.keep(run_folder(config), config, result)
    return result


def _run_one(task: Task, config: DictConfig) -> float | tuple[float, ...] | None:
    """One member; whatever goes wrong in it is told and ends no other, except Ctrl-C.

    Which ends the sweep.
    """
    job, began = HydraConfig.get(), time.monotonic()
    sweep_run, place = (
        SweepRun(str(config.run), own_overrides(), RunResult("running")),
        (Path(job.sweep.dir), int(job.job.num)),
    )
    sweep_run.write(*place)
    try:
        result = _once(task, config)
    except InterruptedRun as stopped:
        print(f"error: {stopped}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        result = RunResult("failed", _reason(error), seconds=time.monotonic() - began)
    if result.status == "failed":
        print(f"error: {result.reason}", file=sys.stderr)
    replace(sweep_run, result=result).write(*place)
    return result.objectives(list(config.objectives))


def _once(task: Task, config: DictConfig) -> RunResult:
    """The task's result, or the one of an earlier run with the same configuration."""
    done = record.finished(run_folder(config), config) if config.resume else None
    if done is None:
        print(f"-- {config.run}", flush=True)
        return _run(task, config) or RunResult()
    print(
        f"-- {config.run}: finished before with this configuration, not run again (resume=false"
        " runs it)",
        flush=True,
    )
    return done


def _reason(error: Exception) -> str:
    """The sentence of a user's mistake.

    Anything else is told in full, and its first line is the reason.
    """
    sentence = sentence_of(error)
    if sentence is None:
        traceback.print_exception(as_bug(error))
    return sentence or f"{type(error).__name__}: {first_line(error)}"


def own_overrides() -> dict[str, str]:
    """What this member's command line would say that is not the same for all by the sweep's.

    Key -> value.
    """
    job = HydraConfig.get()
    same = {*job.job.config.override_dirname.exclude_keys} - {"experiment"}
    overrides = OverridesParser.create().parse_overrides(list(job.overrides.task))
    return {
        override.key_or_group: override.get_value_element_as_str()
        for override in overrides
        if override.key_or_group not in same
    }


def run_folder(config: DictConfig) -> Path:
    """`runs/<run>`: where the checkpoints, logs and records of this run are."""
    return Path(config.runs) / str(config.run)


def train_shared(
    config: DictConfig, fit_model: Callable[[DictConfig], tuple[Path, Source] | None]
) -> tuple[Path, Source] | None:
    """Trains the sweep's one network, if no other member has.

    And writes its weights as this member's checkpoint.

    Members that run side by side wait for each other here.

    Raises:
        HeatposeError: There is no sweep over resolutions, or as `fit_model`.
    """
    if not in_sweep() or not config.data.module.resolutions:
        raise HeatposeError(
            "Weights are shared by the members of a sweep over resolutions; add -m and, for"
            " example, resolution=192,224,256."
        )
    common = _common(config)
    if not is_first_process():
        return fit_model(common)
    folder = run_folder(common)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # the run itself has a lock of its own
    with FileLock(folder.with_name(f".{folder.name}.shared.lock")):
        fitted = fit_model(common)
    if fitted is None:
        return None
    best, source = fitted
    return _resized(best, run_folder(config), int(config.resolution)), source


def _common(config: DictConfig) -> DictConfig:
    """The configuration of the one training: the same whichever member makes it.

    Its checkpoint is chosen at the middle one of the resolutions.
    """
    common = config.copy()
    common.shared_weights = False
    sides = sorted(int(side) for side in config.data.module.resolutions)
    common.resolution = sides[len(sides) // 2]
    others = "_".join(
        f"{key}-{value}"
        for key, value in sorted(own_overrides().items())
        if key not in ("resolution", "experiment")
    )
    common.run = f"{config.name}_shared" + (f"_{safe_name(others)}" if others else "")
    # what the first member has begun anew, the others take
    common.resume = bool(config.resume or HydraConfig.get().job.num)
    return common


def _resized(best: Path, folder: Path, size: int) -> Path:
    """The same weights as a checkpoint for an input of `size` pixels."""
    # Imported here: composing a configuration imports this module and must not load torch.
    from heatpose.models.checkpoint import load_checkpoint, save_checkpoint

    loaded = load_checkpoint(best)
    path = folder / "checkpoints" / "best.ckpt"
    save_checkpoint(
        path,
        loaded.network,
        loaded.skeleton,
        replace(loaded.preprocessing, size=size),
        **{**loaded.metadata, "run": folder.name},
    )
    return path
