"""Limits of the acceptance checks, with constructed numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from heatpose.evaluation.evaluate import EvalReport
from heatpose.evaluation.parity import FloatParity, PixelDrift
from heatpose.export.checks import (
    accuracy_check,
    drift_check,
    expected_operators,
    float_check,
    not_scored,
)
from heatpose.models.movenet import MoveNet
from heatpose.quantize.settings import CheckLimits

LIMITS = CheckLimits()


def a_report(values: Sequence[float], name: str = "model") -> EvalReport:
    oks = np.asarray(values, np.float64)
    return EvalReport(
        model=name,
        sha256="",
        images=len(oks),
        keypoints=1,
        protocol={},
        oks=100 * float(oks.mean()),
        oks_standard_error=0,
        oks_per_keypoint={},
        ap=0,
        ap50=0,
        image_ids=list(range(len(oks))),
        oks_values=oks,
        poses=np.zeros((len(oks), 1, 3), np.float32),
        seconds=1,
    )


@pytest.mark.parametrize(
    ("artefact", "drop", "passed"),
    [
        ("int8_pc", 0.4, True),
        ("int8_pc", 0.6, False),
        ("int8_pt", 0.9, True),
        ("int8_pt", 1.1, False),
    ],
)
def test_the_mean_drop_is_held_against_the_limit_of_the_artefact(
    artefact: str, drop: float, passed: bool
) -> None:
    rng = np.random.default_rng(0)
    reference = rng.uniform(0.2, 0.9, 400)
    result = accuracy_check(artefact, a_report(reference), a_report(reference - drop / 100), LIMITS)  # type: ignore[arg-type]
    assert result.passed is passed
    assert result.numbers["drop"] == pytest.approx(drop)
    assert result.numbers["drop_low"] <= drop + 1e-9 and drop - 1e-9 <= result.numbers["drop_high"]
    assert f"{drop:.2f} points" in result.sentence


def test_a_gain_passes_and_a_limit_can_be_set() -> None:
    reference = a_report([0.5, 0.6, 0.7])
    better = a_report([0.6, 0.7, 0.8])
    assert accuracy_check("int8_pc", reference, better, LIMITS).passed
    assert not accuracy_check("int8_pc", reference, better, replace(LIMITS, drop_pc=-20)).passed


def test_not_scored_is_stated_and_passes() -> None:
    result = not_scored("int8_pt")
    assert result.passed and "Not scored" in result.sentence and result.numbers == {"scored": False}


@pytest.mark.parametrize(
    ("logits", "pose", "passed"),
    [(1e-3, 0.05, True), (2e-3, 0.0, False), (0.0, 0.06, False), (float("nan"), 0.0, False)],
)
def test_float_files_must_be_equal_in_logits_and_poses(
    logits: float, pose: float, passed: bool
) -> None:
    assert float_check("onnx", FloatParity(logits, pose, 0, 10), LIMITS).passed is passed


@pytest.mark.parametrize(("p50", "passed"), [(3.0, True), (100.0, False)])
def test_only_a_collapse_fails_by_drift(p50: float, passed: bool) -> None:
    drift = PixelDrift(p50, 150, 160, 70, {"nose": {"p50": p50, "p95": 1, "p99": 1}})
    result = drift_check("int8_pc", drift, LIMITS)
    assert result.passed is passed and result.numbers["per_keypoint"]["nose"]["p50"] == p50


def test_the_full_network_has_the_84_operators() -> None:
    # Read off files that were converted by three independent converters.
    expected = {
        "QUANTIZE": 1,
        "CONV_2D": 44,
        "DEPTHWISE_CONV_2D": 21,
        "ADD": 13,
        "RESIZE_BILINEAR": 3,
        "LOGISTIC": 1,
        "DEQUANTIZE": 1,
    }
    network = MoveNet(17)
    found = expected_operators(network, "int8_pc", sigmoid=True, output="float32")
    assert found == expected and sum(found.values()) == 84
    without = expected_operators(network, "int8_pt", sigmoid=False, output="int8")
    assert without == {k: v for k, v in expected.items() if k not in ("LOGISTIC", "DEQUANTIZE")}
    plain = expected_operators(network, "float32", sigmoid=True, output="float32")
    assert plain == {k: v for k, v in expected.items() if k not in ("QUANTIZE", "DEQUANTIZE")}
