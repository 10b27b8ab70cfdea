"""Metrics: OKS of the published benchmark, COCO AP, bootstrap intervals, agreement, thresholds.

Shapes: N instances, K keypoints.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data.sample import Person
from heatpose.pose.skeleton import AREA_OF_BOX, Skeleton

EPSILON = 1e-7
SIZES = (0.0, 0.125, 0.25, 0.5, np.inf)
"""Bounds of the size groups of `score_by_size`."""


def keypoint_similarity(
    predicted: NDArray[np.floating[Any]],
    truth: NDArray[np.floating[Any]],
    area: NDArray[np.floating[Any]],
    sigmas: Sequence[float],
) -> NDArray[np.float64]:
    """COCO's keypoint similarity exp(-d^2 / (2 (2 sigma)^2 (area + 1e-7))).

    Args:
        predicted: f[N, K, 2] normalised (x / width, y / height).
        truth: f[N, K, 2] normalised.
        area: f[N] normalised: 0.53 * (w / width) * (h / height).
        sigmas: K constants.

    Returns:
        f64[N, K] in [0, 1].
    """
    d2 = ((predicted.astype(np.float64) - truth.astype(np.float64)) ** 2).sum(-1)
    variance = (2 * np.asarray(sigmas, np.float64)) ** 2
    similarity: NDArray[np.float64] = np.exp(
        -d2 / (2 * variance[None, :] * (area[:, None].astype(np.float64) + EPSILON))
    )
    return similarity


def mean_over_labelled(
    similarity: NDArray[np.float64], labelled: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """OKS of each instance: mean similarity of its labelled keypoints (protocol rule 4).

    Args:
        similarity: f64[N, K] in [0, 1].
        labelled: bool[N, K].

    Returns:
        f64[N] in [0, 1]; 0 for an instance without labelled keypoints.
    """
    weight = labelled.astype(np.float64)
    oks: NDArray[np.float64] = (similarity * weight).sum(1) / (weight.sum(1) + EPSILON)
    return oks


@dataclass(frozen=True)
class Truth:
    """Ground truth in normalised coordinates.

    Attributes:
        keypoints: f32[N, K, 2] x, y.
        labelled: bool[N, K].
        area: f64[N].
    """

    keypoints: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    area: NDArray[np.float64]


def normalised_truth(instances: Sequence[Person]) -> Truth:
    """Labels divided by width and height of their image."""
    size = np.array([[p.width, p.height] for p in instances], np.float64)
    boxes = np.array([p.box[2:] for p in instances], np.float64)
    keypoints = np.stack([p.keypoints for p in instances]) / size[:, None, :]
    return Truth(
        keypoints.astype(np.float32),
        np.stack([p.labelled for p in instances]),
        AREA_OF_BOX * (boxes / size).prod(1),
    )


def person_sizes(instances: Sequence[Person]) -> NDArray[np.float64]:
    """f64[N]: side of each instance relative to the image's side, sqrt(box area / image area)."""
    boxes = np.array([p.box[2:] for p in instances], np.float64).reshape(-1, 2)
    images = np.array([[p.width, p.height] for p in instances], np.float64).reshape(-1, 2)
    sizes: NDArray[np.float64] = np.sqrt((boxes / images).prod(1))
    return sizes


def score_by_size(
    values: NDArray[np.float64], sizes: NDArray[np.float64]
) -> list[dict[str, float | int | None]]:
    """Mean OKS by size of the instance.

    Args:
        values: f64[N] OKS in [0, 1].
        sizes: f64[N] of `person_sizes`.

    Returns:
        An entry per size group: bounds `from` (inclusive) and `to` (exclusive) relative to the
        image's side, `people` (count), `oks` and `oks_standard_error` in percent, None for an
        empty group.
    """
    entries: list[dict[str, float | int | None]] = []
    for low, high in pairwise(SIZES):
        chosen = values[(sizes >= low) & (sizes < high)]
        mean, error = (
            (100 * float(chosen.mean()), 100 * standard_error(chosen))
            if len(chosen)
            else (None, None)
        )
        entries.append(
            {
                "from": low,
                "to": high if np.isfinite(high) else None,
                "people": len(chosen),
                "oks": mean,
                "oks_standard_error": error,
            }
        )
    return entries


def bootstrap_interval(
    values: NDArray[np.float64], draws: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: f64[N], N >= 1; for a paired comparison, differences.
        draws: Number of resamples.
        seed: Of the resampling.
        level: Coverage, in (0, 1).

    Returns:
        Lower and upper bound, in the unit of `values`.
    """
    generator = np.random.default_rng(seed)
    means = np.array(
        [values[generator.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of the mean of f64[N], in its unit; 0 for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def coco_average_precision(
    instances: Sequence[Person], poses: NDArray[np.float32], skeleton: Skeleton
) -> tuple[float, float]:
    """COCO keypoint AP and AP50 by pycocotools, in image pixels with the segmentation area.

    Not comparable with the OKS of the published protocol.

    Args:
        instances: One person per image.
        poses: f32[N, K, 3]: normalised x, y, and score.
        skeleton: Keypoint names and sigmas.

    Returns:
        AP and AP at OKS 0.5, in percent.
    """
    # Imported here: only used for scoring, and it takes a third of a second.
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = _coco_truth(instances, skeleton)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(coco_results(instances, poses)), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(skeleton.sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[0]), 100 * float(evaluation.stats[1])


def _coco_truth(instances: Sequence[Person], skeleton: Skeleton) -> dict[str, object]:
    annotations = []
    for i, person in enumerate(instances):
        flags = np.where(person.labelled, 2.0, 0.0)[:, None]
        annotations.append(
            {
                "id": i + 1,
                "image_id": person.image_id,
                "category_id": 1,
                "iscrowd": 0,
                "area": person.area,
                "bbox": list(person.box),
                "keypoints": np.concatenate([person.keypoints, flags], 1).reshape(-1).tolist(),
                "num_keypoints": int(person.labelled.sum()),
            }
        )
    images = [{"id": p.image_id, "width": p.width, "height": p.height} for p in instances]
    return {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(skeleton.keypoints)}],
    }


def coco_results(
    instances: Sequence[Person], poses: NDArray[np.float32]
) -> list[dict[str, object]]:
    """Poses in COCO's results format, for `COCO.loadRes`.

    Args:
        instances: N instances, one per image.
        poses: f32[N, K, 3]: normalised x, y, and score.

    Returns:
        N entries; keypoints in image pixels, the mean score of the keypoints as score.
    """
    results: list[dict[str, object]] = []
    for person, pose in zip(instances, poses, strict=True):
        points = pose * np.array([person.width, person.height, 1.0], np.float32)
        results.append(
            {
                "image_id": person.image_id,
                "category_id": 1,
                "keypoints": points.reshape(-1).tolist(),
                "score": float(pose[:, 2].mean()),
            }
        )
    return results


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
        instances: N instances, one per image, for their boxes.
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
        instances: Number of instances.
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
    """Measures precision and recall on labelled instances that the network was not trained on.

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
