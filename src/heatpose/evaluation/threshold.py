"""From which score on a keypoint should be shown: precision and recall over thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data.sample import Person
from heatpose.evaluation.metrics import keypoint_similarity, normalised_truth

THRESHOLDS = np.round(np.linspace(0, 1, 101), 2)
CORRECT, LEAST_INSTANCES = 0.5, 20
"""Similarity from which on a keypoint counts as correct (the lowest threshold of COCO's AP), and
the fewest instances that a threshold is measured on."""


@dataclass(frozen=True)
class ThresholdCurve:
    """Precision and recall of the shown keypoints over the score threshold.

    A keypoint is shown where its score reaches the threshold. It is correct where it is labelled
    and its similarity to the label is at least `CORRECT`.

    Attributes:
        thresholds: f64[T], rising from 0 to 1.
        precision: f64[T], correct of shown; 1 where none is shown.
        recall: f64[T], correct and shown of labelled.
        keypoints: Number of keypoints, labelled or not.
        instances: Number of people.
    """

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    keypoints: int
    instances: int

    @property
    def f1(self) -> NDArray[np.float64]:
        """Harmonic mean of precision and recall, f64[T]; 0 where both are."""
        total = self.precision + self.recall
        f1: NDArray[np.float64] = 2 * self.precision * self.recall / np.where(total > 0, total, 1.0)
        return f1

    @property
    def best(self) -> float:
        """The threshold with the highest F1; the lowest of several."""
        return float(self.thresholds[int(self.f1.argmax())])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `metrics.json`."""
        return {
            "best": self.best,
            "instances": self.instances,
            "keypoints": self.keypoints,
            "thresholds": self.thresholds.tolist(),
            "precision": np.round(self.precision, 4).tolist(),
            "recall": np.round(self.recall, 4).tolist(),
        }


def threshold_curve(
    poses: NDArray[np.floating[Any]], instances: Sequence[Person], sigmas: Sequence[float]
) -> ThresholdCurve | None:
    """Measures precision and recall on labelled people that the network was not trained on.

    Args:
        poses: f[N, K, 3] x, y as fractions of the image, and the score in [0, 1].
        instances: Their labels. COCO labels a keypoint wherever an annotator could place it; a
            keypoint without a label counts as not to be shown.
        sigmas: K constants of COCO's keypoint similarity.

    Returns:
        The curve; None where no keypoint is labelled.
    """
    if not len(instances):
        return None
    truth = normalised_truth(instances)
    if not truth.labelled.any():
        return None
    similarity = keypoint_similarity(poses[..., :2], truth.keypoints, truth.area, sigmas)
    correct = truth.labelled & (similarity >= CORRECT)
    shown = poses[..., 2][None] >= THRESHOLDS[:, None, None]
    count, right = shown.sum((1, 2)), (shown & correct).sum((1, 2))
    return ThresholdCurve(
        THRESHOLDS,
        np.where(count > 0, right / np.maximum(count, 1), 1.0),
        right / truth.labelled.sum(),
        int(truth.labelled.size),
        len(instances),
    )
