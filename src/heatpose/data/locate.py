"""Finds labels and images: a part (train, val) of a folder, or the only labels of one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

from heatpose.data.coco import CocoLabels, read_labels
from heatpose.data.formats import folder as formats_folder
from heatpose.data.formats.coco import PROBED, image_folder
from heatpose.data.layout import Split, find_split
from heatpose.errors import HeatposeError


def labels_of(split: Split) -> CocoLabels:
    """Reads the labels of a split.

    Raises:
        HeatposeError: As `read_labels`.
    """
    return read_labels(split.annotations, split.images, split.part)


def find_labels(folder: Path) -> Split:
    """The one label file of a folder (or its labels in another format) and their images.

    The images lie in the folder or in one of its subfolders.

    Raises:
        HeatposeError: No or several label files, or the first image is nowhere.
    """
    files = sorted(
        [
            *folder.glob("person_keypoints_*.json"),
            *folder.glob("annotations/person_keypoints_*.json"),
        ]
    )
    if not files and folder.exists() and (found := formats_folder.find_labels(folder)):
        return found
    if len(files) != 1:
        raise HeatposeError(
            f"'{folder}' should hold one person_keypoints_*.json, but has {len(files)}:"
            f" {[file.name for file in files]}."
        )
    images = read_labels(files[0]).images
    names = [str(image["file_name"]) for image in islice(images.values(), PROBED)]
    place = image_folder(files[0], names)
    if place is None:
        raise HeatposeError(
            f"'{folder}' has labels for '{names[0]}', but the image is neither there nor in a"
            " subfolder."
        )
    return Split(files[0], place)


def find_extra(entry: str | Mapping[str, str]) -> Split:
    """The label file and the images of an entry of `CocoSource.extra`.

    Raises:
        HeatposeError: A file or folder is missing, or the entry has other keys.
    """
    if isinstance(entry, str):
        return _extra(Path(entry).expanduser())
    if set(entry) != {"annotations", "images"}:
        raise HeatposeError(
            f"data.extra has an entry with {sorted(map(str, entry))}; give a folder, or both keys: "
            "data.extra='[{annotations: labels.json, images: FOLDER}]'."
        )
    annotations, images = (Path(str(entry[key])).expanduser() for key in ("annotations", "images"))
    split = Split(annotations, images)
    if not split.annotations.is_file():
        raise HeatposeError(
            f"data.extra names the label file '{split.annotations}', which does not exist; "
            "correct the path."
        )
    if not split.images.is_dir():
        raise HeatposeError(
            f"data.extra names the images '{split.images}', which is not a folder; give the folder "
            f"that the file names of '{split.annotations}' start from."
        )
    return split


def find_part(folder: Path, split: str) -> Split:
    """A part of a folder in COCO 2017 layout or of an export.

    Or the only labels of any other folder.

    Raises:
        HeatposeError: Neither is there.
    """
    if not folder.exists():
        raise HeatposeError(
            f"'{folder}' does not exist; give the folder of a data set in COCO 2017 layout, or an "
            "export that docs/labels.md lists."
        )
    try:
        return find_kept_apart(folder, split)
    except HeatposeError:
        if _has_part(folder, "train" if split == "val" else "val"):
            raise  # its labels are those of the other part
        if (
            not any(folder.glob("person_keypoints_*.json"))
            and formats_folder.find_labels(folder) is None
        ):
            raise
        return find_labels(folder)


def _extra(folder: Path) -> Split:
    """The training part of a folder that keeps one apart, else its only labels."""
    found = formats_folder.find_part(folder, "train") if folder.exists() else None
    return found or find_labels(folder)


def _has_part(root: Path, split: str) -> bool:
    try:
        find_kept_apart(root, split)
    except HeatposeError:
        return False
    return True


def find_kept_apart(root: Path, split: str) -> Split:
    """A part that a folder keeps apart from the other: of COCO 2017's layout, or of an export.

    Raises:
        HeatposeError: It is not there.
    """
    part: Literal["train", "val"] = "val" if split == "val" else "train"
    try:
        return find_split(root, part)
    except HeatposeError:
        found = formats_folder.find_part(root, part) if root.exists() else None
        if found is None:
            raise
        return found
