"""What every label format gives: COCO content, with an account of how it came about."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import AREA_OF_BOX, COCO_17

EXAMPLES = 3
FEW_NAMES = 17
"""So many keypoint names are listed; of more, the first ones."""


@dataclass(frozen=True)
class Request:
    """What is to be read.

    Attributes:
        path: Label file, or folder of label files.
        images: Folder of the image files; None where the format finds it.
        part: "train" or "val", for files that describe several parts.
        content: Of a JSON file, parsed; None of any other path.
    """

    path: Path
    images: Path | None
    part: str
    content: Any = None


@dataclass
class LabelSet:
    """Labels as COCO content, and what was done to get them.

    Attributes:
        format: Name of the format, as `docs/labels.md` calls it.
        path: What was read.
        folder: The `file_name` entries are relative to it.
        content: `images`, `annotations` and `categories`, as in a COCO keypoint JSON.
        files: Label files read.
        notes: What was assumed, a phrase each.
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
        """Counts entries that are not used."""
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
    """Collects images and instances, and makes a `LabelSet` of them.

    Args:
        format: Name of the format.
        path: What is read.
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
        """Adds an instance: keypoint name -> point. Without a box it gets that of its points."""
        self._instances.append((image_id, box, points))

    def finish(self, keypoints: Sequence[str], images: Path | None) -> LabelSet:
        """The label set.

        Args:
            keypoints: Names, in the order of the category.
            images: Folder that all file names are to be relative to; that of the images, if None.

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
    """`wanted` where all files are below it, else the nearest folder that holds all of them."""
    parents = {os.path.abspath(file.parent) for file in files}
    base = os.path.abspath(wanted)
    if all(parent == base or parent.startswith(base.rstrip(os.sep) + os.sep) for parent in parents):
        return wanted
    return Path(os.path.commonpath(parents))


def _relative(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(os.path.abspath(file), os.path.abspath(folder))).as_posix()


def keypoint_order(found: Iterable[str]) -> list[str]:
    """Names in COCO's order where all are COCO's, else in the order in which they come."""
    names = list(dict.fromkeys(found))
    known = bool(names) and set(names) <= set(COCO_17.keypoints)
    return list(COCO_17.keypoints) if known else names
