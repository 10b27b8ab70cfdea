"""A folder of images from end to end: found, decoded, labelled, written."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError, InterruptedRun
from heatpose.evaluation.evaluate import file_hash
from heatpose.label.boxes import ImageBoxes, match, read_boxes, usable
from heatpose.label.labeller import Entry, Labeller, LabelSettings
from heatpose.label.partial import Partial, Record
from heatpose.label.result import LICENCE, LabelCounts, coco, count, write
from heatpose.predict.estimator import Estimator
from heatpose.predict.files import find_sources
from heatpose.predict.pipeline import in_parallel
from heatpose.utils.console import progress_bar
from heatpose.utils.files import only_one, require_writable, sha256_of_json
from heatpose.utils.image_files import load_image

NO_BOX = "no box given"
OUTSIDE = "given box outside of the image"
OTHER_SIZE = "boxes for another image size"
LOG_S = 30.0
"""Seconds between two lines of progress in a log."""


@dataclass(frozen=True)
class LabelJob:
    """What is to be labelled.

    Attributes:
        images: Folder, searched recursively.
        out: The COCO file to write.
        teacher: The model.
        settings: When a keypoint is labelled.
        boxes: A COCO json or a folder of Pascal VOC XML with the people's boxes; None lets the
            teacher find one person per image.
    """

    images: Path
    out: Path
    teacher: Estimator
    settings: LabelSettings
    boxes: Path | None = None


def label_images(job: LabelJob) -> LabelCounts:
    """Labels a folder of images. An interrupted run goes on where it was.

    Raises:
        HeatposeError: There is no image, or no label in the end; `out` is there already, cannot be
            written, or another run writes it; Ctrl-C.
    """
    files, videos = find_images(job.images)
    require_writable(job.out.parent)
    with only_one(job.out.parent, job.out.name, "The label file", "give another --out"):
        boxes = None if job.boxes is None else read_boxes(job.boxes)
        matched = None if boxes is None else match(boxes, files)
        header = _header(job, matched)
        partial = Partial(job.out, header)
        if job.out.exists() and not partial.records:
            partial.remove()
            raise HeatposeError(
                f"'{job.out}' exists and may hold corrections; give another --out, or remove it."
            )
        with partial:
            records = _labelled(job, files, matched, partial)
        unmatched = 0 if boxes is None else len(boxes) - len(matched or ())
        counts = count(records, {"videos": videos, "images that only the boxes name": unmatched})
        if counts.labelled:
            info = {**header, "counts": counts.to_json()}
            write(job.out, coco(records, job.teacher.skeleton, _info(job, info)))
        partial.remove()
    return counts


def find_images(folder: Path) -> tuple[list[str], int]:
    """Paths of the images below a folder, sorted, and the number of videos beside them.

    Raises:
        HeatposeError: It is not a folder, or has no image.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise HeatposeError(f"'{folder}' {kind}; give the folder that holds the images.")
    found = find_sources([folder])
    if not found.images:
        raise HeatposeError(
            f"'{folder}' has {len(found.videos)} videos and no image; write frames as images, "
            "for example with ffmpeg -i VIDEO -vf fps=1 FOLDER/%06d.jpg."
        )
    return sorted(path.relative_to(folder).as_posix() for path in found.images), len(found.videos)


def _header(job: LabelJob, boxes: dict[str, ImageBoxes] | None) -> dict[str, Any]:
    """All that the labels of an image depend on, besides its file."""
    plain = {} if boxes is None else {name: entry.to_json() for name, entry in boxes.items()}
    runner, teacher = job.teacher.runner, job.teacher
    return {
        "format": 1,
        "teacher": {
            "name": runner.name,
            "sha256": file_hash(runner.path),
            "kind": runner.kind,
            "skeleton": teacher.skeleton.name,
            "keypoints": list(teacher.skeleton.keypoints),
            "preprocessing": teacher.preprocessing.to_dict(),
            "decode": teacher.decode,
        },
        "settings": asdict(job.settings),
        "boxes": None if boxes is None else sha256_of_json(plain, sort_keys=False),
    }


def _info(job: LabelJob, content: dict[str, Any]) -> dict[str, Any]:
    boxes = None if job.boxes is None else {"name": job.boxes.name, "sha256": content["boxes"]}
    return {
        "description": f"Pseudo-labels by {job.teacher.runner.name}",
        "version": f"heatpose {version('heatpose')}",
        "licence": LICENCE,
        **content,
        "boxes": boxes,
    }


def _labelled(
    job: LabelJob, files: Sequence[str], boxes: dict[str, ImageBoxes] | None, partial: Partial
) -> list[Record]:
    """The records of all images in their order: those of `partial`, and what is missing there."""
    labeller = Labeller(job.teacher, job.settings)
    stamps = {file: _stamp(job.images / file) for file in files}
    todo = [file for file in files if not _is_done(partial.records.get(file), stamps[file])]

    def labelled(file: str) -> Record:
        given = None if boxes is None else boxes.get(file, ImageBoxes())
        return {"file": file, **stamps[file], **_record(labeller, job.images / file, given)}

    try:
        with (
            _progress(len(files), len(files) - len(todo)) as done,
            closing(in_parallel(labelled, todo)) as stream,
        ):
            for record in stream:
                partial.add(record)
                done()
    except KeyboardInterrupt as error:
        sentence = "Labelling was interrupted; the same command goes on from there."
        raise InterruptedRun(sentence) from error
    return [partial.records[file] for file in files]


def _stamp(path: Path) -> dict[str, int]:
    """By which a changed file is found."""
    try:
        status = path.stat()
    except OSError:
        return {"bytes": -1, "mtime_ns": -1}
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _is_done(record: Record | None, stamp: dict[str, int]) -> bool:
    return record is not None and all(record.get(name) == value for name, value in stamp.items())


def _record(labeller: Labeller, path: Path, given: ImageBoxes | None) -> Record:
    """What is kept of one image file, besides its name."""
    try:
        image = load_image(path)
    except HeatposeError as error:
        return {"error": str(error)}
    height, width = image.shape[:2]
    return {"width": width, "height": height, "instances": _instances(labeller, image, given)}


def _instances(
    labeller: Labeller, image: NDArray[np.uint8], given: ImageBoxes | None
) -> list[Entry]:
    if given is None:
        return [labeller.label(image)]
    height, width = image.shape[:2]
    if not given.boxes:
        return [{"reason": NO_BOX, "bbox": None}]
    if given.size not in (None, (width, height)):
        return [{"reason": OTHER_SIZE, "bbox": None} for _ in given.boxes]
    outside: Entry = {"reason": OUTSIDE, "bbox": None}
    return [
        labeller.label(image, box) if usable(box, width, height) else outside for box in given.boxes
    ]


@contextmanager
def _progress(total: int, before: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, else a line every `LOG_S` seconds; each call counts one image."""
    if os.isatty(sys.stderr.fileno()):
        with progress_bar("images") as bar:
            task = bar.add_task("labelling", total=total, completed=before)
            yield lambda: bar.advance(task)
        return
    start = message = time.monotonic()
    done = 0

    def count_one() -> None:
        nonlocal done, message
        done += 1
        if (now := time.monotonic()) - message >= LOG_S:
            message = now
            left = (total - before - done) * (now - start) / done
            named = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
            line = f"{before + done} of {total} images, about {named} left"
            print(line, file=sys.stderr, flush=True)

    yield count_one
