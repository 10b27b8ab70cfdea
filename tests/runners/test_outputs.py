"""Shapes that are poses, shapes that are not, and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from heatpose.errors import HeatposeError
from heatpose.runners.outputs import Layout, choose_output, poses_from_heatmaps

FILE = Path("m.tflite")


@pytest.mark.parametrize(
    ("shape", "layout", "keypoints"),
    [
        ((1, 48, 48, 17), Layout.MAPS_LAST, 17),
        ((1, 17, 48, 48), Layout.MAPS_FIRST, 17),
        ((1, 48, 48, 48), Layout.MAPS_LAST, 48),
        ((1, 48, 48, 1), Layout.MAPS_LAST, 1),
        ((1, 12, 12, 133), Layout.MAPS_LAST, 133),
        ((1, 1, 17, 3), Layout.POSE_YX, 17),
        ((1, 51), Layout.POSE_XY, 17),
    ],
)
def test_recognises(shape: tuple[int, ...], layout: Layout, keypoints: int) -> None:
    spec = choose_output(FILE, [shape], 192)
    assert (spec.position, spec.layout, spec.keypoints) == (0, layout, keypoints)


def test_an_ambiguous_cube_can_be_channels_first() -> None:
    assert (
        choose_output(FILE, [(1, 48, 48, 48)], 192, channels_first=True).layout is Layout.MAPS_FIRST
    )


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1001),
        (1, 0),
        (51,),
        (1, 192, 192, 3),
        (1, 6, 6, 1280),
        (1, 48, 47, 17),
        (1, 50, 50, 17),
        (1, 48, 48, 999),
        (1, 9, 3),
    ],
)
def test_refuses(shape: tuple[int, ...]) -> None:
    with pytest.raises(HeatposeError, match="is not a single-person pose model"):
        choose_output(FILE, [shape], 192)


def test_takes_the_pose_among_several_outputs() -> None:
    assert choose_output(FILE, [(1, 10), (1, 48, 48, 17), (1, 7)], 192).position == 1
    assert choose_output(FILE, [(1, 48, 48, 17), (1, 48, 48, 34), (1, 1, 17, 3)], 192).position == 2
    for several in ([(1, 51), (1, 39)], [(1, 48, 48, 17), (1, 48, 48, 34)], []):
        with pytest.raises(HeatposeError):
            choose_output(FILE, several, 192)


def test_scores() -> None:
    """Two images: one of probabilities, one of logits; unknown is decided for each."""
    maps = np.zeros((2, 1, 4, 4), np.float32)
    maps[0, 0, 1, 2], maps[1], maps[1, 0, 3, 0] = 0.75, -90, 0.5
    sigmoids = 1 / (1 + np.exp(-np.array([0.75, 0.5])))
    np.testing.assert_allclose(
        poses_from_heatmaps(maps, "argmax", None)[:, 0, 2], [0.75, sigmoids[1]], rtol=1e-6
    )
    np.testing.assert_allclose(
        poses_from_heatmaps(maps, "argmax", False)[:, 0, 2], sigmoids, rtol=1e-6
    )
    np.testing.assert_allclose(
        poses_from_heatmaps(maps, "argmax", True)[:, 0, 2], [0.75, 0.5], rtol=1e-6
    )
    np.testing.assert_allclose(
        poses_from_heatmaps(maps, "argmax", None)[:, 0, :2], [[0.625, 0.375], [0.125, 0.875]]
    )


def test_extreme_logits_do_not_overflow() -> None:
    maps = np.full((1, 2, 2, 2), -1e30, np.float32)
    maps[0, 1] = 1e30
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(poses_from_heatmaps(maps, "argmax", False)[0, :, 2], [0, 1])
