"""Coordinate transforms and sampling. Only this module and `codec` compute with pixel centres.

Points are (x, y) in a *continuous* frame: pixel i covers [i, i+1), so its centre is i + 0.5 and an
image of width w spans [0, w]. COCO's labels are read in this frame without an offset, and
normalised by the image's width and height. The published benchmark does the same, and models are
trained and scored in this frame.

Transforms are 2x3 matrices `M` acting on columns (x, y, 1). "Input" means the network's square
input of side S.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Matrix = NDArray[np.float64]
ON_EDGE = 1e-3
"""Tolerance in pixels below a pixel's edge, for float32 rounding."""


def stretch(width: float, height: float, size: int) -> Matrix:
    """Image -> input, f64[2, 3]: stretches the image of width x height pixels to the square."""
    return region((0.0, 0.0, width, height), size)


def region(box: tuple[float, float, float, float], size: int) -> Matrix:
    """Image -> input, f64[2, 3]: maps a rectangle to the square of side `size`.

    Args:
        box: (x, y, w, h) in image pixels; may extend beyond the image.
        size: S.
    """
    x, y, width, height = box
    return np.array(
        [[size / width, 0.0, -x * size / width], [0.0, size / height, -y * size / height]]
    )


def rotation_scale(degrees: float, scale: float, centre: tuple[float, float]) -> Matrix:
    """Rotates by `degrees` (x towards y) and scales about `centre` (x, y): f64[2, 3]."""
    angle = np.deg2rad(degrees)
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    cx, cy = centre
    return np.array([[a, -b, cx - a * cx + b * cy], [b, a, cy - b * cx - a * cy]])


def mirror(size: float) -> Matrix:
    """Mirrors a frame of width `size`, x -> size - x: f64[2, 3]."""
    return np.array([[-1.0, 0.0, size], [0.0, 1.0, 0.0]])


def compose(*transforms: Matrix) -> Matrix:
    """The transform f64[2, 3] that applies the given ones from left to right."""
    result = np.eye(2, 3)
    for transform in transforms:
        # In Python floats, as in `invert`: it runs for every training sample, and numpy needs
        # microseconds per small product.
        (a, b, c), (d, e, f) = transform.tolist()
        (g, h, i), (j, k, m) = result.tolist()
        result = np.array(
            [
                [a * g + b * j, a * h + b * k, a * i + b * m + c],
                [d * g + e * j, d * h + e * k, d * i + e * m + f],
            ]
        )
    return result


def invert(transform: Matrix) -> Matrix:
    """The inverse f64[2, 3] of an invertible transform."""
    (a, b, c), (d, e, f) = transform.tolist()
    determinant = a * e - b * d
    a, b, d, e = e / determinant, -b / determinant, -d / determinant, a / determinant
    return np.array([[a, b, -a * c - b * f], [d, e, -d * c - e * f]])


def apply(transform: Matrix, points: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Transforms points f[..., 2] (x, y): f32[..., 2] in the transform's target frame."""
    moved: NDArray[np.float64] = points.astype(np.float64) @ transform[:, :2].T + transform[:, 2]
    return moved.astype(np.float32)


def warp(
    image: NDArray[np.uint8], transform: Matrix, size: int, sampling: str = "nearest", fill: int = 0
) -> NDArray[np.uint8]:
    """Samples the input square from an image.

    Nearest takes source pixel floor(M^-1 (dst + 0.5)); bilinear interpolates between pixel centres
    at the same position, without antialiasing: the frame of Pillow's `Image.transform`. For
    training only: samples exactly on a pixel's edge depend on Pillow's rounding. The benchmark's
    exact stretch is `Preprocessing.resize`.

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

    resample = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}[
        sampling
    ]
    coefficients = invert(transform).reshape(-1).tolist()
    warped = Image.fromarray(image).transform(
        (size, size),
        Image.Transform.AFFINE,
        coefficients,
        resample=resample,
        fillcolor=(fill, fill, fill),
    )
    return np.asarray(warped)


def warp_batch(
    canvas: torch.Tensor, inverse: torch.Tensor, nearest: torch.Tensor | bool, size: int
) -> torch.Tensor:
    """Samples a batch of input squares on the device of `canvas`.

    The frame is that of `warp`, but for a sample exactly on a pixel's edge nearest takes the pixel
    behind it, which for a stretched whole image is `preprocessing.nearest_indices`, the published
    protocol. Both samplings are one bilinear sampling, with nearest's positions moved to the
    centres of their pixels. The outside is black, and bilinear fades to it over half a pixel.

    Args:
        canvas: u8[B, H, W, 3], each image in the upper left corner, padded with 0.
        inverse: f32[B, 2, 3] input pixels -> canvas pixels.
        nearest: bool[B], else bilinear; a single bool applies to all and is faster.
        size: Side S of the result.

    Returns:
        u8[B, 3, S, S].
    """
    import torch
    from torch.nn import functional

    at = torch.arange(size, device=canvas.device, dtype=torch.float32) + 0.5
    places = canvas.new_empty((len(canvas), size, size, 2), dtype=torch.float32)
    for axis, side in ((0, canvas.shape[2]), (1, canvas.shape[1])):
        x, y, origin = (value[:, None] for value in inverse[:, axis].unbind(-1))
        across, down = x * at, y * at + origin
        if nearest is False:
            torch.add(
                across[:, None] * (2 / side),
                (down * (2 / side) - 1)[:, :, None],
                out=places[..., axis],
            )
            continue
        place = across[:, None] + down[:, :, None]
        snapped = (place + ON_EDGE).floor_().add_(0.5)
        if not isinstance(nearest, bool):
            snapped = torch.where(nearest[:, None, None], snapped, place)
        torch.sub(snapped * (2 / side), 1, out=places[..., axis])
    pixels = canvas.permute(0, 3, 1, 2).float()
    sampled = functional.grid_sample(
        pixels, places, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.round_().to(torch.uint8)


def warp_one(
    pixels: NDArray[np.uint8],
    inverse: Matrix,
    nearest: bool,
    size: int,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """`warp_batch` for one image, optimised for the CPU.

    Without a rotation, nearest indexes rows and columns; otherwise OpenCV is used, which rounds
    positions to 1/32 pixel, a difference of a few values in 255. `warp_batch` is used if OpenCV is
    not installed.

    Args:
        pixels: u8[H, W, 3].
        inverse: Input pixels -> image pixels.
        nearest: Nearest sampling, else bilinear.
        size: Side S of the result.
        out: Takes the result, u8[S, S, 3], contiguous; a new array if None.

    Returns:
        u8[S, S, 3].
    """
    square = np.empty((size, size, 3), np.uint8) if out is None else out
    if nearest and not inverse[0, 1] and not inverse[1, 0]:
        _rows_and_columns(pixels, inverse, square)
    elif (opencv := _opencv()) is None:
        import torch

        warped = warp_batch(
            torch.from_numpy(pixels.copy())[None],
            torch.from_numpy(inverse).float()[None],
            nearest,
            size,
        )[0]
        square[:] = warped.permute(1, 2, 0).numpy()
    else:
        centred = inverse.copy()  # OpenCV's frames begin at pixel centres
        centred[:, 2] += (inverse[:, 0] + inverse[:, 1]) / 2 - 0.5 + (ON_EDGE if nearest else 0)
        flags = opencv.WARP_INVERSE_MAP | (opencv.INTER_NEAREST if nearest else opencv.INTER_LINEAR)
        opencv.warpAffine(pixels, centred, (size, size), dst=square, flags=flags)
    return square


def _rows_and_columns(
    pixels: NDArray[np.uint8], inverse: Matrix, square: NDArray[np.uint8]
) -> None:
    at = np.arange(len(square)) + 0.5
    (scale_x, _, x), (_, scale_y, y) = inverse + [[0, 0, ON_EDGE]]
    columns, rows = (
        np.floor(at * scale_x + x).astype(np.intp),
        np.floor(at * scale_y + y).astype(np.intp),
    )
    pixels.take(rows, 0, mode="clip").take(columns, 1, out=square, mode="clip")
    square[(rows < 0) | (rows >= pixels.shape[0])] = 0
    square[:, (columns < 0) | (columns >= pixels.shape[1])] = 0


@cache
def _opencv() -> Any:
    """The module cv2; None if it is not installed or its system libraries are missing."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2
