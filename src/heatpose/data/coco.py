"""COCO keypoint JSON -> labelled instances, and an audit of what was dropped and why.

Images and annotations are identified by their ids: an id stands for one image file, and a file has
one id. Values that are filled in or ignored are counted; entries without a clear meaning are
refused by a message that names the entry.
"""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data import formats
from heatpose.data.annotation_rules import Entry, read_annotations, whole_number
from heatpose.data.formats.base import LabelSet
from heatpose.data.sample import Audit, Person, read_orientations
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import Skeleton

LISTED_TWICE = "image listed twice"


def _category_key(value: Any) -> Any:
    number = whole_number(value)
    return value if number is None else number


def annotations_with_keypoints(path: Path, content: Entry) -> tuple[list[Entry], list[str]]:
    """Annotations of the categories that have keypoints, and the D keypoint names of these.

    Args:
        path: The label file, for messages.
        content: The parsed JSON.

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


CROWD = "crowd annotation"
NO_BOX = "box without width or height"
NO_KEYPOINT = "no labelled keypoint of this skeleton"
SEVERAL = "more than one person annotation on the image"


@dataclass(frozen=True)
class CocoLabels:
    """A checked COCO keypoint label file.

    Attributes:
        path: Where it was read.
        keypoint_names: The dataset's D keypoint names, from its person category.
        images: Image id -> entry with `file_name`, `width`, `height`.
        annotations: Person annotations, in file order, from `read_annotations`.
        assumed: What was filled in, corrected or ignored -> count.
        source: Format, image folder, and what was assumed and left out by its reader.
    """

    path: Path
    keypoint_names: list[str]
    images: Mapping[int, Mapping[str, Any]]
    annotations: Sequence[Mapping[str, Any]]
    source: LabelSet
    assumed: Mapping[str, int] = field(default_factory=dict)


def read_labels(path: str | Path, folder: Path | None = None, part: str = "val") -> CocoLabels:
    """Reads and checks a COCO keypoint JSON, or labels in another format of `data.formats`.

    Args:
        path: Label file, or folder of label files.
        folder: Of the images; found from the labels if None.
        part: "train" or "val", for paths that describe several parts.

    Raises:
        HeatposeError: The file is missing or not JSON, or its annotations have no clear meaning.
    """
    path = Path(path)
    source = formats.read(path, folder, part)
    content, assumed = source.content, Counter[str]()
    try:
        found, names = annotations_with_keypoints(path, content)
        images = images_by_id(path, content["images"], assumed)
        annotations = read_annotations(path, found, names, images, assumed)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise HeatposeError(
            f"Label file '{path}' is not in COCO keypoint format ({_reason(error)}); give a COCO"
            " keypoint json."
        ) from error
    return CocoLabels(path, names, images, annotations, source, +assumed)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, KeyError) else f"no {error}"


def instances(
    labels: CocoLabels, images: str | Path, skeleton: Skeleton
) -> tuple[list[Person], Audit]:
    """All usable instances of a label file.

    Usable are annotations that are not a crowd, have a box with a width and a height, and at least
    one labelled keypoint of the skeleton.

    Args:
        labels: From `read_labels`.
        images: Folder of the image files.
        skeleton: The keypoints are converted to it.

    Returns:
        The instances in file order, and the audit.

    Raises:
        HeatposeError: As `sample.read_orientations`.
    """
    audit = Audit(len(labels.images), len(labels.annotations), assumed=Counter(labels.assumed))
    values = np.array([a["keypoints"] for a in labels.annotations], np.float32).reshape(
        len(labels.annotations), -1, 3
    )
    keypoints, labelled = skeleton.convert(
        values[..., :2], values[..., 2] >= 1, labels.keypoint_names
    )
    boxes = np.array([a["bbox"] for a in labels.annotations], np.float32)
    on_image: dict[int, list[int]] = {}
    for row, annotation in enumerate(labels.annotations):
        on_image.setdefault(int(annotation["image_id"]), []).append(row)
    kept = []
    for row, annotation in enumerate(labels.annotations):
        others = boxes[[other for other in on_image[int(annotation["image_id"])] if other != row]]
        person = _person(annotation, labels, Path(images), keypoints[row], labelled[row], others)
        if reason := _drop_reason(annotation, person):
            audit.drop(reason, person.image_id)
        else:
            kept.append(person)
    audit.kept = len(kept)
    kept, audit.readings = read_orientations(kept, labels.path)
    return kept, audit


def benchmark_instances(
    labels: CocoLabels, images: str | Path, skeleton: Skeleton
) -> tuple[list[Person], Audit]:
    """The selection of the published single-person benchmark.

    Images with exactly one person annotation (crowds included) whose instance is usable.

    Raises:
        HeatposeError: No image fulfils this.
    """
    everyone, audit = instances(labels, images, skeleton)
    kept = [person for person in everyone if person.alone]
    for person in everyone:
        if not person.alone:
            audit.drop(SEVERAL, person.image_id)
    audit.kept = len(kept)
    if not kept:
        raise HeatposeError(
            f"Label file '{labels.path}' has no image with exactly one labelled person; the"
            f" benchmark cannot be scored on it ({audit.reasons})."
        )
    return kept, audit


def _person(
    annotation: Mapping[str, Any],
    labels: CocoLabels,
    folder: Path,
    keypoints: NDArray[np.float32],
    labelled: NDArray[np.bool_],
    others: NDArray[np.float32],
) -> Person:
    image = labels.images[int(annotation["image_id"])]
    x, y, w, h = (float(value) for value in annotation["bbox"])
    return Person(
        image_path=folder / str(image["file_name"]),
        image_id=int(image["id"]),
        annotation_id=int(annotation["id"]),
        width=int(image["width"]),
        height=int(image["height"]),
        keypoints=keypoints,
        labelled=labelled,
        box=(x, y, w, h),
        area=float(annotation["area"]),
        alone=not len(others),
        others=others,
        file_name=str(image["file_name"]),
    )


def _drop_reason(annotation: Mapping[str, Any], person: Person) -> str | None:
    if annotation["iscrowd"]:
        return CROWD
    if person.box[2] <= 0 or person.box[3] <= 0:
        return NO_BOX
    if not person.labelled.any():
        return NO_KEYPOINT
    return None
