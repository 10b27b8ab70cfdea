"""Keypoints to heatmaps and back, against loops over single cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.pose import codec

STRIDE, CELLS = 4, 12


def some_points(batch: int = 3, keypoints: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    # some lie outside the 48 px input
    return torch.rand((batch, keypoints, 2), generator=generator) * 60 - 6


def squared_distance(points: torch.Tensor, b: int, k: int, v: int, u: int) -> float:
    x, y = (float(value) for value in points[b, k])
    return (x - (u + 0.5) * STRIDE) ** 2 + (y - (v + 0.5) * STRIDE) ** 2


def test_every_cell_has_the_gaussian_of_its_centre() -> None:
    points, spread = some_points(), 50 + 900 * torch.rand(3, 5)
    found = codec.gaussians(points, spread, CELLS, STRIDE)
    assert found.shape == (3, 5, CELLS, CELLS)
    for index in np.ndindex(*found.shape):
        want = math.exp(-squared_distance(points, *index) / spread[index[:2]].item())
        assert found[index].item() == pytest.approx(want, rel=1e-4, abs=1e-7)


def test_the_point_on_a_centre_and_the_edges_of_the_input() -> None:
    points = torch.tensor([[[2.0, 6.0], [0.0, 0.0], [48.0, 48.0]]])
    found = codec.gaussians(points, 8.0, CELLS)
    assert found[0, 0].argmax().item() == 1 * CELLS + 0 and found[0, 0, 1, 0].item() == 1
    corners = found[0, 1, 0, 0].item(), found[0, 2, -1, -1].item()
    assert corners == pytest.approx((math.exp(-1), math.exp(-1)))


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.5])
def test_gaussian_targets(sigma: float) -> None:
    points = some_points()
    target = codec.gaussian_targets(points, CELLS, sigma, STRIDE)
    for index in np.ndindex(*target.shape):
        want = math.exp(-squared_distance(points, *index) / (2 * (sigma * STRIDE) ** 2))
        assert target[index].item() == pytest.approx(want, rel=1e-3, abs=1e-6)


def test_oks_targets_equal_the_metric() -> None:
    points, area = some_points(), torch.tensor([100.0, 900.0, 2000.0])
    sigmas = torch.tensor([0.026, 0.035, 0.079, 0.107, 0.062])
    target = codec.oks_targets(points, area, sigmas, CELLS, STRIDE)
    for b, k, v, u in np.ndindex(*target.shape):
        spread = 2 * (2 * sigmas[k].item()) ** 2 * area[b].item()
        want = math.exp(-squared_distance(points, b, k, v, u) / spread)
        assert target[b, k, v, u].item() == pytest.approx(want, rel=2e-3, abs=1e-6)


def test_targets_of_a_person_without_area_are_finite() -> None:
    target = codec.oks_targets(some_points(1), torch.zeros(1), torch.full((5,), 0.05), CELLS)
    assert torch.isfinite(target).all()


def test_inside_is_half_open() -> None:
    points = torch.tensor(
        [[[0.0, 0.0], [47.99, 47.99], [48.0, 5.0], [5.0, 48.0], [-0.01, 5.0], [5.0, -0.01]]]
    )
    assert codec.inside(points, 48).tolist() == [[True, True, False, False, False, False]]


def first_highest(heatmap: NDArray[np.float32]) -> tuple[int, int]:
    best, place = -math.inf, (0, 0)
    for v, row in enumerate(heatmap.tolist()):
        for u, value in enumerate(row):
            if value > best:
                best, place = value, (v, u)
    return place


@pytest.mark.parametrize("shape", [(2, 3, 12, 12), (1, 2, 5, 9), (4, 17, 48, 48)])
def test_argmax_is_the_centre_of_the_first_highest_cell(shape: tuple[int, ...]) -> None:
    heatmaps = np.random.default_rng(0).integers(-20, 20, shape).astype(np.float32)  # full of ties
    poses = codec.decode(heatmaps)
    assert poses.shape == (*shape[:2], 3) and poses.dtype == np.float32
    for b, k in np.ndindex(*shape[:2]):
        v, u = first_highest(heatmaps[b, k])
        want = ((u + 0.5) / shape[3], (v + 0.5) / shape[2], heatmaps[b, k, v, u])
        np.testing.assert_allclose(poses[b, k], want, rtol=1e-6)


def test_a_flat_map_decodes_to_its_first_cell() -> None:
    for how in codec.DECODES:
        np.testing.assert_allclose(
            codec.decode(np.full((1, 1, 8, 8), -7, np.float32), how), [[[1 / 16, 1 / 16, -7]]]
        )


def gaussians(points: NDArray[np.float64], cells: int, sigma: float) -> NDArray[np.float32]:
    """Gaussians of `sigma` cells about points in cells, sampled at the cells' centres."""
    v, u = np.mgrid[:cells, :cells] + 0.5
    d2 = (u - points[..., 0, None, None]) ** 2 + (v - points[..., 1, None, None]) ** 2
    maps: NDArray[np.float32] = np.exp(-d2 / (2 * sigma**2)).astype(np.float32)
    return maps


@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0])
def test_refinement_finds_a_gaussians_top_within_a_tenth_of_a_cell(sigma: float) -> None:
    points = np.random.default_rng(0).uniform(3, 45, (4, 50, 2))
    heatmaps = gaussians(points, 48, sigma)
    refined = np.abs(codec.decode(heatmaps, "refined")[..., :2] * 48 - points)
    coarse = np.abs(codec.decode(heatmaps)[..., :2] * 48 - points)
    assert refined.max() < 0.1
    assert coarse.max() > 0.45 and refined.mean() < coarse.mean() / 5


@pytest.mark.parametrize("scale", [1.0, 1e-3, 100.0])
def test_refinement_finds_a_parabolas_vertex_exactly(scale: float) -> None:
    points = np.random.default_rng(1).uniform(2, 30, (1, 40, 2))
    v, u = np.mgrid[:32, :32] + 0.5
    d2 = (u - points[..., 0, None, None]) ** 2 + (v - points[..., 1, None, None]) ** 2
    refined = codec.decode((-scale * d2).astype(np.float32), "refined")[..., :2] * 32
    np.testing.assert_allclose(refined, points, atol=2e-3)


def refined_by_hand(heatmap: NDArray[np.float32]) -> tuple[float, float]:
    """x and y in cells: numpy's own parabola through the first highest cell and its two neighbours,
    along each axis.
    """
    v, u = first_highest(heatmap)
    place = []
    for line, at in ((heatmap[v], u), (heatmap[:, u], v)):
        shift = 0.0
        if 0 < at < len(line) - 1:
            square, slope, _ = np.polyfit([-1.0, 0.0, 1.0], line[at - 1 : at + 2].astype(float), 2)
            shift = float(np.clip(-slope / (2 * square), -0.5, 0.5)) if square < -1e-9 else 0.0
        place.append(at + 0.5 + shift)
    return place[0], place[1]


@pytest.mark.parametrize("shape", [(6, 5, 12, 12), (2, 3, 7, 20)])
@pytest.mark.parametrize("tied", [False, True])
def test_refinement_is_a_parabola_through_three_cells(shape: tuple[int, ...], tied: bool) -> None:
    values = np.random.default_rng(4).normal(size=shape) * 3
    heatmaps = (np.rint(values) if tied else values).astype(np.float32)
    refined = codec.decode(heatmaps, "refined")
    for b, k in np.ndindex(*shape[:2]):
        x, y = refined_by_hand(heatmaps[b, k])
        assert refined[b, k, 0] * shape[3] == pytest.approx(x, abs=1e-4) and refined[
            b, k, 1
        ] * shape[2] == pytest.approx(y, abs=1e-4)
        assert refined[b, k, 2] == heatmaps[b, k].max()


def test_refinement_stays_in_its_cell_and_away_from_the_border() -> None:
    heatmaps = np.random.default_rng(2).normal(size=(8, 17, 12, 12)).astype(np.float32)
    coarse, refined = codec.decode(heatmaps), codec.decode(heatmaps, "refined")
    shift = np.abs(refined - coarse)[..., :2] * 12
    assert shift.max() <= 0.5 + 1e-5 and shift.max() > 0.3
    np.testing.assert_array_equal(refined[..., 2], coarse[..., 2])
    cell = np.rint(coarse[..., :2] * 12 - 0.5)
    assert (shift[(cell == 0) | (cell == 11)] < 1e-5).all()
    assert np.isfinite(refined).all()


def test_the_round_trip_is_within_half_a_cell_and_refined_within_a_tenth() -> None:
    points = torch.rand((8, 17, 2), generator=torch.Generator().manual_seed(3)) * 168 + 12
    heatmaps = codec.gaussian_targets(points, 48).numpy()
    for how, limit in (("argmax", 2.0), ("refined", 0.4)):
        error = np.abs(codec.decode(heatmaps, how)[..., :2] * 192 - points.numpy())
        assert error.max() <= limit + 1e-3


def test_an_unknown_decode_is_one_sentence() -> None:
    with pytest.raises(HeatposeError, match="argmax, refined"):
        codec.decode(np.zeros((1, 1, 2, 2), np.float32), "softargmax")


def test_a_place_is_the_kernel_as_a_distribution() -> None:
    points, area = some_points().clamp(0, 47), torch.tensor([100.0, 900.0, 2000.0])
    sigmas = torch.tensor([0.026, 0.035, 0.079, 0.107, 0.062])
    for spread in (0.5, 1.0):
        place = codec.place_targets(points, area, sigmas, CELLS, spread)
        for b, k in np.ndindex(3, 5):
            want = np.zeros((CELLS, CELLS))
            for v, u in np.ndindex(CELLS, CELLS):
                d2 = squared_distance(points, b, k, v, u)
                deviation = spread * 2 * sigmas[k].item() * math.sqrt(area[b].item())
                want[v, u] = max(math.exp(-d2 / (2 * deviation**2)), math.exp(-d2 / (2 * 2.0**2)))
            np.testing.assert_allclose(place[b, k].numpy(), want / want.sum(), rtol=2e-3, atol=1e-6)


def test_a_points_cell_and_its_middle() -> None:
    points = torch.tensor([[[0.0, 0.0], [47.99, 4.0], [13.0, 17.5], [-3.0, 60.0]]])
    assert codec.cell_index(points, CELLS).tolist() == [[0, CELLS + 11, 4 * CELLS + 3, 11 * CELLS]]
    assert codec.cell_middles(points).tolist() == [
        [[2.0, 2.0], [46.0, 6.0], [14.0, 18.0], [-2.0, 62.0]]
    ]


def bilinear(values: NDArray[np.float32], x: float, y: float) -> float:
    """Between the centres of a map's cells, 0 outside.

    X and y in cells from the upper left corner.
    """
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    total = 0.0
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < values.shape[0] and 0 <= column < values.shape[1]:
                total += (
                    (1 - abs(x - 0.5 - column))
                    * (1 - abs(y - 0.5 - row))
                    * float(values[row, column])
                )
    return total


@pytest.mark.parametrize("samples", [1, 3])
def test_warped_maps_are_means_of_samples(samples: int) -> None:
    random = np.random.default_rng(5)
    maps = random.uniform(size=(2, 3, 10, 7)).astype(np.float32)
    transform = np.array(
        [[[0.02, 0.01, -0.1], [-0.012, 0.03, 0.2]], [[-0.025, 0.0, 1.0], [0.0, 0.02, 0.1]]],
        np.float32,
    )
    warped = codec.warp_maps(torch.from_numpy(maps), torch.from_numpy(transform), CELLS, samples)
    for b, k, v, u in np.ndindex(2, 3, CELLS, CELLS):
        values = []
        for i, j in np.ndindex(samples, samples):
            x, y = 4 * (u + (2 * i + 1) / (2 * samples)), 4 * (v + (2 * j + 1) / (2 * samples))
            fx, fy = transform[b] @ (x, y, 1)
            values.append(bilinear(maps[b, k], 7 * float(fx), 10 * float(fy)))
        assert warped[b, k, v, u].item() == pytest.approx(np.mean(values), abs=1e-5)


def test_mixed_precision_moves_no_map() -> None:
    generator = torch.Generator().manual_seed(6)
    maps, transform = (
        torch.rand(1, 2, 48, 48, generator=generator),
        torch.tensor([[[0.011, 0.002, 0.07], [-0.003, 0.013, 0.11]]]),
    )
    with torch.autocast("cpu", torch.bfloat16):
        mixed = codec.warp_maps(maps, transform, CELLS, 2)
    assert torch.equal(mixed, codec.warp_maps(maps, transform, CELLS, 2))


@pytest.mark.parametrize("distance", [0.0, 0.15, 0.5, 2.0])
def test_the_second_peak_is_the_highest_cell_that_far(distance: float) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, 9, 12)).astype(np.float32)
    maps[1, 2] = 0.25  # all cells are equal: the first counts as the highest
    found = codec.second_peak(maps, distance)
    for b, k in np.ndindex(2, 3):
        best = max(np.ndindex(9, 12), key=lambda cell: (maps[b, k][cell], -cell[0], -cell[1]))
        far = [
            maps[b, k, v, u]
            for v, u in np.ndindex(9, 12)
            if math.hypot((v - best[0]) / 9, (u - best[1]) / 12) >= distance
        ]
        assert found[b, k] == max(far, default=-math.inf)
