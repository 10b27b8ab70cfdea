"""The square to look at on the next frame.

Against numbers worked out by hand from the tutorial's rule.
"""

from __future__ import annotations

import numpy as np
import pytest

from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton
from heatpose.predict.estimator import Region, next_region, require_torso, whole

WIDTH, HEIGHT = 800, 600


def _pose(**places: tuple[float, float]) -> np.ndarray:
    """Places in pixels of 800x600.

    What is not named has no score and lies in a corner, where it would be noticed.
    """
    pose = np.zeros((17, 3), np.float32)
    for name, (x, y) in places.items():
        pose[COCO_17.index(name)] = x / WIDTH, y / HEIGHT, 0.9
    return pose


TORSO = {
    "left_shoulder": (420.0, 200.0),
    "right_shoulder": (380.0, 200.0),
    "left_hip": (410.0, 280.0),
    "right_hip": (390.0, 280.0),
}


def test_the_torso_decides_where_limbs_are_near() -> None:
    region = next_region(_pose(**TORSO, nose=(400, 160)), COCO_17, WIDTH, HEIGHT)
    # Middle (400, 280); the torso reaches 80 along y: 1.9 * 80 = 152 is more than 1.2 * 120 = 144.
    assert region == Region(400 - 152, 280 - 152, 304)


def test_the_body_decides_where_limbs_reach_out() -> None:
    pose = _pose(**TORSO, left_ankle=(430, 430))
    region = next_region(pose, COCO_17, WIDTH, HEIGHT)
    assert region == Region(400 - 180, 280 - 180, 360)  # 1.2 * 150
    pose[COCO_17.index("left_ankle"), 2] = 0.19
    assert next_region(pose, COCO_17, WIDTH, HEIGHT) == Region(400 - 152, 280 - 152, 304)


def test_no_further_than_the_farthest_side() -> None:
    # middle (10, 320): 790 to the right side
    moved = {name: (x - 390, y + 40) for name, (x, y) in TORSO.items()}
    region = next_region(_pose(**moved, left_wrist=(300, 320)), COCO_17, WIDTH, HEIGHT)
    # 1.2 * 290, beyond the image at three sides
    assert region == Region(10 - 348, 320 - 348, 696)
    # 468 is more than 400
    assert next_region(_pose(**moved, left_wrist=(400, 320)), COCO_17, WIDTH, HEIGHT) == whole(
        WIDTH, HEIGHT
    )


@pytest.mark.parametrize("lost", [("left_hip", "right_hip"), ("left_shoulder", "right_shoulder")])
def test_the_whole_image_is_used_if_the_torso_is_lost(lost: tuple[str, str]) -> None:
    pose = _pose(**TORSO)
    pose[COCO_17.index(lost[0]), 2] = 0.1
    # one of the two is enough
    assert next_region(pose, COCO_17, WIDTH, HEIGHT) != whole(WIDTH, HEIGHT)
    pose[COCO_17.index(lost[1]), 2] = 0.1
    assert next_region(pose, COCO_17, WIDTH, HEIGHT) == Region(0, -100, 800)
    assert whole(HEIGHT, WIDTH) == Region(-100, 0, 800)


def test_a_pose_of_nan_is_ignored() -> None:
    pose = _pose(**TORSO)
    pose[COCO_17.index("left_hip"), 0] = np.nan
    assert next_region(pose, COCO_17, WIDTH, HEIGHT) == whole(WIDTH, HEIGHT)


def test_cut_and_back() -> None:
    """A pixel is found at the same place through the square as on the image."""
    image = np.full((60, 80, 3), 9, np.uint8)
    image[41, 70] = 200
    for region in (Region(50, 20, 30), Region(40, 30, 64), Region(-5, -9, 100)):
        square = region.cut(image)
        assert square.shape == (region.side, region.side, 3)
        [[row, column]] = np.argwhere(square[..., 0] == 200)
        inside = np.array([[column / region.side, row / region.side, 1]], np.float32)
        assert region.to_image(inside, 80, 60) == pytest.approx(
            np.array([[70 / 80, 41 / 60, 1]]), abs=1e-6
        )
    assert (Region(-5, -9, 100).cut(image)[:9] == 0).all() and (
        Region(40, 30, 64).cut(image)[:, 40:] == 0
    ).all()


def test_skeletons_without_a_torso_are_refused() -> None:
    for skeleton in (COCO_17, ST_13):
        require_torso(skeleton)
    with pytest.raises(HeatposeError, match="has no left_hip, right_hip"):
        require_torso(Skeleton("bust", ("left_shoulder", "right_shoulder"), (0.1, 0.1)))
