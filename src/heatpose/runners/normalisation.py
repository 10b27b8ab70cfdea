"""Normalisation of float inputs, and how it is derived from the first operators of a graph."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing

SYNTAX = "LOW..HIGH (such as -1..1, 0..1, 0..255), imagenet, or mean=R,G,B,std=R,G,B"
Triple = tuple[float, float, float]
Origin = Literal["stated", "given", "computed", "assumed"]
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})", re.IGNORECASE)
_MEAN_STD = re.compile(r"mean=([^=]+?)[,;\s]+std=([^=]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Normalisation:
    """`byte / divisor - shift` for each of R, G and B.

    Attributes:
        divisor: Of R, G and B, > 0; in bytes per real unit.
        shift: Of R, G and B; in real units.
    """

    divisor: Triple
    shift: Triple

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> Normalisation:
        """The normalisation of a preprocessing, equal for all channels."""
        return cls((preprocessing.divisor,) * 3, (preprocessing.shift,) * 3)

    @classmethod
    def parse(cls, text: str) -> Normalisation:
        """Parses the value of `--normalisation`, see `SYNTAX`.

        `LOW..HIGH` are the values of byte 0 and byte 255. `mean` and `std` are one number or three.
        Both are fractions of the full range (torchvision) if none is above 1, else both are in
        bytes.

        Raises:
            HeatposeError: The value is unknown or ambiguous.
        """
        if text.strip().lower() == "imagenet":
            return IMAGENET
        if ends := _RANGE.fullmatch(text.strip()):
            low, high = float(ends[1]), float(ends[2])
            if low < high:
                return cls((255 / (high - low),) * 3, (0.0 - low,) * 3)
        if parts := _MEAN_STD.fullmatch(text.strip()):
            mean, std = _triple(parts[1]), _triple(parts[2])
            if mean is not None and std is not None and min(std) > 0:
                return _of_moments(text, mean, std)
        raise HeatposeError(f"Normalisation '{text}' is not understood; give {SYNTAX}.")

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalises u8[..., 3] RGB in 0..255 to f32 of the same shape."""
        divisor, shift = np.array(self.divisor, np.float32), np.array(self.shift, np.float32)
        return images.astype(np.float32) / divisor - shift

    def __str__(self) -> str:
        """Text that `parse` accepts, with four digits."""
        if self == IMAGENET:
            return "imagenet"
        if len({*self.divisor}) == len({*self.shift}) == 1:
            low = 0.0 - self.shift[0]
            return f"{low:.4g}..{255 / self.divisor[0] + low:.4g}"
        pairs = list(zip(self.divisor, self.shift, strict=True))
        mean = ",".join(f"{divisor * shift / 255:.4g}" for divisor, shift in pairs)
        return f"mean={mean},std={','.join(f'{divisor / 255:.4g}' for divisor in self.divisor)}"


@dataclass(frozen=True)
class InputReading:
    """Meaning of a model's input, and the source of that information.

    Attributes:
        normalisation: Of float inputs; for integer inputs, the real values of their bytes.
        origin: "stated" by the file or its bundle, "given" by the user, "computed" from the file,
            or "assumed".
        reason: What it was computed from, or why it is assumed; a clause.
        raw: Whether the bytes are the input without normalisation (int8: minus 128).
        note: Message if another normalisation was given than the file determines; else "".
    """

    normalisation: Normalisation
    origin: Origin
    reason: str = ""
    raw: bool = False
    note: str = ""

    def fixed_against(self, given: Normalisation | None) -> InputReading:
        """The same, with a note if the user gave another normalisation."""
        if given is None or str(given) == str(self.normalisation):
            return self
        source = self.reason or "the file or its bundle"
        note = f"normalisation {given} is not used: {self.normalisation} follows from {source}"
        return replace(self, note=note)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _in_fractions(mean: Triple, std: Triple) -> Normalisation:
    r, g, b = zip(mean, std, strict=True)
    shift = (r[0] / r[1], g[0] / g[1], b[0] / b[1])
    return Normalisation((255 * std[0], 255 * std[1], 255 * std[2]), shift)


IMAGENET = _in_fractions(IMAGENET_MEAN, IMAGENET_STD)
BYTES, UNIT, SIGNED = (Normalisation.parse(text) for text in ("0..255", "0..1", "-1..1"))


def _triple(text: str) -> Triple | None:
    """One number for all channels, or three; None for anything else."""
    try:
        numbers = [float(part) for part in re.split(r"[,;/\s]+", text.strip(" ,;[]()")) if part]
    except ValueError:
        return None
    if not all(map(math.isfinite, numbers)) or len(numbers) not in (1, 3):
        return None
    r, g, b = numbers * 3 if len(numbers) == 1 else numbers
    return r, g, b


def _of_moments(text: str, mean: Triple, std: Triple) -> Normalisation:
    middle, smallest, largest = max(map(abs, mean)), min(std), max(std)
    in_bytes = smallest > 1 or (middle > 1 and smallest == 1)
    in_fractions = largest <= 1 and middle <= 1
    mixed = in_bytes and 0 < middle <= 1
    undecided = middle == 0 and smallest == largest == 1
    if mixed or undecided or not (in_bytes or in_fractions):
        raise HeatposeError(
            f"Normalisation '{text}' leaves open whether mean and std are fractions of 255 or "
            "bytes; give both in the same unit, or a range such as 0..1 or 0..255."
        )
    if in_bytes:
        mean = (mean[0] / 255, mean[1] / 255, mean[2] / 255)
        std = (std[0] / 255, std[1] / 255, std[2] / 255)
    return _in_fractions(mean, std)


def fitting_range(gain: NDArray[np.float64], offset: NDArray[np.float64]) -> Normalisation | None:
    """The usual range of input values that agrees with a graph's first arithmetic.

    Args:
        gain: f64[3] of `gain * value + offset`, R, G, B.
        offset: f64[3].

    Returns:
        The one of 0..255, 0..1 and -1..1 that is mapped to [0, 1], [0, 255] or values around 0;
        None if none or several are.
    """
    ranges = ((BYTES, 0.0, 255.0), (UNIT, 0.0, 1.0), (SIGNED, -1.0, 1.0))
    found = [n for n, low, high in ranges if _usual(gain * low + offset, gain * high + offset)]
    return found[0] if len(found) == 1 else None


def _usual(low: NDArray[np.float64], high: NDArray[np.float64]) -> bool:
    """Whether values from `low` to `high`, f64[3] each, are a usual input of networks."""
    span = high - low
    if not (((span >= 0.9) & (span <= 10)).all() or ((span >= 200) & (span <= 300)).all()):
        return False
    zero = -low / span  # position of 0, as a fraction of the range
    return bool((np.abs(zero) < 0.02).all() or ((zero > 0.3) & (zero < 0.65)).all())


class Arithmetic:
    """The affine function `gain * value + offset` of a chain of operators, for R, G, B.

    It is the identity without arithmetic operators.
    """

    def __init__(self) -> None:
        self.gain, self.offset = np.ones(3), np.zeros(3)
        self.steps = 0

    def take(self, name: str, constant: NDArray[np.float64] | None, first: bool) -> bool:
        """Appends an operator.

        Args:
            name: "ADD", "SUB", "MUL" or "DIV".
            constant: Its other operand, one number or three; None if it is not a constant.
            first: Whether the constant is the first operand.

        Returns:
            False if the result is no longer an affine function of the image.
        """
        if constant is None or constant.size not in (1, 3) or (name == "DIV" and first):
            return False
        c = np.broadcast_to(constant.reshape(-1).astype(np.float64), 3)
        factor = {"MUL": c, "DIV": 1 / np.where(c == 0, np.nan, c)}.get(name)
        if factor is not None:
            self.gain, self.offset = self.gain * factor, self.offset * factor
        elif name == "SUB" and first:
            self.gain, self.offset = -self.gain, c - self.offset
        else:
            self.offset = self.offset + (c if name == "ADD" else -c)
        self.steps += 1
        return bool(np.isfinite(self.gain).all() and np.isfinite(self.offset).all())

    def reading(self, otherwise: Normalisation) -> InputReading:
        """The reading derived from the arithmetic, else the assumption `otherwise`."""
        found = fitting_range(self.gain, self.offset) if self.steps else None
        if found is None:
            return InputReading(otherwise, "assumed")
        return InputReading(found, "computed", "the graph's own arithmetic")
