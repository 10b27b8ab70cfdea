"""Images: what is drawn is where it belongs, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from heatpose.pose.draw import (
    CENTRE,
    LEFT,
    RIGHT,
    contact_sheet,
    draw_pose,
    heatmap_overlay,
    side_colours,
)
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton

THREE = Skeleton(
    "three",
    ("head", "left_hand", "right_hand"),
    (0.1, 0.1, 0.1),
    flip_pairs=(("left_hand", "right_hand"),),
    edges=(("head", "left_hand"), ("head", "right_hand"), ("left_hand", "right_hand")),
)
POSE = np.array([[0.5, 0.25, 1], [0.8, 0.75, 1], [0.2, 0.75, 1]], np.float32)


def _grey(height: int = 120, width: int = 200) -> NDArray[Any]:
    return np.full((height, width, 3), 128, np.uint8)


def _at(image: NDArray[Any], x: float, y: float) -> tuple[int, ...]:
    """The pixel that holds the normalised point."""
    height, width = image.shape[:2]
    return tuple(int(v) for v in image[int(y * height), int(x * width)])


def test_sides_have_their_colours() -> None:
    assert side_colours(THREE) == [CENTRE, LEFT, RIGHT]
    colours = dict(zip(COCO_17.keypoints, side_colours(COCO_17), strict=True))
    assert all((colour == LEFT) == name.startswith("left_") for name, colour in colours.items())
    assert all((colour == RIGHT) == name.startswith("right_") for name, colour in colours.items())
    assert side_colours(ST_13)[0] == CENTRE


@pytest.mark.parametrize("shape", [(120, 200), (64, 64), (400, 90)])
def test_joints_and_limbs_are_in_their_places(shape: tuple[int, int]) -> None:
    drawn = draw_pose(_grey(*shape), POSE, THREE)
    assert drawn.shape == (*shape, 3) and drawn.dtype == np.uint8
    for (x, y, _), colour in zip(POSE, (CENTRE, LEFT, RIGHT), strict=True):
        assert _at(drawn, x, y) == colour
    middle = {(0, 1): LEFT, (0, 2): RIGHT, (1, 2): CENTRE}
    for (a, b), colour in middle.items():
        found = _at(drawn, *((POSE[a] + POSE[b]) / 2)[:2])
        assert max(abs(f - c) for f, c in zip(found, colour, strict=True)) < 60


def test_the_rest_of_the_image_and_the_original_stay() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    before = image.copy()
    image.flags.writeable = False
    drawn = draw_pose(image, POSE, THREE)
    np.testing.assert_array_equal(image, before)
    changed = (drawn != image).any(-1)
    assert 0.005 < changed.mean() < 0.06
    assert not changed[:60].any() and not changed[245:].any()  # above the head, below the hands


def test_the_place_is_exact_to_a_pixel() -> None:
    """The centre of gravity of a lone joint's disc, in the continuous frame."""
    one = Skeleton("one", ("tip",), (0.1,))
    drawn = draw_pose(
        np.zeros((200, 400, 3), np.uint8), np.array([[0.25, 0.6, 1]], np.float32), one
    )
    weight = drawn.astype(float).sum(-1)
    rows, columns = np.mgrid[0:200, 0:400] + 0.5
    assert (weight * columns).sum() / weight.sum() == pytest.approx(100, abs=0.5)
    assert (weight * rows).sum() / weight.sum() == pytest.approx(120, abs=0.5)


def test_weak_and_senseless_keypoints_are_left_out() -> None:
    pose = POSE.copy()
    pose[:, 2] = 0.19
    np.testing.assert_array_equal(draw_pose(_grey(), pose, THREE), _grey())
    assert (draw_pose(_grey(), pose, THREE, threshold=0) != _grey()).any()
    for value in (np.nan, np.inf):
        pose = POSE.copy()
        pose[0, 0] = value
        drawn = draw_pose(_grey(), pose, THREE)
        assert _at(drawn, 0.8, 0.75) == LEFT and _at(drawn, 0.5, 0.25) == (128, 128, 128)
    pose[0] = [1e30, -1e30, 1]
    assert _at(draw_pose(_grey(), pose, THREE), 0.2, 0.75) == RIGHT


def test_lines_grow_with_the_image_but_not_beyond_the_person() -> None:
    def share(side: int, pose: NDArray[Any]) -> float:
        return float(
            (draw_pose(_grey(side, side), pose, THREE) != _grey(side, side)).any(-1).mean()
        )

    assert share(1600, POSE) == pytest.approx(share(800, POSE), rel=0.2)
    small = POSE * [0.1, 0.1, 1] + [0.4, 0.4, 0]
    assert share(1600, small.astype(np.float32)) < 0.02 * share(1600, POSE) * 2


def test_refuses_a_pose_of_another_skeleton() -> None:
    with pytest.raises(ValueError, match=r"'st13' is f32\[13, 3\]"):
        draw_pose(_grey(), POSE, ST_13)


def test_overlay_is_nothing_at_zero_and_bright_at_the_peak() -> None:
    image = np.random.default_rng(0).integers(0, 100, (120, 240, 3), dtype=np.uint8)
    maps = np.zeros((2, 12, 12), np.float32)
    np.testing.assert_array_equal(heatmap_overlay(image, maps), image)
    maps[1, 3, 9] = 1  # row 3, column 9: x in [180, 200), y in [30, 40)
    overlay = heatmap_overlay(image, maps)
    assert overlay.shape == image.shape and overlay.dtype == np.uint8
    row, column = np.unravel_index(overlay.sum(-1).argmax(), overlay.shape[:2])
    assert 30 <= row < 40 and 180 <= column < 200
    np.testing.assert_array_equal(overlay[60:], image[60:])


def test_overlay_clips_values_outside_probabilities() -> None:
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 0] = [-5, np.nan, 1, 50]
    overlay = heatmap_overlay(np.zeros((4, 4, 3), np.uint8), maps)
    assert (overlay[0, :2] == 0).all() and (overlay[0, 2] == overlay[0, 3]).all()


def test_sheet_holds_every_tile() -> None:
    tiles = [
        np.full((h, w, 3), 10 * i, np.uint8)
        for i, (h, w) in enumerate([(20, 30), (40, 10), (40, 30), (5, 5)])
    ]
    sheet = contact_sheet(tiles, 3, gap=2)
    assert sheet.shape == (2 * 42 + 2, 3 * 32 + 2, 3)
    np.testing.assert_array_equal(sheet[12:32, 2:32], tiles[0])  # 20 rows in the middle of 40
    np.testing.assert_array_equal(sheet[2:42, 44:54], tiles[1])
    np.testing.assert_array_equal(sheet[2:42, 66:96], tiles[2])
    assert (sheet == 30).all(-1).sum() == 25


def test_sheet_has_captions() -> None:
    tiles = [_grey(64, 100)] * 3
    plain, sheet = contact_sheet(tiles, 5), contact_sheet(tiles, 5, ["one", "", "long " * 50])
    assert sheet.shape[1] == plain.shape[1] and sheet.shape[0] > plain.shape[0]
    band = (sheet[68:] < 100).any(-1)
    assert band[:, :104].any() and not band[:, 104:208].any() and band[:, 208:].any()
    assert not band[:, -4:].any()  # the long one is cut


def test_sheet_takes_odd_captions_and_refuses_nonsense() -> None:
    assert contact_sheet([_grey()], 1, ["日本\n\udcff [red]"]).shape[2] == 3
    for tiles, columns, captions in (
        ([], 1, None),
        ([_grey()], 0, None),
        ([_grey()], 1, ["a", "b"]),
    ):
        with pytest.raises(ValueError, match="A sheet needs"):
            contact_sheet(tiles, columns, captions)
