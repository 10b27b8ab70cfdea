"""A teacher's predictions for a list of instances, computed once and mapped from disk.

They are made on an un-augmented crop of each instance (`teacher.view_box`); an augmented sample
reads them through its matrix. Even a slow teacher on the CPU therefore runs only once per instance
and not once per sample.

The folder is named by a hash of the teacher, the instances and the settings. It is built under
another name, in pieces with a count of finished ones, and renamed at the end: a killed build is
resumed, and processes that need the same folder wait for the one that builds it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data.sample import Person
from heatpose.distill.teacher import (
    Box,
    DistillSettings,
    Prediction,
    Teacher,
    show,
    view_box,
    view_matrix,
)
from heatpose.evaluation.metrics import keypoint_similarity, mean_over_labelled, normalised_truth
from heatpose.pose import geometry
from heatpose.pose.skeleton import Skeleton
from heatpose.runners import PoseRunner, open_runner
from heatpose.runners.reading import check_runs, reading_of
from heatpose.utils.files import write_json
from heatpose.utils.image_files import DECODE_VERSION
from heatpose.utils.process import is_first_process

FORMAT = 2
PIECE = 32
RANGE = 16.0
"""A byte v of a map is the logit (v / 255 - 1) RANGE relative to the highest cell: steps of 0.06.
"""
COUNT = "done.json"


@dataclass(frozen=True)
class TeacherMaps:
    """A teacher's predictions for N instances.

    Attributes:
        maps: u8[N, K, h, w], see `RANGE`; None for a teacher without maps.
        points: f32[N, K, 2] x, y in image pixels.
        scores: f32[N, K] in [0, 1].
        views: f64[N, 2, 3] image pixels -> fractions of the teacher's input.
    """

    maps: NDArray[np.uint8] | None
    points: NDArray[np.float32]
    scores: NDArray[np.float32]
    views: NDArray[np.float64]

    def __deepcopy__(self, memo: dict[int, Any]) -> TeacherMaps:
        """Returns itself: averaging of weights copies the module, and would load all maps."""
        return self

    def agreement(self, instances: Sequence[Person], skeleton: Skeleton) -> float:
        """Mean OKS of the teacher's points against the labels of the N instances, in percent."""
        truth = normalised_truth(instances)
        sizes = np.array([[p.width, p.height] for p in instances], np.float32)
        similarity = keypoint_similarity(
            self.points / sizes[:, None], truth.keypoints, truth.area, skeleton.sigmas
        )
        return 100 * float(mean_over_labelled(similarity, truth.labelled).mean())


def teacher_maps(
    settings: DistillSettings,
    instances: Sequence[Person],
    skeleton: Skeleton,
    *,
    progress: bool = True,
) -> TeacherMaps:
    """Loads the teacher's predictions for instances from the cache, or computes them.

    Args:
        settings: With a path.
        instances: In the order of the training samples' indices.
        skeleton: The student's.
        progress: Whether to show a progress bar.

    Raises:
        HeatposeError: The teacher cannot be opened or lacks a keypoint, or an image cannot be read.
    """
    from filelock import FileLock

    assert settings.path is not None
    check_runs(settings.path, settings.size)
    runner = open_runner(settings.path, size=settings.size, normalisation=settings.values())
    teacher = Teacher(runner, skeleton, settings.min_score, settings.mirror, settings.names())
    if (line := teacher.reading.line("distill.")) and is_first_process():
        print(line)
    folder = Path(settings.folder) / cache_key(runner, instances, skeleton, settings)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _build(teacher, instances, settings, folder, progress)
    views = np.array([view_matrix(view_box(person, settings.margin)) for person in instances])
    maps = np.load(folder / "maps.npy", mmap_mode="r") if teacher.gives_maps else None
    return TeacherMaps(maps, np.load(folder / "points.npy"), np.load(folder / "scores.npy"), views)


def cache_key(
    runner: PoseRunner, instances: Sequence[Person], skeleton: Skeleton, settings: DistillSettings
) -> str:
    """Name of the folder: a hash of everything that the predictions depend on.

    Images are represented by their paths and sizes in bytes.
    """
    read = reading_of(runner, settings.names())
    digest = hashlib.sha256(runner.path.read_bytes())
    head: list[Any] = [FORMAT, runner.size, settings.margin, settings.mirror, settings.min_score]
    head += [skeleton.to_dict(), read.skeleton.to_dict(), asdict(runner.input.normalisation)]
    digest.update(json.dumps(head, sort_keys=True).encode())
    sizes: dict[Path, int] = {}
    for person in instances:
        if person.image_path not in sizes:
            sizes[person.image_path] = (
                person.image_path.stat().st_size if person.image_path.is_file() else -1
            )
        digest.update(
            f"{person.image_path.resolve()} {sizes[person.image_path]} "
            f"{person.width} {person.height} {person.box}\n".encode()
        )
        digest.update(f"{DECODE_VERSION} {person.reading}\n".encode() if person.reading else b"")
    return f"{runner.path.stem}-{digest.hexdigest()[:16]}"


def _build(
    teacher: Teacher,
    instances: Sequence[Person],
    settings: DistillSettings,
    folder: Path,
    progress: bool,
) -> None:
    """Builds the folder, or resumes a killed build."""
    from heatpose.utils.progress import track

    part = folder.with_name(folder.name + ".part")
    part.mkdir(exist_ok=True)
    first = _done(part)
    pieces = range(first, len(instances), PIECE)
    arrays: dict[str, Any] = {}
    boxes = [view_box(person, settings.margin) for person in instances]
    shown = _views(instances, boxes, teacher.runner.size, pieces)
    for start, images in zip(
        pieces,
        track(
            shown,
            f"Predictions of the teacher {teacher.runner.name}",
            len(instances) - first,
            "people",
            each=PIECE,
            shown=progress,
        ),
        strict=True,
    ):
        for name, values in _stored(teacher.predict(images), boxes[start : start + PIECE]).items():
            if name not in arrays:
                arrays[name] = _open(
                    part / f"{name}.npy",
                    (len(instances), *values.shape[1:]),
                    values.dtype,
                    new=start == 0,
                )
            arrays[name][start : start + PIECE] = values
            arrays[name].flush()
        _write_count(part, min(start + PIECE, len(instances)))
    os.replace(part, folder)


def _stored(prediction: Prediction, boxes: Sequence[Box]) -> dict[str, NDArray[np.generic]]:
    """Arrays to store: points in image pixels, scores, maps as bytes."""
    back = [geometry.invert(view_matrix(box)) for box in boxes]
    points = np.stack(
        [
            geometry.apply(matrix, points)
            for matrix, points in zip(back, prediction.points, strict=True)
        ]
    )
    stored: dict[str, NDArray[np.generic]] = {
        "points": points,
        "scores": prediction.scores.astype(np.float32),
    }
    if prediction.maps is not None:
        stored["maps"] = np.rint(255 * np.clip(1 + prediction.maps / RANGE, 0, 1)).astype(np.uint8)
    return stored


def _views(
    instances: Sequence[Person], boxes: Sequence[Box], size: int, pieces: range
) -> Iterator[NDArray[np.uint8]]:
    """Teacher inputs u8[B, S, S, 3] of each piece; the next one is decoded in threads."""
    with ThreadPoolExecutor(2) as pool:

        def ahead(start: int) -> list[object]:
            return [
                pool.submit(show, instances[i], boxes[i], size)
                for i in range(start, min(start + PIECE, len(instances)))
            ]

        waiting = ahead(pieces.start)
        for start in pieces:
            current, waiting = waiting, ahead(start + PIECE)
            yield np.stack([future.result() for future in current])  # type: ignore[attr-defined]


def _open(path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic], new: bool) -> Any:
    if new:
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)  # type: ignore[no-untyped-call]
    return np.lib.format.open_memmap(path, mode="r+")  # type: ignore[no-untyped-call]


def _done(part: Path) -> int:
    """Number of finished instances of an unfinished build."""
    try:
        return int(json.loads((part / COUNT).read_text(encoding="utf-8"))["people"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _write_count(part: Path, count: int) -> None:
    write_json(part / COUNT, {"people": count})
