"""The Lightning module: network, loss, optimiser and validation by OKS.

To add a learning-rate schedule:

1. Write a function here that takes `optimizer` and `total_steps` and returns a scheduler that is
   stepped after every batch.
2. Name it as `_target_` (with `_partial_: true`) in a file of `conf/scheduler/`.
3. Select it with `scheduler=NAME`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor

from heatpose.data.augment import Photometric, paint
from heatpose.data.batches import Batch, resample
from heatpose.data.datamodule import in_order
from heatpose.distill.loss import Distillation, TeacherBatch
from heatpose.errors import HeatposeError
from heatpose.evaluation.metrics import keypoint_similarity, mean_over_labelled
from heatpose.models.checkpoint import KEY, describe
from heatpose.models.decode import decode_maps
from heatpose.models.losses import FourHeadLoss, HeatmapLoss
from heatpose.models.movenet import MoveNet, PoseMaps
from heatpose.pose.codec import decode
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import AREA_OF_BOX, Skeleton

OptimizerFactory = Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer]
SchedulerFactory = Callable[..., torch.optim.lr_scheduler.LRScheduler]


class Optimization(NamedTuple):
    """How the weights are updated.

    Attributes:
        optimizer: Makes the optimiser from parameter groups.
        scheduler: Makes a per-step schedule from `optimizer` and `total_steps`.
    """

    optimizer: OptimizerFactory
    scheduler: SchedulerFactory


class PoseModule(lightning.LightningModule):
    """Trains one network.

    Args:
        network: With one head or four.
        loss: Takes the network's output, points, labelled and box.
        skeleton: The channels.
        preprocessing: Of the input; stored in each checkpoint.
        optimization: Optimiser and schedule.
        photometric: Photometric augmentation of training batches; None for none.
        metadata: Plain values for the checkpoint's description (origin of weights and data).
        distillation: Term of the loss from a teacher's output for the training instances; None for
            none.

    Raises:
        HeatposeError: The loss is for the other kind of network.
    """

    def __init__(
        self,
        network: MoveNet,
        loss: HeatmapLoss | FourHeadLoss,
        skeleton: Skeleton,
        preprocessing: Preprocessing,
        optimization: Optimization,
        photometric: Photometric | None = None,
        metadata: dict[str, Any] | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__()
        heads = network.settings["heads"]
        if isinstance(loss, FourHeadLoss) != network.four_heads:
            choice = "loss=four_heads" if network.four_heads else "loss=spatial_cross_entropy"
            raise HeatposeError(
                f"{type(loss).__name__} does not fit a network with model.heads={heads}; set"
                f" {choice}."
            )
        self.network = network.train().to(memory_format=torch.channels_last)
        self.loss = loss
        self.skeleton = skeleton
        self.preprocessing = preprocessing
        self.make_optimizer, self.make_scheduler = optimization
        self.photometric = photometric
        self.metadata = metadata or {}
        self.distillation = distillation
        self.validation_oks: list[np.ndarray[Any, np.dtype[np.float64]]] = []

    def forward(self, images: Tensor) -> Tensor | PoseMaps:
        """Raw bytes u8[B, 3, S, S] -> logits f32[B, K, S/4, S/4], or the maps of the four heads."""
        normalised = self.preprocessing.normalise(images)
        output: Tensor | PoseMaps = self.network(
            normalised.contiguous(memory_format=torch.channels_last)
        )
        return output

    def poses(self, output: Tensor | PoseMaps) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Decodes the output of `forward`.

        Returns:
            f32[B, K, 3]: x and y as fractions of the input, and the value of the highest cell or,
            with four heads, the score.
        """
        return (
            decode_maps(PoseMaps(*(m.float() for m in output))).cpu().numpy()
            if isinstance(output, PoseMaps)
            else decode(output.float().cpu().numpy())
        )

    def _loss(self, stage: str, output: Tensor | PoseMaps, batch: Batch) -> Tensor:
        """The loss; if it has several terms, each is logged."""
        points, labelled = batch["points"], batch["labelled"]
        distillation = self.distillation if stage == "train" else None
        if distillation is not None:
            points, labelled = distillation.labels(cast(TeacherBatch, batch))
        terms = self.loss.terms(output, points, labelled, batch["box"])  # type: ignore[arg-type]  # __init__ checks it
        if distillation is not None:
            logits = output.heatmaps if isinstance(output, PoseMaps) else output
            terms["distill"] = distillation(logits, batch)
        if len(terms) > 1:
            logged = {f"{stage}/{name}_loss": term for name, term in terms.items()}
            self.log_dict(
                logged, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch["image"])
            )
        return torch.stack([*terms.values()]).sum()

    def on_before_batch_transfer(self, batch: TeacherBatch, dataloader_idx: int) -> TeacherBatch:
        """Adds the teacher's targets to a training batch."""
        if self.training and self.distillation is not None:
            targets = self.distillation.look_up(batch["index"], batch["matrix"])
            batch |= targets  # type: ignore[typeddict-item]  # a part of the keys
        return batch

    def on_after_batch_transfer(self, batch: TeacherBatch, dataloader_idx: int) -> TeacherBatch:
        """Runs the batched steps on the device: sampling, photometric augmentation, occlusion."""
        resample(batch)
        if self.training and self.photometric is not None:
            batch["image"] = self.photometric(batch["image"], batch["colour"])
        if self.training and "patches" in batch:
            batch["image"] = paint(batch["image"], batch["patches"])
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a step, f32[]."""
        loss = self._loss("train", self(batch["image"]), batch)
        self.log(
            "train/loss",
            loss,
            on_step=True,
            on_epoch=True,
            prog_bar=True,
            sync_dist=True,
            batch_size=len(batch["image"]),
        )
        return loss

    def on_train_epoch_end(self) -> None:
        """Ends the run if the training loss of the epoch is not finite."""
        loss = self.trainer.callback_metrics.get("train/loss_epoch")
        if loss is not None and not torch.isfinite(loss):
            raise HeatposeError(
                f"The training loss became {float(loss)} in epoch {self.current_epoch}; lower"
                " optimizer.lr, or start from the last checkpoint."
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        """OKS of the held-out instances, by the published formula in the frame of their crops.

        Returns:
            The output of `forward`, for the prediction grid.
        """
        output: Tensor | PoseMaps = self(batch["image"])
        self.log(
            "val/loss",
            self._loss("val", output, batch),
            sync_dist=True,
            batch_size=len(batch["image"]),
        )
        self.validation_oks.append(self._oks(output, batch))
        return output

    def _oks(
        self, output: Tensor | PoseMaps, batch: Batch
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        size, poses = batch["image"].shape[-1], self.poses(output)
        points, labelled = batch["points"].cpu().numpy() / size, batch["labelled"].cpu().numpy()
        area = AREA_OF_BOX * (batch["box"].cpu().numpy().astype(np.float64) / size).prod(1)
        return mean_over_labelled(
            keypoint_similarity(poses[..., :2], points, area, self.skeleton.sigmas), labelled
        )

    def on_validation_epoch_end(self) -> None:
        """Logs `val/oks`, the mean OKS in percent over the instances of all processes."""
        values = torch.from_numpy(np.concatenate(self.validation_oks))
        if self.trainer.world_size > 1:
            gathered = self.all_gather(values.float().to(self.device))
            loaders = self.trainer.val_dataloaders
            assert isinstance(gathered, Tensor) and loaders is not None
            values = in_order(gathered, len(loaders.dataset)).cpu()
        self.log("val/oks", 100 * float(values.mean()), prog_bar=True, sync_dist=True)
        self.validation_oks.clear()

    def configure_optimizers(self) -> Any:
        """The optimiser, without weight decay on biases and norms, and its per-step schedule."""
        matrices = [p for p in self.network.parameters() if p.dim() > 1]
        vectors = [p for p in self.network.parameters() if p.dim() <= 1]
        optimizer = self._fitting_optimizer()(
            [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        )
        scheduler = self.make_scheduler(
            optimizer=optimizer, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _fitting_optimizer(self) -> Callable[..., torch.optim.Optimizer]:
        """The configured factory, but unfused if float16 gradients are scaled and clipped.

        A fused optimiser unscales gradients inside its step, which is after the clipping.
        """
        factory: Callable[..., torch.optim.Optimizer] = self.make_optimizer
        fused = getattr(factory, "keywords", {}).get("fused")
        if fused and self.trainer.precision == "16-mixed" and self.trainer.gradient_clip_val:
            return partial(factory, fused=False)
        return factory

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips as Lightning does, and also for a fused optimiser under bfloat16.

        Lightning refuses the latter, because a fused optimiser can unscale gradients inside its
        step. Gradients in bfloat16 are not scaled, so they are clipped as without mixed precision.
        """
        plugin = self.trainer.precision_plugin
        if not isinstance(plugin, MixedPrecision) or plugin.scaler is not None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
        super(MixedPrecision, plugin).clip_gradients(optimizer, gradient_clip_val or 0, algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the description with which the checkpoint can be used on its own."""
        oks = self.trainer.callback_metrics.get("val/oks")
        checkpoint[KEY] = describe(
            self.network,
            self.skeleton,
            self.preprocessing,
            **self.metadata,
            epoch=int(self.current_epoch),
            validation_oks=None if oks is None else float(oks),
        )


def warmup_cosine(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup: float = 0.05
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up, then cosine decay to a ten-thousandth of the rate.

    Args:
        optimizer: With the peak rates.
        total_steps: Of the training.
        warmup: Fraction of the steps.
    """
    schedulers = torch.optim.lr_scheduler
    first = min(max(1, int(warmup * total_steps)), max(1, total_steps - 1))
    least = 1e-4 * max(group["lr"] for group in optimizer.param_groups)
    rise = schedulers.LinearLR(optimizer, start_factor=0.01, total_iters=first)
    fall = schedulers.CosineAnnealingLR(optimizer, T_max=max(1, total_steps - first), eta_min=least)
    return schedulers.SequentialLR(optimizer, [rise, fall], milestones=[first])


def constant(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup: float = 0.05
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up over the fraction `warmup` of the steps, then a constant rate."""
    return torch.optim.lr_scheduler.LinearLR(
        optimizer, start_factor=0.01, total_iters=max(1, int(warmup * total_steps))
    )
