"""Scoring loop for all model formats: published protocol, COCO AP, paired comparison, tables."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from heatpose.data.sample import Person, labelled_image
from heatpose.errors import HeatposeError
from heatpose.evaluation.metrics import (
    bootstrap_interval,
    coco_average_precision,
    keypoint_similarity,
    mean_over_labelled,
    normalised_truth,
    person_sizes,
    score_by_size,
    standard_error,
)
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.runners.reading import Reading, reading_of
from heatpose.utils.files import sha256

if TYPE_CHECKING:
    from heatpose.runners import PoseRunner


BATCH = 16


@dataclass(frozen=True)
class EvalReport:
    """Scores of a model on an evaluation set.

    Attributes:
        model: File name.
        sha256: SHA-256 of the file; empty for a network in memory.
        images: N, number of images.
        keypoints: K, number of keypoints.
        protocol: sampling, decode, coordinates, resolution and kernels.
        oks: Mean OKS in percent (published protocol).
        oks_standard_error: Standard error of that mean, in percentage points.
        oks_per_keypoint: Name -> mean similarity over instances where it is labelled, in percent.
        ap: COCO keypoint AP in percent, not comparable with `oks`.
        ap50: COCO AP at OKS 0.5, in percent.
        image_ids: N ids, in the order of `oks_values`.
        oks_values: f64[N] OKS in [0, 1].
        poses: f32[N, K, 3]: normalised x, y, and score.
        seconds: Time of inference, without decoding and resizing of images.
        sizes: f64[N] side of each instance relative to the image's side; empty if unknown.
        reading: Assumed and computed values of the file; None if not determined.
    """

    model: str
    sha256: str
    images: int
    keypoints: int
    protocol: dict[str, str]
    oks: float
    oks_standard_error: float
    oks_per_keypoint: dict[str, float | None]
    ap: float
    ap50: float
    image_ids: list[int]
    oks_values: NDArray[np.float64]
    poses: NDArray[np.float32]
    seconds: float
    sizes: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    reading: Reading | None = None

    def to_json(self) -> dict[str, Any]:
        """Output of `heatpose evaluate --json`."""
        return {
            "model": self.model,
            "sha256": self.sha256,
            "images": self.images,
            "keypoints": self.keypoints,
            "protocol": self.protocol,
            **({"assumed": {}, "computed": {}} if self.reading is None else self.reading.to_json()),
            "oks": self.oks,
            "oks_standard_error": self.oks_standard_error,
            "oks_per_keypoint": self.oks_per_keypoint,
            "ap": self.ap,
            "ap50": self.ap50,
            "oks_per_size": score_by_size(self.oks_values, self.sizes) if len(self.sizes) else [],
            "per_image": self._per_image(),
            "seconds": self.seconds,
            "images_per_second": self.images / max(self.seconds, 1e-9),
        }

    def _per_image(self) -> list[dict[str, float | int]]:
        entries: list[dict[str, float | int]] = [
            {"image_id": i, "oks": 100 * float(v)}
            for i, v in zip(self.image_ids, self.oks_values, strict=True)
        ]
        for entry, size in zip(entries, self.sizes, strict=False):  # `sizes` may be empty
            entry["size"] = round(float(size), 4)
        return entries


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over the same images with 95 % bootstrap interval, in percentage points."""

    mean: float
    low: float
    high: float


def evaluate(
    runner: PoseRunner,
    instances: Sequence[Person],
    skeleton: Skeleton,
    *,
    sampling: str = "nearest",
    decode: str = "argmax",
    progress: bool = True,
) -> EvalReport:
    """Scores a model by the published protocol.

    Args:
        runner: Model.
        instances: One person per image (`data.coco.benchmark_instances`).
        skeleton: Keypoints of the model and of the labels, in this order.
        sampling: "nearest" is the published protocol.
        decode: "argmax" is the published protocol.
        progress: Show a progress bar.

    Raises:
        HeatposeError: The numbers of keypoints of model and skeleton differ, or an image cannot be
            read.
    """
    if runner.keypoints != len(skeleton):
        raise HeatposeError(
            f"'{runner.path}' has {runner.keypoints} keypoints, but skeleton '{skeleton.name}' has"
            f" {len(skeleton)}; choose the skeleton that it was trained with."
        )
    poses, seconds = predict_poses(
        runner, instances, Preprocessing(runner.size, sampling), decode, progress
    )
    truth = normalised_truth(instances)
    similarity = keypoint_similarity(poses[..., :2], truth.keypoints, truth.area, skeleton.sigmas)
    values = mean_over_labelled(similarity, truth.labelled)
    ap, ap50 = coco_average_precision(instances, poses, skeleton)
    return EvalReport(
        model=runner.name,
        sha256=file_hash(runner.path),
        images=len(instances),
        keypoints=len(skeleton),
        protocol={
            "sampling": sampling,
            "decode": decode,
            "coordinates": "normalised",
            "resolution": str(runner.size),
            "kernels": runner.kernels,
        },
        oks=100 * float(values.mean()),
        oks_standard_error=100 * standard_error(values),
        oks_per_keypoint=_per_keypoint(similarity, truth.labelled, skeleton),
        ap=ap,
        ap50=ap50,
        image_ids=[person.image_id for person in instances],
        oks_values=values,
        poses=poses,
        seconds=seconds,
        sizes=person_sizes(instances),
    )


def paired_difference(a: EvalReport, b: EvalReport) -> PairedDifference:
    """Paired difference a - b.

    Raises:
        HeatposeError: The reports are of different images.
    """
    if a.image_ids != b.image_ids:
        raise HeatposeError(
            f"'{a.model}' and '{b.model}' were scored on different images; score both on the same"
            " images for a paired comparison."
        )
    difference = 100 * (a.oks_values - b.oks_values)
    low, high = bootstrap_interval(difference)
    return PairedDifference(float(difference.mean()), low, high)


def skeleton_of(runner: PoseRunner, chosen: Skeleton | None = None) -> Skeleton:
    """The skeleton of `runners.reading.reading_of`."""
    return reading_of(runner, chosen).skeleton


def file_hash(path: Path) -> str:
    """SHA-256 of a file; empty if it does not exist (a network in memory)."""
    return sha256(path) if path.is_file() else ""


def _per_keypoint(
    similarity: NDArray[np.float64], labelled: NDArray[np.bool_], skeleton: Skeleton
) -> dict[str, float | None]:
    means = {}
    for k, name in enumerate(skeleton.keypoints):
        seen = labelled[:, k]
        means[name] = 100 * float(similarity[seen, k].mean()) if seen.any() else None
    return means


def predict_poses(
    runner: PoseRunner,
    instances: Sequence[Person],
    preprocessing: Preprocessing,
    decode: str = "argmax",
    progress: bool = True,
) -> tuple[NDArray[np.float32], float]:
    """Poses of a model on the images of N instances, one per image.

    Args:
        runner: The model.
        instances: N instances; at least one.
        preprocessing: How their images become its input.
        decode: A method of `heatpose.pose.codec.decode`.
        progress: Shows a bar.

    Returns:
        f32[N, K, 3] x and y as fractions of the image's sides, score; and the seconds inside the
        model.

    Raises:
        HeatposeError: An image cannot be read.
    """
    from heatpose.utils.progress import track

    poses, seconds = [], 0.0
    batches = _batches(instances, preprocessing)
    for images in track(
        batches, f"Scoring {runner.name}", len(instances), each=BATCH, shown=progress
    ):
        start = time.perf_counter()
        poses.append(runner.predict(images, decode))
        seconds += time.perf_counter() - start
    return np.concatenate(poses), seconds


def _batches(
    instances: Sequence[Person], preprocessing: Preprocessing
) -> Iterator[NDArray[np.uint8]]:
    """Yields u8[B, S, S, 3]; the next batch is decoded in threads during inference."""

    def read(person: Person) -> NDArray[np.uint8]:
        return preprocessing.resize(labelled_image(person))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead = [pool.submit(read, person) for person in instances[:BATCH]]
        for start in range(0, len(instances), BATCH):
            current = ahead
            ahead = [
                pool.submit(read, person) for person in instances[start + BATCH : start + 2 * BATCH]
            ]
            yield np.stack([future.result() for future in current])


def report_table(reports: Sequence[EvalReport]) -> Table:
    """Terminal table with a row per model."""
    first = reports[0]
    table = Table(
        title=(
            f"{first.images} images, {first.protocol['sampling']} sampling,"
            f" {first.protocol['decode']} decode"
        )
    )
    for heading in (
        "model",
        "keypoints",
        "OKS %",
        "standard error",
        "COCO AP %",
        "AP50 %",
        "images/s",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for r in reports:
        rate = r.images / max(r.seconds, 1e-9)
        table.add_row(
            r.model,
            str(r.keypoints),
            f"{r.oks:.2f}",
            f"{r.oks_standard_error:.2f}",
            f"{r.ap:.2f}",
            f"{r.ap50:.2f}",
            f"{rate:.0f}",
        )
    table.caption = (
        f"OKS: published single-person protocol ({first.protocol['kernels']}). COCO AP is another"
        " metric; the two are not comparable."
    )
    return table


def comparison_table(
    reports: Sequence[EvalReport], differences: Sequence[PairedDifference]
) -> Table:
    """Terminal table with the paired difference of each model from the first."""
    table = Table(
        title=(
            f"{reports[0].images} images; difference from {reports[0].model}, 95 % paired bootstrap"
            " interval"
        )
    )
    for heading in ("model", "OKS %", "standard error", "difference", "interval", "COCO AP %"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for i, r in enumerate(reports):
        change = (
            ("", "")
            if i == 0
            else (
                f"{differences[i - 1].mean:+.2f}",
                f"{differences[i - 1].low:+.2f} .. {differences[i - 1].high:+.2f}",
            )
        )
        table.add_row(
            r.model, f"{r.oks:.2f}", f"{r.oks_standard_error:.2f}", *change, f"{r.ap:.2f}"
        )
    return table
