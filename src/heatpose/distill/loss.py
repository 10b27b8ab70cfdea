"""The term that a teacher adds to the loss.

Shape legend: B batch, K keypoints, H and W rows and columns of the student's map, h and w of the
teacher's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatpose.distill.cache import RANGE, TeacherMaps
from heatpose.distill.teacher import DistillSettings
from heatpose.models.losses import masked_mean
from heatpose.models.movenet import STRIDE
from heatpose.pose import geometry
from heatpose.pose.codec import inside, place_targets, warp_maps
from heatpose.pose.skeleton import AREA_OF_BOX, Skeleton

Batch = dict[str, Tensor]
MOST_SAMPLES = 6
"""Samples along a side of a cell, at most; a cell that covers more of the teacher's misses some."""
LEAST_SEEN = 0.5
"""Share of a map's mass that has to lie in the training view.

Less is a keypoint that was moved out of it.
"""


class Distillation(nn.Module):
    """Kullback-Leibler divergence of the student's softmax over each map from the teacher's.

    Which is warped into the training view.

    Args:
        teacher: Answers for the training people.
        settings: Weight, temperature and the rest.
        skeleton: The student's.
    """

    def __init__(self, teacher: TeacherMaps, settings: DistillSettings, skeleton: Skeleton) -> None:
        super().__init__()
        self.teacher = teacher
        self.settings = settings
        self.flip_order = skeleton.flip_order
        self.register_buffer("sigmas", torch.tensor(list(skeleton.sigmas)), persistent=False)

    def look_up(self, index: Tensor, matrix: Tensor) -> Batch:
        """What the teacher says about the samples of a batch, before it goes to the device.

        Args:
            index: int64[B] positions among the training people.
            matrix: f[B, 2, 3] image -> input pixels of each sample; one that mirrors swaps left and
                right.

        Returns:
            `teacher_points` f32[B, K, 2] in input pixels; `teacher_scores` f32[B, K]; and of a
            teacher with maps `teacher_maps` u8[B, K, h, w], `teacher_frame` f32[B, 2, 3] from input
            pixels to fractions of its view, and `teacher_samples`, empty, whose length is for
            `warp_maps`.
        """
        rows, views = index.cpu().numpy(), matrix.cpu().double().numpy()
        orders = [
            self.flip_order if np.linalg.det(view[:, :2]) < 0 else list(range(len(self.flip_order)))
            for view in views
        ]
        points = [
            geometry.apply(view, self.teacher.points[row][order])
            for row, view, order in zip(rows, views, orders, strict=True)
        ]
        scores = [self.teacher.scores[row][order] for row, order in zip(rows, orders, strict=True)]
        found = {
            "teacher_points": torch.from_numpy(np.stack(points)),
            "teacher_scores": torch.from_numpy(np.stack(scores)),
        }
        if self.teacher.maps is None:
            return found
        maps = np.stack(
            [self.teacher.maps[row][order] for row, order in zip(rows, orders, strict=True)]
        )
        frames = np.stack(
            [
                geometry.compose(geometry.invert(view), self.teacher.views[row])
                for row, view in zip(rows, views, strict=True)
            ]
        )
        found["teacher_maps"], found["teacher_frame"] = (
            torch.from_numpy(maps),
            torch.from_numpy(frames.astype(np.float32)),
        )
        # a length is known without waiting for the device
        found["teacher_samples"] = torch.empty(_samples(frames, maps.shape[-1]), 0)
        return found

    def forward(self, logits: Tensor, batch: Batch) -> Tensor:
        """f32[]: the weighted term of f[B, K, H, W] logits.

        `batch` holds `box` and what `look_up` gave.
        """
        target, weight = self.target(batch, logits.shape[-1])
        heat = self.settings.temperature if "teacher_maps" in batch else 1.0
        student = functional.log_softmax(logits.float().flatten(2) / heat, -1)
        target = target.flatten(2)
        divergence = (torch.xlogy(target, target) - target * student).sum(-1)
        return self.settings.weight * heat**2 * masked_mean(divergence, weight)

    def target(self, batch: Batch, cells: int) -> tuple[Tensor, Tensor]:
        """The teacher's distributions in the training view f32[B, K, H.

        W] and their weights f32[B, K]: its score, 0 for what is not in the view.
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
        warped = warp_maps(distribution, frame, cells, len(batch["teacher_samples"]))
        total = warped.sum((-1, -2))
        # A cell's area in cells of the teacher's map: with it the sum is the share of the mass that
        # is in the view.
        area = (STRIDE**2 * maps.shape[-1] * maps.shape[-2]) * torch.linalg.det(
            frame[:, :, :2]
        ).abs()
        seen = total * area[:, None] >= LEAST_SEEN
        return warped / total.clamp_min(1e-12)[..., None, None], score * seen

    def labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Points f32[B, K, 2] and weights for the labels' loss.

        With `fill`, what is not labelled is the teacher's, weighted by its score.
        """
        if not self.settings.fill:
            return batch["points"], batch["labelled"]
        score = batch["teacher_scores"]
        missing = ~batch["labelled"]
        weight = torch.where(missing, score * (score >= self.settings.min_score), 1.0)
        return torch.where(missing[..., None], batch["teacher_points"], batch["points"]), weight


def _samples(frames: Any, cells: int) -> int:
    """How many of the teacher's `cells` a cell of the student's covers at most.

    In whole numbers.
    """
    lengths = np.linalg.norm(frames[:, :, :2], axis=1).max() * STRIDE * cells
    return int(min(max(math.ceil(lengths), 1), MOST_SAMPLES))
