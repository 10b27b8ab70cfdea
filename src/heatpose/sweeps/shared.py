"""A sweep over resolutions whose members share one training (sweep=shared_weights).

The network is the same at every input side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from heatpose.data.sources import Source
from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import load_checkpoint, save_checkpoint
from heatpose.sweeps.hydra_callback import own_overrides, run_folder, safe_name
from heatpose.training.devices import in_sweep
from heatpose.utils.process import is_first_process

Learnt = tuple[Path, Source] | None
Learn = Callable[[DictConfig], Learnt]
"""Trains as configured; the best checkpoint and the data.

Or None where nothing was to be trained.
"""


def trained(config: DictConfig, fit_model: Learn) -> Learnt:
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
    # The experiment's name may have the resolution in it: the one of the training.
    common.run = f"{common.name}_shared" + (f"_{safe_name(others)}" if others else "")
    # what the first member has begun anew, the others take
    common.resume = bool(config.resume or HydraConfig.get().job.num)
    return common


def _resized(best: Path, folder: Path, size: int) -> Path:
    """The same weights as a checkpoint for an input of `size` pixels."""
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
