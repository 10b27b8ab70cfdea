"""Common parts of the label formats: COCO content, JSON, image files, grouping of points."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import AREA_OF_BOX, COCO_17
from heatpose.utils.image_files import SUFFIXES, UNREADABLE, Orientation, open_image, orientation_of

EXAMPLES = 3
FEW_NAMES = 17
"""Maximum number of keypoint names in a summary."""


@dataclass(frozen=True)
class Request:
    """Labels to read.

    Attributes:
        path: Label file, or folder of label files.
        images: Folder of the image files; None if the reader has to find it.
        part: "train" or "val", for files that describe several parts.
        content: Of a JSON file, parsed; None for any other path.
    """

    path: Path
    images: Path | None
    part: str
    content: Any = None


@dataclass
class LabelSet:
    """Labels as COCO content, and a record of the conversion.

    Attributes:
        format: Name of the format, as `docs/labels.md` calls it.
        path: What was read.
        folder: Image folder; the `file_name` entries are relative to it.
        content: `images`, `annotations` and `categories`, as in a COCO keypoint JSON.
        files: Label files read.
        notes: Assumptions, a phrase each.
        left_out: Reason -> number of entries that are not in `content`.
        examples: Reason -> the first few of them.
    """

    format: str
    path: Path
    folder: Path
    content: dict[str, Any] = field(default_factory=dict)
    files: int = 1
    notes: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, where: str, count: int = 1) -> None:
        """Counts entries that are not used, and records examples."""
        self.left_out[reason] += count
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES and where not in examples:
            examples.append(where)

    @property
    def keypoint_names(self) -> list[str]:
        """Of the first category that has keypoints; empty where none has."""
        categories = self.content.get("categories", ())
        return next((list(c["keypoints"]) for c in categories if c.get("keypoints")), [])

    def summary(self) -> str:
        """One line: format, files, instances, keypoint names, what is assumed and left out."""
        names = self.keypoint_names
        shown = ", ".join(names[:FEW_NAMES]) + (", ..." if len(names) > FEW_NAMES else "")
        if names == list(COCO_17.keypoints):
            shown = "COCO's"
        counts = (
            f"{self.files} label file{'s' if self.files != 1 else ''}, "
            f"{len(self.content['images'])} images, {len(self.content['annotations'])} instances"
        )
        text = f"Labels: {self.format}, '{self.path}': {counts}, {len(names)} keypoints ({shown})"
        left_out = [
            f"{n} {reason} ({', '.join(self.examples[reason])})"
            for reason, n in self.left_out.items()
        ]
        return "; ".join([text, *self.notes, *(f"left out: {entry}" for entry in left_out)]) + "."

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON records."""
        return {
            "format": self.format,
            "path": str(self.path),
            "files": self.files,
            "keypoints": self.keypoint_names,
            "assumed": list(self.notes),
            "left_out": dict(self.left_out),
        }


Point = tuple[float, float, int]
"""x and y in image pixels, COCO visibility (0, 1 or 2)."""
Box = tuple[float, float, float, float]
"""x, y, width and height in image pixels."""


NONE: Point = (0.0, 0.0, 0)
"""A keypoint that is not labelled."""


class Builder:
    """Collects images and instances into a `LabelSet`.

    Args:
        format: Name of the format.
        path: Label file or folder.
    """

    def __init__(self, format: str, path: Path) -> None:
        self.result = LabelSet(format, path, path if path.is_dir() else path.parent, files=0)
        self._images: list[tuple[Path, int, int]] = []
        self._instances: list[tuple[int, Box | None, Mapping[str, Point]]] = []

    def image(self, file: Path, width: int, height: int) -> int:
        """Adds an image file with its size in pixels; returns its id."""
        self._images.append((file, width, height))
        return len(self._images)

    def instance(self, image_id: int, box: Box | None, points: Mapping[str, Point]) -> None:
        """Adds an instance; `points` by keypoint name. Without a box it gets that of its points."""
        self._instances.append((image_id, box, points))

    def finish(self, keypoints: Sequence[str], images: Path | None) -> LabelSet:
        """The label set.

        Args:
            keypoints: Names, in the order of the category.
            images: Folder that the file names are made relative to; found from the images if None.

        Raises:
            HeatposeError: There is no keypoint.
        """
        result = self.result
        if not keypoints:
            left_out = "; ".join(f"{n} {reason}" for reason, n in result.left_out.items())
            counted = f" (left out: {left_out})" if left_out else ""
            raise HeatposeError(
                f"'{result.path}' ({result.format}) has no labelled keypoint that can be used"
                f"{counted}; label keypoints and export again."
            )
        result.folder = _folder([file for file, _, _ in self._images], images or result.folder)
        boxless = sum(box is None for _, box, _ in self._instances)
        if boxless:
            result.notes.append(f"{boxless} instances without a box have that of their keypoints")
        result.notes.append(f"the area of an instance, for COCO AP, is {AREA_OF_BOX:g} of its box")
        result.content = {
            "images": [
                {"id": i, "file_name": _relative(file, result.folder), "width": w, "height": h}
                for i, (file, w, h) in enumerate(self._images, 1)
            ],
            "annotations": [
                _annotation(i, image_id, box, [points.get(name, NONE) for name in keypoints])
                for i, (image_id, box, points) in enumerate(self._instances, 1)
            ],
            "categories": [{"id": 1, "name": "person", "keypoints": list(keypoints)}],
        }
        return result


def _annotation(
    number: int, image_id: int, box: Box | None, points: Sequence[Point]
) -> dict[str, Any]:
    labelled = [(x, y) for x, y, v in points if v]
    x, y, w, h = box or _extent(labelled)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x, y, w, h],
        "area": AREA_OF_BOX * w * h,
        "num_keypoints": len(labelled),
        "keypoints": [value for point in points for value in (point if point[2] else NONE)],
    }


def _extent(points: Sequence[tuple[float, float]]) -> Box:
    if not points:
        return 0.0, 0.0, 0.0, 0.0
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _folder(files: Iterable[Path], wanted: Path) -> Path:
    """`wanted` if all files are below it, else their nearest common folder."""
    parents = {os.path.abspath(file.parent) for file in files}
    base = os.path.abspath(wanted)
    if all(parent == base or parent.startswith(base.rstrip(os.sep) + os.sep) for parent in parents):
        return wanted
    return Path(os.path.commonpath(parents))


def _relative(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(os.path.abspath(file), os.path.abspath(folder))).as_posix()


def keypoint_order(found: Iterable[str]) -> list[str]:
    """Names in COCO's order if all are COCO's, else in the order of their first occurrence."""
    names = list(dict.fromkeys(found))
    known = bool(names) and set(names) <= set(COCO_17.keypoints)
    return list(COCO_17.keypoints) if known else names


def load(path: Path) -> Any:
    """Parses a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        HeatposeError: The file is missing, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise HeatposeError(
            f"Label file '{path}' cannot be read ({error.strerror}); give a COCO keypoint json, "
            "or an export that docs/labels.md lists."
        ) from error
    except (ValueError, RecursionError) as error:
        raise HeatposeError(
            f"Label file '{path}' is not JSON ({error}); give a COCO keypoint json, "
            "or an export that docs/labels.md lists."
        ) from error


def is_finite(value: Any) -> bool:
    """Whether a parsed value is a finite number and not a boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of a float
        return False


ROBOFLOW_COPY = re.compile(r"\.rf\.[0-9A-Za-z]{16,}(?=\.\w+$)")
"""Suffix that Roboflow adds to the name of each augmented copy of an image."""


def original_name(name: str) -> str:
    """The common name of Roboflow's augmented copies of an image; other names are unchanged."""
    return ROBOFLOW_COPY.sub("", name)


class ImageFinder:
    """Finds image files below a folder by their names in an export.

    Exports name files by URLs, by paths on the annotator's machine, or by bare names. The file is
    the longest suffix of such a path that exists below the folder, else the only file of that name
    in any subfolder.

    Args:
        folder: Of the images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._named: dict[str, list[Path]] | None = None

    def find(self, *names: str) -> Path | None:
        """The file with one of these names; None if there is none.

        Raises:
            HeatposeError: Several files below the folder have that name.
        """
        for name in names:
            if name and os.path.isfile(self.folder / name) and ".." not in Path(name).parts:
                return self.folder / name
            parts = [
                p for p in PurePosixPath(name.replace("\\", "/")).parts if p not in ("/", "..")
            ]
            for first in range(len(parts)):
                path = self.folder.joinpath(*parts[first:])
                if os.path.isfile(path):  # unlike pathlib's, False for impossible names
                    return path
        for name in names:
            found = self._by_name().get(name.replace("\\", "/").rsplit("/", 1)[-1], [])
            if len(found) > 1:
                raise HeatposeError(
                    f"The labels name '{name}', which both '{found[0]}' and '{found[1]}' match; "
                    "give the folder of the one that was labelled as the image folder."
                )
            if found:
                return found[0]
        return None

    def _by_name(self) -> dict[str, list[Path]]:
        if self._named is None:
            self._named = {}
            for path in image_files(self.folder):
                self._named.setdefault(path.name, []).append(path)
        return self._named


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, sorted by path."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(parent, name) for name in names if name.lower().endswith(SUFFIXES)]
    return sorted(found)


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height of the upright image in pixels, from the header; None if unreadable."""
    found = _orientation(path)
    return None if found is None else found.upright


def orientations(paths: Sequence[Path]) -> list[Orientation | None]:
    """Sizes and orientation tags of many files, read in parallel; None for unreadable ones."""
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(_orientation, paths))


def _orientation(path: Path) -> Orientation | None:
    try:
        with open_image(path) as image:
            return orientation_of(image)
    except UNREADABLE:
        return None


NO_OWNER = "keypoints without a group that lie in no box or in several"
TWICE = "keypoints that an instance has twice"


@dataclass(frozen=True)
class Mark:
    """One labelled point.

    Attributes:
        name: Of the keypoint.
        point: Position and visibility.
        owner: Key of its instance; None if the file does not state it.
    """

    name: str
    point: Point
    owner: str | None = None


@dataclass
class Instance:
    """An instance: its box (x, y, width, height) in pixels, if labelled; keypoint name -> point."""

    box: Box | None = None
    points: dict[str, Point] = field(default_factory=dict)


def group(
    boxes: Mapping[str, Box], marks: Sequence[Mark], leave_out: Callable[[str], None]
) -> list[Instance]:
    """Assigns the points of one image to instances.

    A point belongs to its `owner`. Without one it belongs to the only instance of the image, or to
    the only box that contains it.

    Args:
        boxes: Key of an instance -> its box.
        marks: The points.
        leave_out: Called with a reason for each point that cannot be assigned.

    Returns:
        The instances, boxes first, in the order of the file.
    """
    found = {key: Instance(box) for key, box in boxes.items()}
    for mark in marks:
        if mark.owner is not None:
            found.setdefault(mark.owner, Instance())
    if not found and marks:
        found[""] = Instance()
    for mark in marks:
        key = mark.owner if mark.owner is not None else _owner(mark.point, found)
        if key is None:
            leave_out(NO_OWNER)
        elif mark.name in found[key].points:
            leave_out(TWICE)
        else:
            found[key].points[mark.name] = mark.point
    return list(found.values())


def _owner(point: Point, instances: Mapping[str, Instance]) -> str | None:
    if len(instances) == 1:
        return next(iter(instances))
    x, y, _ = point
    around = [
        key for key, one in instances.items() if one.box is not None and _inside(x, y, one.box)
    ]
    return around[0] if len(around) == 1 else None


def _inside(x: float, y: float, box: Box) -> bool:
    return box[0] <= x <= box[0] + box[2] and box[1] <= y <= box[1] + box[3]
