"""What Lightning does not bring: pictures of predictions and heatmaps in the logger. EMA, checkpoints, early stopping are Lightning's own."""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from numpy.typing import NDArray

from heatpose.codec import decode
from heatpose.data.datamodule import Batch
from heatpose.models.movenet import PoseMaps
from heatpose.module import PoseModule
from heatpose.viz import contact_sheet, draw_pose, heatmap_overlay


class Progress(RichProgressBar):
    """Lightning's bar without the logger's version number, which says nothing here; its numbers are new every few steps."""

    shown: dict[str, Any] | None = None

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """The epoch's loss and score. To read them is to wait for the device, which a step should not."""
        between = trainer.training and trainer.global_step % trainer.log_every_n_steps and not trainer.is_last_batch  # type: ignore[attr-defined]
        if self.shown is None or not between:
            self.shown = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        return self.shown


class PredictionGrid(Callback):
    """After each validation: a grid of held-out people (label | prediction | heatmaps), to a logger that takes pictures.

    Args:
        people: Rows of the grid.
        every: Epochs between pictures.
    """

    def __init__(self, people: int = 8, every: int = 1) -> None:
        self.people = people
        self.every = every
        self.first: tuple[Batch, torch.Tensor | PoseMaps] | None = None

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keeps the first batch."""
        if batch_idx == 0 and not trainer.sanity_checking:
            self.first = (batch, outputs)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draws and logs."""
        if self.first is None or not isinstance(pl_module, PoseModule) or trainer.current_epoch % self.every or not trainer.is_global_zero:
            return
        picture = self._draw(pl_module, *self.first)
        self.first = None
        experiment = getattr(trainer.logger, "experiment", None)
        if experiment is not None and hasattr(experiment, "add_image"):
            experiment.add_image("val/predictions", picture, trainer.global_step, dataformats="HWC")

    def _draw(self, module: PoseModule, batch: Batch, output: torch.Tensor | PoseMaps) -> NDArray[np.uint8]:
        logits = output.heatmaps if isinstance(output, PoseMaps) else output
        heatmaps = logits[: self.people].float().sigmoid().cpu().numpy()
        poses = module.poses(output)[: self.people] if isinstance(output, PoseMaps) else decode(heatmaps)
        images = batch["image"][: self.people].cpu().numpy().astype(np.uint8).transpose(0, 2, 3, 1)
        tiles = []
        for i, image in enumerate(images):
            truth = np.concatenate([batch["points"][i].cpu().numpy() / module.preprocessing.size, batch["labelled"][i].cpu().numpy()[:, None]], 1)
            drawn = [draw_pose(image, pose, module.skeleton) for pose in (truth.astype(np.float32), poses[i])]
            tiles += [*drawn, heatmap_overlay(image, heatmaps[i])]
        return contact_sheet(tiles, columns=6, captions=["label", "prediction", "heatmaps"] * len(images))
