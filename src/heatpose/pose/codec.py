"""Keypoints <-> heatmaps. Only this module and `geometry` compute with the centres of cells.

Cell (column u, row v) of a map with stride s covers [u s, (u+1) s) x [v s, (v+1) s) of the input;
its centre is ((u + 0.5) s, (v + 0.5) s). Shape legend: B batch, K keypoints, H rows, W columns of
the heatmap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError

if TYPE_CHECKING:
    from torch import Tensor

DECODES = ("argmax", "refined")


def gaussians(points: Tensor, spread: Tensor | float, cells: int, stride: int = 4) -> Tensor:
    """exp(-d^2 / spread), d from every cell's centre to every keypoint.

    Computed as the product of one exponential per column and one per row; a map of exponentials
    takes several times as long.

    Args:
        points: f32[B, K, 2] (x, y) in input pixels.
        spread: f32[B, K] or one value, > 0, in square input pixels.
        cells: Rows and columns of the (square) heatmap.
        stride: Input pixels per cell.

    Returns:
        f32[B, K, H, W] in [0, 1].
    """
    import torch

    centres = (torch.arange(cells, device=points.device, dtype=points.dtype) + 0.5) * stride
    squares = (centres - points[..., None]) ** 2  # B, K, (x, y), cells
    spread = torch.as_tensor(spread, dtype=points.dtype, device=points.device)[..., None, None]
    across, down = torch.exp(-squares / spread).unbind(2)
    return down[..., :, None] * across[..., None, :]


def inside(points: Tensor, size: int) -> Tensor:
    """Whether points f32[B, K, 2] in input pixels lie in [0, size) along both axes: bool[B, K]."""
    return ((points >= 0) & (points < size)).all(-1)


def gaussian_targets(points: Tensor, cells: int, sigma: float = 2.0, stride: int = 4) -> Tensor:
    """Gaussians exp(-d^2 / (2 (sigma stride)^2)), `sigma` in cells: f32[B, K, H, W] in [0, 1]."""
    return gaussians(points, 2 * (sigma * stride) ** 2, cells, stride)


def oks_targets(
    points: Tensor, area: Tensor, sigmas: Tensor, cells: int, stride: int = 4
) -> Tensor:
    """The OKS of predicting a cell's centre: exp(-d^2 / (2 (2 sigma_k)^2 area)), as in COCO.

    Args:
        points: f32[B, K, 2] in input pixels.
        area: f32[B] object area in square input pixels (0.53 * box area in the published protocol).
        sigmas: f32[K] per-keypoint constants.
        cells: Rows and columns of the heatmap.
        stride: Input pixels per cell.

    Returns:
        f32[B, K, H, W] in [0, 1].
    """
    spread = 2 * (2 * sigmas[None, :]) ** 2 * area[:, None]
    return gaussians(points, spread.clamp_min(1e-6), cells, stride)


def place_targets(
    points: Tensor, area: Tensor, sigmas: Tensor, cells: int, spread: float = 1.0, stride: int = 4
) -> Tensor:
    """The OKS kernel as a distribution over the cells; arguments as `oks_targets`.

    The standard deviation is multiplied by `spread`, and is at least half a cell, because a
    narrower kernel would miss every centre.

    Returns:
        f32[B, K, H, W] with sum 1 per map, or 0 for a point far outside.
    """
    import torch

    kernel = oks_targets(points, area * spread**2, sigmas, cells, stride)
    sharp = torch.maximum(kernel, gaussian_targets(points, cells, 0.5, stride))
    return sharp / sharp.sum((-1, -2), keepdim=True).clamp_min(1e-9)


def cell_index(points: Tensor, cells: int, stride: int = 4) -> Tensor:
    """Index i64[B, K] of each keypoint's cell (outside, the nearest) in the flattened map."""
    column, row = (points / stride).floor().clamp(0, cells - 1).long().unbind(-1)
    return row * cells + column


def cell_middles(points: Tensor, stride: int = 4) -> Tensor:
    """Centre f32[B, K, 2] of the cell that contains each keypoint, in input pixels."""
    return ((points / stride).floor() + 0.5) * stride


def warp_maps(
    maps: Tensor, transform: Tensor, cells: int, samples: int = 1, stride: int = 4
) -> Tensor:
    """Resamples maps into another frame.

    A cell of the result is the mean of `samples` x `samples` bilinear samples; 0 outside.

    Args:
        maps: f32[B, K, h, w] of any resolution.
        transform: f32[B, 2, 3] from the result's input pixels to fractions of the maps' frame: (0,
            0) is its upper left corner, (1, 1) its lower right.
        cells: Rows and columns of the result.
        samples: Along each side of a cell; at least the number of the maps' cells that it covers.
        stride: Input pixels per cell of the result.

    Returns:
        f32[B, K, cells, cells].
    """
    import torch
    from torch.nn import functional

    at = (torch.arange(cells * samples, device=maps.device, dtype=maps.dtype) + 0.5) * (
        stride / samples
    )
    y, x = torch.meshgrid(at, at, indexing="ij")
    # Not a matrix product, which mixed precision would round to eight bits.
    t = transform[..., None, None]
    places = torch.stack(
        [t[:, axis, 0] * x + t[:, axis, 1] * y + t[:, axis, 2] for axis in (0, 1)], -1
    )
    sampled = functional.grid_sample(
        maps, 2 * places - 1, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return functional.avg_pool2d(sampled, samples) if samples > 1 else sampled


def cell_vectors(points: Tensor, cells: int, stride: int = 4) -> Tensor:
    """Targets of MoveNet's regression and offset heads: vectors from each cell's index, in cells.

    The index (u, v) of a cell is its upper left corner, so (index + vector) times the stride is the
    keypoint in the continuous frame.

    Args:
        points: f32[B, K, 2] (x, y) in input pixels.
        cells: Rows and columns of the map.
        stride: Input pixels per cell.

    Returns:
        f32[B, 2K, H, W]; channels 2k and 2k + 1 are the y and the x of keypoint k.
    """
    import torch

    index = torch.arange(cells, device=points.device, dtype=points.dtype)
    dx = (points[..., 0, None] / stride - index)[..., None, :].expand(-1, -1, cells, -1)
    dy = (points[..., 1, None] / stride - index)[..., :, None].expand(-1, -1, -1, cells)
    return torch.stack([dy, dx], 2).flatten(1, 2)


def near_cell(points: Tensor, cells: int, radius: int = 0, stride: int = 4) -> Tensor:
    """Cells within `radius` rows and columns of each keypoint's cell: bool[B, K, H, W]."""
    import torch

    index = torch.arange(cells, device=points.device)
    near = (index - (points / stride).floor()[..., None]).abs() <= radius  # [B, K, 2, cells]
    return near[:, :, 1, :, None] & near[:, :, 0, None, :]


def decode(heatmaps: NDArray[np.float32], how: str = "argmax") -> NDArray[np.float32]:
    """Decodes heatmaps to keypoints.

    Args:
        heatmaps: f32[B, K, H, W]; logits, probabilities or dequantised int8 values.
        how: "argmax" (the published protocol: centre of the highest cell, the first one of ties) or
            "refined" (plus the vertex of the parabola through the highest cell and its two
            neighbours, along x and along y, at most half a cell away).

    Returns:
        f32[B, K, 3]: x and y as fractions of the input's width and height, and the value of the
        highest cell.

    Raises:
        HeatposeError: `how` is unknown.
    """
    if how not in DECODES:
        raise HeatposeError(f"Decode '{how}' is unknown; choose one of {', '.join(DECODES)}.")
    batch, keypoints, rows, columns = heatmaps.shape
    flat = heatmaps.reshape(batch, keypoints, -1)
    best = flat.argmax(-1)
    v, u = np.divmod(best, columns)
    b, k = np.ogrid[:batch, :keypoints]
    score = flat[b, k, best]
    dx = dy = np.zeros_like(score)
    if how == "refined":
        cells = np.stack([best - 1, best + 1, best - columns, best + columns]).clip(
            0, rows * columns - 1
        )
        exists = np.stack([u > 0, u < columns - 1, v > 0, v < rows - 1])
        left, right, above, below = np.where(exists, flat[b, k, cells], -np.inf)
        dx, dy = _vertex(left, score, right), _vertex(above, score, below)
    poses: NDArray[np.float32] = np.stack(
        [(u + 0.5 + dx) / columns, (v + 0.5 + dy) / rows, score], -1
    ).astype(np.float32)
    return poses


def second_peak(heatmaps: NDArray[np.float32], distance: float) -> NDArray[np.float32]:
    """Value of the highest cell that is far from the highest cell of all.

    Args:
        heatmaps: f32[B, K, H, W].
        distance: Minimum distance of the two cells' centres, as a fraction of the map's side.

    Returns:
        f32[B, K]; -inf where no cell is that far.
    """
    batch, keypoints, rows, columns = heatmaps.shape
    flat = heatmaps.reshape(batch, keypoints, -1)
    v, u = np.divmod(flat.argmax(-1)[..., None], columns)
    row, column = np.divmod(np.arange(rows * columns), columns)
    far = np.hypot((column - u) / columns, (row - v) / rows) >= distance
    values: NDArray[np.float32] = np.where(far, flat, np.float32(-np.inf)).max(-1)
    return values


def _vertex(
    before: NDArray[np.float32], at: NDArray[np.float32], after: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Vertex, in [-0.5, 0.5], of the parabola through (-1, before), (0, at), (1, after).

    It is 0 at the map's border and on plateaus.
    """
    usable = np.isfinite(before) & np.isfinite(after)
    left, right = np.where(usable, before, at), np.where(usable, after, at)
    curvature = 2 * at - left - right
    shift = np.where(curvature > 0, (right - left) / np.where(curvature > 0, 2 * curvature, 1), 0)
    return np.clip(shift, -0.5, 0.5).astype(np.float32)
