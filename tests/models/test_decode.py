"""MoveNet's decode against the same steps written as loops over cells and keypoints.

With ties, several images and both output layouts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heatpose.models.decode import DecodedMoveNet, decode_maps, decode_margins
from heatpose.models.movenet import MoveNet, PoseMaps

Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def sigmoid(value: float) -> np.float32:
    return np.float32(1) / (np.float32(1) + np.exp(-np.float32(value)))


def best_cell(scores: list[tuple[float, int, int]]) -> tuple[int, int]:
    """The first of the highest, in row order."""
    highest = max(score for score, _, _ in scores)
    return next((v, u) for score, v, u in scores if score == highest)


def by_hand(
    centre: Any, regression: Any, heatmaps: Any, offset: Any
) -> list[tuple[float, float, float]]:
    """One image's keypoints, x, y, score."""
    keypoints, rows, columns = heatmaps.shape
    cells = [(v, u) for v in range(rows) for u in range(columns)]
    weighted = [
        (float(sigmoid(centre[0, v, u])) / (math.hypot(v - rows / 2, u - columns / 2) + 1.8), v, u)
        for v, u in cells
    ]
    cv, cu = best_cell(weighted)
    pose = []
    for k in range(keypoints):
        y, x = cv + float(regression[2 * k, cv, cu]), cu + float(regression[2 * k + 1, cv, cu])
        near = [
            (float(sigmoid(heatmaps[k, v, u])) / (math.hypot(v - y, u - x) + 1.8), v, u)
            for v, u in cells
        ]
        v, u = best_cell(near)
        pose.append(
            (
                (u + float(offset[2 * k + 1, v, u])) / columns,
                (v + float(offset[2 * k, v, u])) / rows,
                float(sigmoid(heatmaps[k, v, u])),
            )
        )
    return pose


def random_maps(batch: int, keypoints: int, rows: int, columns: int, seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    channels = (1, 2 * keypoints, keypoints, 2 * keypoints)
    centre, regression, heatmaps, offset = (
        random.normal(size=(batch, c, rows, columns)).astype(np.float32) for c in channels
    )
    return centre * 2, regression * 5, heatmaps * 2, offset


def decoded(maps: Arrays) -> NDArray[np.float32]:
    result: NDArray[np.float32] = decode_maps(
        PoseMaps(*(torch.from_numpy(m) for m in maps))
    ).numpy()
    return result


@pytest.mark.parametrize(
    ("batch", "keypoints", "rows", "columns"),
    [(1, 17, 8, 8), (4, 5, 12, 12), (3, 1, 6, 10), (2, 13, 9, 5)],
)
def test_is_the_published_procedure(batch: int, keypoints: int, rows: int, columns: int) -> None:
    for seed in range(5):
        maps = random_maps(batch, keypoints, rows, columns, seed)
        want = [by_hand(*(m[b] for m in maps)) for b in range(batch)]
        np.testing.assert_allclose(decoded(maps), np.array(want), atol=2e-6)


def flat(keypoints: int = 2, side: int = 8) -> Arrays:
    """Maps on which nothing stands out."""
    channels = (1, 2 * keypoints, keypoints, 2 * keypoints)
    centre, regression, heatmaps, offset = (
        np.zeros((1, c, side, side), np.float32) for c in channels
    )
    return centre, regression, heatmaps, offset


def test_an_empty_image_gives_the_middle() -> None:
    """Where all cells score the same, the weights alone choose.

    The middle, and then the regressed places.
    """
    centre, regression, heatmaps, offset = flat()
    regression[0, 0, 4, 4], regression[0, 3, 4, 4] = -3, 2
    np.testing.assert_allclose(
        decoded((centre, regression, heatmaps, offset))[0],
        [[4 / 8, 1 / 8, 0.5], [6 / 8, 4 / 8, 0.5]],
    )


def test_two_equal_cells_at_one_distance_give_the_first() -> None:
    centre, regression, heatmaps, offset = flat(keypoints=1)
    heatmaps -= 9
    heatmaps[0, 0, 4, 2] = heatmaps[0, 0, 4, 6] = heatmaps[0, 0, 6, 4] = 5
    np.testing.assert_allclose(
        decoded((centre, regression, heatmaps, offset))[0, 0, :2], [2 / 8, 4 / 8]
    )


def test_the_person_in_the_middle_beats_a_surer_one_at_the_border() -> None:
    centre, regression, heatmaps, offset = flat(keypoints=1)
    centre -= 9
    centre[0, 0, 4, 3], centre[0, 0, 0, 0] = 1, 5  # 0.73 / 2.8 against 0.99 / 7.5
    heatmaps -= 9
    heatmaps[0, 0, 5, 3], heatmaps[0, 0, 1, 1] = 2, 2.2
    regression[0, 0, 4, 3] = 1
    regression[0, :, 0, 0] = 1
    x, y, score = decoded((centre, regression, heatmaps, offset))[0, 0]
    assert (x, y) == (3 / 8, 5 / 8) and score == pytest.approx(1 / (1 + math.exp(-2)))
    centre[0, 0, 4, 3] = -9
    assert decoded((centre, regression, heatmaps, offset))[0, 0, 0] == 1 / 8


def test_offsets_are_read_at_the_keypoints_own_cell_and_in_its_own_channels() -> None:
    centre, regression, heatmaps, offset = flat(keypoints=3)
    places = [(1, 6), (4, 4), (7, 0)]
    for k, (v, u) in enumerate(places):
        heatmaps[0, k, v, u] = 20
        regression[0, 2 * k : 2 * k + 2, 4, 4] = v - 4, u - 4
        offset[0, 2 * k, v, u], offset[0, 2 * k + 1, v, u] = 0.1 * (k + 1), 0.2 * (k + 1)
    want = [[(u + 0.2 * (k + 1)) / 8, (v + 0.1 * (k + 1)) / 8] for k, (v, u) in enumerate(places)]
    np.testing.assert_allclose(
        decoded((centre, regression, heatmaps, offset))[0, :, :2], want, atol=1e-6
    )


def test_both_layouts_have_the_same_pose() -> None:
    torch.manual_seed(0)
    network = MoveNet(5, 0.35, norm=False, heads="all").eval()
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        poses = decode_maps(network(images))
        ours, googles = DecodedMoveNet(network, "xy")(images), DecodedMoveNet(network, "yx")(images)
    assert ours.shape == (3, 15) and googles.shape == (3, 1, 5, 3)
    torch.testing.assert_close(ours.reshape(3, 5, 3), poses)
    torch.testing.assert_close(googles[:, 0][..., [1, 0, 2]], poses)


def test_each_image_is_decoded_by_itself() -> None:
    maps = random_maps(6, 4, 8, 8, seed=9)
    alone = [
        decoded((maps[0][b : b + 1], maps[1][b : b + 1], maps[2][b : b + 1], maps[3][b : b + 1]))
        for b in range(6)
    ]
    np.testing.assert_array_equal(decoded(maps), np.concatenate(alone))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_number_formats_decode(dtype: torch.dtype) -> None:
    maps = random_maps(2, 3, 8, 8, seed=1)
    found = decode_maps(PoseMaps(*(torch.from_numpy(m).to(dtype) for m in maps)))
    assert found.shape == (2, 3, 3) and found.isfinite().all()
    if dtype == torch.float64:
        np.testing.assert_allclose(found.numpy(), decoded(maps), atol=1e-5)


def test_margins_are_leads_of_the_two_searches() -> None:
    for seed in range(5):
        maps = random_maps(3, 4, 7, 9, seed)
        found = decode_margins(PoseMaps(*(torch.from_numpy(m) for m in maps))).numpy()
        for b in range(3):
            centre, regression, heatmaps = (m[b] for m in maps[:3])
            cells = [(v, u) for v in range(7) for u in range(9)]
            instances = sorted(
                (float(sigmoid(centre[0, v, u])) / (math.hypot(v - 3.5, u - 4.5) + 1.8), v, u)
                for v, u in cells
            )
            _, cv, cu = instances[-1]
            for k in range(4):
                y, x = (
                    cv + float(regression[2 * k, cv, cu]),
                    cu + float(regression[2 * k + 1, cv, cu]),
                )
                scores = sorted(
                    float(sigmoid(heatmaps[k, v, u])) / (math.hypot(v - y, u - x) + 1.8)
                    for v, u in cells
                )
                leads = [1 - scores[-2] / scores[-1], 1 - instances[-2][0] / instances[-1][0]]
                assert found[b, k] == pytest.approx(min(leads), abs=1e-5)
