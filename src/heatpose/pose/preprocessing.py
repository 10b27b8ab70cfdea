"""How an image becomes the network's input.

One object for training, evaluation, calibration, the TFLite runner and the C header.
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
"""Side of an input. Networks of this kind see no more than a few hundred pixels.

A file that claims more would only exhaust the memory.
"""


@dataclass(frozen=True)
class Preprocessing:
    """Stretch to a square, RGB bytes, then `value / divisor - shift`.

    Attributes:
        size: Side S of the square input in pixels, a multiple of 32.
        sampling: "nearest" (the published protocol, half-pixel centres, no antialias) or "bilinear"
            (antialiased).
        divisor: Bytes are divided by this.
        shift: ... and this is subtracted: 127.5 and 1 give [-1, 1], what MoveNet was trained with.
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
                f"Bytes divided by {self.divisor} less {self.shift} are no input; MoveNet's are"
                " 127.5 and 1."
            )

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Stretches u8[H, W, 3] to u8[S, S, 3].

        Nearest is `nearest_indices` along both axes. Bilinear is Pillow's, which widens its filter
        when shrinking.
        """
        if self.sampling == "nearest":
            rows, columns = (nearest_indices(side, self.size) for side in image.shape[:2])
            # half the time of indexing both at once
            return np.ascontiguousarray(image).take(rows, 0).take(columns, 1)
        from PIL import Image

        return np.asarray(
            Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BILINEAR)
        )

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """u8[B, 3, S, S] bytes 0..255 -> f32[B, 3, S, S] as the network takes it."""
        return images.float() / self.divisor - self.shift

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Preprocessing(**d)` reads them back."""
        return asdict(self)


def nearest_indices(source: int, target: int) -> NDArray[np.intp]:
    """Source pixel of each of `target` pixels: floor((dst + 0.5) * source / target), in integers.

    The published protocol means exactly this. Pillow's NEAREST is not it: where (dst + 0.5) *
    source / target is a whole number, rounding in its running sum takes the pixel before (37 of 192
    columns of a 640-wide image), worth 0.2 to 0.4 points of OKS.
    """
    return ((2 * np.arange(target) + 1) * source) // (2 * target)


def check_resolution(size: int) -> None:
    """Refuses a side that the network's five halvings do not divide.

    Raises:
        HeatposeError: `size` is not a positive multiple of 32, or larger than `LARGEST`.
    """
    # what a command line gives may be of any type
    if not isinstance(size, int) or size <= 0 or size % 32:
        raise HeatposeError(
            f"Resolution {size} is not a positive multiple of 32; use for example 192, 224 or 256."
        )
    if size > LARGEST:
        raise HeatposeError(
            f"Resolution {size} is beyond {LARGEST}, the largest that is supported; use for example"
            " 192, 224 or 256."
        )
