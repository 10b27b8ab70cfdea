"""The input of every runner: raw RGB images of the model's size. Shape legend: B batch, S input side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError


def check_images(images: NDArray[np.uint8], size: int) -> None:
    """Refuses what is not u8[B, S, S, 3] with B at least 1.

    Raises:
        ValueError: Another shape or dtype: a mistake of the calling code, not of the user.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images) or images.shape[1:] != (size, size, 3):
        raise ValueError(f"A runner takes u8[B, {size}, {size}, 3]; B at least 1; got {images.dtype}{list(images.shape)}.")


def check_size(path: Path, own: int, wanted: int | None) -> None:
    """Refuses another input side than the file's own.

    Raises:
        HeatposeError: `wanted` is given and is not `own`.
    """
    if wanted is not None and wanted != own:
        raise HeatposeError(f"'{path}' is made for {own}x{own} images and cannot run at {wanted}; export it again at that resolution.")
