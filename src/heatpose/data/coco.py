"""COCO keypoint json -> labelled people, with an account of what was dropped and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data.orientation import Readings, read_orientations
from heatpose.data.sample import Person
from heatpose.errors import HeatposeError
from heatpose.skeleton import Skeleton

CROWD = "crowd annotation"
NO_BOX = "box without width or height"
NO_KEYPOINT = "no labelled keypoint of this skeleton"
SEVERAL = "more than one person annotation on the image"


@dataclass
class Audit:
    """What was read from a label file and what became of it.

    Attributes:
        images: Images in the file.
        annotations: Person annotations in the file.
        kept: People kept.
        dropped: Reason -> number of annotations.
        examples: Reason -> the first few image ids.
        readings: How the images with an orientation tag are read.
    """

    images: int = 0
    annotations: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[int]] = field(default_factory=dict)
    readings: Readings = field(default_factory=Readings)

    def drop(self, reason: str, image_id: int) -> None:
        """Counts one dropped annotation."""
        self.dropped[reason] += 1
        self.examples.setdefault(reason, [])
        if len(self.examples[reason]) < 5 and image_id not in self.examples[reason]:
            self.examples[reason].append(image_id)


@dataclass(frozen=True)
class CocoLabels:
    """A COCO keypoint label file, checked.

    Attributes:
        path: Where it was read.
        keypoint_names: The dataset's D keypoint names, from its person category.
        images: Image id -> entry with `file_name`, `width`, `height`.
        annotations: Person annotations, in file order.
    """

    path: Path
    keypoint_names: list[str]
    images: Mapping[int, Mapping[str, Any]]
    annotations: Sequence[Mapping[str, Any]]


def read_labels(path: str | Path) -> CocoLabels:
    """Reads and checks a COCO keypoint json.

    Raises:
        HeatposeError: The file is missing, no json, or has no keypoint annotations.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HeatposeError(f"Label file '{path}' cannot be read ({error.strerror}); give a COCO keypoint json.") from error
    except (ValueError, RecursionError) as error:
        raise HeatposeError(f"Label file '{path}' is no json ({error}); give a COCO keypoint json.") from error
    try:
        category = next((entry for entry in content["categories"] if entry.get("keypoints")), None)
        if category is None:
            raise HeatposeError(f"Label file '{path}' has no category with keypoints; give the person_keypoints file, not the instances file.")
        images = {int(entry["id"]): entry for entry in content["images"]}
        _check_images(path, images)
        people = [a for a in content["annotations"] if a["category_id"] == category["id"]]
        _check_annotations(path, people, len(category["keypoints"]), images)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise HeatposeError(f"Label file '{path}' is not in COCO keypoint form ({type(error).__name__}: {error}); give a COCO keypoint json.") from error
    return CocoLabels(path, [str(name) for name in category["keypoints"]], images, people)


def _check_images(path: Path, images: Mapping[int, Any]) -> None:
    for image_id, entry in images.items():
        if not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
            raise HeatposeError(f"Label file '{path}', image {image_id} has no file name.")
        if entry["file_name"].startswith("/") or ".." in entry["file_name"].replace("\\", "/").split("/"):
            raise HeatposeError(f"Label file '{path}', image {image_id} is outside the image folder: {entry['file_name']!r}; give names below that folder.")
        sides = [entry.get("width"), entry.get("height")]
        if not all(isinstance(side, int | float) and np.isfinite(side) and side >= 1 for side in sides):
            raise HeatposeError(f"Label file '{path}', image {image_id} has no usable width and height: {sides}.")


def _check_annotations(path: Path, people: list[Any], keypoints: int, images: Mapping[int, Any]) -> None:
    for annotation in people:
        where = f"Label file '{path}', annotation {annotation.get('id')}"
        values = annotation.get("keypoints")
        if values is None:
            raise HeatposeError(f"{where} has no keypoints; give the person_keypoints file, not the instances file.")
        if len(values) != 3 * keypoints or not np.isfinite(np.asarray(values, np.float64)).all():
            raise HeatposeError(f"{where} has {len(values)} keypoint numbers, but its category names {keypoints} keypoints (three finite numbers each).")
        if len(annotation["bbox"]) != 4 or not np.isfinite(np.asarray(annotation["bbox"], np.float64)).all():
            raise HeatposeError(f"{where} has no usable box; 'bbox' must be four finite numbers.")
        int(annotation.get("id", 0))
        if not np.isfinite(float(annotation.get("area") or 0)):
            raise HeatposeError(f"{where} has no usable area: {annotation['area']}.")
        if int(annotation["image_id"]) not in images:
            raise HeatposeError(f"{where} belongs to image {annotation['image_id']}, which the file does not list.")
    if not people:
        raise HeatposeError(f"Label file '{path}' has no person annotation; there is nothing to learn from or to score.")


def people(labels: CocoLabels, images: str | Path, skeleton: Skeleton) -> tuple[list[Person], Audit]:
    """Every usable person of a label file: no crowd, a real box, at least one labelled keypoint of the skeleton.

    Args:
        labels: From `read_labels`.
        images: Folder of the image files.
        skeleton: What the keypoints are turned into.

    Returns:
        The people in file order, and the audit.

    Raises:
        HeatposeError: As `orientation.read_orientations`.
    """
    audit = Audit(images=len(labels.images), annotations=len(labels.annotations))
    values = np.array([a["keypoints"] for a in labels.annotations], np.float32).reshape(len(labels.annotations), -1, 3)
    keypoints, labelled = skeleton.convert(values[..., :2], values[..., 2] >= 1, labels.keypoint_names)
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


def benchmark_people(labels: CocoLabels, images: str | Path, skeleton: Skeleton) -> tuple[list[Person], Audit]:
    """The published single-person selection.

    Images with exactly one person annotation (a crowd counts as one and is not usable), a real box and at least one labelled keypoint.

    Raises:
        HeatposeError: No image qualifies.
    """
    everyone, audit = people(labels, images, skeleton)
    kept = [person for person in everyone if person.alone]
    for person in everyone:
        if not person.alone:
            audit.drop(SEVERAL, person.image_id)
    audit.kept = len(kept)
    if not kept:
        raise HeatposeError(f"Label file '{labels.path}' has no image with exactly one labelled person; the benchmark cannot be scored on it.")
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
        image_path=folder / str(image["file_name"]), image_id=int(image["id"]), annotation_id=int(annotation.get("id", 0)),
        width=int(image["width"]), height=int(image["height"]), keypoints=keypoints, labelled=labelled,
        box=(x, y, w, h), area=float(annotation.get("area") or w * h), alone=not len(others), others=others,
    )  # fmt: skip


def _why_not(annotation: Mapping[str, Any], person: Person) -> str | None:
    if annotation.get("iscrowd"):
        return CROWD
    if person.box[2] <= 0 or person.box[3] <= 0:
        return NO_BOX
    if not person.labelled.any():
        return NO_KEYPOINT
    return None
