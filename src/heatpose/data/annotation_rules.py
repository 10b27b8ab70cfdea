"""Checks of the annotations of a COCO keypoint JSON.

Missing values are filled in and counted. Values without a clear meaning are refused. Plausibility
is checked over the whole file: numbers are refused if another convention (fractions, corners,
centres, y before x) explains them better than COCO's.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError

NO_BBOX = "box made from the keypoints"
NO_AREA = "area taken from the box"
NO_KEYPOINTS = "annotation without keypoints, taken as a person with none labelled"
CORNER = "keypoint labelled at (0, 0) or before it, taken as not labelled"
MARGIN = 0.1
"""Margin of a box made from keypoints, on each side, as a fraction of their longer extent."""

Numbers = NDArray[np.float64]
Entry = Mapping[str, Any]
"""An entry of a label file's `images` or `annotations`."""


def whole_number(value: Any) -> int | None:
    """The id that 3, 3.0 and "3" stand for; None for anything else."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*-?\d{1,18}\s*", value) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else None


@dataclass(frozen=True)
class _Reader:
    """Annotations of one file; `row` is an index in the list."""

    path: Path
    entries: Sequence[Entry]
    names: Sequence[str]
    images: Mapping[int, Entry]
    assumed: Counter[str]

    def where(self, row: int) -> str:
        entry = self.entries[row]
        number = entry["id"] if "id" in entry else f"number {row + 1} in the list"
        image_id = whole_number(entry.get("image_id"))
        image = {} if image_id is None else self.images.get(image_id, {})
        return (
            f"Label file '{self.path}', annotation {number} (image "
            f"{image.get('file_name', entry.get('image_id'))!r})"
        )

    def numbers(self, rows: Sequence[Any], length: int, mistake: Callable[[int], str]) -> Numbers:
        """f64[N, length], NaN for null; `mistake` makes the message for the first unusable row."""
        for row, values in enumerate(rows):
            if not isinstance(values, list) or len(values) != length:
                raise HeatposeError(mistake(row))
        try:
            return np.array(rows, np.float64).reshape(len(rows), length)
        except (TypeError, ValueError, OverflowError) as error:
            odd = (row for row, values in enumerate(rows) if not _is_row(values))
            raise HeatposeError(mistake(next(odd, 0))) from error

    def ids(self) -> list[int]:
        """Annotation ids; negative numbers for annotations without one."""
        found: dict[int, int] = {}
        for row, entry in enumerate(self.entries):
            given = entry.get("id")
            number = -1 - row if given is None else whole_number(given)
            if number is None:
                raise HeatposeError(
                    f"{self.where(row)} has an id that is not a whole number; number the "
                    "annotations, or leave their ids out."
                )
            if number in found:
                raise HeatposeError(
                    f"{self.where(row)} has the id of another one, {self.where(found[number])}; "
                    "number the annotations anew, or leave their ids out."
                )
            found[number] = row
        return list(found)

    def image_ids(self) -> list[int]:
        found = []
        for row, entry in enumerate(self.entries):
            number = whole_number(entry.get("image_id"))
            if number is None or number not in self.images:
                raise HeatposeError(
                    f"{self.where(row)} belongs to image {entry.get('image_id')}, which the file "
                    "does not list."
                )
            found.append(number)
        return found

    def keypoints(self) -> Numbers:
        """f64[N, D, 3] x, y, v; zero if not labelled."""
        count = len(self.names)
        given = [entry.get("keypoints") for entry in self.entries]
        if not any(given):
            raise HeatposeError(
                f"{self.where(0)} has no keypoints, nor has any other; give the person_keypoints "
                "file, not the instances file."
            )
        self.assumed[NO_KEYPOINTS] += sum(
            not values and not entry.get("iscrowd")
            for values, entry in zip(given, self.entries, strict=True)
        )
        rows = [values or [0] * (3 * count) for values in given]

        def mistake(row: int) -> str:
            found = len(rows[row]) if isinstance(rows[row], list | str) else rows[row]
            return (
                f"{self.where(row)} has {found} keypoint numbers, but its category names {count} "
                "keypoints (three finite numbers each: x, y, v)."
            )

        values = self.numbers(rows, 3 * count, mistake).reshape(len(rows), count, 3)
        values[np.isnan(values).all(-1)] = 0
        self._check_visibility(values)
        values[values[..., 2] == 0] = 0
        corner = (values[..., 2] > 0) & (values[..., :2] <= 0).all(-1)
        self.assumed[CORNER] += int(corner.sum())
        values[corner] = 0
        return values

    def _check_visibility(self, values: Numbers) -> None:
        for row, k in np.argwhere(~np.isin(values[..., 2], (0, 1, 2)))[:1]:
            raise HeatposeError(
                f"{self.where(row)} has the visibility {values[row, k, 2]:g} for '{self.names[k]}',"
                " which must be 0 (not labelled), 1 (hidden) or 2 (visible); in place of"
                " confidences, write 2 for keypoints to be trusted and 0 for all others."
            )
        lost = ~np.isfinite(values[..., :2]).all(-1) & (values[..., 2] > 0)
        for row, k in np.argwhere(lost)[:1]:
            raise HeatposeError(
                f"{self.where(row)} has no coordinates for '{self.names[k]}', which is labelled; "
                "give three finite numbers, or 0, 0, 0 for a keypoint that is not labelled."
            )

    def boxes(self, keypoints: Numbers, sizes: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
        """f64[N, 4] x, y, width, height, and bool[N] true if the file gives the box."""
        rows = [entry.get("bbox") or [0, 0, 0, 0] for entry in self.entries]

        def mistake(row: int) -> str:
            return f"{self.where(row)} has no usable box; 'bbox' must be four finite numbers."

        boxes = self.numbers(rows, 4, mistake)
        for row in np.flatnonzero(~np.isfinite(boxes).all(1))[:1]:
            raise HeatposeError(mistake(int(row)))
        given = boxes.any(1)
        for row in np.flatnonzero(~given):
            points = keypoints[row, keypoints[row, :, 2] > 0, :2]
            if len(points):
                boxes[row] = _box_around(points, sizes[row])
                self.assumed[NO_BBOX] += 1
        return boxes, given

    def areas(self, boxes: Numbers) -> list[float]:
        """Areas of the segmentations in square pixels; of the boxes if missing."""
        found = []
        for row, entry in enumerate(self.entries):
            area = entry.get("area") or 0
            try:
                usable = math.isfinite(float(area)) and float(area) >= 0
            except (TypeError, ValueError, OverflowError):
                usable = False
            if not usable:
                raise HeatposeError(
                    f"{self.where(row)} has no usable area: {area!r}; leave 'area' out for the"
                    " box's."
                )
            self.assumed[NO_AREA] += not float(area)
            found.append(float(area) or float(boxes[row, 2] * boxes[row, 3]))
        return found


def _is_row(values: list[Any]) -> bool:
    try:
        return np.array(values, np.float64).ndim == 1
    except (TypeError, ValueError, OverflowError):
        return False


def _box_around(points: Numbers, size: Numbers) -> Numbers:
    low, high = points.min(0), points.max(0)
    margin = MARGIN * (high - low).max()
    low, high = np.maximum(low - margin, 0), np.minimum(high + margin, size)
    return np.concatenate([low, np.maximum(high - low, 0)])


def read_annotations(
    path: Path,
    entries: Sequence[Entry],
    names: Sequence[str],
    images: Mapping[int, Entry],
    assumed: Counter[str],
) -> list[dict[str, Any]]:
    """Checks annotations and fills in missing values; keeps the order of the file.

    Args:
        path: The label file, for messages.
        entries: The file's annotations of persons.
        names: D keypoint names.
        images: From `images_by_id`.
        assumed: Counter of what was filled in, corrected or ignored.

    Returns:
        Each has `id`, `image_id`, `keypoints` f64[3 D] (0, 0, 0 if not labelled), `bbox` (x, y,
        width, height, clipped to the image), `area` and `iscrowd`.

    Raises:
        HeatposeError: There is no annotation, or one has no clear meaning.
    """
    if not entries:
        raise HeatposeError(
            f"Label file '{path}' has no person annotation; there is nothing to train on or to "
            "score."
        )
    reader = _Reader(path, entries, names, images, assumed)
    ids, image_ids, keypoints = reader.ids(), reader.image_ids(), reader.keypoints()
    sizes = np.array([(images[i]["width"], images[i]["height"]) for i in image_ids], np.float64)
    boxes, given = reader.boxes(keypoints, sizes)
    crowd = np.array([entry.get("iscrowd") not in (None, 0, "0", "", "false") for entry in entries])
    labelled = Labelled(sizes, keypoints, boxes, given & ~crowd)
    check_plausible(labelled, reader.where)
    boxes = clip_boxes(labelled, assumed)
    areas = reader.areas(boxes)
    columns = zip(ids, image_ids, keypoints.reshape(len(ids), -1), boxes, areas, crowd, strict=True)
    return [
        {
            "id": number,
            "image_id": image,
            "keypoints": points,
            "bbox": box.tolist(),
            "area": area,
            "iscrowd": bool(is_crowd),
        }
        for number, image, points, box, area, is_crowd in columns
    ]


CLIPPED = "box clipped at the image's border"
OUTSIDE = "labelled keypoint outside its image, kept"
ROUNDING = 1.0
"""Tolerance in pixels for boxes and keypoints beyond the image: tools count from 0 or from 1."""
FAR = 0.1
"""Fraction of a box's side outside the image from which on it reaches far beyond it."""
MANY = 0.2
"""Fraction of a file's boxes or keypoints above which a mistake is systematic."""
SMALLEST = 16
"""Minimum image side in pixels for which fractions can be distinguished from pixels."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Labelled:
    """N annotations as arrays.

    Attributes:
        sizes: f64[N, 2] width and height of the images.
        keypoints: f64[N, D, 3] x, y in pixels, visibility; zero if not labelled.
        boxes: f64[N, 4] x, y, width, height.
        boxed: bool[N] true if the file gives the box of a single instance.
    """

    sizes: Numbers
    keypoints: Numbers
    boxes: Numbers
    boxed: Flags

    @property
    def seen(self) -> Flags:
        """bool[N, D] true if labelled."""
        return np.asarray(self.keypoints[..., 2] > 0)

    @property
    def points(self) -> Numbers:
        """f64[N, D, 2]."""
        return self.keypoints[..., :2]

    @property
    def real(self) -> Flags:
        """bool[N] true for boxes of the file with a width and a height."""
        return np.asarray(self.boxed & (self.boxes[:, 2:] > 0).all(1))


def check_plausible(labels: Labelled, where: Callable[[int], str]) -> None:
    """Refuses numbers that follow another convention than COCO's.

    Args:
        labels: A file's annotations.
        where: Row -> name of the annotation in a message.

    Raises:
        HeatposeError: Coordinates are fractions, boxes are corners or centres, or x and y are
            exchanged; boxes or keypoints reach beyond their images.
    """
    with np.errstate(all="ignore"):
        for check in (_fractions, _corners, _other_reading, _beyond):
            check(labels, where)


def clip_boxes(labels: Labelled, assumed: Counter[str]) -> Numbers:
    """Clips boxes to their images.

    Args:
        labels: N annotations.
        assumed: Counter of clipped boxes and of keypoints outside their image.

    Returns:
        f64[N, 4] x, y, width, height.
    """
    over = labels.real & (_overhang(labels.boxes, labels.sizes) > ROUNDING).any(1)
    assumed[CLIPPED] += int(over.sum())
    assumed[OUTSIDE] += int(_outside(labels).sum())
    boxes = labels.boxes.copy()
    boxes[over] = _on_image(labels.boxes, labels.sizes)[over]
    return boxes


def _refuse(rows: NDArray[np.intp], where: Callable[[int], str], message: str) -> None:
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    raise HeatposeError(f"{where(int(rows[0]))}{more}: {message}")


def _shown(labels: Labelled, row: int) -> str:
    box = ", ".join(f"{value:g}" for value in labels.boxes[row].round(2))
    width, height = labels.sizes[row]
    return f"[{box}] on {width:g}x{height:g}"


def _fractions(labels: Labelled, where: Callable[[int], str]) -> None:
    """Refuses coordinates that are fractions of the image's sides."""
    small = labels.sizes.min(1) < SMALLEST
    count = labels.seen.sum(1)
    unit = (((labels.points <= 1) & (labels.points >= 0)).all(-1) | ~labels.seen).all(1)
    unit &= (count > 0) & ~small
    rows = np.flatnonzero(unit & ((count >= 3) | unit[count > 0].all()))
    if len(rows):
        _refuse(
            rows,
            where,
            "keypoint coordinates are all between 0 and 1; give pixels, x times the image's width"
            " and y times its height.",
        )
    unit = labels.real & (np.abs(labels.boxes) <= 1).all(1) & ~small
    if unit.any():
        _refuse(
            np.flatnonzero(unit),
            where,
            "'bbox' is all between 0 and 1; give pixels: x and width times the image's width, y and"
            " height times its height.",
        )


def _corners(labels: Labelled, where: Callable[[int], str]) -> None:
    """Refuses boxes given as two corners, x, y, x, y."""
    low, high = labels.boxes[:, :2], labels.boxes[:, 2:]
    far = _overhang(labels.boxes, labels.sizes) > np.maximum(2, FAR * high)
    fits = (
        (high > low).all(1) & (high <= labels.sizes + ROUNDING).all(1) & (low >= -ROUNDING).all(1)
    )
    rest = np.concatenate([low, high - low], 1)
    inside = (_within(labels, rest) | ~labels.seen).all(1)
    rows = np.flatnonzero(labels.real & far.any(1) & fits & inside)
    if len(rows):
        _refuse(
            rows,
            where,
            f"boxes reach beyond the image ({_shown(labels, int(rows[0]))}) and look like two "
            "corners; 'bbox' must be x, y, width, height: subtract x and y from the other two.",
        )


def _beyond(labels: Labelled, where: Callable[[int], str]) -> None:
    """Refuses boxes and keypoints outside their images."""
    left = _on_image(labels.boxes, labels.sizes)[:, 2:].prod(1) / labels.boxes[:, 2:].prod(1)
    gone, partly = labels.real & (left <= 0), labels.real & (left < 0.75)
    if gone.any() or partly.sum() > MANY * labels.real.sum():
        rows = np.flatnonzero(gone if gone.any() else partly)
        _refuse(
            rows,
            where,
            f"boxes reach beyond the image ({_shown(labels, int(rows[0]))}); 'bbox' must be x, y,"
            " width, height in pixels of that image: correct it, or leave it out to have it made"
            " from the keypoints.",
        )
    outside = _outside(labels)
    if outside.sum() > MANY * labels.seen.sum():
        _refuse(
            np.flatnonzero(outside.any(1)),
            where,
            "keypoints lie outside the image; give pixels of the image whose width and height the "
            "file has.",
        )


def _other_reading(labels: Labelled, where: Callable[[int], str]) -> None:
    """Refuses boxes that contain their keypoints only by another convention."""
    seen = labels.seen & labels.real[:, None]
    if not seen.any() or _within(labels, labels.boxes)[seen].mean() >= 0.5:
        return
    shifted = labels.boxes - np.pad(labels.boxes[:, 2:] / 2, ((0, 0), (0, 2)))
    swapped = Labelled(labels.sizes, labels.keypoints[..., [1, 0, 2]], labels.boxes, labels.boxed)
    readings = (
        (
            labels,
            shifted,
            (
                "the first two numbers of 'bbox' look like its centre; subtract half of "
                "the width and height from them."
            ),
        ),
        (swapped, labels.boxes, "x and y of the keypoints look exchanged; write x, y, v."),
    )
    for read, boxes, message in readings:
        if _within(read, boxes)[seen].mean() > 0.9:
            out = np.flatnonzero((seen & ~_within(labels, labels.boxes)).any(1))
            _refuse(out, where, f"boxes do not hold their keypoints, and {message}")


def _overhang(boxes: Numbers, sizes: Numbers) -> Numbers:
    """f64[N, 2] pixels outside the image along x and y."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    return np.maximum(np.maximum(-low, high - sizes), 0)


def _on_image(boxes: Numbers, sizes: Numbers) -> Numbers:
    low = np.clip(boxes[:, :2], 0, sizes)
    high = np.clip(boxes[:, :2] + boxes[:, 2:], 0, sizes)
    return np.concatenate([low, np.maximum(high - low, 0)], 1)


def _outside(labels: Labelled) -> Flags:
    """bool[N, D] true for labelled keypoints outside their image."""
    beside = (labels.points < -ROUNDING) | (labels.points > labels.sizes[:, None] + ROUNDING)
    return np.asarray(labels.seen & beside.any(-1))


def _within(labels: Labelled, boxes: Numbers) -> Flags:
    """bool[N, D] true for keypoints in the boxes, enlarged by a tenth on each side."""
    margin = FAR * boxes[:, None, 2:] + ROUNDING
    low, high = boxes[:, None, :2], boxes[:, None, :2] + boxes[:, None, 2:]
    return np.asarray(((labels.points >= low - margin) & (labels.points <= high + margin)).all(-1))
