"""Categories and images of a COCO keypoint json: what tools write otherwise, and what is refused.

Identity is an id, never a name: an id stands for one image file, and a file has one id. Whatever is
filled in or ignored is counted; whatever has no clear meaning is one sentence that names the entry.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heatpose.errors import HeatposeError

LISTED_TWICE = "image listed twice"

Entry = Mapping[str, Any]


def whole_number(value: Any) -> int | None:
    """The id that 3, 3.0 and "3" stand for; None for anything else."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*-?\d{1,18}\s*", value) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else None


def _category_key(value: Any) -> Any:
    number = whole_number(value)
    return value if number is None else number


def annotations_with_keypoints(path: Path, content: Entry) -> tuple[list[Entry], list[str]]:
    """Annotations of the categories that have keypoints, and the D keypoint names of these.

    Args:
        path: The label file, for messages.
        content: Its json.

    Raises:
        HeatposeError: No category has keypoints, or several have different ones.
    """
    categories, annotations = content["categories"], content["annotations"]
    only = categories[0]["id"] if len(categories) == 1 else None
    known = {_category_key(entry["id"]): entry for entry in categories if entry.get("keypoints")}
    if not known:
        raise HeatposeError(
            f"Label file '{path}' has no category with keypoints; write the keypoint names as"
            " 'keypoints' of its category, or give the person_keypoints file, not the instances"
            " file."
        )
    found = [_category_key(entry.get("category_id", only)) for entry in annotations]
    counts = Counter(number for number in found if number in known)
    used = [number for number in known if counts[number]] or list(known)[:1]
    names = {number: [str(name) for name in known[number]["keypoints"]] for number in used}
    first = names[used[0]]
    if any(other != first for other in names.values()):
        listed = ", ".join(
            f"'{known[n].get('name', n)}' ({len(names[n])} keypoints, {counts[n]} annotations)"
            for n in used
        )
        raise HeatposeError(
            f"Label file '{path}' has categories with different keypoints: {listed}; keep the "
            "annotations of one of them."
        )
    if len(set(first)) != len(first):
        raise HeatposeError(f"Label file '{path}' has a keypoint name twice: {first}; rename one.")
    return [a for a, number in zip(annotations, found, strict=True) if number in names], first


def images_by_id(path: Path, entries: Sequence[Any], assumed: Counter[str]) -> dict[int, Entry]:
    """Image id -> entry with a whole `id`, checked.

    Raises:
        HeatposeError: An entry is incomplete, an id stands for two files, or a file has two ids.
    """
    images: dict[int, Entry] = {}
    ids: dict[str, int] = {}
    for entry in entries:
        number = whole_number(entry["id"])
        if number is None:
            raise HeatposeError(
                f"Label file '{path}', image {entry.get('file_name')!r} has the id {entry['id']!r},"
                " which is not a whole number; number the images, also in the annotations'"
                " 'image_id'."
            )
        _check_image(f"Label file '{path}', image {number}", entry)
        name, known = str(entry["file_name"]), images.get(number)
        if known is not None and known["file_name"] != name:
            raise HeatposeError(
                f"Label file '{path}' has the image id {number} twice, for '{known['file_name']}'"
                f" and '{name}'; number the images of one of the two exports anew, also in"
                " 'image_id'."
            )
        file = posixpath.normpath(name)
        if ids.setdefault(file, number) != number:
            raise HeatposeError(
                f"Label file '{path}' lists '{name}' under two image ids, {ids[file]} and {number};"
                " list it once and give its annotations that 'image_id'."
            )
        assumed[LISTED_TWICE] += known is not None
        images[number] = {**entry, "id": number}
    return images


def _check_image(where: str, entry: Entry) -> None:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise HeatposeError(f"{where} has no file name.")
    if name.startswith("/") or ".." in name.replace("\\", "/").split("/"):
        raise HeatposeError(
            f"{where} is outside the image folder: {name!r}; give names below that folder."
        )
    sides = [entry.get("width"), entry.get("height")]
    if not all(isinstance(s, int | float) and math.isfinite(s) and s >= 1 for s in sides):
        raise HeatposeError(f"{where} has no usable width and height: {sides}.")
