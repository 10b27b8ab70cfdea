"""Boxes of people that are known beforehand: a COCO json, or a folder of Pascal VOC XML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from heatpose.errors import HeatposeError
from heatpose.label.labeller import Box

PERSON = "person"
VOC_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class ImageBoxes:
    """Boxes of people on one image.

    Attributes:
        boxes: x, y, width, height in pixels, in the file's order.
        size: Width and height that the boxes assume; None where the file does not say.
    """

    boxes: list[Box] = field(default_factory=list)
    size: tuple[int, int] | None = None

    def to_json(self) -> list[Any]:
        """Plain values."""
        return [self.boxes, self.size]


def read_boxes(path: Path) -> dict[str, ImageBoxes]:
    """Name of an image file as the source gives it -> its people's boxes; crowds are left out.

    Args:
        path: A COCO json with `bbox` entries, or a folder of Pascal VOC XML, searched recursively.

    Raises:
        HeatposeError: There is neither, it is damaged, or nobody in it is called a person.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.xml"))
        if not files:
            raise HeatposeError(
                f"'{path}' has no XML file; give a folder of Pascal VOC XML files or a COCO json."
            )
        found = _grouped(entry for file in files for entry in _voc(file))
    else:
        found = _grouped(_coco(path))
    if not any(entry.boxes for entry in found.values()):
        raise HeatposeError(f"'{path}' has no box called '{PERSON}'; give boxes of people.")
    return found


def match(boxes: Mapping[str, ImageBoxes], files: Sequence[str]) -> dict[str, ImageBoxes]:
    """Image file -> its boxes.

    The path below the folder counts, else a name, with or without its ending, that one file has.

    Args:
        boxes: Of `read_boxes`.
        files: Paths of the images below their folder, with forward slashes.

    Raises:
        HeatposeError: No box belongs to any of the images.
    """
    by_name: dict[str, list[str]] = {}
    for file in files:
        for name in {PurePosixPath(file).name, PurePosixPath(file).stem}:
            by_name.setdefault(name, []).append(file)
    known, matched = set(files), {}
    for name, entry in boxes.items():
        candidates = [name] if name in known else by_name.get(PurePosixPath(name).name, [])
        if len(candidates) == 1:
            matched[candidates[0]] = entry
    if not matched:
        raise HeatposeError(
            f"None of the boxes' images, for example '{next(iter(boxes))}', is among the "
            f"{len(files)} images, for example '{files[0]}'; give the boxes of these images."
        )
    return matched


Named = tuple[str, tuple[int, int] | None, Box | None]


def _grouped(found: Iterator[Named]) -> dict[str, ImageBoxes]:
    grouped: dict[str, ImageBoxes] = {}
    for name, size, box in found:
        entry = grouped.setdefault(name, ImageBoxes(size=size))
        if box is not None:
            entry.boxes.append(box)
    return grouped


def _coco(path: Path) -> Iterator[Named]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        kinds = {entry["id"]: str(entry.get("name")) for entry in content.get("categories", [])}
        instances = {i for i, name in kinds.items() if name == PERSON or len(kinds) == 1}
        images = {entry["id"]: entry for entry in content["images"]}
        for entry in images.values():
            yield str(entry["file_name"]), _size(entry.get("width"), entry.get("height")), None
        for annotation in content["annotations"]:
            if annotation.get("category_id") in instances and not annotation.get("iscrowd"):
                name = str(images[annotation["image_id"]]["file_name"])
                yield name, None, _box(annotation["bbox"])
    except OSError as error:
        raise HeatposeError(
            f"'{path}' cannot be read ({error.strerror}); give a COCO json or a folder of XML."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HeatposeError(
            f"'{path}' is not a COCO json with boxes ({type(error).__name__}: {error}); "
            "give one, or a folder of Pascal VOC XML files."
        ) from error


def _voc(path: Path) -> Iterator[Named]:
    """VOC counts pixels from 1 and names the first and the last one."""
    try:
        root = ElementTree.parse(path).getroot()
        name = root.findtext("filename") or path.stem
        size = _size(root.findtext("size/width"), root.findtext("size/height"))
        yield name, size, None
        for entry in root.iter("object"):
            if (entry.findtext("name") or "").strip() == PERSON:
                corners = (float(entry.findtext(f"bndbox/{k}", "")) for k in VOC_CORNERS)
                left, top, right, bottom = corners
                sides = right - left + 1, bottom - top + 1
                yield name, size, _box((left - 1, top - 1, *sides))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise HeatposeError(f"'{path}' is not a Pascal VOC XML ({error}); remove it.") from error


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    return (int(width), int(height)) if width and height and int(width) and int(height) else None


def _box(values: Sequence[Any]) -> Box:
    x, y, width, height = (float(value) for value in values)
    return x, y, width, height


def usable(box: Box, width: int, height: int) -> bool:
    """Whether a box has finite sides and covers a part of an image of this size."""
    x, y, w, h = box
    finite = bool(np.isfinite(box).all())
    return finite and w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0
