"""Runs a training and returns its best checkpoint; resumes interrupted runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from heatpose.data.datamodule import PoseData
from heatpose.errors import HeatposeError, InterruptedRun
from heatpose.models.checkpoint import half_precision, load_checkpoint, save_checkpoint
from heatpose.training.devices import refused_in_one_sentence, several_processes
from heatpose.training.module import PoseModule
from heatpose.training.result import read
from heatpose.utils.files import atomic_write, only_one, sha256_of_json, write_json
from heatpose.utils.process import is_first_process, keep_freed_memory

FINGERPRINT = "configuration.json"


def open_run(folder: Path, configuration: dict[str, Any], resume: bool) -> Path | None:
    """Prepares the folder of a run and finds the checkpoint to resume from.

    Args:
        folder: `runs/<name>`.
        configuration: Plain values; a folder of another configuration is not resumed.
        resume: Whether to resume an interrupted run; else its folder is removed.

    Returns:
        The last checkpoint of an interrupted or finished run; None for a new run.

    Raises:
        HeatposeError: The folder holds a checkpoint of another configuration.
    """
    fingerprint = sha256_of_json(configuration)
    record, last = folder / FINGERPRINT, folder / "checkpoints" / "last.ckpt"
    # only folders of runs are removed
    if not resume and record.is_file() and is_first_process():
        shutil.rmtree(folder)
    if not resume and not is_first_process():
        return None
    # a run that failed before its first checkpoint is overwritten
    if last.is_file() and record.is_file():
        known = read(record)
        if known.get("fingerprint") != fingerprint:
            changed = sorted(
                k
                for k in {*configuration, *known.get("configuration", {})}
                if configuration.get(k) != known.get("configuration", {}).get(k)
            )
            raise HeatposeError(
                f"'{folder}' holds a run of another configuration (different:"
                f" {', '.join(changed)}); choose another name=... or resume=false."
            )
    elif is_first_process():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(record, {"fingerprint": fingerprint, "configuration": configuration})
    return last if last.is_file() else None


@contextmanager
def only_this_process(folder: Path) -> Iterator[None]:
    """Prevents two processes from training the same run.

    Processes that Lightning starts for further devices are part of the first one's run.

    Raises:
        HeatposeError: Another process trains it.
    """
    if getattr(rank_zero_only, "rank", 0):  # set by Lightning if there are several
        yield
        return
    with only_one(folder.parent, folder.name, "The run"):
        yield


def fit(module: PoseModule, data: PoseData, trainer: lightning.Trainer, last: Path | None) -> Path:
    """Trains, or resumes from `last`.

    Returns:
        The best checkpoint by OKS on the held-out instances.

    Raises:
        HeatposeError: `last` is not a checkpoint, Lightning refuses the settings, or training was
            interrupted or ended without a checkpoint.
    """
    step = 0
    if last is not None:
        load_checkpoint(last)  # refuses other files; Lightning would raise a traceback
        content = torch.load(last, map_location="cpu", mmap=True, weights_only=True)
        step = int(content.get("global_step", 0))
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    try:
        trained = (
            f"run={module.metadata.get('run')}",
            f"resolution={module.preprocessing.size}",
            "shared_weights=false",
        )
        processes = several_processes(*trained) if trainer.world_size > 1 else nullcontext()
        with refused_in_one_sentence(), processes:
            trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    except SystemExit as stopped:  # Lightning's answer to Ctrl-C
        raise InterruptedRun(
            "Training was interrupted; the same command resumes from the last checkpoint."
        ) from stopped
    if step and trainer.global_step == step and is_first_process():
        print("This training was complete already; resume=false repeats it.", flush=True)
    choosing = [
        c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor
    ]
    best = next((c.best_model_path for c in choosing if c.best_model_path), "")
    if not best:
        raise HeatposeError(
            "Training ended without a checkpoint; check trainer.max_epochs and the callbacks."
        )
    return Path(best)


def initial_checkpoint(module: PoseModule, folder: Path) -> Path:
    """Writes the initial weights as a checkpoint, for runs without training (`fit=false`)."""
    path = folder / "checkpoints" / "initial.ckpt"
    save_checkpoint(path, module.network, module.skeleton, module.preprocessing, **module.metadata)
    return path


def callbacks_of(config: dict[str, Callback | None], folder: Path) -> Sequence[Callback]:
    """The configured callbacks, with the checkpoints' folder set; null entries are left out."""
    chosen = [callback for callback in config.values() if callback is not None]
    for callback in chosen:
        if isinstance(callback, ModelCheckpoint):
            callback.dirpath = str(folder / "checkpoints")
    return chosen


def halved(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A training checkpoint of about half the size, from which a run can go on.

    Convolution weights, those of the network and their average, become float16; the optimiser's
    moments of them become bfloat16, since squares of gradients lie below the range of float16.
    Biases, batch norm, schedules and counters stay as they are. Whoever loads it gets float32
    tensors with rounded values: torch copies weights into the parameters and casts moments to the
    parameters' type.

    Args:
        checkpoint: As Lightning makes it; it is left as it is.

    Raises:
        HeatposeError: A weight exceeds float16.
    """
    weights = {
        key: half_precision(checkpoint[key])
        for key in ("state_dict", "current_model_state")
        if key in checkpoint
    }
    optimizers = [
        {
            **optimizer,
            "state": {
                parameter: half_precision(moments, torch.bfloat16)
                for parameter, moments in optimizer["state"].items()
            },
        }
        for optimizer in checkpoint.get("optimizer_states", [])
    ]
    return {**checkpoint, **weights, "optimizer_states": optimizers}


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically: under another name in the same folder, then renamed.

    Lightning (2.6, `_atomic_save`) writes into the system's folder for temporary files and moves
    the file, which is a copy if that folder is on another file system. A kill during the copy
    leaves a truncated checkpoint under the name from which the next run would resume.

    Args:
        half: Writes checkpoints in half precision (`halved`).
    """

    def __init__(self, half: bool = False) -> None:
        self.half = half

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Writes the file; an existing one is replaced when the new one is complete.

        Raises:
            HeatposeError: It cannot be written, or `half` is set and a weight exceeds float16.
        """
        checkpoint = halved(checkpoint) if self.half else checkpoint
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target, sync=True) as part:
                torch.save(checkpoint, part)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            reason = getattr(error, "strerror", None) or "is the disk full?"
            raise HeatposeError(
                f"Checkpoint '{target}' cannot be written ({reason}); make room, and the same "
                "command resumes from the last complete one."
            ) from error
