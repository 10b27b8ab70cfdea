"""One network learns to say what another says, on images that both see.

No label takes part (Hinton et al. 2015).

For students that are the teacher in another form (rounded to int8, or with another way of
upsampling); `distill.loss` is for learning beside labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from heatpose.models.movenet import MoveNet
    from heatpose.pose.preprocessing import Preprocessing


_LOGITS = ("heatmap", "centre")
_AMOUNT = 2.0  # of sharpening, at most
Maps = dict[str, Tensor]
"""Head -> its maps f[B, C, H, W]."""


@dataclass(frozen=True)
class DistillationSchedule:
    """How long a student learns.

    Attributes:
        steps: Of the optimiser.
        batch_size: Images a step.
        seed: Of the order.
        lower: What to lower where the loss is no number any more, for the error.
        otherwise: What to choose where there are no images, for the error.
        sharpen: Share of the images that are `sharpened`, each by an amount drawn up to 2.
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
    """Trains a student by Adam: a short linear rise of the rates, then cosine to nothing.

    Args:
        student: Normalised images f32[B, 3, S, S] -> a network's maps; its parameters change.
        groups: Parameters and rates, as `torch.optim.Adam` takes them.
        teacher: Is asked about every image of every step.
        images: u8[N, S, S, 3], as the network gets them; each is also shown mirrored.
        preprocessing: Of both networks.
        schedule: How long.
        progress: Shows a bar.

    Raises:
        HeatposeError: There are no images, or the loss is not a number any more.
    """
    if not len(images):
        raise HeatposeError(
            "There are no training images to learn from the float network on; give more training"
            f" images, or choose {schedule.otherwise}."
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
        # batch norm as it was trained
        warnings.filterwarnings("ignore", message="Found .* module\\(s\\) in eval mode")
        trainer.fit(
            _Schedule(student, groups, schedule),
            DataLoader(photos, schedule.batch_size, sampler=sampler, collate_fn=list),
        )


def distance(found: Maps, teacher: Maps) -> Tensor:
    """How far a network's maps are from its teacher's, f32[].

    Heatmaps and centre: Kullback-Leibler divergence of the softmax over the cells, each map
    weighted by how sure the teacher is of it (the sigmoid of its peak). Vectors: mean absolute
    difference, in cells.
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
    """What a network gives, by head."""
    if isinstance(output, Tensor):
        return {"heatmap": output}
    return {
        "centre": output.centre,
        "regression": output.regression,
        "heatmap": output.heatmaps,
        "offset": output.offset,
    }


def sharpened(images: Tensor, amounts: Tensor) -> Tensor:
    """Images with harder edges: image + amount * (image - mean of the 3x3 around).

    Nearest sampling of a large photograph leaves harder edges than a view of a small one. A student
    that has seen soft images alone comes near its teacher on those, and leaves it on photographs
    as they are met in use.

    Args:
        images: u8[B, 3, H, W].
        amounts: f32[B], 0 leaves an image as it is.

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
                "The loss against the float network is no number any more; lower"
                f" {self.schedule.lower}."
            )
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Adam, stepwise rates."""
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
    """One tensor f[B, C, H, W] -> the heads whose channels it holds one after the other."""
    return dict(
        zip(like, torch.split(joined, [maps.shape[1] for maps in like.values()], 1), strict=True)
    )


class _Images(Dataset[list[Tensor]]):
    """Images, as they are and mirrored, sharpened or not.

    And what the teacher says about them.
    """

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
    """How long it learns (conf/quant).

    Attributes:
        steps: Of Adam.
        batch_size: Images a step.
        images: Training images: views of training people, each as it is and mirrored.
        rate: Of Adam.
        seed: Of views and order.
        sharpen: Share of the images that get harder edges, as nearest sampling makes them of
            large photographs.
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
    """Trains a network in place. Batch-norm statistics and the fixed layers of the upsampling stay.

    Args:
        network: The teacher's weights under another way of upsampling.
        teacher: The network as it was trained.
        images: Training images u8[N, S, S, 3] as the network gets them; never ones that are
            scored.
        preprocessing: Of both.
        upsampling_tuning: How long and how fast.
        progress: Shows a bar.

    Raises:
        HeatposeError: There are no images, or the loss is not a number any more.
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
