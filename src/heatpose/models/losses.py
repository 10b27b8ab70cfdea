"""Losses on heatmap logits, and on the maps of all four heads.

Keypoints that are not labelled, or lie outside the input, cost nothing.

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
    """Mean of f32[B, K] with weights f32[B, K] in [0, 1].

    Args:
        per_keypoint: Costs.
        weight: 0 leaves a keypoint out.
        weighting: "person": the mean over people of the mean over their weighted keypoints, so that
            each person counts once, as in the OKS that is scored. "keypoint": each weighted
            keypoint counts once. "map": as "keypoint", but divided by all B K maps, labelled or
            not: ST's recipe.
    """
    if weighting != "person":
        return (per_keypoint * weight).sum() / (
            weight.sum().clamp_min(1) if weighting == "keypoint" else weight.numel()
        )
    per_person = (per_keypoint * weight).sum(1) / weight.sum(1).clamp_min(1)
    instances = (weight.sum(1) > 0).float()
    return (per_person * instances).sum() / instances.sum().clamp_min(1)


class HeatmapLoss(nn.Module):
    """What every heatmap loss takes; a subclass says what a map costs.

    Args:
        weighting: What counts once, see `masked_mean`; "person" is what the metric does.

    Raises:
        HeatposeError: Another weighting.
    """

    def __init__(self, weighting: str = "person") -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise HeatposeError(
                f"loss.weighting={weighting} is unknown; choose one of {', '.join(WEIGHTINGS)}."
            )
        self.weighting = weighting

    def forward(self, logits: Tensor, points: Tensor, labelled: Tensor, box: Tensor) -> Tensor:
        """Mean cost of a batch.

        Args:
            logits: f[B, K, H, W].
            points: f32[B, K, 2] in input pixels.
            labelled: bool[B, K], or f32[B, K] weights in [0, 1].
            box: f32[B, 2] the person's box width and height in input pixels.

        Returns:
            f32[]: 0 where nothing is labelled.
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
        """The loss by its one term; as `FourHeadLoss.terms`."""
        return {"heatmap": self(logits, points, labelled, box)}

    def per_keypoint(self, logits: Tensor, points: Tensor, area: Tensor) -> Tensor:
        """f32[B, K]: what each map costs."""
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
    """Squared error of the sigmoid against 1 in the keypoint's cell and 0 elsewhere.

    Summed over the map: ST's older recipe.

    ST takes the mean over the map, which is this over H W: an optimiser that scales its gradients,
    such as Adam, makes no difference.
    """

    def per_keypoint(self, logits: Tensor, points: Tensor, area: Tensor) -> Tensor:
        """See `HeatmapLoss`."""
        target = functional.one_hot(cell_index(points, logits.shape[-1]), logits.shape[-1] ** 2)
        return ((logits.flatten(2).sigmoid() - target) ** 2).sum(-1)


class OneHotCrossEntropy(HeatmapLoss):
    """Softmax over the map against the keypoint's cell, on logits: ST's newer recipe.

    It leaves the logits' level free, so the sigmoid of a peak is no score: export with
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
    """Penalty-reduced focal loss (Law and Deng 2018, equation 1.

    CenterNet, Zhou, Wang and Kraehenbuehl 2019, equation 1), N = 1 a map.

    In the keypoint's cell -(1 - p)^alpha log p; elsewhere -(1 - y)^beta p^alpha log(1 - p), where y
    is the OKS kernel around that cell's centre: what their Gaussian of the object's size is for.

    Args:
        sigmas: K OKS constants of the skeleton.
        alpha: Focus on hard cells.
        beta: How far cells near the keypoint are spared.
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
        # The cell's own place in `wrong` is 0 by its kernel of 1, but only as far as float32
        # subtracts.
        return right.gather(2, cell)[..., 0] + wrong.scatter(2, cell, 0.0).sum(-1)


class SpatialCrossEntropy(HeatmapLoss):
    """Softmax over the map against a target distribution around the keypoint.

    Plus a binary cross entropy that keeps the sigmoid a score.

    The softmax alone leaves the logits' level free: after a sigmoid, peaks would saturate and tie
    in int8. The second term pins it: sigmoid of the logit -> expected OKS of choosing that cell
    (the kernel of the metric; compare ProbPose, Purkrabek and Matas 2025). With `spread` 1 the
    first term's target is that kernel too, normalised; with `place_weight` 0 the map is the
    expected OKS and nothing else.

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
    """All four heads of MoveNet together.

    In CenterNet's form (Zhou, Wang and Kraehenbuehl 2019, section 4.2, single-person pose).

    Heatmaps and centre, the mean of the labelled keypoints, are learnt as `SpatialCrossEntropy`.
    Regression is L1 around the centre's cell and offset L1 around each keypoint's cell, both
    against the vector from the cell's index to the keypoint, in cells.

    Args:
        sigmas: K OKS constants of the skeleton.
        spread: Of heatmaps and centre, as in `SpatialCrossEntropy`.
        score_weight: Likewise.
        centre_sigma: OKS constant of the centre.
        centre: Weight of the centre's term.
        regression: Weight of the regression's term.
        offset: Weight of the offset's term.
        radius: Rows and columns around a cell that are supervised with it. The decode reads vectors
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
        """Mean cost of a batch; arguments as `HeatmapLoss.forward`.

        With the maps of a network with four heads.
        """
        return torch.stack([*self.terms(maps, points, labelled, box).values()]).sum()

    def terms(
        self, maps: PoseMaps, points: Tensor, labelled: Tensor, box: Tensor
    ) -> dict[str, Tensor]:
        """The four weighted terms, f32[] each, by the head's name; they add up to the loss."""
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
    """f32[B, K]: |dy| + |dx| between two f32[B, 2K, H, W], mean over the cells of bool[B, K, H.

    W].
    """
    distance = (found - vectors).abs()
    wrong = distance[:, 0::2] + distance[:, 1::2]
    return torch.where(where, wrong, 0).sum((-1, -2)) / where.sum((-1, -2)).clamp_min(1)
