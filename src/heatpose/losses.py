"""Losses on heatmap logits. Keypoints that are not labelled, or lie outside the input, cost nothing.

Shape legend: B batch, K keypoints, H rows, W columns, S input side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatpose.codec import gaussian_targets, inside, oks_targets
from heatpose.metrics import AREA_OF_BOX


def masked_mean(per_keypoint: Tensor, weight: Tensor) -> Tensor:
    """Mean of f32[B, K] over people of the mean over their weighted keypoints: each person counts once, as in the OKS that is scored."""
    per_person = (per_keypoint * weight).sum(1) / weight.sum(1).clamp_min(1)
    people = (weight.sum(1) > 0).float()
    return (per_person * people).sum() / people.sum().clamp_min(1)


class HeatmapLoss(nn.Module):
    """What every heatmap loss takes; a subclass says what a map costs."""

    def forward(self, logits: Tensor, points: Tensor, labelled: Tensor, box: Tensor) -> Tensor:
        """Mean cost of a batch.

        Args:
            logits: f[B, K, H, W].
            points: f32[B, K, 2] in input pixels.
            labelled: bool[B, K].
            box: f32[B, 2] the person's box width and height in input pixels.

        Returns:
            f32[]: 0 where nothing is labelled.
        """
        stride = 4
        size = logits.shape[-1] * stride
        weight = (labelled & inside(points, size)).float()
        return masked_mean(self.per_keypoint(logits.float(), points, AREA_OF_BOX * box.prod(-1)), weight)

    def per_keypoint(self, logits: Tensor, points: Tensor, area: Tensor) -> Tensor:
        """f32[B, K]: what each map costs."""
        raise NotImplementedError


class GaussianMSE(HeatmapLoss):
    """Squared error of the sigmoid against a Gaussian (Tompson et al. 2014), summed over the map.

    Args:
        sigma: Of the Gaussian, in cells.
    """

    def __init__(self, sigma: float = 2.0) -> None:
        super().__init__()
        self.sigma = sigma

    def per_keypoint(self, logits: Tensor, points: Tensor, area: Tensor) -> Tensor:
        """See `HeatmapLoss`."""
        target = gaussian_targets(points, logits.shape[-1], self.sigma)
        return ((logits.sigmoid() - target) ** 2).sum((-1, -2))


class SpatialCrossEntropy(HeatmapLoss):
    """Softmax over the map against a target distribution around the keypoint, plus a binary cross entropy that keeps the sigmoid a score.

    The softmax alone leaves the logits' level free: after a sigmoid, peaks would saturate and tie in int8. The second term pins it: sigmoid of the
    logit -> expected OKS of choosing that cell (the kernel of the metric; compare ProbPose, Purkrabek and Matas 2025).

    Args:
        sigmas: K OKS constants of the skeleton.
        spread: The target's kernel is the OKS kernel with its standard deviation multiplied by this; smaller is sharper.
        score_weight: Weight of the binary cross entropy.
    """

    def __init__(self, sigmas: Sequence[float], spread: float = 0.5, score_weight: float = 5.0) -> None:
        super().__init__()
        self.register_buffer("sigmas", torch.tensor(list(sigmas)), persistent=False)
        self.spread = spread
        self.score_weight = score_weight

    def per_keypoint(self, logits: Tensor, points: Tensor, area: Tensor) -> Tensor:
        """See `HeatmapLoss`."""
        assert isinstance(self.sigmas, Tensor)
        kernel = oks_targets(points, area, self.sigmas, logits.shape[-1])
        # A kernel narrower than a cell would miss every centre: half a cell is the least.
        floor = gaussian_targets(points, logits.shape[-1], 0.5)
        sharp = torch.maximum(kernel ** (1 / self.spread**2), floor)
        place = sharp / sharp.sum((-1, -2), keepdim=True).clamp_min(1e-9)  # a point far outside has no cell; it costs nothing anyway
        where = functional.log_softmax(logits.flatten(2), -1)
        placed = -(place.flatten(2) * where).sum(-1)
        score = functional.binary_cross_entropy_with_logits(logits, torch.maximum(kernel, floor), reduction="none").mean((-1, -2))
        return placed + self.score_weight * score
