"""Preprocessing: from an image to the network's input.

Training, evaluation, calibration, the runners, the manifest and the C header share one object.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError

if TYPE_CHECKING:
    import torch

SAMPLINGS = ("nearest", "bilinear")
LARGEST = 2048
"""Maximum input side. A few hundred pixels are usual; larger claims would exhaust the memory."""


@dataclass(frozen=True)
class Preprocessing:
    """Stretch to a square, RGB bytes, then `value / divisor - shift`.

    Attributes:
        size: Side S of the square input in pixels, a multiple of 32.
        sampling: "nearest" (the published protocol, half-pixel centres, no antialias) or "bilinear"
            (antialiased).
        divisor: Bytes are divided by it, > 0.
        shift: Subtracted afterwards; 127.5 and 1 give [-1, 1], as for MoveNet.

    Raises:
        HeatposeError: A value is out of its range.
    """

    size: int
    sampling: str = "nearest"
    divisor: float = 127.5
    shift: float = 1.0

    def __post_init__(self) -> None:
        check_resolution(self.size)
        if self.sampling not in SAMPLINGS:
            raise HeatposeError(
                f"Sampling '{self.sampling}' is unknown; choose one of {', '.join(SAMPLINGS)}."
            )
        if (
            not all(
                isinstance(value, int | float) and math.isfinite(value)
                for value in (self.divisor, self.shift)
            )
            or self.divisor <= 0
        ):
            raise HeatposeError(
                f"Preprocessing needs a finite divisor > 0 and a finite shift, got {self.divisor} "
                f"and {self.shift}; MoveNet's are 127.5 and 1."
            )

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Stretches an image u8[H, W, 3] to u8[S, S, 3].

        Nearest is `nearest_indices` along both axes. Bilinear is Pillow's, which is antialiased.
        """
        if self.sampling == "nearest":
            rows, columns = (nearest_indices(side, self.size) for side in image.shape[:2])
            # twice as fast as indexing both axes at once
            return np.ascontiguousarray(image).take(rows, 0).take(columns, 1)
        from PIL import Image

        return np.asarray(
            Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BILINEAR)
        )

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Normalises u8[B, 3, S, S] RGB in 0..255 to the network's input f32[B, 3, S, S]."""
        return images.float() / self.divisor - self.shift

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Preprocessing(**d)` is the inverse."""
        return asdict(self)


def nearest_indices(source: int, target: int) -> NDArray[np.intp]:
    """Source pixels i64[target]: floor((dst + 0.5) * source / target), in integers.

    The published protocol is exactly this. Pillow's NEAREST differs: if (dst + 0.5) * source /
    target is an integer, rounding in its running sum can select the pixel before (37 of 192 columns
    of a 640-wide image), which changes the OKS by 0.2 to 0.4 points.
    """
    return ((2 * np.arange(target) + 1) * source) // (2 * target)


def check_resolution(size: int) -> None:
    """Requires an input side that is divisible by the network's largest stride.

    Raises:
        HeatposeError: `size` is not a positive multiple of 32, or larger than `LARGEST`.
    """
    # values of the command line may have any type
    if not isinstance(size, int) or size <= 0 or size % 32:
        raise HeatposeError(
            f"Resolution {size} is not a positive multiple of 32; use for example 192, 224 or 256."
        )
    if size > LARGEST:
        raise HeatposeError(
            f"Resolution {size} is beyond {LARGEST}, the largest that is supported; use for example"
            " 192, 224 or 256."
        )
