"""MoveNet's own decode: maps of four heads -> keypoints.

The implementation is used for validation, for checkpoints and for the graph of exported files. The
steps are those of Google's MoveNet SinglePose Lightning, taken from its TFLite file. As in that
file, the position of a cell is its *index*, not its centre: regression and offset are relative to
the index, so index + offset is the keypoint in cells, and multiplied by the stride in input pixels
of the continuous frame.

Shape legend: B batch, K keypoints, H rows and W columns of a map, N = H W cells in row order.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from heatpose.models.movenet import MoveNet, PoseMaps

SOFTNESS = 1.8
"""Cells added to a distance before a score is divided by it, as in Google's file."""
PoseLayout = Literal["xy", "yx"]


def decode_maps(maps: PoseMaps) -> Tensor:
    """Decodes the instance nearest to the middle.

    Of each keypoint's peaks it takes the one nearest to the position regressed from the instance's
    centre.

    Args:
        maps: Of `MoveNet` with four heads.

    Returns:
        f32[B, K, 3]: x and y as fractions of the input's width and height, and a score in [0, 1],
        the heatmap's sigmoid at the chosen cell.
    """
    # Python integers, also while the graph is traced
    batch, keypoints, rows, columns = (int(side) for side in maps.heatmaps.shape)
    cells = _cells(rows, columns).to(maps.heatmaps)
    _, _, heatmaps, offset = _tables(maps)
    scores = heatmaps.sigmoid()
    peaks = (scores / (_distances(maps, cells) + SOFTNESS)).argmax(1)  # [B, K]
    places = _shifted(peaks, rows * columns) * keypoints + torch.arange(
        keypoints, device=peaks.device
    )
    within = offset.reshape(-1, 2)[places]
    y, x = ((cells[peaks] + within) / cells.new_tensor([rows, columns])).unbind(-1)
    return torch.stack([x, y, scores.reshape(-1)[places]], -1)


def decode_margins(maps: PoseMaps) -> Tensor:
    """Smaller margin, (best - second best) / best, of the two searches behind each keypoint.

    If a margin is tiny, rounding decides which of two cells is chosen, and two correct computations
    may differ by the width of the image.

    Returns:
        f32[B, K] in [0, 1].
    """
    rows, columns = maps.heatmaps.shape[-2:]
    cells = _cells(rows, columns).to(maps.heatmaps)
    centre, _, heatmaps, _ = _tables(maps)
    weighted = (
        heatmaps.sigmoid() / (_distances(maps, cells) + SOFTNESS),
        _near_middle(centre, cells, rows, columns)[..., None],
    )
    best, second = (
        torch.cat([w.expand(-1, -1, heatmaps.shape[-1])[None] for w in weighted])
        .topk(2, dim=2)
        .values.unbind(2)
    )
    return ((best - second) / best).amin(0)


def _tables(maps: PoseMaps) -> list[Tensor]:
    """The maps as f32[B, N, C]: channels last, which a converter from NCHW does not transpose."""
    return [
        map_.permute(0, 2, 3, 1).reshape(int(map_.shape[0]), -1, int(map_.shape[1]))
        for map_ in maps
    ]


def _cells(rows: int, columns: int) -> Tensor:
    """f32[N, 2]: row and column of every cell."""
    v, u = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([v, u], -1).reshape(-1, 2).float()


def _near_middle(centre: Tensor, cells: Tensor, rows: int, columns: int) -> Tensor:
    """f32[B, N]: the centre's scores, weighted by the proximity to the middle of the map."""
    middle = cells.new_tensor([rows / 2, columns / 2])
    return centre.sigmoid()[..., 0] * (1 / ((cells - middle).square().sum(1).sqrt() + SOFTNESS))


def _distances(maps: PoseMaps, cells: Tensor) -> Tensor:
    """f32[B, N, K]: distance in cells of each cell to the regressed position of each keypoint."""
    batch, keypoints, rows, columns = (int(side) for side in maps.heatmaps.shape)
    centre, regression, _, _ = _tables(maps)
    person = _near_middle(centre, cells, rows, columns).argmax(1)
    vectors = regression.reshape(batch * rows * columns, -1)[_shifted(person, rows * columns)]
    expected = vectors.reshape(batch, keypoints, 2) + cells[person][:, None]
    dy = cells[:, None, 0] - expected[:, None, :, 0]
    dx = cells[:, None, 1] - expected[:, None, :, 1]
    return (dy * dy + dx * dx).sqrt()


def _shifted(cell: Tensor, cells: int) -> Tensor:
    """Cell indices i64[B, ...] of each image -> row indices in a table of all images' cells."""
    first = cells * torch.arange(int(cell.shape[0]), device=cell.device)
    return cell + first.reshape(-1, *[1] * (cell.dim() - 1))


class DecodedMoveNet(nn.Module):
    """A network with four heads and its decode, as one graph for the export.

    Args:
        network: With four heads.
        layout: "xy" for (B, K * 3) x, y, score of each keypoint in turn; "yx" for Google's (B, 1,
            K, 3) y, x, score.
    """

    def __init__(self, network: MoveNet, layout: PoseLayout = "xy") -> None:
        super().__init__()
        self.network = network
        self.layout = layout

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images f32[B, 3, S, S] -> poses in `layout`, in fractions of the input."""
        maps = self.network(images)
        assert isinstance(maps, PoseMaps)
        poses = decode_maps(maps)
        return poses.flatten(1) if self.layout == "xy" else poses[..., [1, 0, 2]][:, None]
