"""The automatic choice: the cheapest way that keeps the score.

On images that neither calibrate nor tune.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heatpose.quantize.settings import AutoChoice, QatSettings
from tests.exporting import Case

pytestmark = pytest.mark.slow
SHORT = {
    artefact: QatSettings(steps=4, batch_size=4, images=8) for artefact in ("int8_pc", "int8_pt")
}


def quantisation(case: Case, out: Path, choice: AutoChoice) -> dict:
    result = case.export(out / "tiny", auto=choice, qat=SHORT, scored=False)
    return json.loads((result.folder / "manifest.json").read_text())["quantisation"]


@pytest.mark.parametrize(
    ("limit", "methods"), [(100.0, ["min-max"]), (-100.0, ["min-max", "ptq", "qat"])]
)
def test_it_stops_at_the_first_that_is_good_enough_else_takes_the_best(
    case: Case, tmp_path: Path, limit: float, methods: list[str]
) -> None:
    found = quantisation(
        case,
        tmp_path,
        AutoChoice(drop_pc=limit, drop_pt=limit, holdout=0.5, samples=60, least_images=2),
    )
    for artefact in ("int8_pc", "int8_pt"):
        tried = found[artefact]["tried"]
        assert [attempt["method"] for attempt in tried] == methods
        best = min(tried, key=lambda attempt: attempt["drop"])
        assert found[artefact]["method"] == best["method"] and found[artefact]["judged_on"] >= 2
        assert all(
            attempt["drop_low"] <= attempt["drop"] <= attempt["drop_high"] for attempt in tried
        )


def test_with_too_few_images_ptq_is_chosen_with_a_note(case: Case, tmp_path: Path) -> None:
    found = quantisation(case, tmp_path, AutoChoice(least_images=10**6))
    for artefact in ("int8_pc", "int8_pt"):
        assert (
            found[artefact]["method"] == "ptq"
            and "too few" in found[artefact]["note"]
            and found[artefact]["judged_on"] == 0
        )


def test_the_record_has_every_range(case: Case) -> None:
    record = json.loads((case.result.folder / "calibration.json").read_text())
    for artefact in ("int8_pc", "int8_pt"):
        ranges = record["ranges"][artefact]
        assert {"head.output", "backbone.features.0"} <= set(ranges) and all(
            low <= 0 <= high and low < high for low, high in ranges.values()
        )
        assert ranges["backbone.features.0"][0] == 0  # ReLU6
