"""The One Euro filter against the paper's algorithm, written for one number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from heatpose.predict.estimator import LONGEST_GAP_S, OneEuro

ALL = np.ones(2, np.bool_)


@dataclass
class Scalar:
    """The appendix of the CHI 2012 paper, a value at a time.

    `beta` times a speed in the value's own units.
    """

    min_cutoff: float
    beta: float
    speed_cutoff: float
    value: float | None = None
    speed: float = 0.0

    def step(self, new: float, rate: float) -> float:
        def smoothing(cutoff: float) -> float:
            tau, period = 1 / (2 * math.pi * cutoff), 1 / rate
            return 1 / (1 + tau / period)

        if self.value is None:
            self.value = new
            return new
        a = smoothing(self.speed_cutoff)
        self.speed = a * (new - self.value) * rate + (1 - a) * self.speed
        a = smoothing(self.min_cutoff + self.beta * abs(self.speed))
        self.value = a * new + (1 - a) * self.value
        return self.value


def test_follows_the_papers_algorithm() -> None:
    """Along one axis, where a speed is a speed along that axis; the size divides it."""
    random = np.random.default_rng(0)
    values = np.cumsum(random.normal(0, 5, (40, 2)), 0)
    size, rate = 50.0, 25.0
    ours = OneEuro(0.7, 3.0, 1.3)
    theirs = [Scalar(0.7, 3.0 / size, 1.3) for _ in range(2)]
    for i, (x, y) in enumerate(values):
        points = np.array([[x, 7.0], [-2.0, y]])  # one keypoint moves along x, the other along y
        got = ours(points, 3 + i / rate, ALL, size)
        assert got == pytest.approx(
            np.array([[theirs[0].step(x, rate), 7.0], [-2.0, theirs[1].step(y, rate)]])
        )


def _track(points: np.ndarray, rate: float = 30.0) -> np.ndarray:
    filtered = OneEuro()
    return np.array([filtered(frame, i / rate, ALL, 200.0) for i, frame in enumerate(points)])


def test_rest_is_calmed_and_motion_is_followed() -> None:
    random = np.random.default_rng(1)
    noise = random.normal(0, 2, (120, 2, 2))
    still = _track(100 + noise)
    assert np.abs(np.diff(still, axis=0)).mean() < 0.4 * np.abs(np.diff(noise, axis=0)).mean()
    # 1.5 person sizes per second
    run = np.arange(120)[:, None, None] * np.array([[10.0, 0.0], [0.0, 10.0]])
    late = np.linalg.norm(_track(run) - run, axis=-1)[60:].max()
    assert late < 15  # a frame and a half


def test_starts_anew_after_a_gap_and_where_a_keypoint_comes_back() -> None:
    filtered = OneEuro()
    first, second = np.zeros((2, 2)), np.full((2, 2), 80.0)
    filtered(first, 0.0, ALL, 100)
    np.testing.assert_array_equal(filtered(second, 1.5 * LONGEST_GAP_S, ALL, 100), second)
    filtered = OneEuro()
    filtered(first, 0.0, np.array([True, False]), 100)
    got = filtered(second, 0.04, ALL, 100)
    assert (got[0] < 80).all() and (got[1] == 80).all()


def test_times_that_stand_still_do_no_harm() -> None:
    filtered = OneEuro()
    for value in (1.0, 50.0, 50.0):
        assert np.isfinite(filtered(np.full((2, 2), value), 0.0, ALL, 0.0)).all()
