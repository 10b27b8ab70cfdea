"""Agreement of two models: OKS of one model's poses with the other's poses as the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data.sample import Person
from heatpose.evaluation.metrics import (
    bootstrap_interval,
    keypoint_similarity,
    mean_over_labelled,
    normalised_truth,
    standard_error,
)
from heatpose.pose.skeleton import Skeleton


@dataclass(frozen=True)
class Agreement:
    """How far a model reproduces another one's poses; 100 for equal poses.

    Attributes:
        images: N, one person each.
        oks: Mean OKS in percent.
        oks_low: Lower end of its 95 % bootstrap interval.
        oks_high: Upper end.
        oks_standard_error: Of the mean, in points.
        oks_per_keypoint: Name -> mean similarity in percent.
    """

    images: int
    oks: float
    oks_low: float
    oks_high: float
    oks_standard_error: float
    oks_per_keypoint: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def agreement(
    reference: NDArray[np.float32],
    found: NDArray[np.float32],
    instances: Sequence[Person],
    skeleton: Skeleton,
) -> Agreement:
    """OKS of the found poses with the reference poses as labels.

    The published protocol's formula: every keypoint counts as labelled, and the area is that of the
    labelled person's box, as it is for the score of either model. So a drift costs the same here
    and there. Labelled keypoints themselves are not used.

    Args:
        reference: f32[N, K, 3] x and y as fractions of the image's sides, score: the labels.
        found: f32[N, K, 3] the same from the model that is compared.
        instances: N people, one per image, for their boxes.
        skeleton: K names and sigmas.
    """
    similarity = keypoint_similarity(
        found[..., :2], reference[..., :2], normalised_truth(instances).area, skeleton.sigmas
    )
    values = mean_over_labelled(similarity, np.ones(similarity.shape, np.bool_))
    low, high = bootstrap_interval(100 * values)
    return Agreement(
        images=len(values),
        oks=100 * float(values.mean()),
        oks_low=low,
        oks_high=high,
        oks_standard_error=100 * standard_error(values),
        oks_per_keypoint=dict(
            zip(skeleton.keypoints, (100 * similarity.mean(0)).tolist(), strict=True)
        ),
    )
