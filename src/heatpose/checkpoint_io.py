"""How Lightning's checkpoints get onto the disk."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from heatpose.errors import HeatposeError
from heatpose.places import replace_whole


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint beside its place and renames it.

    Lightning's own way (2.6, `_atomic_save`) writes into the system's folder for temporary files and moves the file, which is a copy where that
    folder is another file system: a kill in that moment leaves half a checkpoint under the name that the next run would go on from.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes the file; the older one of that name is there until the new one is whole.

        Raises:
            HeatposeError: It cannot be written.
        """
        target = Path(path)
        part = target.with_name(f"{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.save(checkpoint, part)
            replace_whole(part, target)
        except (OSError, RuntimeError) as error:  # torch tells of a full disk by the latter
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or "is the disk full?"
            raise HeatposeError(
                f"Checkpoint '{target}' cannot be written ({reason}); make room, and the same command goes on from the last whole one."
            ) from error
