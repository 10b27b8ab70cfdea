"""Precision and recall of shown keypoints, against counting one keypoint after the other."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heatpose.data.sample import Person
from heatpose.evaluation.metrics import CORRECT, THRESHOLDS, threshold_curve

SIGMAS = [0.03, 0.08, 0.1]
RANDOM = np.random.default_rng(0)


def person(labelled: list[bool]) -> Person:
    keypoints = RANDOM.uniform(20, 180, (3, 2)).astype(np.float32)
    box, others = (10.0, 20.0, 150.0, 200.0), np.zeros((0, 4), np.float32)
    return Person(
        Path("a.jpg"), 1, 1, 200, 240, keypoints, np.array(labelled), box, 1.0, True, others
    )


def case(count: int = 40) -> tuple[list[Person], np.ndarray]:
    people = [person((RANDOM.uniform(size=3) < 0.7).tolist()) for _ in range(count)]
    poses = np.zeros((count, 3, 3), np.float32)
    for pose, one in zip(poses, people, strict=True):
        pose[:, :2] = (one.keypoints + RANDOM.normal(0, 12, (3, 2))) / [200, 240]
        pose[:, 2] = RANDOM.uniform(0, 1, 3)
    return people, poses


def test_counted_by_hand() -> None:
    people, poses = case()
    curve = threshold_curve(poses, people, SIGMAS)
    assert curve is not None and curve.instances == 40 and curve.keypoints == 120
    for number in (0, 13, 50, 87, 100):
        threshold = THRESHOLDS[number]
        shown = correct = labelled = 0
        for one, pose in zip(people, poses, strict=True):
            area = 0.53 * (150 / 200) * (200 / 240)
            for k in range(3):
                dx = pose[k, 0] - one.keypoints[k, 0] / 200
                dy = pose[k, 1] - one.keypoints[k, 1] / 240
                near = math.exp(-(dx**2 + dy**2) / (2 * (2 * SIGMAS[k]) ** 2 * area)) >= CORRECT
                labelled += bool(one.labelled[k])
                shown += pose[k, 2] >= threshold
                correct += bool(pose[k, 2] >= threshold and near and one.labelled[k])
        assert curve.precision[number] == pytest.approx(correct / shown if shown else 1)
        assert curve.recall[number] == pytest.approx(correct / labelled)


def test_the_best_threshold_separates_correct_from_wrong_keypoints() -> None:
    people, poses = case()
    for pose, one in zip(poses, people, strict=True):
        pose[:, :2] = one.keypoints / [200, 240]
        pose[:, 2] = np.where(one.labelled, 0.62, 0.31)
    curve = threshold_curve(poses, people, SIGMAS)
    assert curve is not None and curve.best == 0.32 and curve.f1.max() == 1


def test_without_labels_there_is_no_curve() -> None:
    nobody = replace(person([True] * 3), labelled=np.zeros(3, bool))
    assert threshold_curve(np.zeros((1, 3, 3)), [nobody], SIGMAS) is None
    assert threshold_curve(np.zeros((0, 3, 3)), [], SIGMAS) is None
