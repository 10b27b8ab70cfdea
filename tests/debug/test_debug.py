"""`heatpose debug-quant` on a real bundle.

Numbers against the files' own tensors, and what is written.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from heatpose.errors import HeatposeError
from heatpose.evaluation.parity import output_use
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13
from heatpose.quantize.debug import Layer, _Sums, compare_layers, debug_bundle, drift_of
from heatpose.utils.image_files import load_image
from tests.exporting import Case


def file(case: Case, artefact: str) -> Path:
    return case.result.folder / f"net_64_{artefact}.tflite"


@pytest.fixture(scope="module")
def images(case: Case) -> np.ndarray:
    instances = case.evaluation[:6]
    return np.stack(
        [Preprocessing(64).resize(load_image(person.image_path)) for person in instances]
    )


def layers(case: Case, images: np.ndarray, artefact: str) -> list[Layer]:
    return compare_layers(file(case, "float32"), file(case, artefact), images)


def test_every_convolution_sum_and_resize_is_compared_in_order(
    case: Case, images: np.ndarray
) -> None:
    found = layers(case, images, "int8_pc")
    counts = {
        name: sum(layer.operator == name for layer in found)
        for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "RESIZE_BILINEAR")
    }
    assert counts == {"CONV_2D": 44, "DEPTHWISE_CONV_2D": 21, "ADD": 13, "RESIZE_BILINEAR": 3}
    assert [layer.position for layer in found] == sorted(layer.position for layer in found)
    assert found[0].decibels > 30  # one rounding of a sum
    assert found[-1].decibels < found[0].decibels  # noise grows along the network
    assert all(
        layer.worst <= layer.decibels + 1e-6 or math.isinf(layer.decibels) for layer in found[:3]
    )
    assert all(0 < layer.used <= 1 for layer in found)


def test_a_file_has_no_noise_against_itself(case: Case, images: np.ndarray) -> None:
    for layer in compare_layers(file(case, "int8_pc"), file(case, "int8_pc"), images[:2]):
        assert layer.decibels > 90


def test_noise_is_the_residual_of_the_best_line() -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(0, 2, (40, 50, 3))
    noise = rng.normal(0, 0.1, exact.shape)
    sums = _Sums()
    for part in range(4):  # scaled and shifted, channel by channel, as recovery does
        rows = slice(10 * part, 10 * part + 10)
        sums.add(exact[rows], (exact[rows] + noise[rows]) * [3, 0.5, 20] + [1, -4, 0])
    signal, left = sums.variances()
    for c in range(3):
        slope, offset = np.polyfit(
            (exact[..., c] + noise[..., c]).ravel(), exact[..., c].ravel(), 1
        )
        rest = exact[..., c].ravel() - slope * (exact[..., c] + noise[..., c]).ravel() - offset
        assert left[c] == pytest.approx(rest.var(), rel=1e-6) and signal[c] == pytest.approx(
            exact[..., c].var(), rel=1e-6
        )


def test_ties_and_dead_maps_are_counted() -> None:
    maps = np.zeros((4, 2, 3, 3), np.float32)
    maps[:, 0, 1, 1] = (0.5, 0.5, 0.5, 0.0)  # the last map is dead
    maps[0, 0, 2, 2] = 0.5  # a tie
    maps[:, 1] = np.arange(9).reshape(3, 3) / 8
    use = output_use(maps, ("a", "b"))
    assert (use["a"].tied, use["a"].dead, use["a"].peak_range) == (50, 25, 50)
    assert (use["b"].tied, use["b"].dead, use["b"].peak_range) == (0, 0, 100)


def test_the_folder_has_tables_plot_and_image(case: Case, tmp_path: Path) -> None:
    images = [person.image_path for person in case.evaluation[:6]]
    folder = debug_bundle(
        case.result.folder, images, "int8_pt", tmp_path / "out", 100, Console(quiet=True)
    )
    rows = list(csv.DictReader((folder / "drift.csv").open()))
    assert [row["keypoint"] for row in rows] == ["all", *ST_13.keypoints]
    drift = drift_of(file(case, "float32"), file(case, "int8_pt"), images, ST_13, 100)
    assert float(rows[0]["p95"]) == pytest.approx(drift.total.p95, rel=1e-3)
    assert float(rows[1]["tied"]) == pytest.approx(drift.outputs["head"].tied, rel=1e-3)
    assert np.isclose(
        drift.distances.mean(),
        np.mean(
            [
                np.linalg.norm((a - b)[:, :2], axis=1).mean() * 64
                for a, b in zip(*drift.poses, strict=True)
            ]
        ),
    )
    assert len(list(csv.DictReader((folder / "layers.csv").open()))) == 81
    assert (
        "signal to noise" in (folder / "layers.html").read_text()
        and load_image(folder / "worst.jpg").ndim == 3
    )


@pytest.mark.parametrize(
    ("artefact", "message"), [("int8_xy", "no int8_xy file"), (None, "is not a bundle")]
)
def test_what_is_missing_is_named(
    case: Case, tmp_path: Path, artefact: str | None, message: str
) -> None:
    with pytest.raises(HeatposeError, match=message):
        debug_bundle(
            case.result.folder if artefact else tmp_path,
            [tmp_path],
            artefact or "int8_pc",
            tmp_path / "out",
            5,
            Console(quiet=True),
        )
