"""Image files through the models: decoded and drawn in threads beside the network."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.predict.estimator import Answer, Estimator
from heatpose.predict.options import Drawing, PredictSummary, Skipped
from heatpose.predict.pipeline import ahead, in_parallel
from heatpose.predict.results import (
    BESIDE,
    RESULTS,
    Names,
    entry,
    image_ids,
    make_folder,
    orientation_entry,
    save_image,
    write_entries,
)
from heatpose.utils.image_files import decode_image


@dataclass(frozen=True)
class _Loaded:
    """An upright image, its file's orientation tag, and the inputs that it gives for the models."""

    place: int
    image: NDArray[np.uint8]
    orientation: int
    inputs: list[NDArray[np.uint8]]


@dataclass(frozen=True)
class _Seen:
    """An image and what the models find on it: answers, out of which `finish` makes poses."""

    place: int
    image: NDArray[np.uint8]
    orientation: int
    answers: list[Answer]
    poses: list[NDArray[np.float32]] = field(default_factory=list)


def predict_images(
    images: Sequence[Path], out: Path, drawing: Drawing, names: Names, progress: Any
) -> PredictSummary:
    """Finds the person on every image.

    Args:
        images: The files.
        out: Folder to write into.
        drawing: What is drawn, of which models.
        names: For the images.
        progress: Called with the number of images that are done.

    Raises:
        HeatposeError: A file cannot be written.
    """
    estimators = drawing.estimators
    targets = [
        out
        / names.of(
            path.stem, "_pose.jpg" if path.suffix.lower() in (".jpg", ".jpeg") else "_pose.png"
        )[0]
        for path in images
    ]
    ids, entries, summary = (
        image_ids(images),
        [[] for _ in estimators],
        PredictSummary(),
    )  # type: list[int], list[list[dict[str, Any]]], PredictSummary

    def finish(seen: _Seen | Skipped) -> _Seen | Skipped:
        if isinstance(seen, Skipped):
            return seen
        seen = replace(seen, poses=[answer() for answer in seen.answers])
        if drawing.draw:
            make_folder(out)  # not before there is something to put into it
            save_image(targets[seen.place], drawing.image(seen.image, seen.poses))
        return seen

    with closing(in_parallel(finish, ahead(_seen(images, estimators)))) as stream:
        for done, seen in enumerate(stream, 1):
            if isinstance(seen, Skipped):
                summary.skipped.append(seen)
            else:
                path = images[seen.place]
                for listed, estimator, pose in zip(entries, estimators, seen.poses, strict=True):
                    place, shape = ids[seen.place], seen.image.shape
                    found = entry(place, path.as_posix(), pose, shape, estimator)
                    listed.append(found | orientation_entry(seen.orientation))
                summary.images += 1
                summary.turned += seen.orientation != 1
                summary.drawn += [targets[seen.place]] if drawing.draw else []
                summary.compare(drawing, seen.poses, seen.image.shape)
            progress(done)
    if summary.images:
        make_folder(out)
        summary.results += [
            write_entries(out / name, listed)
            for name, listed in zip((RESULTS, BESIDE), entries, strict=False)
        ]
    return summary


def _seen(
    images: Sequence[Path], estimators: Sequence[Estimator]
) -> Generator[_Seen | Skipped, None, None]:
    """What the models find, in the images' order."""

    def load(numbered: tuple[int, Path]) -> _Loaded | Skipped:
        place, path = numbered
        try:
            decoded = decode_image(path)
        except HeatposeError as error:
            return Skipped(path, str(error))
        image = decoded.pixels
        inputs = [estimator.resize(image) for estimator in estimators]
        return _Loaded(place, image, decoded.orientation, inputs)

    with closing(in_parallel(load, enumerate(images))) as stream:
        for loaded in stream:
            if isinstance(loaded, Skipped):
                yield loaded
            else:
                answers = [
                    estimator.ask(resized)
                    for estimator, resized in zip(estimators, loaded.inputs, strict=True)
                ]
                yield _Seen(loaded.place, loaded.image, loaded.orientation, answers)
