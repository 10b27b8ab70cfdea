"""Sweeps (`train.py -m ...`): names of the runs, failures, resuming, shared training.

A failed sweep run does not stop the others; a finished one is not repeated. With
sweep=shared_weights the runs of a sweep over resolutions share one training, because the network's
weights do not depend on the resolution.
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
from omegaconf import DictConfig, Node, OmegaConf, open_dict

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
from heatpose.training.result import RunResult
from heatpose.utils.files import require_writable
from heatpose.utils.process import in_sweep, is_first_process

if TYPE_CHECKING:
    from heatpose.data.sources import Source

LONGEST = 80
"""Maximum length of the suffix of a sweep run's name; file systems allow 255 for a file name."""
RESOLUTIONS = "data.module.resolutions"
Task = Callable[[DictConfig], RunResult | None]


def sweep_suffix(_root_: DictConfig) -> str:
    """What distinguishes this run of a sweep from the others, "_resolution-224_model.width-0.5".

    "" outside sweeps. Keys that are part of the experiment's own name are left out.
    """
    if not in_sweep():
        return ""
    job = HydraConfig.get()
    same = {*job.job.config.override_dirname.exclude_keys, *_keys_in_name(_root_)}
    overrides = OverridesParser.create().parse_overrides(list(job.overrides.task))
    swept = sorted(str(o.input_line) for o in overrides if o.key_or_group not in same)
    return f"_{safe_name('_'.join(swept).replace('=', '-'))}" if swept else ""


def _keys_in_name(config: DictConfig) -> set[str]:
    """`st_movenet_13kpt_${resolution}` has the resolution, unless all resolutions share a run."""
    if config.get("shared_weights"):
        return set()
    name = config._get_node("name")
    return (
        set(re.findall(r"\$\{([\w.]+)\}", str(name._value()))) if isinstance(name, Node) else set()
    )


def safe_name(text: str) -> str:
    """Converts a text to a unique part of a file name.

    Other characters than letters, digits and `_.-` become "-". If any did, or the text is long, a
    part of its hash is appended.
    """
    plain = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)
    if plain == text and len(text) <= LONGEST:
        return text
    return f"{plain[: LONGEST - 9].strip('-.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def width_suffix(width: object) -> str:
    """The width multiplier as part of a run's name: "_w050" for 0.5, "" for 1."""
    if not isinstance(width, int | float) or width == 1:
        return ""  # what is not a number is refused where the network is built
    return f"_w{f'{width:g}'.replace('.', ''):0<3}"


# For `${name}${sweep_suffix:}` in conf/train.yaml and `${width_suffix:${model.width}}` in
# conf/experiment. Registered on import, because launchers build runs in processes of their own.
OmegaConf.register_new_resolver("sweep_suffix", sweep_suffix, replace=True)
OmegaConf.register_new_resolver("width_suffix", width_suffix, replace=True)


class SweepRuns(Callback):
    """Hydra callback (conf/train.yaml) that names sweep runs and prints the summary."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks that `runs` is writable, before Hydra writes to it and fails with a traceback."""
        with exit_on_user_error():
            require_writable(Path(str(config.runs)))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Sets the sweep's folder and excludes common overrides from the names of its runs."""
        self.on_run_start(config)
        overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
        same = {RESOLUTIONS, *(override.key_or_group for override in overrides)} - swept
        swept |= {str(key) for key in config.hydra.sweeper.get("params") or {}} - same
        if "name" not in same:
            same |= {"name", "experiment"}  # already part of the run's name
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
        """Writes table, sweep.csv and report.html; exits with status 1 if a run failed."""
        failed = sweep_runs.summarise(Path(config.hydra.sweep.dir), str(config.name))
        for sweep_run in failed:
            print(f"error: {sweep_run.run}: {sweep_run.result.reason}", file=sys.stderr)
        if failed:
            print(
                f"error: {len(failed)} of the sweep's runs failed; run the same command to repeat"
                " only those.",
                file=sys.stderr,
            )
            sys.exit(1)


def _sweep_name(config: DictConfig, swept: list[str]) -> str:
    """Name of the sweep's folder, for instance quickstart_sweep_model.width_resolution."""
    return "_".join(
        [
            str(config.name),
            *(["shared"] if config.shared_weights else []),
            "sweep",
            *([safe_name("_".join(swept))] if swept else []),
        ]
    )


def _resolutions(overrides: list[Override]) -> list[str]:
    """Override that passes all swept resolutions to each sweep run."""
    sides = [
        str(side)
        for o in overrides
        if o.key_or_group == "resolution" and o.is_discrete_sweep()
        for side in o.sweep_string_iterator()
    ]
    return [f"{RESOLUTIONS}=[{','.join(sides)}]"] if sides else []


def run_entry(task: Task, config: DictConfig) -> float | tuple[float, ...] | None:
    """Runs the task of an entry point.

    A user error, and an export that failed an acceptance check, exit with one sentence on stderr
    and status 1. In a sweep the other runs continue.

    Returns:
        Configured objectives; NaN for a failed sweep run, which a search counts as a failed trial.
    """
    if in_sweep():
        return _run_one(task, config)
    with exit_on_user_error():
        result = _run(task, config)
        if result is not None and result.status == "failed":
            raise HeatposeError(result.reason)
        return None if result is None else result.objectives(list(config.objectives))


def _run(task: Task, config: DictConfig) -> RunResult | None:
    """Runs the task and writes its result to the run's folder."""
    began = time.monotonic()
    result = task(config)
    if result is None:
        return None
    result = replace(result, seconds=time.monotonic() - began)
    record.keep(run_folder(config), config, result)
    return result


def _run_one(task: Task, config: DictConfig) -> float | tuple[float, ...] | None:
    """Runs one sweep run; errors are printed and do not end the sweep, except Ctrl-C."""
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
    """Runs the task, or returns the result of a finished run with the same configuration."""
    done = record.finished(run_folder(config), config) if config.resume else None
    if done is None:
        print(f"-- {config.run}", flush=True)
        return _run(task, config) or RunResult()
    print(
        f"-- {config.run}: already finished with this configuration (resume=false repeats it)",
        flush=True,
    )
    return done


def _reason(error: Exception) -> str:
    """The sentence of a user error; other errors are printed with traceback."""
    sentence = sentence_of(error)
    if sentence is None:
        traceback.print_exception(as_bug(error))
    return sentence or f"{type(error).__name__}: {first_line(error)}"


def own_overrides() -> dict[str, str]:
    """Overrides (key -> value) of this sweep run that are not common to all."""
    job = HydraConfig.get()
    same = {*job.job.config.override_dirname.exclude_keys} - {"experiment"}
    overrides = OverridesParser.create().parse_overrides(list(job.overrides.task))
    return {
        override.key_or_group: override.get_value_element_as_str()
        for override in overrides
        if override.key_or_group not in same
    }


def run_folder(config: DictConfig) -> Path:
    """`runs/<run>`: folder of checkpoints, logs and results."""
    return Path(config.runs) / str(config.run)


def train_shared(
    config: DictConfig, fit_model: Callable[[DictConfig], tuple[Path, Source] | None]
) -> tuple[Path, Source] | None:
    """Trains the shared network of a sweep, once, and writes this run's checkpoint from it.

    Parallel sweep runs wait for each other.

    Args:
        config: Configuration of the sweep run.
        fit_model: Trains as configured; returns best checkpoint and data, or None.

    Returns:
        Checkpoint at this run's resolution and data; None if nothing was trained.

    Raises:
        HeatposeError: There is no sweep over resolutions, or as `fit_model`.
    """
    if not in_sweep() or not config.data.module.resolutions:
        raise HeatposeError(
            "Shared weights need a sweep over resolutions; add -m and, for example,"
            " resolution=192,224,256."
        )
    common = _common(config)
    if not is_first_process():
        return fit_model(common)
    folder = run_folder(common)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # separate from the lock of the run itself
    with FileLock(folder.with_name(f".{folder.name}.shared.lock")):
        fitted = fit_model(common)
    if fitted is None:
        return None
    best, source = fitted
    return _resized(best, run_folder(config), int(config.resolution)), source


def _common(config: DictConfig) -> DictConfig:
    """Configuration of the shared training, equal for all sweep runs.

    Its checkpoint is selected at the median resolution.
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
    # The experiment's name may have the resolution in it: the one of the training.
    common.run = f"{common.name}_shared" + (f"_{safe_name(others)}" if others else "")
    # only the first sweep run may restart the training
    common.resume = bool(config.resume or HydraConfig.get().job.num)
    return common


def _resized(best: Path, folder: Path, size: int) -> Path:
    """Writes the weights as a checkpoint for an input of `size` pixels."""
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
