"""Callbacks: averaged weights, prediction grids for the logger, detection of divergence.

Checkpoints and early stopping are Lightning's. To add a callback:

1. Write a subclass of `lightning.pytorch.callbacks.Callback` here.
2. Add an entry with its `_target_` to `conf/callbacks/default.yaml`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from numpy.typing import NDArray
from torch.optim.swa_utils import get_ema_multi_avg_fn

from heatpose.data.batches import Batch
from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import save_checkpoint
from heatpose.models.movenet import PoseMaps
from heatpose.pose.codec import decode
from heatpose.pose.draw import contact_sheet, draw_pose, heatmap_overlay
from heatpose.training.module import PoseModule
from heatpose.utils.files import write_image

GRID = "predictions.png"


class AveragedWeights(EMAWeightAveraging):
    """Lightning's exponential moving average of the weights, all tensors in one operation.

    One by one they take 3 % of a training step on a processor.

    Args:
        decay: Share of the average that stays, in [0, 1].
        use_buffers: Whether buffers, such as the statistics of batch norm, are averaged.
        device: Of the averaged weights; that of the network if None.
        update_every_n_steps: Steps between updates.
        update_starting_at_step: First step of an update; None for the first.
        update_starting_at_epoch: Epoch from which it is also updated at the end of each; None for
            none.
    """

    def __init__(
        self,
        decay: float = 0.998,
        use_buffers: bool = False,
        device: torch.device | str | int | None = None,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
    ) -> None:
        super().__init__(
            device,
            use_buffers,
            decay,
            update_every_n_steps,
            update_starting_at_step,
            update_starting_at_epoch,
        )
        # Lightning's class always gives the function for single tensors.
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._kwargs = {"multi_avg_fn": average}


class PredictionGrid(Callback):
    """Logs a grid of held-out instances after each validation: label, prediction, heatmaps.

    Args:
        instances: Rows of the grid.
        every: Epochs between images.
    """

    def __init__(self, instances: int = 8, every: int = 1) -> None:
        self.instances = instances
        self.every = every
        self.first: tuple[Batch, torch.Tensor | PoseMaps] | None = None
        self.last: NDArray[np.uint8] | None = None

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stores the first batch."""
        if batch_idx == 0 and not trainer.sanity_checking:
            self.first = (batch, outputs)

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Draws and logs the grid."""
        if (
            self.first is None
            or not isinstance(pl_module, PoseModule)
            or trainer.current_epoch % self.every
            or not trainer.is_global_zero
        ):
            return
        image = self.last = self._draw(pl_module, *self.first)
        self.first = None
        experiment = getattr(trainer.logger, "experiment", None)
        if experiment is not None and hasattr(experiment, "add_image"):
            experiment.add_image("val/predictions", image, trainer.global_step, dataformats="HWC")

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Writes the last grid into the run's folder, for those who use no logger."""
        if self.last is not None and trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / GRID
            write_image(path, self.last)
            print(f"Predictions on held-out people are in '{path}'.")

    def _draw(
        self, module: PoseModule, batch: Batch, output: torch.Tensor | PoseMaps
    ) -> NDArray[np.uint8]:
        logits = output.heatmaps if isinstance(output, PoseMaps) else output
        heatmaps = logits[: self.instances].float().sigmoid().cpu().numpy()
        poses = (
            module.poses(output)[: self.instances]
            if isinstance(output, PoseMaps)
            else decode(heatmaps)
        )
        images = (
            batch["image"][: self.instances].cpu().numpy().astype(np.uint8).transpose(0, 2, 3, 1)
        )
        tiles = []
        for i, image in enumerate(images):
            truth = np.concatenate(
                [
                    batch["points"][i].cpu().numpy() / module.preprocessing.size,
                    batch["labelled"][i].cpu().numpy()[:, None],
                ],
                1,
            )
            drawn = [
                draw_pose(image, pose, module.skeleton)
                for pose in (truth.astype(np.float32), poses[i])
            ]
            tiles += [*drawn, heatmap_overlay(image, heatmaps[i])]
        return contact_sheet(
            tiles, columns=6, captions=["label", "prediction", "heatmaps"] * len(images)
        )


KEPT = "before_divergence.ckpt"
"""File in the folder of checkpoints with the last weights before a divergence."""


def diverged(means: Sequence[float], times: float, patience: int) -> bool:
    """Whether the last `patience` means of a loss exceed `times` the lowest and twice the first.

    A single high window is not a divergence.

    Args:
        means: Mean loss of each window so far, in order.
        times: Factor on the lowest mean, > 1.
        patience: Number of windows.
    """
    if len(means) <= patience:
        return False
    limit = max(2 * means[0], times * min(means))
    return all(mean > limit for mean in means[-patience:])


class Divergence(Callback):
    """Ends a diverging training with an error and a checkpoint of the last good weights.

    The loss is checked in windows of steps; until then the losses stay on the device, so that no
    step waits for the host. A window also ends before each validation, because a checkpoint follows
    that must not replace the last good one with diverged weights.

    Args:
        every: Steps of a window.
        times: The loss has diverged if its mean exceeds this multiple of the lowest mean, and twice
            the first one, in `patience` consecutive windows.
        patience: Number of windows.
    """

    def __init__(self, every: int = 50, times: float = 10.0, patience: int = 3) -> None:
        self.every, self.times, self.patience = every, times, patience
        self.losses: list[torch.Tensor] = []
        self.means: list[float] = []
        self.good: dict[str, torch.Tensor] = {}
        self.good_step = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Stores the initial weights."""
        self.losses, self.means = [], []
        self._keep(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Records the loss of the step; checks the window when it is full."""
        self.losses.append((outputs["loss"] if isinstance(outputs, dict) else outputs).detach())
        if len(self.losses) >= self.every:
            self._look(trainer, pl_module)
            self._keep(trainer, pl_module)

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Checks the window before a checkpoint is written."""
        if self.losses and not trainer.sanity_checking:
            self._look(trainer, pl_module)

    def _keep(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, PoseModule)
        self.good = {
            name: value.detach().clone() for name, value in module.network.state_dict().items()
        }
        self.good_step = trainer.global_step

    def _look(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Raises HeatposeError if the losses of the window diverge on any device."""
        losses = torch.stack(self.losses).float().tolist()
        self.losses = []
        bad = next((loss for loss in losses if not math.isfinite(loss)), None)
        if bad is None:
            self.means.append(sum(losses) / len(losses))
        grown = diverged(self.means, self.times, self.patience)
        if trainer.strategy.reduce_boolean_decision(bad is not None or grown, all=False):
            self._stop(
                trainer,
                module,
                (
                    f"became {bad}"
                    if bad is not None
                    else f"grew from {min(self.means):.3g} to {self.means[-1]:.3g}"
                ),
            )

    def _stop(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, what: str
    ) -> None:
        assert isinstance(module, PoseModule)
        path = Path(trainer.default_root_dir) / "checkpoints" / KEPT
        module.network.load_state_dict(self.good)
        if trainer.is_global_zero:
            save_checkpoint(
                path,
                module.network,
                module.skeleton,
                module.preprocessing,
                **module.metadata,
                step=self.good_step,
            )
        raise HeatposeError(
            f"The training loss {what} by step {trainer.global_step} (epoch"
            f" {trainer.current_epoch}), so the training was stopped; the weights of step"
            f" {self.good_step} are kept in '{path}'. Lower optimizer.lr (debug=lr_find suggests"
            " one) and start anew with resume=false."
        )
