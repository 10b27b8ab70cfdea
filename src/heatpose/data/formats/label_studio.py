"""Label Studio's JSON: reads exports, and writes labels as tasks to be corrected there.

A task has an image and regions in percent of its sides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

from heatpose.data.formats.base import (
    Box,
    Builder,
    ImageFinder,
    Instance,
    LabelSet,
    Mark,
    Request,
    group,
    image_size,
    is_finite,
    keypoint_order,
)
from heatpose.errors import HeatposeError

NAME = "Label Studio JSON"
UNLABELLED = "tasks without a submitted annotation"
NO_IMAGE = "tasks whose image is not there"
REPEATED = "tasks for an image that an earlier task has"
NO_POSITION = "keypoints without a position"
UNKNOWN = "regions of an unknown type"
OTHER_BOX = "boxes whose label never has keypoints"
TURNED = "annotations of an image that was rotated in Label Studio"
WELL_OUTSIDE = 50.0
"""Distance outside the image, in percent, from which on a position is not a percentage."""
UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""Prefix that Label Studio adds to the name of an uploaded file."""


def recognise(request: Request) -> bool:
    """Whether the content is a task or a list with tasks."""
    return any(_is_task(task) for task in _tasks(request.content))


def _tasks(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def _is_task(task: Any) -> bool:
    if not isinstance(task, dict):
        return False
    return isinstance(task.get("data"), dict) or "annotation_id" in task  # the latter is JSON-MIN


def read(request: Request) -> LabelSet:
    """Reads the tasks. Of several annotations of a task the first that was not skipped is used.

    Raises:
        HeatposeError: The file is JSON-MIN, a region is unusable, or all images are missing.
    """
    builder = Builder(NAME, request.path)
    builder.result.files = 1
    finder = ImageFinder(request.images or builder.result.folder)
    tasks, used = list(_annotated(request, builder.result)), set()
    with_points = {name for _, regions in tasks for name in _labels_with_points(regions)}
    names, found = [], []
    for task, regions in tasks:
        image = _find(task, finder)
        if image is None or image in used:
            reason = REPEATED if image is not None else NO_IMAGE
            builder.result.leave_out(reason, _where(task))
            continue
        used.add(image)
        size = _size(image, regions, task)
        instances = _instances(_where(task), regions, size, with_points, builder.result)
        names += [name for one in instances for name in one.points]
        found.append((image, size, instances))
    if tasks and not found:
        raise HeatposeError(
            f"None of the images of '{request.path}' is in '{finder.folder}' (the first is "
            f"'{_names(tasks[0][0])[0]}'); give the folder that they are in."
        )
    for image, size, instances in found:
        number = builder.image(image, *size)
        for one in instances:
            builder.instance(number, one.box, one.points)
    return builder.finish(keypoint_order(names), request.images)


def _where(task: Mapping[str, Any]) -> str:
    return f"task {str(task.get('id'))[:40]}"


def _annotated(
    request: Request, result: LabelSet
) -> Iterator[tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
    for task in _tasks(request.content):
        if not _is_task(task) or not isinstance(task.get("data"), dict):
            raise HeatposeError(
                f"'{request.path}' is Label Studio's JSON-MIN or not an export of tasks; "
                "export as JSON, which keeps the boxes that keypoints belong to."
            )
        given = task.get("annotations", task.get("completions"))
        done = (
            [
                one
                for one in given
                if isinstance(one, dict)
                and not one.get("was_cancelled")
                and isinstance(one.get("result"), list)
            ]
            if isinstance(given, list)
            else []
        )
        if not done:
            result.leave_out(UNLABELLED, _where(task))
            continue
        if len(done) > 1:
            result.leave_out("further annotations of a task", _where(task), len(done) - 1)
        chosen = next((one for one in done if one.get("ground_truth")), done[0])
        usual = [region for region in chosen["result"] if _is_usual(region)]
        if len(usual) < len(chosen["result"]):
            result.leave_out(UNKNOWN, _where(task), len(chosen["result"]) - len(usual))
        yield task, usual


def _is_usual(region: Any) -> bool:
    if not isinstance(region, dict):
        return False
    return isinstance(region.get("value"), dict) or _kind(region) == "relation"


def _labels_with_points(regions: list[Mapping[str, Any]]) -> set[str]:
    """Labels of boxes that are parents of keypoints; of all boxes if no parent is named."""
    parents = {_parent(region, regions) for region in regions if _kind(region) == "keypointlabels"}
    boxes = [region for region in regions if _kind(region) == "rectanglelabels"]
    return {_label(box) for box in boxes if parents == {None} or str(box.get("id")) in parents}


def _kind(region: Mapping[str, Any]) -> str:
    return str(region.get("type", "")).lower()


def _label(region: Mapping[str, Any]) -> str:
    labels = region["value"].get(_kind(region))
    return str(labels[0]) if isinstance(labels, list) and labels else ""


def _parent(region: Mapping[str, Any], regions: list[Mapping[str, Any]]) -> str | None:
    """Key of a keypoint's box: its parent region, or the other end of a relation."""
    if region.get("parentID"):
        return str(region["parentID"])
    for other in regions:
        ends = [other.get("from_id"), other.get("to_id")]
        if _kind(other) == "relation" and region.get("id") in ends:
            return str(ends[1 - ends.index(region.get("id"))])
    return None


def _instances(
    where: str,
    regions: list[Mapping[str, Any]],
    size: tuple[int, int],
    instances: set[str],
    result: LabelSet,
) -> list[Instance]:
    boxes: dict[str, Box] = {}
    marks: list[Mark] = []
    for number, region in enumerate(regions):
        kind, at = _kind(region), f"{where}, region {region.get('id', number)}"
        if region.get("image_rotation"):
            result.leave_out(TURNED, at)
        elif kind == "rectanglelabels" and _label(region) in instances:
            boxes[str(region.get("id", number))] = _box(region, size, at)
        elif kind == "rectanglelabels":
            result.leave_out(OTHER_BOX, at)
        elif kind == "keypointlabels" and region["value"].get("x") is None:
            result.leave_out(NO_POSITION, at)  # the prompt of an assistant, not a label
        elif kind == "keypointlabels":
            x, y = _numbers(region, ("x", "y"), at)
            point = (x / 100 * size[0], y / 100 * size[1], 2)
            marks.append(Mark(_label(region), point, _parent(region, regions)))
        elif kind != "relation":
            result.leave_out(f"regions of type {kind[:30] or 'unknown'}", at)
    return group(boxes, marks, lambda reason: result.leave_out(reason, where))


def _numbers(region: Mapping[str, Any], keys: tuple[str, ...], where: str) -> list[float]:
    numbers = [region["value"].get(key) for key in keys]
    if not all(is_finite(n) and -WELL_OUTSIDE <= n <= 100 + WELL_OUTSIDE for n in numbers):
        raise HeatposeError(
            f"{where[0].upper()}{where[1:]} has {', '.join(keys)} that are not percentages of the "
            "image (0 to 100); export the project again as JSON."
        )
    return [float(n) for n in numbers if n is not None]


def _box(region: Mapping[str, Any], size: tuple[int, int], where: str) -> Box:
    """The axis-aligned box of a rectangle, which is rotated clockwise about its first corner."""
    x, y, w, h = _numbers(region, ("x", "y", "width", "height"), where)
    left, top, width, height = (
        x / 100 * size[0],
        y / 100 * size[1],
        w / 100 * size[0],
        h / 100 * size[1],
    )
    turn = region["value"].get("rotation") or 0
    if not turn or not is_finite(turn):
        return left, top, width, height
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    xs = [0, width * c, -height * s, width * c - height * s]
    ys = [0, width * s, height * c, width * s + height * c]
    return left + min(xs), top + min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _size(
    image: Path, regions: list[Mapping[str, Any]], task: Mapping[str, Any]
) -> tuple[int, int]:
    for region in regions:
        sides: list[Any] = [region.get("original_width"), region.get("original_height")]
        if all(is_finite(side) and side >= 1 for side in sides):
            return int(sides[0]), int(sides[1])
    size = image_size(image)
    if size is None:
        raise HeatposeError(f"'{image}' of {_where(task)} cannot be read; replace it.")
    return size


def _find(task: Mapping[str, Any], finder: ImageFinder) -> Path | None:
    names = _names(task)
    return finder.find(*names, *(_without_prefix(name) for name in names))


def _names(task: Mapping[str, Any]) -> list[str]:
    """Candidates for the name of a task's image: the path of a URL, or of its query (`?d=`)."""
    values = [*task["data"].values(), task.get("file_upload")]
    found = []
    for value in values:
        if not isinstance(value, str) or len(value) > 4000:
            continue
        try:
            url = urlsplit(value)
        except ValueError:
            continue
        asked = parse_qs(url.query).get("d") if url.query else None
        found.append(unquote(asked[0] if asked else url.path))
    return [name for name in found if "." in name.rsplit("/", 1)[-1]] or [""]


def _without_prefix(name: str) -> str:
    head, _, tail = name.rpartition("/")
    return f"{head}/{UPLOADED.sub('', tail)}" if head else UPLOADED.sub("", tail)


BOX, KEYPOINT, IMAGE = "box", "keypoint", "image"
"""Names of the labelling interface's tags."""
POINT_PERCENT = 0.5
"""Displayed size of a point, in percent of the image's width."""
LOCAL_FILES = "/data/local-files/?d="
"""Path below which Label Studio serves files of its own machine."""


def to_tasks(
    images: Mapping[int, Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    prefix: str = LOCAL_FILES,
) -> list[dict[str, Any]]:
    """Makes a task for each image, with a box and its keypoints for each instance as predictions.

    Args:
        images: Image id -> COCO entry.
        annotations: COCO keypoint annotations.
        names: Of the keypoints, in the order of the annotations.
        prefix: Put before each `file_name` to make the address of the image.
    """
    found: dict[int, list[Mapping[str, Any]]] = {key: [] for key in images}
    for annotation in annotations:
        found[int(annotation["image_id"])].append(annotation)
    return [
        {
            "data": {IMAGE: prefix + quote(str(image["file_name"]))},
            "predictions": [
                {
                    "model_version": "heatpose",
                    "result": [
                        region
                        for number, one in enumerate(found[key])
                        for region in _regions(one, f"instance{number}", image, names)
                    ],
                }
            ],
        }
        for key, image in images.items()
    ]


def interface(names: Sequence[str]) -> str:
    """The labelling interface (XML) for the tasks of `to_tasks`."""
    labels = [
        f"    <Label value={quoteattr(n)} model_index={quoteattr(str(i))}/>"
        for i, n in enumerate(names)
    ]
    return "\n".join(
        [
            "<View>",
            f'  <Image name="{IMAGE}" value="${IMAGE}" zoom="true"/>',
            f'  <RectangleLabels name="{BOX}" toName="{IMAGE}">',
            '    <Label value="person"/>',
            "  </RectangleLabels>",
            f'  <KeyPointLabels name="{KEYPOINT}" toName="{IMAGE}">',
            *labels,
            "  </KeyPointLabels>",
            "</View>",
            "",
        ]
    )


def _regions(
    annotation: Mapping[str, Any], key: str, image: Mapping[str, Any], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    width, height = float(image["width"]), float(image["height"])
    usual = {
        "to_name": IMAGE,
        "image_rotation": 0,
        "original_width": int(width),
        "original_height": int(height),
    }
    x, y, w, h = annotation["bbox"]
    box = {
        "x": 100 * x / width,
        "y": 100 * y / height,
        "width": 100 * w / width,
        "height": 100 * h / height,
        "rotation": 0,
        "rectanglelabels": ["person"],
    }
    yield {"id": key, "type": "rectanglelabels", "from_name": BOX, "value": box, **usual}
    values = annotation["keypoints"]
    for i, name in enumerate(names):
        px, py, visibility = values[3 * i : 3 * i + 3]
        if visibility:
            point = {
                "x": 100 * px / width,
                "y": 100 * py / height,
                "width": POINT_PERCENT,
                "keypointlabels": [name],
            }
            yield {
                "id": f"{key}_{i}",
                "type": "keypointlabels",
                "from_name": KEYPOINT,
                "parentID": key,
                "value": point,
                **usual,
            }
