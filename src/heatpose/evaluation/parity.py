"""How far an exported file's heatmaps and poses are from the network's, on the same images.

Shape legend: N images, K keypoints, H rows and W columns of a heatmap. Pixels are those of the
network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.pose.codec import DECODES, decode

Maps = NDArray[np.float32]

_HALF_CELL = 2.0  # input pixels
_RESOLVED = 7.0
"""Logits beyond +-7 are taken as +-7.

A float32 probability of 0.999 still tells logits apart by 1e-4, one of
0.99999 no longer does.
"""


@dataclass(frozen=True)
class FloatParity:
    """A float file against the network.

    Attributes:
        logits: Largest difference of a logit.
        pose_px: Largest distance between the two poses by any decode, in pixels, over maps with a
            clear maximum.
        tied: Maps left out of `pose_px`: their two highest cells differ by less than the logits
            may.
        maps: N * K.
    """

    logits: float
    pose_px: float
    tied: int
    maps: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class PixelDrift:
    """An int8 file against the network: how far the refined poses moved, in pixels.

    Attributes:
        p50: Median over images and keypoints.
        p95: 95 % quantile.
        p99: 99 % quantile.
        moved: Share of the keypoints whose highest cell is another one, in percent.
        per_keypoint: Name -> its own three quantiles.
    """

    p50: float
    p95: float
    p99: float
    moved: float
    per_keypoint: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def sigmoid(logits: Maps) -> Maps:
    """1 / (1 + exp(-x)) without overflow."""
    probabilities: Maps = 0.5 + 0.5 * np.tanh(0.5 * logits)
    return probabilities


def logits_of(probabilities: Maps) -> Maps:
    """ln(p / (1 - p)), within the range that float32 probabilities resolve."""
    bound = 1 / (1 + np.exp(-_RESOLVED))
    clipped = np.clip(probabilities.astype(np.float64), 1 - bound, bound)
    logits: Maps = np.log(clipped / (1 - clipped)).astype(np.float32)
    return logits


def float_parity(
    reference: Maps, found: Maps, *, size: int, probabilities: bool, tie: float
) -> FloatParity:
    """Compares a float file's heatmaps with the network's.

    Args:
        reference: f32[N, K, H, W] the network's logits.
        found: f32[N, K, H, W] the file's logits, or its probabilities.
        size: Side S of the input.
        probabilities: What `found` is. Logits are compared then after going back through the
            sigmoid, poses among probabilities.
        tie: How far two logits of the same cell may be apart; maps whose two highest cells are
            nearer to each other than twice that have no maximum to compare.
    """
    own = np.clip(reference, -_RESOLVED, _RESOLVED) if probabilities else reference
    other = logits_of(found) if probabilities else found
    clear = _margin(own) > 2 * tie
    maps = sigmoid(reference) if probabilities else reference
    distances = [pose_distance(maps, found, size, how)[clear] for how in DECODES]
    return FloatParity(
        logits=float(np.abs(own - other).max()),
        pose_px=max(float(d.max(initial=0)) for d in distances),
        tied=int((~clear).sum()),
        maps=clear.size,
    )


def _margin(maps: Maps) -> Maps:
    """f32[N, K]: by how much the highest cell leads."""
    cells = np.partition(maps.reshape(*maps.shape[:2], -1), -2, axis=-1)
    margin: Maps = cells[..., -1] - cells[..., -2]
    return margin


def pose_distance(a: Maps, b: Maps, size: int, how: str) -> Maps:
    """f32[N, K]: distance between the poses decoded from two sets of maps, in input pixels."""
    moved = (decode(a, how) - decode(b, how))[..., :2] * size
    distance: Maps = np.sqrt((moved**2).sum(-1))
    return distance


def pixel_drift(reference: Maps, found: Maps, *, size: int, names: Sequence[str]) -> PixelDrift:
    """Compares an int8 file's heatmaps with the network's.

    Args:
        reference: f32[N, K, H, W] the network's maps, in the file's form (logits or probabilities).
        found: f32[N, K, H, W] the file's, dequantised.
        size: Side S of the input.
        names: K keypoint names.
    """
    distance = pose_distance(reference, found, size, "refined")
    changed = pose_distance(reference, found, size, "argmax") > 0
    per_keypoint = {name: _quantiles(distance[:, k]) for k, name in enumerate(names)}
    return PixelDrift(
        **_quantiles(distance), moved=100 * float(changed.mean()), per_keypoint=per_keypoint
    )


def pose_drift(reference: Maps, found: Maps, *, size: int, names: Sequence[str]) -> PixelDrift:
    """The same for files that decode inside.

    Args:
        reference: f32[N, K, 3] the network's poses, x and y as fractions of the input.
        found: f32[N, K, 3] the file's.
        size: Side S of the input.
        names: K keypoint names.

    Returns:
        `moved` counts keypoints that moved by more than half a cell, for these poses lie within
        cells.
    """
    distance: Maps = size * np.sqrt(((reference - found)[..., :2] ** 2).sum(-1))
    per_keypoint = {name: _quantiles(distance[:, k]) for k, name in enumerate(names)}
    return PixelDrift(
        **_quantiles(distance),
        moved=100 * float((distance > _HALF_CELL).mean()),
        per_keypoint=per_keypoint,
    )


@dataclass(frozen=True)
class OutputUse:
    """What int8 leaves of one keypoint's maps.

    Where several cells tie, or all of them do, the decode takes the first.

    Attributes:
        tied: Maps whose highest value is in more than one cell, in percent.
        dead: Maps with one value in all cells, in percent: they decode to the first cell whatever
            the image shows.
        peak_range: Median over the images of the map's own range, lowest to highest cell, in
            percent of the range of all maps.
    """

    tied: float
    dead: float
    peak_range: float


def output_use(maps: Maps, names: Sequence[str]) -> dict[str, OutputUse]:
    """Counts ties and dead maps of an int8 file.

    Args:
        maps: f32[N, K, H, W] as the file stores them, dequantised.
        names: K keypoint names.
    """
    flat = maps.reshape(*maps.shape[:2], -1)
    high, low = flat.max(-1), flat.min(-1)
    tied = (flat == high[..., None]).sum(-1) > 1
    whole = max(float(high.max() - low.min()), 1e-12)
    return {
        name: OutputUse(
            tied=100 * float(tied[:, k].mean()),
            dead=100 * float((high[:, k] == low[:, k]).mean()),
            peak_range=100 * float(np.median(high[:, k] - low[:, k])) / whole,
        )
        for k, name in enumerate(names)
    }


def _quantiles(distance: Maps) -> dict[str, float]:
    p50, p95, p99 = np.quantile(distance, [0.5, 0.95, 0.99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99)}
