"""Differences that were put in are the ones that are found."""

from __future__ import annotations

import numpy as np
import pytest

from heatpose.evaluation.parity import Maps, float_parity, logits_of, pixel_drift, sigmoid

SIZE = 64  # maps of 16 x 16 cells


def bumps(images: int = 4, keypoints: int = 3, seed: int = 0) -> tuple[Maps, np.ndarray]:
    """Logit maps with one clear peak each.

    And the peaks' cells (column, row), away from the border.
    """
    cells = np.random.default_rng(seed).integers(3, 12, (images, keypoints, 2))
    rows, columns = np.mgrid[:16, :16]
    d2 = (columns - cells[..., 0, None, None]) ** 2 + (rows - cells[..., 1, None, None]) ** 2
    return (4 * np.exp(-d2 / 4) - 3).astype(np.float32), cells


@pytest.mark.parametrize("probabilities", [False, True])
def test_equal_maps_have_no_difference(probabilities: bool) -> None:
    logits, _ = bumps()
    found = sigmoid(logits) if probabilities else logits
    parity = float_parity(logits, found, size=SIZE, probabilities=probabilities, tie=1e-3)
    assert parity.logits < 1e-5 and parity.pose_px < 1e-3
    assert (parity.tied, parity.maps) == (0, 12)


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("level", [-5.0, 0.0, 5.0])
def test_one_wrong_logit_is_found_at_any_level(probabilities: bool, level: float) -> None:
    logits = np.full((1, 1, 16, 16), -6, np.float32)
    logits[0, 0, 2, 2] = 6
    logits[0, 0, 9, 9] = level
    changed = logits.copy()
    changed[0, 0, 9, 9] += 0.01
    found = sigmoid(changed) if probabilities else changed
    parity = float_parity(logits, found, size=SIZE, probabilities=probabilities, tie=1e-3)
    assert parity.logits == pytest.approx(0.01, abs=2e-4)


def test_saturated_probabilities_are_not_a_difference() -> None:
    logits = np.full((1, 1, 16, 16), 40, np.float32)
    parity = float_parity(logits, sigmoid(logits + 3), size=SIZE, probabilities=True, tie=1e-3)
    assert parity.logits == 0 and parity.tied == 1


def test_a_shift_of_one_cell_is_four_pixels() -> None:
    logits, _ = bumps()
    moved = np.roll(logits, 1, axis=-1)
    parity = float_parity(logits, moved, size=SIZE, probabilities=False, tie=1e-3)
    assert parity.pose_px == pytest.approx(4, abs=1e-3)


def test_tied_maxima_say_nothing_about_poses() -> None:
    logits = np.zeros((1, 1, 16, 16), np.float32)
    logits[0, 0, 3, 3], logits[0, 0, 12, 12] = 1, 0.9995
    found = logits.copy()
    found[0, 0, 12, 12] = 1.0002  # within the tolerance, and now the highest
    parity = float_parity(logits, found, size=SIZE, probabilities=False, tie=1e-3)
    assert parity.tied == 1 and parity.pose_px == 0


def test_non_finite_values_are_not_parity() -> None:
    logits, _ = bumps()
    found = logits.copy()
    found[0, 0, 0, 0] = np.nan
    assert not float_parity(logits, found, size=SIZE, probabilities=False, tie=1e-3).logits <= 1e-3


def test_logits_come_back_from_probabilities() -> None:
    logits = np.linspace(-6.5, 6.5, 200, dtype=np.float32)
    assert np.abs(logits_of(sigmoid(logits)) - logits).max() < 2e-4


def test_drift_is_reported_per_keypoint() -> None:
    logits, _ = bumps(images=50)
    found = logits.copy()
    found[:, 1] = np.roll(logits[:, 1], 2, axis=-2)
    drift = pixel_drift(logits, found, size=SIZE, names=["a", "b", "c"])
    assert drift.per_keypoint["a"] == {"p50": 0, "p95": 0, "p99": 0}
    assert drift.per_keypoint["b"] == pytest.approx({"p50": 8, "p95": 8, "p99": 8}, abs=1e-3)
    assert drift.p50 == 0 and drift.p95 == pytest.approx(8, abs=1e-3)
    assert drift.moved == pytest.approx(100 / 3)


def test_drift_sees_less_than_a_cell() -> None:
    logits, cells = bumps(images=1, keypoints=1)
    found = logits.copy()
    (u, v), peak = cells[0, 0], logits[0, 0].max()
    before, after = logits[0, 0, v, u - 1], logits[0, 0, v, u + 1] + 0.2
    found[0, 0, v, u + 1] = after
    # of the parabola through the three
    vertex = (after - before) / (2 * (2 * peak - before - after))
    drift = pixel_drift(logits, found, size=SIZE, names=["a"])
    assert drift.p50 == pytest.approx(4 * vertex, abs=1e-4)
    assert drift.moved == 0
