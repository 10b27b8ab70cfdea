"""Losses on heatmap logits, and on the maps of all four heads. Keypoints that are not labelled, or lie outside the input, cost nothing.

Shape legend: B batch, K keypoints, H rows, W columns, S input side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatpose.codec import cell_vectors, gaussian_targets, inside, near_cell, oks_targets
from heatpose.metrics import AREA_OF_BOX
from heatpose.models.movenet import STRIDE, PoseMaps


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
        weight = (labelled & inside(points, STRIDE * logits.shape[-1])).float()
        return masked_mean(self.per_keypoint(logits.float(), points, AREA_OF_BOX * box.prod(-1)), weight)

    def terms(self, logits: Tensor, points: Tensor, labelled: Tensor, box: Tensor) -> dict[str, Tensor]:
        """The loss by its one term; as `FourHeadLoss.terms`."""
        return {"heatmap": self(logits, points, labelled, box)}

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


class FourHeadLoss(nn.Module):
    """All four heads of MoveNet together, in CenterNet's form (Zhou, Wang and Kraehenbuehl 2019, section 4.2, single-person pose).

    Heatmaps and centre, the mean of the labelled keypoints, are learnt as `SpatialCrossEntropy`. Regression is L1 around the centre's cell and
    offset L1 around each keypoint's cell, both against the vector from the cell's index to the keypoint, in cells.

    Args:
        sigmas: K OKS constants of the skeleton.
        spread: Of heatmaps and centre, as in `SpatialCrossEntropy`.
        score_weight: Likewise.
        centre_sigma: OKS constant of the centre.
        centre: Weight of the centre's term.
        regression: Weight of the regression's term.
        offset: Weight of the offset's term.
        radius: Rows and columns around a cell that are supervised with it. The decode reads vectors at the highest cell, which is often a
            neighbour of the true one.
    """

    def __init__(
        self, sigmas: Sequence[float], spread: float = 0.5, score_weight: float = 5.0, centre_sigma: float = 0.107, centre: float = 1.0,
        regression: float = 0.1, offset: float = 1.0, radius: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heatmaps = SpatialCrossEntropy(sigmas, spread, score_weight)
        self.centre = SpatialCrossEntropy([centre_sigma], spread, score_weight)
        self.weights = {"heatmap": 1.0, "centre": centre, "regression": regression, "offset": offset}
        self.radius = radius

    def forward(self, maps: PoseMaps, points: Tensor, labelled: Tensor, box: Tensor) -> Tensor:
        """Mean cost of a batch; arguments as `HeatmapLoss.forward`, with the maps of a network with four heads."""
        return torch.stack([*self.terms(maps, points, labelled, box).values()]).sum()

    def terms(self, maps: PoseMaps, points: Tensor, labelled: Tensor, box: Tensor) -> dict[str, Tensor]:
        """The four weighted terms, f32[] each, by the head's name; they add up to the loss."""
        maps = PoseMaps(*(map_.float() for map_ in maps))
        cells = maps.heatmaps.shape[-1]
        counted = labelled & inside(points, STRIDE * cells)
        weight = counted.float()
        middle = (points * weight[..., None]).sum(1, keepdim=True) / weight.sum(1)[:, None, None].clamp_min(1)
        vectors = cell_vectors(points, cells)
        at_middle = near_cell(middle, cells, self.radius).expand(-1, points.shape[1], -1, -1)
        costs = {
            "heatmap": self.heatmaps(maps.heatmaps, points, labelled, box),
            "centre": self.centre(maps.centre, middle, counted.any(1, keepdim=True), box),
            "regression": masked_mean(_vector_cost(maps.regression, vectors, at_middle), weight),
            "offset": masked_mean(_vector_cost(maps.offset, vectors, near_cell(points, cells, self.radius)), weight),
        }
        return {name: self.weights[name] * cost for name, cost in costs.items()}


def _vector_cost(found: Tensor, vectors: Tensor, where: Tensor) -> Tensor:
    """f32[B, K]: |dy| + |dx| between two f32[B, 2K, H, W], mean over the cells of bool[B, K, H, W]."""
    distance = (found - vectors).abs()
    wrong = distance[:, 0::2] + distance[:, 1::2]
    return torch.where(where, wrong, 0).sum((-1, -2)) / where.sum((-1, -2)).clamp_min(1)
