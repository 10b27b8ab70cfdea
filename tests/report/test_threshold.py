"""Curves of the score threshold, measured with the tiny network on rendered people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatpose.evaluation.evaluate import predict_poses
from heatpose.evaluation.metrics import ThresholdCurve, threshold_curve
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13
from heatpose.report import write_report
from heatpose.runners import open_runner
from tests.exporting import Case
from tests.report.conftest import Copy, Page, read_page


@pytest.fixture(scope="module")
def curve(case: Case) -> ThresholdCurve:
    """Of the int8 file."""
    runner = open_runner(case.result.folder / "net_64_int8_pc.tflite")
    poses, _ = predict_poses(runner, case.training, Preprocessing(64), progress=False)
    measured = threshold_curve(poses, case.training, ST_13.sigmas)
    assert measured is not None
    return measured


def _page(bundle: Copy, tmp_path: Path, **entries: Any) -> Page:
    def put(metrics: dict[str, Any]) -> None:
        for artefact, entry in entries.items():
            metrics["artefacts"][artefact]["threshold"] = entry

    bundle.change("metrics.json", put)
    return read_page(write_report([bundle.folder], tmp_path / "page.html", show_images=False))


def test_precision_recall_and_f1_are_drawn_with_the_chosen_point(
    lean: Copy, curve: ThresholdCurve, tmp_path: Path
) -> None:
    page = _page(lean, tmp_path, int8_pc=curve.to_dict(), int8_pt=None)
    assert {name for name in page.figures if name.startswith("threshold")} == {"threshold_0"}
    precision, recall, f1, chosen = page.figures["threshold_0"]["data"]
    for trace, values in ((precision, curve.precision), (recall, curve.recall), (f1, curve.f1)):
        assert trace["x"] == curve.thresholds.tolist()
        assert trace["y"] == pytest.approx(100 * values, abs=0.02)
    assert len(np.unique(f1["y"])) > 3  # not a flat line
    assert chosen["x"] == [curve.best] * 3
    assert chosen["y"][2] == pytest.approx(max(f1["y"]), abs=0.02)
    caption = page.by_id["threshold"].all("figcaption")[0].text
    assert f"Chosen: {curve.best:.2f}" in caption
    assert f"Measured on {curve.instances} held-out training instances" in caption


def test_what_was_not_measured_is_left_out(lean: Copy, tmp_path: Path) -> None:
    page = _page(lean, tmp_path, int8_pc=None, int8_pt=None)
    assert not page.by_id["threshold"].all("figure") and "No score threshold" in page.said


@pytest.mark.parametrize("wrong", ["x", {}, {"precision": "many"}, {"recall": [0.5]}])
def test_a_damaged_curve_costs_a_sentence(
    lean: Copy, curve: ThresholdCurve, tmp_path: Path, wrong: Any
) -> None:
    entry = {**curve.to_dict(), **wrong} if wrong and isinstance(wrong, dict) else wrong
    page = _page(lean, tmp_path, int8_pc=entry, int8_pt=curve.to_dict())
    assert "The threshold of int8 per channel of 'tiny' cannot be read" in page.said
    assert len(page.by_id["threshold"].all("figure")) == 1
