"""Finds the labels of a folder, or of one of its parts (train, val), in any known format."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from heatpose.data.formats import coco, label_studio, labelme, yolo
from heatpose.data.formats.base import Request, load
from heatpose.data.formats.yolo import YAML, find_yaml, read_yaml
from heatpose.errors import HeatposeError


@dataclass(frozen=True)
class Split:
    """Labels and their image folder.

    Attributes:
        annotations: Label file, or folder of label files.
        images: Folder that the labels' file names are relative to.
        part: "train" or "val", if `annotations` describes several parts.
    """

    annotations: Path
    images: Path
    part: str = "train"

    @property
    def name(self) -> str:
        """Name in messages: the label file, with the part if it describes several."""
        several = self.annotations.suffix.lower() in (".yaml", ".yml")
        return f"{self.annotations} ({self.part})" if several else str(self.annotations)


def find_split(root: str | Path, split: Literal["train", "val"]) -> Split:
    """Finds a split of COCO 2017 below `root`.

    There are two layouts: the official one, `root/annotations/person_keypoints_train2017.json` with
    `root/train2017/`, and the flat one with the JSON directly in `root`. If both exist, the
    official one is used.

    Args:
        root: Folder of the data set.
        split: "train" or "val".

    Raises:
        HeatposeError: There is neither.
    """
    root = Path(root)
    images = root / f"{split}2017"
    name = f"person_keypoints_{split}2017.json"
    candidates = (root / "annotations" / name, root / name)
    labels = next((path for path in candidates if path.is_file()), None)
    if labels is None:
        raise HeatposeError(
            f"No {split} labels below '{root}': neither {name} (COCO 2017) nor an export that"
            " docs/labels.md lists; correct the path, or fetch COCO 2017 (train.py"
            " data.download=true)."
        )
    if not images.is_dir():
        raise HeatposeError(
            f"No {split} images for '{labels}': the folder '{images}' does not exist; correct the "
            "path, or fetch COCO 2017 (train.py data.download=true)."
        )
    return Split(labels, images)


PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
}
"""Names of the parts in exports: of folders, and as suffixes of the names of label files."""
MOST_FILES = 50
"""Maximum number of JSON files per folder that are examined."""


def find_part(folder: Path, part: str) -> Split | None:
    """The labels of one of a folder's parts; None if the folder does not have the part.

    Raises:
        HeatposeError: The labels exist, but not their images.
    """
    if folder.is_file():
        return _of_file(folder, part)
    yaml = find_yaml(folder)
    if yaml is not None:
        return _of_yaml(yaml, part)
    for path in _json_files(folder):
        stem = re.sub(r"2017$", "", path.stem.lower())
        if re.search(rf"(^|[-_])({'|'.join(PARTS[part])})$", stem):
            return Split(path, _image_folder(path), part)
    for name in PARTS[part]:
        inner = _named(folder, name)
        found = find_labels(inner) if inner is not None else None
        if found is not None:
            return Split(found.annotations, found.images, part)
    return None


def find_labels(folder: Path) -> Split | None:
    """The only labels of a folder, used for training or for scoring; None if there are none.

    Raises:
        HeatposeError: There are several label files, or their images are missing.
    """
    if folder.is_file():
        return _of_file(folder, "train") or _of_file(folder, "val")
    yaml = find_yaml(folder)
    if yaml is not None:
        return _of_yaml(yaml, "train") or _of_yaml(yaml, "val")
    if labelme.recognise(Request(folder, None, "train")):
        return Split(folder, folder)
    found = [path for path in _json_files(folder) if _is_label_file(path)]
    named = [path for path in found if path.name == coco.ROBOFLOW]
    found = named or found
    if len(found) > 1:
        raise HeatposeError(
            f"'{folder}' has several label files, {[path.name for path in found][:5]}; "
            "keep one, or give each a folder of its own with its images."
        )
    if not found and next((folder / "labels").rglob("*.txt"), None) is not None:
        raise yolo.without_yaml(folder)
    return Split(found[0], _image_folder(found[0])) if found else None


def _of_file(path: Path, part: str) -> Split | None:
    """The labels of a part in a file; files other than a `data.yaml` are for training."""
    if path.suffix.lower() in YAML:
        return _of_yaml(path, part)
    return Split(path, _image_folder(path)) if part == "train" else None


def _of_yaml(path: Path, part: str) -> Split | None:
    content = read_yaml(path)
    if part not in content.parts:
        return None
    return Split(path, yolo.image_folder(content, part), part)


def _json_files(folder: Path) -> Iterator[Path]:
    for place in (folder, folder / "annotations"):
        if place.is_dir():
            yield from sorted(place.glob("*.json"))[: MOST_FILES + 1]


def _is_label_file(path: Path) -> bool:
    """Whether a JSON has labels of some format; unrelated JSON files may be beside them."""
    try:
        request = Request(path, None, "train", load(path))
    except HeatposeError:
        return False
    return any(one.recognise(request) for one in (coco, label_studio))


def _image_folder(path: Path) -> Path:
    """The folder that a JSON's image names are relative to."""
    request = Request(path, None, "train", load(path))
    if not coco.recognise(request):
        return path.parent.parent if path.parent.name == "annotations" else path.parent
    labels = coco.read(request)
    entries = labels.content.get("images")
    probed = entries[: coco.PROBED] if isinstance(entries, list) else []
    names = [str(e["file_name"]) for e in probed if isinstance(e, dict) and "file_name" in e]
    if names and not any(os.path.isfile(labels.folder / name) for name in names):
        raise HeatposeError(
            f"'{path.parent}' has labels for '{names[0]}', but the image is neither there nor in a"
            " subfolder; put the labels beside their images, or name both: --images for heatpose"
            " evaluate, data.extra='[{annotations: FILE, images: FOLDER}]' in training."
        )
    return labels.folder


def _named(folder: Path, name: str) -> Path | None:
    inner = [
        path for path in sorted(folder.iterdir()) if path.name.lower() == name and path.is_dir()
    ]
    return inner[0] if inner else None
