"""Two models' poses beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton
from heatpose.predict.estimator import Estimator
from heatpose.predict.options import PANEL, distances, labels_of, side_by_side
from heatpose.runners import PoseRunner


@dataclass
class File:
    """As much of a `PoseRunner` as has a name."""

    path: Path


def _estimators(*models: tuple[str, Skeleton]) -> list[Estimator]:
    return [
        Estimator(cast(PoseRunner, File(Path(path))), skeleton, Preprocessing(64), "argmax")
        for path, skeleton in models
    ]


def _pose(skeleton: Skeleton, x: float, y: float) -> np.ndarray[Any, Any]:
    return np.tile(np.array([x, y, 0.9], np.float32), (len(skeleton), 1))


def test_distances_are_between_keypoints_of_one_name() -> None:
    estimators = _estimators(("a", COCO_17), ("b", ST_13))
    first, second = _pose(COCO_17, 0.5, 0.5), _pose(ST_13, 0.5, 0.5)
    # 3 and 8 percent of 100 by 50: 3 and 4 pixels
    second[ST_13.index("left_knee")] = 0.53, 0.42, 0.9
    second[ST_13.index("right_hip")] = 0.5, 0.6, 0.1
    found = {
        entry.name: entry for entry in distances([first, second], estimators, (50, 100, 3), 0.2)
    }
    assert (
        list(found) == [name for name in COCO_17.keypoints if name in ST_13.keypoints]
        and len(found) == 12
    )
    assert found["left_knee"].pixels == pytest.approx(5, abs=1e-4) and found["left_knee"].seen
    assert found["right_hip"].pixels == pytest.approx(5, abs=1e-4) and not found["right_hip"].seen
    assert found["left_wrist"].pixels == 0


def test_equal_names_are_distinguished() -> None:
    assert labels_of(_estimators(("x/a.tflite", ST_13), ("y/b.tflite", ST_13))) == [
        "a.tflite",
        "b.tflite",
    ]
    assert labels_of(_estimators(("x/a.tflite", ST_13), ("y/a.tflite", ST_13))) == [
        "x/a.tflite",
        "y/a.tflite",
    ]


@pytest.mark.parametrize("size", [(60, 90), (1000, 700), (2000, 3001)])
def test_both_panels_and_a_caption(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 30, np.uint8)
    estimators = _estimators(("a.tflite", ST_13), ("b.tflite", ST_13))
    poses = [_pose(ST_13, 0.25, 0.5), _pose(ST_13, 0.75, 0.5)]
    joined = side_by_side(image, poses, estimators, 0.2)
    height, width = joined.shape[:2]
    assert height % 2 == width % 2 == 0 and joined.dtype == np.uint8
    scale = min(max(*size, PANEL[0]), PANEL[1]) / max(size)
    panel = round(size[1] * scale)
    assert width == pytest.approx(2 * panel, abs=20)
    middle = round(size[0] * scale / 2) + 4
    drawn = joined[middle].max(-1) > 100  # a row through the keypoints
    quarter, three = 4 + round(0.25 * panel), 4 + round(0.75 * panel)
    assert (
        drawn[quarter]
        and not drawn[three]
        and drawn[panel + 4 + three]
        and not drawn[panel + 4 + quarter]
    )
    caption = joined[round(size[0] * scale) + 8 :]
    assert (caption < 100).any() and (caption[:, :4] > 200).all()
