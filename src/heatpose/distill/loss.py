"""Distillation term of the loss.

Shape legend: B batch, K keypoints, H and W rows and columns of the student's map, h and w of the
teacher's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from heatpose.data.batches import TrainingBatch
from heatpose.distill.cache import RANGE, TeacherMaps
from heatpose.distill.teacher import DistillSettings
from heatpose.models.losses import masked_mean
from heatpose.models.movenet import STRIDE
from heatpose.pose import geometry
from heatpose.pose.codec import inside, place_targets, warp_maps
from heatpose.pose.skeleton import AREA_OF_BOX, Skeleton

MOST_SAMPLES = 6
"""Maximum number of samples along a side of a student's cell; larger cells are undersampled."""
LEAST_SEEN = 0.5
"""Minimum fraction of a map's mass inside the augmented sample.

With less, the augmentation has moved the keypoint out of the sample.
"""


class TeacherTargets(TypedDict, total=False):
    """A teacher's output for a batch, from `Distillation.look_up`.

    Attributes:
        teacher_points: f32[B, K, 2] in input pixels.
        teacher_scores: f32[B, K].
        teacher_maps: u8[B, K, h, w]; absent, as the following, without maps.
        teacher_frame: f32[B, 2, 3] input pixels -> fractions of the teacher's input.
        teacher_samples: B arguments `samples` of `codec.warp_maps`. On the host, because reading
            them from a device would wait for it.
    """

    teacher_points: Tensor
    teacher_scores: Tensor
    teacher_maps: Tensor
    teacher_frame: Tensor
    teacher_samples: list[int]


class TeacherBatch(TrainingBatch, TeacherTargets):
    """A training batch with a teacher's targets."""


class Distillation(nn.Module):
    """Kullback-Leibler divergence between the teacher's and the student's distributions.

    A distribution is the softmax over a map. The teacher's is warped into the augmented sample
    (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, per map).

    Args:
        teacher: Its output for the training instances.
        settings: Weight, temperature and thresholds.
        skeleton: The student's.
    """

    def __init__(self, teacher: TeacherMaps, settings: DistillSettings, skeleton: Skeleton) -> None:
        super().__init__()
        self.teacher = teacher
        self.settings = settings
        self.flip_order = skeleton.flip_order
        self.register_buffer("sigmas", torch.tensor(list(skeleton.sigmas)), persistent=False)

    def look_up(self, index: Tensor, matrix: Tensor) -> TeacherTargets:
        """The teacher's output for the samples of a batch, looked up on the host.

        Args:
            index: i64[B] positions among the training instances.
            matrix: f[B, 2, 3] image pixels -> input pixels of each sample; left and right are
                exchanged if it mirrors.
        """
        rows, matrices = index.cpu().numpy(), matrix.cpu().double().numpy()
        unchanged = list(range(len(self.flip_order)))
        orders = [self.flip_order if np.linalg.det(m[:, :2]) < 0 else unchanged for m in matrices]
        points = [
            geometry.apply(m, self.teacher.points[row][order])
            for row, m, order in zip(rows, matrices, orders, strict=True)
        ]
        scores = [self.teacher.scores[row][order] for row, order in zip(rows, orders, strict=True)]
        targets: TeacherTargets = {
            "teacher_points": torch.from_numpy(np.stack(points)),
            "teacher_scores": torch.from_numpy(np.stack(scores)),
        }
        if self.teacher.maps is None:
            return targets
        maps = np.stack(
            [self.teacher.maps[row][order] for row, order in zip(rows, orders, strict=True)]
        )
        frames = np.stack(
            [
                geometry.compose(geometry.invert(m), self.teacher.views[row])
                for row, m in zip(rows, matrices, strict=True)
            ]
        )
        targets["teacher_maps"] = torch.from_numpy(maps)
        targets["teacher_frame"] = torch.from_numpy(frames.astype(np.float32))
        targets["teacher_samples"] = _samples(frames, maps.shape[-1])
        return targets

    def forward(self, logits: Tensor, batch: TeacherBatch) -> Tensor:
        """The weighted term f32[].

        Args:
            logits: f[B, K, H, W].
            batch: With the targets of `look_up`.
        """
        target, weight = self.target(batch, logits.shape[-1])
        heat = self.settings.temperature if "teacher_maps" in batch else 1.0
        student = functional.log_softmax(logits.float().flatten(2) / heat, -1)
        target = target.flatten(2)
        divergence = (torch.xlogy(target, target) - target * student).sum(-1)
        return self.settings.weight * heat**2 * masked_mean(divergence, weight)

    def target(self, batch: TeacherBatch, cells: int) -> tuple[Tensor, Tensor]:
        """The teacher's distributions in the frame of the augmented samples.

        Args:
            batch: With the targets of `look_up`.
            cells: Side H = W of the student's map.

        Returns:
            Distributions f32[B, K, H, W] and their weights f32[B, K]: the teacher's score, 0 for
            keypoints outside the sample.
        """
        assert isinstance(self.sigmas, Tensor)
        score = batch["teacher_scores"]
        if "teacher_maps" not in batch:
            area = AREA_OF_BOX * batch["box"].prod(-1)
            points = batch["teacher_points"]
            return place_targets(
                points, area, self.sigmas, cells, self.settings.spread
            ), score * inside(points, STRIDE * cells)
        maps, frame = batch["teacher_maps"], batch["teacher_frame"]
        logits = (maps.float() / 255 - 1) * RANGE / self.settings.temperature
        distribution = logits.flatten(2).softmax(-1).view(maps.shape)
        warped = _warped(distribution, frame, cells, batch["teacher_samples"])
        total = warped.sum((-1, -2))
        # A cell's area in cells of the teacher's map: multiplied by it, the sum is the fraction of
        # the mass inside the sample.
        area = (STRIDE**2 * maps.shape[-1] * maps.shape[-2]) * torch.linalg.det(
            frame[:, :, :2]
        ).abs()
        seen = total * area[:, None] >= LEAST_SEEN
        return warped / total.clamp_min(1e-12)[..., None, None], score * seen

    def labels(self, batch: TeacherBatch) -> tuple[Tensor, Tensor]:
        """Points f32[B, K, 2] and weights f32 or bool[B, K] for the loss on labels.

        With `fill`, unlabelled keypoints are taken from the teacher and weighted by its score.
        """
        if not self.settings.fill:
            return batch["points"], batch["labelled"]
        score = batch["teacher_scores"]
        missing = ~batch["labelled"]
        weight = torch.where(missing, score * (score >= self.settings.min_score), 1.0)
        return torch.where(missing[..., None], batch["teacher_points"], batch["points"]), weight


def _samples(frames: NDArray[np.float64], cells: int) -> list[int]:
    """For each frame, the number of the teacher's `cells` along a student's cell, rounded up."""
    lengths = np.linalg.norm(frames[:, :, :2], axis=1).max(1) * STRIDE * cells
    return [int(min(max(math.ceil(length), 1), MOST_SAMPLES)) for length in lengths.tolist()]


def _warped(maps: Tensor, frames: Tensor, cells: int, samples: Sequence[int]) -> Tensor:
    """`codec.warp_maps` with a number of samples for each map of the batch.

    The time grows with its square, and few samples of a batch need the largest.
    """
    if len(set(samples)) == 1:
        return warp_maps(maps, frames, cells, samples[0])
    warped: list[Tensor] = [maps[:0]] * len(samples)
    for count in set(samples):
        rows = [row for row, own in enumerate(samples) if own == count]
        # Rows by slices: an index tensor would be copied to the device, which waits for it.
        chosen, views = (torch.stack([each[row] for row in rows]) for each in (maps, frames))
        for row, one in zip(rows, warp_maps(chosen, views, cells, count), strict=True):
            warped[row] = one
    return torch.stack(warped)
