"""Coordinates: the one place, with `codec.py`, that knows about pixels and their centres.

Points are (x, y) in a *continuous* frame: pixel i covers [i, i+1), so its centre is i + 0.5 and an image of width w spans [0, w].
COCO's label numbers are read as they are in this frame, and normalised by dividing by the image's width and height: that is what the
published benchmark does, and a model is trained and scored in the same frame.

Transforms are 2x3 matrices `M` acting on columns (x, y, 1). "Input" means the network's square input of side S.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def stretch(width: float, height: float, size: int) -> Matrix:
    """Image -> input by stretching the whole image onto the square, as the benchmark does."""
    return region((0.0, 0.0, width, height), size)


def region(box: tuple[float, float, float, float], size: int) -> Matrix:
    """Maps the rectangle `box` = (x, y, w, h) of the image onto the whole input square of side `size`."""
    x, y, width, height = box
    return np.array([[size / width, 0.0, -x * size / width], [0.0, size / height, -y * size / height]])


def rotation_scale(degrees: float, scale: float, centre: tuple[float, float]) -> Matrix:
    """Rotates by `degrees` (x towards y) and scales about `centre`."""
    angle = np.deg2rad(degrees)
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    cx, cy = centre
    return np.array([[a, -b, cx - a * cx + b * cy], [b, a, cy - b * cx - a * cy]])


def mirror(size: float) -> Matrix:
    """Left/right mirror of a frame of width `size`: x -> size - x."""
    return np.array([[-1.0, 0.0, size], [0.0, 1.0, 0.0]])


def compose(*transforms: Matrix) -> Matrix:
    """One transform that applies the given ones from left to right."""
    result = np.eye(3)
    for transform in transforms:
        result = np.vstack([transform, [0.0, 0.0, 1.0]]) @ result
    return result[:2]


def invert(transform: Matrix) -> Matrix:
    """The inverse transform."""
    inverse: Matrix = np.linalg.inv(np.vstack([transform, [0.0, 0.0, 1.0]]))[:2]
    return inverse


def apply(transform: Matrix, points: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Moves points [..., 2]; returns f32[..., 2]."""
    moved: NDArray[np.float64] = points.astype(np.float64) @ transform[:, :2].T + transform[:, 2]
    return moved.astype(np.float32)


def warp(image: NDArray[np.uint8], transform: Matrix, size: int, sampling: str = "nearest", fill: int = 0) -> NDArray[np.uint8]:
    """Samples the input square out of an image in one step.

    Nearest takes source pixel floor(M^-1 (dst + 0.5)); bilinear interpolates between pixel centres at the same place, without antialiasing:
    the frame of Pillow's `Image.transform`. For training only: where a sample falls exactly on a pixel's edge Pillow's rounding decides, and the
    benchmark's exact stretch is `Preprocessing.resize`.

    Args:
        image: u8[H, W, 3].
        transform: Image -> input.
        size: Side S of the result.
        sampling: "nearest" or "bilinear".
        fill: Value outside the image.

    Returns:
        u8[S, S, 3].
    """
    from PIL import Image

    resample = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}[sampling]
    coefficients = invert(transform).reshape(-1).tolist()
    warped = Image.fromarray(image).transform(
        (size, size), Image.Transform.AFFINE, coefficients, resample=resample, fillcolor=(fill, fill, fill)
    )
    return np.asarray(warped)
