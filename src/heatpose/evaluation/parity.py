"""Parity: differences between heatmaps and poses of an exported file and of the network.

Shapes: N images, K keypoints, heatmaps of H rows and W columns. Pixels are input pixels.
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
"""Logits are clipped to +-7, because float32 probabilities do not resolve larger ones to 1e-4."""


@dataclass(frozen=True)
class FloatParity:
    """Differences of a float file from the network.

    Attributes:
        logits: Largest difference of a logit.
        pose_px: Largest distance of a keypoint with any decode method, in pixels, over maps with a
            unique maximum.
        tied: Maps excluded from `pose_px`, whose two highest cells are within the tolerance.
        maps: N * K, number of maps.
    """

    logits: float
    pose_px: float
    tied: int
    maps: int

    def to_json(self) -> dict[str, Any]:
        """Attributes as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class PixelDrift:
    """Distances of an int8 file's refined keypoints from the network's, in input pixels.

    Attributes:
        p50: Median over images and keypoints.
        p95: 95 % quantile.
        p99: 99 % quantile.
        moved: Share of keypoints with another highest cell, in percent.
        per_keypoint: Name -> its three quantiles.
    """

    p50: float
    p95: float
    p99: float
    moved: float
    per_keypoint: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """Attributes as plain values."""
        return asdict(self)


def sigmoid(logits: Maps) -> Maps:
    """1 / (1 + exp(-x)) of f32[...] without overflow: f32[...] in [0, 1]."""
    probabilities: Maps = 0.5 + 0.5 * np.tanh(0.5 * logits)
    return probabilities


def logits_of(probabilities: Maps) -> Maps:
    """ln(p / (1 - p)) of f32[...], clipped to the range that float32 probabilities resolve."""
    bound = 1 / (1 + np.exp(-_RESOLVED))
    clipped = np.clip(probabilities.astype(np.float64), 1 - bound, bound)
    logits: Maps = np.log(clipped / (1 - clipped)).astype(np.float32)
    return logits


def float_parity(
    reference: Maps, found: Maps, *, size: int, probabilities: bool, tie: float
) -> FloatParity:
    """Compares a float file's heatmaps with the network's.

    Args:
        reference: f32[N, K, H, W] logits of the network.
        found: f32[N, K, H, W] logits or probabilities of the file.
        size: Side S of the input.
        probabilities: Whether `found` are probabilities; they are converted to logits for the
            comparison of logits, and poses are decoded from probabilities.
        tie: Tolerance of a logit; maps whose two highest cells differ by less than twice this are
            excluded from the comparison of poses.
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
    """f32[N, K]: difference of the two highest cells."""
    cells = np.partition(maps.reshape(*maps.shape[:2], -1), -2, axis=-1)
    margin: Maps = cells[..., -1] - cells[..., -2]
    return margin


def pose_distance(a: Maps, b: Maps, size: int, how: str) -> Maps:
    """Distance between the poses decoded from two sets of maps.

    Args:
        a: f32[N, K, H, W].
        b: f32[N, K, H, W].
        size: Side S of the input.
        how: A method of `heatpose.pose.codec.decode`.

    Returns:
        f32[N, K] in input pixels.
    """
    moved = (decode(a, how) - decode(b, how))[..., :2] * size
    distance: Maps = np.sqrt((moved**2).sum(-1))
    return distance


def pixel_drift(reference: Maps, found: Maps, *, size: int, names: Sequence[str]) -> PixelDrift:
    """Compares an int8 file's heatmaps with the network's.

    Args:
        reference: f32[N, K, H, W] maps of the network, logits or probabilities as in the file.
        found: f32[N, K, H, W] maps of the file, dequantised.
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
    """Compares poses of files whose graph contains the decoding.

    Args:
        reference: f32[N, K, 3] poses of the network: normalised x, y, and score.
        found: f32[N, K, 3] poses of the file.
        size: Side S of the input.
        names: K keypoint names.

    Returns:
        Drift, whose `moved` counts keypoints that moved by more than half a cell.
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
    """Resolution of one keypoint's int8 maps; of tied cells the decode returns the first.

    Attributes:
        tied: Maps whose maximum occurs in several cells, in percent.
        dead: Maps with the same value in all cells, in percent; they always decode to the first
            cell.
        peak_range: Median over images of a map's range, in percent of the range of all maps.
    """

    tied: float
    dead: float
    peak_range: float


def output_use(maps: Maps, names: Sequence[str]) -> dict[str, OutputUse]:
    """Counts ties and dead maps of an int8 file.

    Args:
        maps: f32[N, K, H, W], dequantised.
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
