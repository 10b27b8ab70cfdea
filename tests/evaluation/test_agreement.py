"""Agreement of poses, against COCO's formula written out number by number."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from heatpose.data.sample import Person
from heatpose.evaluation.metrics import agreement
from heatpose.pose.skeleton import Skeleton

SIGMAS = (0.026, 0.107, 0.05)
SKELETON = Skeleton("three", ("head", "hip", "hand"), SIGMAS)


def _person(width: int, height: int, box: tuple[float, float, float, float]) -> Person:
    return Person(
        image_path=Path("a.png"),
        image_id=1,
        annotation_id=1,
        width=width,
        height=height,
        keypoints=np.full((3, 2), 7, np.float32),
        labelled=np.array([True, False, False]),
        box=box,
        area=9.0,
        alone=True,
        others=np.empty((0, 4), np.float32),
    )


PEOPLE = [
    _person(640, 480, (10, 20, 200, 300)),
    _person(100, 400, (0, 0, 50, 100)),
    _person(333, 222, (5, 5, 30, 40)),
]


def test_is_the_mean_similarity_of_every_keypoint() -> None:
    rng = np.random.default_rng(1)
    reference = rng.random((3, 3, 3)).astype(np.float32)
    found = (reference + rng.normal(0, 0.03, (3, 3, 3))).astype(np.float32)
    similarity = [[0.0] * 3 for _ in range(3)]
    for n, person in enumerate(PEOPLE):
        # side lengths of the box as shares of the image's, as the stretched input has them
        area = 0.53 * (person.box[2] / person.width) * (person.box[3] / person.height)
        for k, sigma in enumerate(SIGMAS):
            dx = float(found[n, k, 0]) - float(reference[n, k, 0])
            dy = float(found[n, k, 1]) - float(reference[n, k, 1])
            similarity[n][k] = math.exp(
                -(dx * dx + dy * dy) / (2 * (2 * sigma) ** 2 * (area + 1e-7))
            )
    means = [sum(row) / 3 for row in similarity]
    result = agreement(reference, found, PEOPLE, SKELETON)
    assert result.images == 3 and 1 < result.oks < 99
    assert result.oks == pytest.approx(100 * sum(means) / 3, rel=1e-5)
    for k, name in enumerate(SKELETON.keypoints):
        wanted = 100 * sum(row[k] for row in similarity) / 3
        assert result.oks_per_keypoint[name] == pytest.approx(wanted, rel=1e-5)
    mean = sum(means) / 3
    variance = sum((value - mean) ** 2 for value in means) / 2
    assert result.oks_standard_error == pytest.approx(100 * math.sqrt(variance / 3), rel=1e-4)
    assert 100 * min(means) - 1e-3 <= result.oks_low < result.oks < result.oks_high


def test_equal_poses_agree_and_the_labels_do_not_matter() -> None:
    poses = np.random.default_rng(2).random((3, 3, 3)).astype(np.float32)
    other = poses.copy()
    other[..., 2] = 0  # scores are not compared
    result = agreement(poses, other, PEOPLE, SKELETON)
    assert result.oks == pytest.approx(100, abs=1e-4) == result.oks_low
    moved = other.copy()
    moved[1, 2, 0] += 1  # one keypoint out of nine, that is not labelled
    result = agreement(poses, moved, PEOPLE, SKELETON)
    assert result.oks == pytest.approx(100 * 8 / 9, abs=1e-3)
    assert result.oks_per_keypoint["hand"] == pytest.approx(200 / 3, abs=1e-3)
    assert result.oks_per_keypoint["head"] == pytest.approx(100, abs=1e-4)


def test_is_symmetric() -> None:
    a, b = np.random.default_rng(3).random((2, 3, 3, 3)).astype(np.float32)
    assert agreement(a, b, PEOPLE, SKELETON) == agreement(b, a, PEOPLE, SKELETON)
