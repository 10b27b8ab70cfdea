"""Label formats: exports of labelling tools, read as COCO content.

To add a format:

1. Write a module here with `recognise(request) -> bool` and `read(request) -> LabelSet`
   (`base.Builder` makes the COCO content out of images and instances).
2. Add it to `FORMATS` below; if its labels are found in a folder, to `folder.py` as well.
3. Test it in `tests/data/formats/`, and describe in `docs/labels.md` how the tool exports it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from heatpose.data.formats import coco, label_studio, labelme, yolo
from heatpose.data.formats.base import LabelSet, Request, load
from heatpose.data.formats.yolo import YAML
from heatpose.errors import HeatposeError

FORMATS = (yolo, labelme, label_studio, coco)
"""In the order in which `recognise` is called."""
_message: set[str] = set()


def read(path: Path, images: Path | None = None, part: str = "val") -> LabelSet:
    """Reads labels of any known format.

    Prints once what was read, unless it is a plain COCO JSON.

    Args:
        path: A label file, a `data.yaml`, or a folder of label files.
        images: Folder of the images; found from the labels if None.
        part: "train" or "val", for paths that describe several parts.

    Raises:
        HeatposeError: The labels cannot be read, or are of no known format.
    """
    request = _request(path, images, part)
    labels: LabelSet = _format(request).read(request)
    if labels.format != coco.NAME and labels.summary() not in _message:
        _message.add(labels.summary())
        print(labels.summary(), file=sys.stderr)
    return labels


def name_of(path: Path) -> str:
    """Name of the format of some labels, without reading all of them.

    Raises:
        HeatposeError: As `read`.
    """
    request = _request(path, None, "train")
    found = _format(request)
    return coco.name(request) if found is coco else str(found.NAME)


def _format(request: Request) -> ModuleType:
    found = next((one for one in FORMATS if one.recognise(request)), None)
    if found is None:
        raise HeatposeError(
            f"'{request.path}' is not in a known label format; give a COCO keypoint json, or "
            "an export that docs/labels.md lists."
        )
    return found


def _request(path: Path, images: Path | None, part: str) -> Request:
    """The labels to read; those of a part if `path` is a folder that has several."""
    if path.is_dir():
        from heatpose.data.formats.folder import find_labels, find_part

        split = find_part(path, part) or find_labels(path)
        if split is None and next(path.glob("*.txt"), None) is None:
            raise HeatposeError(
                f"'{path}' has no labels; give a COCO keypoint json, or an export "
                "that docs/labels.md lists."
            )
        path, images = (
            (path, images) if split is None else (split.annotations, images or split.images)
        )
    is_json = path.is_file() and path.suffix.lower() not in YAML
    return Request(path, images, part, load(path) if is_json or not path.exists() else None)
