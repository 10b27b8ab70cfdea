"""Do numbers of the right shape mean what they should? Judged by evidence, over a whole label file.

Each check has a reading of the numbers that explains them better than the one of COCO.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError

CLIPPED = "box clipped at the image's border"
OUTSIDE = "labelled keypoint outside its image, kept"
ROUNDING = 1.0
"""Pixels that a box or keypoint may reach beyond its image without a word.

Tools count from 0 or from 1.
"""
FAR = 0.1
"""A box reaches far beyond its image where this share of its side lies outside."""
MANY = 0.2
"""Share of a file's boxes or keypoints above which a mistake is not a single one."""
SMALLEST = 16
"""Images with a shorter side are too small to tell pixels from fractions."""

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Labelled:
    """N annotations as arrays.

    Attributes:
        sizes: f64[N, 2] width and height of the images.
        keypoints: f64[N, D, 3] x, y, v in pixels; zero where not labelled.
        boxes: f64[N, 4] x, y, width, height.
        boxed: bool[N] true where the file gives a box of one person.
    """

    sizes: Numbers
    keypoints: Numbers
    boxes: Numbers
    boxed: Flags

    @property
    def seen(self) -> Flags:
        """bool[N, D] true where labelled."""
        return np.asarray(self.keypoints[..., 2] > 0)

    @property
    def points(self) -> Numbers:
        """f64[N, D, 2]."""
        return self.keypoints[..., :2]

    @property
    def real(self) -> Flags:
        """bool[N] boxes of the file that have a width and a height."""
        return np.asarray(self.boxed & (self.boxes[:, 2:] > 0).all(1))


def check_plausible(labels: Labelled, where: Callable[[int], str]) -> None:
    """Refuses numbers that mean something else.

    Args:
        labels: A file's annotations.
        where: Row -> what an annotation is called in a sentence.

    Raises:
        HeatposeError: Coordinates are fractions, boxes are corners or centres, or x and y are
            exchanged; boxes or keypoints reach beyond their images.
    """
    with np.errstate(all="ignore"):
        for check in (_fractions, _corners, _other_reading, _beyond):
            check(labels, where)


def clip_boxes(labels: Labelled, assumed: Counter[str]) -> Numbers:
    """f64[N, 4] boxes as far as they lie on their images.

    Counts those that do not lie there entirely.
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


def _numbers(labels: Labelled, row: int) -> str:
    box = ", ".join(f"{value:g}" for value in labels.boxes[row].round(2))
    width, height = labels.sizes[row]
    return f"[{box}] on {width:g}x{height:g}"


def _fractions(labels: Labelled, where: Callable[[int], str]) -> None:
    """Coordinates of the image's sides instead of pixels."""
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
    """Two corners, x, y, x, y, instead of a corner and sides."""
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
            f"boxes reach beyond the image ({_numbers(labels, int(rows[0]))}) and look like two "
            "corners; 'bbox' must be x, y, width, height: subtract x and y from the other two.",
        )


def _beyond(labels: Labelled, where: Callable[[int], str]) -> None:
    """Boxes and keypoints beside their images."""
    left = _on_image(labels.boxes, labels.sizes)[:, 2:].prod(1) / labels.boxes[:, 2:].prod(1)
    gone, partly = labels.real & (left <= 0), labels.real & (left < 0.75)
    if gone.any() or partly.sum() > MANY * labels.real.sum():
        rows = np.flatnonzero(gone if gone.any() else partly)
        _refuse(
            rows,
            where,
            f"boxes reach beyond the image ({_numbers(labels, int(rows[0]))}); 'bbox' must be x, y,"
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
    """Boxes that do not hold their keypoints, but do so when they are read in another way."""
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
    """f64[N, 2] pixels across and down that lie outside the image."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    return np.maximum(np.maximum(-low, high - sizes), 0)


def _on_image(boxes: Numbers, sizes: Numbers) -> Numbers:
    low = np.clip(boxes[:, :2], 0, sizes)
    high = np.clip(boxes[:, :2] + boxes[:, 2:], 0, sizes)
    return np.concatenate([low, np.maximum(high - low, 0)], 1)


def _outside(labels: Labelled) -> Flags:
    """bool[N, D] labelled keypoints outside their image."""
    beside = (labels.points < -ROUNDING) | (labels.points > labels.sizes[:, None] + ROUNDING)
    return np.asarray(labels.seen & beside.any(-1))


def _within(labels: Labelled, boxes: Numbers) -> Flags:
    """bool[N, D] keypoints in the boxes, which are a tenth wider on each side."""
    margin = FAR * boxes[:, None, 2:] + ROUNDING
    low, high = boxes[:, None, :2], boxes[:, None, :2] + boxes[:, None, 2:]
    return np.asarray(((labels.points >= low - margin) & (labels.points <= high + margin)).all(-1))
