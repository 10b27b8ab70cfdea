"""Losses on heatmap logits, and on the maps of all four heads.

Keypoints that are not labelled or lie outside the input have weight 0.

To add a heatmap loss:

1. Write a subclass of `HeatmapLoss` here with `per_keypoint`. A constructor argument `sigmas` gets
   the skeleton's.
2. Add a file to `conf/loss/` whose `_target_` names it (with `_partial_: true`).
3. Select it with `loss=NAME`, and test it in `tests/models/test_losses.py`.

Shape legend: B batch, K keypoints, H rows, W columns, S input side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatpose.errors import HeatposeError
from heatpose.models.movenet import STRIDE, PoseMaps
from heatpose.pose.codec import (
    cell_index,
    cell_middles,
    cell_vectors,
    gaussian_targets,
    inside,
    near_cell,
    oks_targets,
    place_targets,
)
from heatpose.pose.skeleton import AREA_OF_BOX

WEIGHTINGS = ("person", "keypoint", "map")


def masked_mean(per_keypoint: Tensor, weight: Tensor, weighting: str = "person") -> Tensor:
    """Weighted mean of losses.

    Args:
        per_keypoint: f32[B, K].
        weight: f32[B, K] in [0, 1].
        weighting: "person": mean over instances of the mean over their weighted keypoints, so that
            each instance has equal weight, as in the metric. "keypoint": mean over weighted
            keypoints. "map": as "keypoint", but divided by all B K maps, labelled or not (ST's
            recipe).
    """
    if weighting != "person":
        return (per_keypoint * weight).sum() / (
            weight.sum().clamp_min(1) if weighting == "keypoint" else weight.numel()
        )
    per_person = (per_keypoint * weight).sum(1) / weight.sum(1).clamp_min(1)
    instances = (weight.sum(1) > 0).float()
    return (per_person * instances).sum() / instances.sum().clamp_min(1)


class HeatmapLoss(nn.Module):
    """Base class of heatmap losses; a subclass defines the loss of a map.

    Args:
        weighting: See `masked_mean`; "person" is that of the metric.

    Raises:
        HeatposeError: The weighting is unknown.
    """

    def __init__(self, weighting: str = "person") -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise HeatposeError(
                f"loss.weighting={weighting} is unknown; choose one of {', '.join(WEIGHTINGS)}."
            )
        self.weighting = weighting

    def forward(self, logits: Tensor, points: Tensor, labelled: Tensor, box: Tensor) -> Tensor:
        """Mean loss of a batch.

        Args:
            logits: f[B, K, H, W].
            points: f32[B, K, 2] in input pixels.
            labelled: bool[B, K], or f32[B, K] weights in [0, 1].
            box: f32[B, 2] width and height of the instance's box in input pixels.

        Returns:
            f32[]; 0 if nothing is labelled.
        """
        weight = labelled.float() * inside(points, STRIDE * logits.shape[-1])
        return masked_mean(
            self.per_keypoint(logits.float(), points, AREA_OF_BOX * box.prod(-1)),
            weight,
            self.weighting,
        )

    def terms(
        self, logits: Tensor, points: Tensor, labelled: Tensor, box: Tensor
    ) -> dict[str, Tensor]:
        """The loss as a single named term; see `FourHeadLoss.terms`."""
        return {"heatmap": self(logits, points, labelled, box)}

    def per_keypoint(self, logits: Tensor, points: Tensor, area: Tensor) -> Tensor:
        """Loss of each map, f32[B, K].

        Args:
            logits: f32[B, K, H, W].
            points: f32[B, K, 2] in input pixels.
            area: f32[B] of the instances, in square input pixels.
        """
        raise NotImplementedError


class GaussianMSE(HeatmapLoss):
    """Squared error of the sigmoid against a Gaussian (Tompson et al. 2014), summed over the map.

    Args:
        sigma: Of the Gaussian, in cells.
        weighting: See `HeatmapLoss`.
    """

    def __init__(self, sigma: float = 2.0, weighting: str = "person") -> None:
        super().__init__(weighting)
        self.sigma = sigma

    def per_keypoint(self, logits: Tensor, points: Tensor, area: Tensor) -> Tensor:
        """See `HeatmapLoss`."""
        target = gaussian_targets(points, logits.shape[-1], self.sigma)
        return ((logits.sigmoid() - target) ** 2).sum((-1, -2))


class OneHotMSE(HeatmapLoss):
    """Squared error of the sigmoid against a one-hot map, summed over the map: ST's older recipe.

    ST takes the mean over the map, which differs by the factor H W; optimisers that are invariant
    to the gradient's scale, such as Adam, give the same result.
    """

    def per_keypoint(self, logits: Tensor, points: Tensor, area: Tensor) -> Tensor:
        """See `HeatmapLoss`."""
        target = functional.one_hot(cell_index(points, logits.shape[-1]), logits.shape[-1] ** 2)
        return ((logits.flatten(2).sigmoid() - target) ** 2).sum(-1)


class OneHotCrossEntropy(HeatmapLoss):
    """Cross entropy of the softmax over the map against the keypoint's cell: ST's newer recipe.

    The level of the logits is not determined, so the sigmoid of a peak is not a score: export with
    `quant.sigmoid=false`.
    """

    def per_keypoint(self, logits: Tensor, points: Tensor, area: Tensor) -> Tensor:
        """See `HeatmapLoss`."""
        batch, keypoints, rows, columns = logits.shape
        target = cell_index(points, columns).flatten()
        return functional.cross_entropy(
            logits.reshape(batch * keypoints, rows * columns), target, reduction="none"
        ).view(batch, keypoints)


class Focal(HeatmapLoss):
    """Penalty-reduced focal loss with N = 1 per map.

    Law and Deng, CornerNet, 2018, equation 1; Zhou, Wang and Kraehenbuehl, CenterNet, 2019,
    equation 1. The loss is -(1 - p)^alpha log p in the keypoint's cell and -(1 - y)^beta p^alpha
    log(1 - p) elsewhere, where y is the OKS kernel around that cell's centre in place of their
    Gaussian of the object's size.

    Args:
        sigmas: K OKS constants of the skeleton.
        alpha: Focus on hard cells.
        beta: Reduction of the penalty near the keypoint.
        weighting: See `HeatmapLoss`.
    """

    def __init__(
        self,
        sigmas: Sequence[float],
        alpha: float = 2.0,
        beta: float = 4.0,
        weighting: str = "person",
    ) -> None:
        super().__init__(weighting)
        self.register_buffer("sigmas", torch.tensor(list(sigmas)), persistent=False)
        self.alpha = alpha
        self.beta = beta

    def per_keypoint(self, logits: Tensor, points: Tensor, area: Tensor) -> Tensor:
        """See `HeatmapLoss`."""
        assert isinstance(self.sigmas, Tensor)
        cells = logits.shape[-1]
        spared = (1 - oks_targets(cell_middles(points), area, self.sigmas, cells)).clamp_min(
            0
        ) ** self.beta
        p = logits.sigmoid()
        wrong = -(spared * p**self.alpha * functional.logsigmoid(-logits)).flatten(2)
        right = -((1 - p) ** self.alpha * functional.logsigmoid(logits)).flatten(2)
        cell = cell_index(points, cells)[..., None]
        # `wrong` is 0 in the keypoint's cell, where the kernel is 1, but only up to float32
        # rounding.
        return right.gather(2, cell)[..., 0] + wrong.scatter(2, cell, 0.0).sum(-1)


class SpatialCrossEntropy(HeatmapLoss):
    """Cross entropy of the softmax over the map, plus binary cross entropy for the scores.

    The target of the softmax is a distribution around the keypoint. The softmax alone does not
    determine the level of the logits: after a sigmoid, peaks would saturate and tie in int8. The
    second term determines it: the sigmoid of a logit approaches the expected OKS of choosing that
    cell (the kernel of the metric; compare ProbPose, Purkrabek and Matas 2025). With `spread` 1 the
    first target is that kernel as well, normalised; with `place_weight` 0 only the expected OKS is
    fitted.

    Args:
        sigmas: K OKS constants of the skeleton.
        spread: The target's kernel is the OKS kernel with its standard deviation multiplied by
            this; smaller is sharper.
        score_weight: Weight of the binary cross entropy.
        place_weight: Weight of the softmax.
        weighting: See `HeatmapLoss`.
    """

    def __init__(
        self,
        sigmas: Sequence[float],
        spread: float = 0.5,
        score_weight: float = 5.0,
        place_weight: float = 1.0,
        weighting: str = "person",
    ) -> None:
        super().__init__(weighting)
        self.register_buffer("sigmas", torch.tensor(list(sigmas)), persistent=False)
        self.spread = spread
        self.score_weight = score_weight
        self.place_weight = place_weight

    def per_keypoint(self, logits: Tensor, points: Tensor, area: Tensor) -> Tensor:
        """See `HeatmapLoss`."""
        assert isinstance(self.sigmas, Tensor)
        cells = logits.shape[-1]
        place = place_targets(points, area, self.sigmas, cells, self.spread)
        placed = -(place.flatten(2) * functional.log_softmax(logits.flatten(2), -1)).sum(-1)
        kernel = torch.maximum(
            oks_targets(points, area, self.sigmas, cells), gaussian_targets(points, cells, 0.5)
        )
        score = functional.binary_cross_entropy_with_logits(logits, kernel, reduction="none").mean(
            (-1, -2)
        )
        return self.place_weight * placed + self.score_weight * score


class FourHeadLoss(nn.Module):
    """Loss of the four heads of MoveNet.

    As in CenterNet (Zhou, Wang and Kraehenbuehl 2019, section 4.2, single-person pose).
    Heatmaps and centre, the mean of the labelled keypoints, use `SpatialCrossEntropy`. Regression
    is an L1 loss around the centre's cell and offset an L1 loss around each keypoint's cell, both
    against the vector from the cell's index to the keypoint, in cells.

    Args:
        sigmas: K OKS constants of the skeleton.
        spread: Of heatmaps and centre, as in `SpatialCrossEntropy`.
        score_weight: Of heatmaps and centre, as in `SpatialCrossEntropy`.
        centre_sigma: OKS constant of the centre.
        centre: Weight of the centre's term.
        regression: Weight of the regression's term.
        offset: Weight of the offset's term.
        radius: Rows and columns around a cell that are supervised as well. The decode reads vectors
            at the highest cell, which is often a neighbour of the true one.
    """

    def __init__(
        self,
        sigmas: Sequence[float],
        spread: float = 0.5,
        score_weight: float = 5.0,
        centre_sigma: float = 0.107,
        centre: float = 1.0,
        regression: float = 0.1,
        offset: float = 1.0,
        radius: int = 1,
    ) -> None:
        super().__init__()
        self.heatmaps = SpatialCrossEntropy(sigmas, spread, score_weight)
        self.centre = SpatialCrossEntropy([centre_sigma], spread, score_weight)
        self.weights = {
            "heatmap": 1.0,
            "centre": centre,
            "regression": regression,
            "offset": offset,
        }
        self.radius = radius

    def forward(self, maps: PoseMaps, points: Tensor, labelled: Tensor, box: Tensor) -> Tensor:
        """Mean loss f32[] of a batch; arguments as in `HeatmapLoss.forward`, maps of four heads."""
        return torch.stack([*self.terms(maps, points, labelled, box).values()]).sum()

    def terms(
        self, maps: PoseMaps, points: Tensor, labelled: Tensor, box: Tensor
    ) -> dict[str, Tensor]:
        """The four weighted terms f32[] by head; their sum is the loss."""
        maps = PoseMaps(*(map_.float() for map_ in maps))
        cells = maps.heatmaps.shape[-1]
        weight = labelled.float() * inside(points, STRIDE * cells)
        middle = (points * weight[..., None]).sum(1, keepdim=True) / weight.sum(1)[
            :, None, None
        ].clamp_min(1e-6)
        vectors = cell_vectors(points, cells)
        at_middle = near_cell(middle, cells, self.radius).expand(-1, points.shape[1], -1, -1)
        costs = {
            "heatmap": self.heatmaps(maps.heatmaps, points, labelled, box),
            "centre": self.centre(maps.centre, middle, weight.sum(1, keepdim=True) > 0, box),
            "regression": masked_mean(_vector_cost(maps.regression, vectors, at_middle), weight),
            "offset": masked_mean(
                _vector_cost(maps.offset, vectors, near_cell(points, cells, self.radius)), weight
            ),
        }
        return {name: self.weights[name] * cost for name, cost in costs.items()}


def _vector_cost(found: Tensor, vectors: Tensor, where: Tensor) -> Tensor:
    """L1 distance f32[B, K] of two maps of vectors, averaged over cells.

    Args:
        found: f32[B, 2K, H, W].
        vectors: f32[B, 2K, H, W].
        where: bool[B, K, H, W], the cells.
    """
    distance = (found - vectors).abs()
    wrong = distance[:, 0::2] + distance[:, 1::2]
    return torch.where(where, wrong, 0).sum((-1, -2)) / where.sum((-1, -2)).clamp_min(1)
