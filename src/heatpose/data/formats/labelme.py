"""labelme (and X-AnyLabeling): one JSON beside each image, shapes of type point and rectangle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from heatpose.data.formats.base import (
    Box,
    Builder,
    ImageFinder,
    Instance,
    LabelSet,
    Mark,
    Request,
    group,
    image_files,
    image_size,
    is_finite,
    keypoint_order,
    load,
)
from heatpose.errors import HeatposeError

NAME = "labelme"
NO_IMAGE = "label files whose image is not there"
OTHER_FILE = "JSON files of another kind"
NO_LABELS = "images without a label file"
HIDDEN = ("occluded", "hidden", "invisible")
"""Flags that mark a labelled point as hidden."""


def recognise(request: Request) -> bool:
    """Whether the path is a JSON with `shapes`, or a folder whose first JSON has them."""
    if request.path.is_dir():
        first = next(iter(sorted(request.path.glob("*.json"))), None)
        return first is not None and is_labelme(load(first))
    return is_labelme(request.content)


def is_labelme(content: Any) -> bool:
    """Whether the content of a JSON is the labels of one image."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("shapes"), list)
        and "imagePath" in content
    )


def read(request: Request) -> LabelSet:
    """Reads one label file, or all of a folder and its subfolders.

    Raises:
        HeatposeError: A file cannot be read, or all images are missing.
    """
    folder = request.path if request.path.is_dir() else request.path.parent
    builder = Builder(NAME, request.path)
    finder = ImageFinder(request.images or folder)
    used, names, found = set(), [], []
    for path, content in _files(request, builder.result):
        image = _image(path, content, finder)
        if image is None:
            builder.result.leave_out(NO_IMAGE, path.name)
            continue
        used.add(image)
        instances = _instances(path, content, builder.result)
        names += [name for instance in instances for name in instance.points]
        found.append((image, _size(path, content, image), instances))
    if not found:
        raise HeatposeError(
            f"None of the images of '{request.path}' is in '{finder.folder}'; "
            "give the folder that they are in."
        )
    for image, size, instances in found:
        number = builder.image(image, *size)
        for instance in instances:
            builder.instance(number, instance.box, instance.points)
    if request.path.is_dir():
        for image in image_files(finder.folder):
            if image not in used:
                builder.result.leave_out(NO_LABELS, image.name)
    return builder.finish(keypoint_order(names), request.images)


def _files(request: Request, result: LabelSet) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    paths = sorted(request.path.rglob("*.json")) if request.path.is_dir() else [request.path]
    for path in paths:
        content = load(path)
        if is_labelme(content):
            result.files += 1
            yield path, content
        else:
            result.leave_out(OTHER_FILE, path.name)


def _image(path: Path, content: Mapping[str, Any], finder: ImageFinder) -> Path | None:
    """The image named by a file: beside it, else below the image folder; None if missing."""
    name = content["imagePath"]
    if not isinstance(name, str) or not name:
        raise HeatposeError(f"'{path}' has no imagePath; save it again with labelme.")
    beside = path.parent / name.replace("\\", "/").rsplit("/", 1)[-1]
    if beside.is_file() and beside.is_relative_to(finder.folder):
        return beside
    return finder.find(name)


def _size(path: Path, content: Mapping[str, Any], image: Path) -> tuple[int, int]:
    sides: list[Any] = [content.get("imageWidth"), content.get("imageHeight")]
    if all(is_finite(side) and side >= 1 for side in sides):
        return int(sides[0]), int(sides[1])
    size = image_size(image)
    if size is None:
        raise HeatposeError(f"'{path}' has no imageWidth, and '{image}' cannot be read.")
    return size


def _instances(path: Path, content: Mapping[str, Any], result: LabelSet) -> list[Instance]:
    boxes: dict[str, Box] = {}
    marks: list[Mark] = []
    for number, shape in enumerate(content["shapes"]):
        where = f"{path.name}, shape {number}"
        kind, points = _shape(path, number, shape)
        owner = shape.get("group_id")
        if kind == "point":
            x, y = points[0]
            marks.append(Mark(str(shape["label"]), (x, y, _visibility(shape)), _key(owner)))
        elif kind == "rectangle" and len(points) > 1:
            boxes.setdefault(_key(owner) or f"rectangle {number}", _box(points))
        else:
            result.leave_out(f"shapes of type {kind}", where)
    instances = group(boxes, marks, lambda reason: result.leave_out(reason, path.name))
    return instances


def _key(owner: Any) -> str | None:
    return None if owner is None else f"group {owner}"


def _shape(path: Path, number: int, shape: Any) -> tuple[str, Sequence[Sequence[float]]]:
    points: Any = shape.get("points") if isinstance(shape, dict) else None
    usable = isinstance(points, list) and points and "label" in shape
    if not usable or not all(
        isinstance(p, list) and len(p) == 2 and is_finite(p[0]) and is_finite(p[1]) for p in points
    ):
        raise HeatposeError(
            f"'{path}', shape {number} has no label or no usable points; correct it with labelme."
        )
    return str(shape.get("shape_type") or "polygon")[:30], points


def _visibility(shape: Mapping[str, Any]) -> int:
    flags = shape.get("flags")
    marked = isinstance(flags, dict) and any(flags.get(name) is True for name in HIDDEN)
    return 1 if marked or shape.get("difficult") is True else 2


def _box(points: Sequence[Sequence[float]]) -> Box:
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
