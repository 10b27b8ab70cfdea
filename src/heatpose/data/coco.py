"""COCO keypoint json -> labelled people, with an account of what was dropped and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data import formats
from heatpose.data.annotation_rules import read_annotations
from heatpose.data.audit import Audit
from heatpose.data.formats.base import LabelSet
from heatpose.data.label_rules import annotations_with_keypoints, images_by_id
from heatpose.data.orientation import read_orientations
from heatpose.data.sample import Person
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import Skeleton

CROWD = "crowd annotation"
NO_BOX = "box without width or height"
NO_KEYPOINT = "no labelled keypoint of this skeleton"
SEVERAL = "more than one person annotation on the image"


@dataclass(frozen=True)
class CocoLabels:
    """A COCO keypoint label file, checked.

    Attributes:
        path: Where it was read.
        keypoint_names: The dataset's D keypoint names, from its person category.
        images: Image id -> entry with `file_name`, `width`, `height`.
        annotations: Person annotations, in file order, from `read_annotations`.
        assumed: What was filled in, corrected or ignored -> how often.
        source: Format, image folder, and what was assumed and left out when it was read.
    """

    path: Path
    keypoint_names: list[str]
    images: Mapping[int, Mapping[str, Any]]
    annotations: Sequence[Mapping[str, Any]]
    source: LabelSet
    assumed: Mapping[str, int] = field(default_factory=dict)


def read_labels(path: str | Path, folder: Path | None = None, part: str = "val") -> CocoLabels:
    """Reads and checks a COCO keypoint json, or what else `heatpose.data.formats` reads as one.

    Args:
        path: Label file, or folder of label files.
        folder: Of the images; found from the labels, if None.
        part: "train" or "val", where the path describes several.

    Raises:
        HeatposeError: The file is missing, no json, or no keypoint annotations with a clear
            meaning.
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
            f"Label file '{path}' is not in COCO keypoint form ({type(error).__name__}: {error}); "
            "give a COCO keypoint json."
        ) from error
    return CocoLabels(path, names, images, annotations, source, +assumed)


def instances(
    labels: CocoLabels, images: str | Path, skeleton: Skeleton
) -> tuple[list[Person], Audit]:
    """Every usable person of a label file.

    No crowd, a real box, at least one labelled keypoint of the skeleton.

    Args:
        labels: From `read_labels`.
        images: Folder of the image files.
        skeleton: What the keypoints are turned into.

    Returns:
        The people in file order, and the audit.

    Raises:
        HeatposeError: As `orientation.read_orientations`.
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
        if reason := _why_not(annotation, person):
            audit.drop(reason, person.image_id)
        else:
            kept.append(person)
    audit.kept = len(kept)
    kept, audit.readings = read_orientations(kept, labels.path)
    return kept, audit


def benchmark_instances(
    labels: CocoLabels, images: str | Path, skeleton: Skeleton
) -> tuple[list[Person], Audit]:
    """The published single-person selection.

    Images with exactly one person annotation (a crowd counts as one and is not usable), a real box
    and at least one labelled keypoint.

    Raises:
        HeatposeError: No image qualifies.
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


def _why_not(annotation: Mapping[str, Any], person: Person) -> str | None:
    if annotation["iscrowd"]:
        return CROWD
    if person.box[2] <= 0 or person.box[3] <= 0:
        return NO_BOX
    if not person.labelled.any():
        return NO_KEYPOINT
    return None
