"""Self-distillation: fits a student to a teacher's output on unlabelled images.

For students that are variants of the teacher: quantised to int8, or with other upsampling
layers (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015). `distill.loss` is for
distillation with labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

from heatpose.errors import HeatposeError
from heatpose.models.movenet import MoveNet, PoseMaps
from heatpose.pose.preprocessing import Preprocessing
from heatpose.training.progress import TrainingProgress
from heatpose.utils.process import keep_freed_memory

_LOGITS = ("heatmap", "centre")
_AMOUNT = 2.0  # maximum amount of sharpening
Maps = dict[str, Tensor]
"""Head -> its maps f[B, C, H, W]."""


@dataclass(frozen=True)
class DistillationSchedule:
    """Schedule of a self-distillation.

    Attributes:
        steps: Optimiser steps.
        batch_size: Images per step.
        seed: Of the order and the sharpening.
        lower: Setting to lower if the loss diverges, for the error message.
        otherwise: Setting to choose if there are no images, for the error message.
        sharpen: Fraction of the images that are `sharpened`, by a random amount up to 2.
    """

    steps: int
    batch_size: int
    seed: int
    lower: str
    otherwise: str
    sharpen: float = 0.0


def fit_model(
    student: nn.Module,
    groups: list[dict[str, Any]],
    teacher: MoveNet,
    images: NDArray[np.uint8],
    preprocessing: Preprocessing,
    schedule: DistillationSchedule,
    *,
    progress: bool = True,
) -> None:
    """Trains a student in place with Adam, a linear warm-up and cosine decay to zero.

    Args:
        student: Maps normalised images f32[B, 3, S, S] to a network's maps.
        groups: Parameter groups of `torch.optim.Adam`.
        teacher: Gives the targets of every step.
        images: u8[N, S, S, 3] network inputs; also used mirrored.
        preprocessing: Of both networks.
        schedule: Steps, batch size and seed.
        progress: Whether to show a progress bar.

    Raises:
        HeatposeError: There are no images, or the loss is not finite.
    """
    if not len(images):
        raise HeatposeError(
            "There are no training images for the self-distillation; give more training images, "
            f"or choose {schedule.otherwise}."
        )
    keep_freed_memory()
    lightning.seed_everything(schedule.seed, workers=True, verbose=False)
    photos = _Images(images, teacher, preprocessing, schedule)
    generator = torch.Generator().manual_seed(schedule.seed)
    sampler = RandomSampler(
        photos,
        replacement=True,
        num_samples=schedule.steps * schedule.batch_size,
        generator=generator,
    )
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        callbacks=[TrainingProgress(keep_curve=False)] if progress else [],
        precision="32-true",
        deterministic=True,
    )
    with warnings.catch_warnings():
        # batch norm uses its trained statistics
        warnings.filterwarnings("ignore", message="Found .* module\\(s\\) in eval mode")
        trainer.fit(
            _Schedule(student, groups, schedule),
            DataLoader(photos, schedule.batch_size, sampler=sampler, collate_fn=list),
        )


def distance(found: Maps, teacher: Maps) -> Tensor:
    """Distance f32[] between a network's maps and its teacher's.

    Heatmaps and centre: Kullback-Leibler divergence of the softmax over the cells, each map
    weighted by the teacher's confidence (sigmoid of its peak). Vectors: 0.1 times the mean absolute
    difference in cells.
    """
    total = torch.zeros(())
    for head, wanted in teacher.items():
        if head in _LOGITS:
            target, own = (
                functional.log_softmax(maps.flatten(2), -1) for maps in (wanted, found[head])
            )
            sure = wanted.flatten(2).amax(-1).sigmoid()
            total = total + (
                (target.exp() * (target - own)).sum(-1) * sure
            ).sum() / sure.sum().clamp_min(1e-6)
        else:
            total = total + 0.1 * (wanted - found[head]).abs().mean()
    return total


def maps_of(output: Tensor | PoseMaps) -> Maps:
    """The maps of a network's output by head, shapes as in `PoseMaps`; one of heatmaps alone."""
    if isinstance(output, Tensor):
        return {"heatmap": output}
    return {
        "centre": output.centre,
        "regression": output.regression,
        "heatmap": output.heatmaps,
        "offset": output.offset,
    }


def sharpened(images: Tensor, amounts: Tensor) -> Tensor:
    """Sharpens edges: image + amount * (image - mean of its 3x3 neighbourhood).

    Nearest sampling of a large photograph leaves harder edges than an augmented sample of a small
    one. A student that was trained on soft images only matches its teacher on those, but less on
    photographs as they occur in deployment.

    Args:
        images: u8[B, 3, H, W].
        amounts: f32[B]; 0 does not change an image.

    Returns:
        u8[B, 3, H, W].
    """
    values = images.float()
    soft = functional.avg_pool2d(values, 3, 1, 1, count_include_pad=False)
    return (values + amounts.reshape(-1, 1, 1, 1) * (values - soft)).round().clamp(0, 255).byte()


class _Schedule(lightning.LightningModule):
    """The student and its optimiser."""

    def __init__(
        self, student: nn.Module, groups: list[dict[str, Any]], schedule: DistillationSchedule
    ) -> None:
        super().__init__()
        self.student, self.groups, self.schedule = student, groups, schedule

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The distance to the teacher."""
        images, teacher = batch
        found = maps_of(self.student(images.contiguous(memory_format=torch.channels_last)))
        loss = distance(found, _split(teacher, found))
        if not torch.isfinite(loss):
            raise HeatposeError(
                f"The self-distillation loss is not finite; lower {self.schedule.lower}."
            )
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Adam with a per-step schedule."""
        optimizer = torch.optim.Adam(self.groups)
        steps = self.schedule.steps
        rise = max(1, steps // 20)

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / rise) * 0.5 * (1 + float(np.cos(np.pi * step / steps)))

        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
                "interval": "step",
            },
        }


def _split(joined: Tensor, like: Maps) -> Maps:
    """Splits concatenated channels f[B, C, H, W] into the heads of `like`."""
    return dict(
        zip(like, torch.split(joined, [maps.shape[1] for maps in like.values()], 1), strict=True)
    )


class _Images(Dataset[list[Tensor]]):
    """Images, plain and mirrored, some of them sharpened, with the teacher's maps."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        teacher: MoveNet,
        preprocessing: Preprocessing,
        schedule: DistillationSchedule,
    ) -> None:
        self.images, self.teacher, self.preprocessing = images, teacher, preprocessing
        self.sharpen, self.chance = schedule.sharpen, torch.Generator().manual_seed(schedule.seed)

    def __len__(self) -> int:
        return 2 * len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        raise NotImplementedError("read in batches")

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """One batch: normalised f32[B, 3, S, S] and the teacher's maps f32[B, C, H, W]."""
        chosen = np.stack(
            [self.images[i // 2][:, ::-1] if i % 2 else self.images[i // 2] for i in indices]
        )
        shown = torch.from_numpy(chosen).permute(0, 3, 1, 2)
        if self.sharpen:
            drawn, amount = torch.rand(2, len(chosen), generator=self.chance)
            shown = sharpened(shown, _AMOUNT * amount * (drawn < self.sharpen))
        images = self.preprocessing.normalise(shown).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            return [images, torch.cat(list(maps_of(self.teacher(images)).values()), 1)]


@dataclass(frozen=True)
class UpsamplingTuning:
    """Settings of the fine-tuning after upsampling layers were replaced (`conf/quant/`).

    Attributes:
        steps: Optimiser steps.
        batch_size: Images per step.
        images: Number of augmented training images, used plain and mirrored.
        rate: Learning rate of Adam.
        seed: Of the augmentation and the order.
        sharpen: Fraction of sharpened images (`sharpened`).
    """

    steps: int = 300
    batch_size: int = 16
    images: int = 2000
    rate: float = 5e-5
    seed: int = 0
    sharpen: float = 0.6


def tune_upsampling(
    network: MoveNet,
    teacher: MoveNet,
    images: NDArray[np.uint8],
    preprocessing: Preprocessing,
    upsampling_tuning: UpsamplingTuning,
    *,
    progress: bool = True,
) -> None:
    """Fine-tunes a network in place after its upsampling layers were replaced (self-distillation).

    Batch-norm statistics and the weights of the upsampling layers do not change.

    Args:
        network: With the teacher's weights and other upsampling layers.
        teacher: The network as it was trained.
        images: u8[N, S, S, 3] network inputs of the training part.
        preprocessing: Of both.
        upsampling_tuning: Settings.
        progress: Whether to show a progress bar.

    Raises:
        HeatposeError: There are no images, or the loss is not finite.
    """
    network.eval().requires_grad_(True)
    for step in network.pyramid:
        step.upsample.requires_grad_(False)
    groups = [
        {
            "params": [parameter for parameter in network.parameters() if parameter.requires_grad],
            "lr": upsampling_tuning.rate,
        }
    ]
    schedule = DistillationSchedule(
        upsampling_tuning.steps,
        upsampling_tuning.batch_size,
        upsampling_tuning.seed,
        "quant.upsampling_tuning.rate",
        "quant.upsampling_tuning=null",
        upsampling_tuning.sharpen,
    )
    fit_model(
        network,
        groups,
        teacher.eval(),
        images[: upsampling_tuning.images],
        preprocessing,
        schedule,
        progress=progress,
    )
    network.requires_grad_(False)
