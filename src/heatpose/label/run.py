"""Labels a folder of images: finds, decodes and labels them, and writes a COCO JSON.

Records of finished images are appended to `<out>.partial`, with which an interrupted run is
resumed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError, InterruptedRun
from heatpose.evaluation.evaluate import file_hash
from heatpose.label.labeller import (
    Entry,
    ImageBoxes,
    Labeller,
    LabelSettings,
    match,
    read_boxes,
    usable,
)
from heatpose.pose.skeleton import AREA_OF_BOX, Skeleton
from heatpose.predict.estimator import Estimator
from heatpose.predict.files import find_sources
from heatpose.predict.pipeline import in_parallel
from heatpose.utils.files import atomic_write, only_one, require_writable, sha256_of_json
from heatpose.utils.image_files import load_image
from heatpose.utils.progress import progress_bar

if TYPE_CHECKING:
    from rich.console import Console


NO_BOX = "no box given"
OUTSIDE = "given box outside of the image"
OTHER_SIZE = "boxes for another image size"
LOG_S = 30.0
"""Seconds between two lines of progress in a log."""


@dataclass(frozen=True)
class LabelJob:
    """Arguments of `label_images`.

    Attributes:
        images: Folder, searched recursively.
        out: The COCO file to write.
        teacher: The model.
        settings: Conditions for a label.
        boxes: A COCO JSON or a folder of Pascal VOC XML with the instances' boxes; None to locate
            one instance per image by the teacher.
    """

    images: Path
    out: Path
    teacher: Estimator
    settings: LabelSettings
    boxes: Path | None = None


def label_images(job: LabelJob) -> LabelCounts:
    """Labels a folder of images; resumes an interrupted run.

    Raises:
        HeatposeError: There is no image; `out` exists already, cannot be written, or is being
            written by another run; the run is interrupted by Ctrl-C.
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
    """Everything that the labels of an image depend on, except the image."""
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
    """The records of all images in their order; computes those that `partial` does not have."""
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
        sentence = "Labelling was interrupted; the same command resumes it."
        raise InterruptedRun(sentence) from error
    return [partial.records[file] for file in files]


def _stamp(path: Path) -> dict[str, int]:
    """Size and modification time, by which a changed file is detected."""
    try:
        status = path.stat()
    except OSError:
        return {"bytes": -1, "mtime_ns": -1}
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _is_done(record: Record | None, stamp: dict[str, int]) -> bool:
    return record is not None and all(record.get(name) == value for name, value in stamp.items())


def _record(labeller: Labeller, path: Path, given: ImageBoxes | None) -> Record:
    """The record of one image file, without its name."""
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
    """A progress bar on a terminal, else a line every `LOG_S` seconds; a call counts one image."""
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


UNREADABLE = "unreadable image"
LICENCE = (
    "The labels are the output of the teacher model and were not checked by a person. The "
    "model has its own licence; the rights in the images are their owners'."
)


@dataclass
class LabelCounts:
    """Counts of a run.

    Attributes:
        images: Image files.
        labelled_images: Files with a labelled instance.
        instances: Candidates: one per image, or one per given box.
        labelled: Labelled candidates.
        left_out: Reason -> candidates without a label.
        keypoints: Of the labelled instances: `labelled`, `unsure` (low score, or outside the
            image), `ambiguous` (a second peak), `disagreeing` (another position
            on the mirror image).
        others: Kind of file or box that was not used -> count.
    """

    images: int = 0
    labelled_images: int = 0
    instances: int = 0
    labelled: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    keypoints: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        counters = {name: dict(sorted(getattr(self, name).items())) for name in COUNTERS}
        return {name: getattr(self, name) for name in NUMBERS} | counters


NUMBERS = ("images", "labelled_images", "instances", "labelled")
COUNTERS = ("left_out", "keypoints", "others")
LEFT_OUT = ("unsure", "ambiguous", "disagreeing")
"""Counts of an entry's keypoints without a label."""


def count(records: Iterable[Record], others: Mapping[str, int]) -> LabelCounts:
    """Counts the records of a run; adds those of `others` that are not 0."""
    counts = LabelCounts(others=+Counter(others))
    for record in records:
        counts.images += 1
        entries = record.get("instances", [{"reason": UNREADABLE}])
        counts.instances += len(entries)
        labelled = [entry for entry in entries if entry["reason"] is None]
        counts.labelled += len(labelled)
        counts.labelled_images += bool(labelled)
        counts.left_out.update(entry["reason"] for entry in entries if entry["reason"])
        for entry in labelled:
            left = {name: int(entry[name]) for name in LEFT_OUT}
            total = len(entry["keypoint_scores"])
            counts.keypoints.update(left | {"labelled": total - sum(left.values())})
    return counts


def coco(records: Sequence[Record], skeleton: Skeleton, info: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the label file.

    Images without a label are not in `images` but in `left_out`, with the reason. A given box
    without a label, on an image with labels, is an annotation without keypoints, as in COCO.

    Args:
        records: In the order of the images.
        skeleton: The teacher's.
        info: For the entry `info`.
    """
    images, annotations, left_out = [], [], []
    for number, record in enumerate(records, 1):
        entries = record.get("instances", [])
        if all(entry["reason"] for entry in entries):
            reasons = sorted({entry["reason"] for entry in entries}) or [UNREADABLE]
            left_out.append({"file_name": record["file"], "reason": "; ".join(reasons)})
            continue
        sides = {"width": record["width"], "height": record["height"]}
        images.append({"id": number, "file_name": record["file"], **sides})
        annotations += [_annotation(number, e, len(skeleton)) for e in entries if e["bbox"]]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(skeleton.keypoints),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.edge_indices],
    }
    return {
        "info": dict(info),
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [category],
        "left_out": left_out,
    }


def _annotation(image_id: int, entry: Mapping[str, Any], keypoints: int) -> dict[str, Any]:
    width, height = entry["bbox"][2:]
    labels = {k: entry[k] for k in ("keypoints", "keypoint_scores", "score") if k in entry}
    flat = labels.setdefault("keypoints", [0] * (3 * keypoints))
    return {
        "id": 0,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": [],
        "bbox": entry["bbox"],
        "area": round(AREA_OF_BOX * width * height, 2),
        "num_keypoints": sum(v > 0 for v in flat[2::3]),
        **labels,
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the label file atomically.

    Raises:
        OSError: It cannot be written.
    """
    with atomic_write(path, sync=True) as part:
        part.write_text(json.dumps(content), encoding="utf-8")


def print_counts(counts: LabelCounts, console: Console) -> None:
    """Prints the counts of a run, the most frequent reason first."""
    share = 100 * counts.labelled / max(counts.instances, 1)
    boxes = "" if counts.instances == counts.images else f" with {counts.instances} candidates"
    console.print(
        f"{counts.images} images{boxes}: {counts.labelled} instances labelled ({share:.1f} %), "
        f"{counts.instances - counts.labelled} left out"
    )
    for reason, number in counts.left_out.most_common():
        console.print(f"  {number:>7}  {reason}")
    if total := counts.keypoints.total():
        found = (+counts.keypoints).most_common()
        parts = (f"{number} {name}" for name, number in found)
        console.print(f"{total} keypoints of these instances: {', '.join(parts)}")
    for name, number in counts.others.items():
        console.print(f"not read: {number} {name}")


SUFFIX = ".partial"
Record = dict[str, Any]
"""Plain values of one image: `file`, `bytes` and `mtime_ns` of the file, then either `error` or
`width`, `height` and `instances` (a list of `labeller.Entry`)."""


class Partial:
    """Records of an unfinished run on disk; a context manager that closes the file.

    Args:
        out: Output file of the run.
        header: Plain values that must be equal for a run to be resumed.

    Raises:
        HeatposeError: The file has another header.
    """

    def __init__(self, out: Path, header: Mapping[str, Any]) -> None:
        self.path = out.with_name(out.name + SUFFIX)
        self.records: dict[str, Record] = {}
        whole = self._read(header) if self.path.is_file() else 0
        self._file = self.path.open("ab")
        self._file.truncate(whole)
        if not whole:
            self._write(dict(header))

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Appends the record of an image, which survives a kill from then on."""
        self._write(record)
        self.records[record["file"]] = record

    def remove(self) -> None:
        """Removes the file at the end of the run."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _write(self, content: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(content).encode() + b"\n")
        self._file.flush()

    def _read(self, header: Mapping[str, Any]) -> int:
        """Fills `records`; returns the number of bytes in complete lines."""
        whole, known = 0, False
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                content = json.loads(line if line.endswith(b"\n") else b"")
                if known:
                    self.records[content["file"]] = content
                else:
                    self._check(content, header)
            except (ValueError, KeyError, TypeError, AttributeError):
                break  # a kill truncated the line
            known = True
            whole += len(line)
        return whole

    def _check(self, found: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(header))
        if found != wanted:
            different = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
            raise HeatposeError(
                f"'{self.path}' holds an unfinished run with another {', '.join(different)}; "
                "give the settings of that run to go on, or remove the file to start anew."
            )
