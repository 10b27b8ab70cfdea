"""COCO keypoint JSON, as COCO, Roboflow, CVAT, Label Studio and others write it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heatpose.data.formats.base import ImageFinder, LabelSet, Request
from heatpose.errors import HeatposeError

NAME = "COCO keypoints"
ROBOFLOW = "_annotations.coco.json"
PROBED = 20
"""Number of images that are looked for to find their folder; some may be missing."""
PAIRED = (
    "instances have the one box of their image, which Label Studio exports apart from keypoints"
)
BOXES = "boxes on images with several, which Label Studio exports apart from keypoints"


def recognise(request: Request) -> bool:
    """Whether the content is a JSON with annotations or categories."""
    content = request.content
    return isinstance(content, dict) and ("annotations" in content or "categories" in content)


def name(request: Request) -> str:
    """Name of the format, with the tool that wrote the file if it can be recognised."""
    tool = _tool(request)
    return f"{NAME} of {tool}" if tool else NAME


def read(request: Request) -> LabelSet:
    """Takes the content as it is, except for Label Studio's, which is corrected."""
    content = request.content
    result = LabelSet(name(request), request.path, request.images or request.path.parent, content)
    if not _is_usual(content):
        return result  # the check of COCO content reports it
    if _tool(request) == "Label Studio":
        _as_usual(result)
        return result
    if request.images is None:
        names = [image["file_name"] for image in content["images"][:PROBED]]
        names += [name.replace("\\", "/") for name in names]
        result.folder = image_folder(request.path, names) or result.folder
    if any("\\" in image["file_name"] for image in content["images"]):
        images = [_as_here(entry, result.folder) for entry in content["images"]]
        result.content = {**content, "images": images}
    return result


def image_folder(labels: Path, names: Sequence[str]) -> Path | None:
    """Finds the folder of a JSON's images: its own (or that above `annotations/`) or a subfolder.

    Several folders may have images of these names (frames of videos). The folder is then the one
    whose name ends the name of the JSON: CVAT has `images/Train` for `..._Train.json`.

    Args:
        labels: The JSON.
        names: Of its images, the first few.

    Returns:
        The folder; None if the images are not found.

    Raises:
        HeatposeError: Several subfolders have such images, and the name does not decide.
    """
    root = labels.parent.parent if labels.parent.name == "annotations" else labels.parent
    hits = {f: sum(os.path.isfile(f / name) for name in names) for f in _candidates(root)}
    found = [folder for folder, count in hits.items() if count]
    named = [folder for folder in found if folder != root and _named_after(labels, folder)]
    if named:
        return max(named, key=lambda folder: len(folder.name))
    if not found or found[0] == root:
        return found[0] if found else None
    most = [folder for folder in found if hits[folder] == max(hits.values())]
    if len(most) > 1:
        raise HeatposeError(
            f"The images of '{labels}' may be those in '{most[0]}' or those in '{most[1]}'; give "
            "their folder as --images, or let the label file's name end in the folder's "
            f"('labels_{most[0].name}.json')."
        )
    return most[0]


def _named_after(labels: Path, folder: Path) -> bool:
    return f"_{labels.stem.lower()}".endswith(
        (f"_{folder.name.lower()}", f"-{folder.name.lower()}")
    )


def _candidates(root: Path) -> Iterable[Path]:
    """Folders to search, two levels deep: CVAT has a folder in `images/` for each subset."""
    yield root
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        yield folder
        yield from sorted(entry for entry in folder.iterdir() if entry.is_dir())


def _is_usual(content: Mapping[str, Any]) -> bool:
    parts = [content.get(key) for key in ("images", "annotations", "categories")]
    if not all(isinstance(part, list) and all(isinstance(e, dict) for e in part) for part in parts):
        return False
    return all(isinstance(entry.get("file_name"), str) for entry in content["images"])


def _tool(request: Request) -> str:
    """The tool that wrote the file, by its traces; "" if unknown."""
    path, content = request.path, request.content
    info = content.get("info")
    text = " ".join(str(value)[:200] for value in info.values()) if isinstance(info, dict) else ""
    if path.name == ROBOFLOW or "roboflow" in text.lower():
        return "Roboflow"
    if "Label Studio" in text:
        return "Label Studio"
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    attributes = first.get("attributes") if isinstance(first, dict) else None
    return "CVAT" if isinstance(attributes, dict) and "occluded" in attributes else ""


def _as_here(entry: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Replaces Windows' separators by slashes, unless a file has exactly this name."""
    name = entry["file_name"]
    if os.path.isfile(folder / name):
        return entry
    return {**entry, "file_name": name.replace("\\", "/")}


def _as_usual(result: LabelSet) -> None:
    """Corrects Label Studio's content: finds the images, and gives keypoints their boxes."""
    finder, content = ImageFinder(result.folder), result.content
    images = []
    for entry in content["images"]:
        name = entry["file_name"].replace("\\", "/")
        file = finder.find(name)
        images.append(
            {**entry, "file_name": _below(file, finder.folder) or name.rsplit("/", 1)[-1]}
        )
    result.content = {**content, "images": images, "annotations": _paired(result)}


def _below(file: Path | None, folder: Path) -> str:
    return "" if file is None else file.relative_to(folder).as_posix()


def _paired(result: LabelSet) -> list[dict[str, Any]]:
    """The keypoint annotations, with the box of their image if it has exactly one."""
    boxes: dict[Any, list[Any]] = {}
    for entry in result.content["annotations"]:
        if not entry.get("keypoints") and not entry.get("segmentation") and entry.get("bbox"):
            boxes.setdefault(str(entry.get("image_id")), []).append(entry["bbox"])
    found, count = [], 0
    for entry in result.content["annotations"]:
        near = boxes.get(str(entry.get("image_id")), [])
        if not entry.get("keypoints"):
            if len(near) > 1 and entry.get("bbox") in near:
                result.leave_out(BOXES, f"annotation {entry.get('id')}")
            continue
        count += len(near) == 1
        found.append({**entry, "bbox": near[0]} if len(near) == 1 else entry)
    if count:
        result.notes.append(f"{count} {PAIRED}")
    return found
