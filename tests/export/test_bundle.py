"""Bundles of a tiny network on rendered people.

TensorFlow runs once; the other exports reuse what it made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from heatpose.errors import HeatposeError
from heatpose.export import pipeline as assembly
from heatpose.export.job import check_place
from heatpose.export.result import print_table
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17, ST_13
from heatpose.quantize.select import Quantised, Quantiser
from heatpose.quantize.settings import CheckLimits, ExportConfig
from heatpose.runners import open_runner
from heatpose.tflite.inspect import inspect_tflite
from tests.exporting import Case, a_lively_network


@pytest.fixture
def no_conversion(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter gives what it gave before."""
    monkeypatch.setattr(assembly, "convert", lambda onnx, **_: case.converted["float32"])


def read(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return content


def test_the_bundle_has_all_its_files(case: Case) -> None:
    names = {path.name for path in case.result.folder.iterdir()}
    models = {"net_64.onnx", *(f"net_64_{artefact}.tflite" for artefact in case.converted)}
    assert names == models | {
        "manifest.json",
        "metrics.json",
        "calibration.json",
        "README.md",
        "report.html",
    }
    manifest = read(case.result.folder, "manifest.json")
    for name in names - {"manifest.json"}:
        digest = hashlib.sha256((case.result.folder / name).read_bytes()).hexdigest()
        assert manifest["files"][name]["sha256"] == digest
    assert manifest["skeleton"] == ST_13.to_dict()
    assert manifest["preprocessing"] == Preprocessing(64).to_dict()
    assert manifest["config"] == {"resolution": 64} and manifest["provenance"] == {"init": "random"}
    assert (
        manifest["data"]["training"]["images"] == 40
        and manifest["data"]["evaluation"]["images"] == 12
    )
    assert manifest["passed"] is True and case.result.passed
    # nothing temporary
    assert [path.name for path in case.result.folder.parent.iterdir()] == ["tiny"]


def test_the_int8_files_are_integer_and_take_raw_bytes(case: Case) -> None:
    for artefact, granularity in (("int8_pc", "per_channel"), ("int8_pt", "per_tensor")):
        found = inspect_tflite(case.result.folder / f"net_64_{artefact}.tflite")
        assert (found.inputs[0].shape, found.inputs[0].dtype) == ((1, 64, 64, 3), "uint8")
        # pinned by a 0 and a 255
        assert found.inputs[0].scale == pytest.approx(1 / 127.5, rel=1e-6)
        assert found.inputs[0].zero_point in (127, 128)
        assert (found.outputs[0].shape, found.outputs[0].dtype) == ((1, 16, 16, 13), "float32")
        assert found.granularity == granularity and found.full_integer
        # Width 0.35 keeps every residual of the full network: the same 84 operators.
        assert found.operators == {
            "QUANTIZE": 1,
            "CONV_2D": 44,
            "DEPTHWISE_CONV_2D": 21,
            "ADD": 13,
            "RESIZE_BILINEAR": 3,
            "LOGISTIC": 1,
            "DEQUANTIZE": 1,
        }


def test_the_float_file_is_the_network(case: Case) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    found = open_runner(case.result.folder / "net_64_float32.tflite").heatmaps(images)
    with torch.no_grad():
        values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        expected = case.network(values).sigmoid().numpy()
    assert np.abs(found - expected).max() < 1e-4


def test_metrics_have_one_report_per_artefact(case: Case) -> None:
    metrics = read(case.result.folder, "metrics.json")
    assert metrics["scored"] is True
    assert list(metrics["artefacts"]) == ["torch", "onnx", "float32", "int8_pc", "int8_pt"]
    reference = metrics["artefacts"]["torch"]["report"]["oks"]
    for entry in metrics["artefacts"].values():
        assert len(entry["report"]["per_image"]) == 12
        assert entry["drop"] == pytest.approx(reference - entry["report"]["oks"], abs=1e-6)
        assert entry["drop_low"] <= entry["drop"] <= entry["drop_high"]
    assert abs(metrics["artefacts"]["float32"]["drop"]) < 0.01


def test_the_calibration_images_are_training_images(case: Case) -> None:
    record = read(case.result.folder, "calibration.json")
    ids = {entry["image_id"] for entry in record["images"]}
    assert len(ids) == record["count"] == 16
    assert ids <= {person.image_id for person in case.training}
    assert not ids & {person.image_id for person in case.evaluation}


def test_the_card_and_the_table_show_every_file(case: Case) -> None:
    card = (case.result.folder / "README.md").read_text(encoding="utf-8")
    console = Console(width=140, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_table(case.result, console)
    table = console.export_text()
    for row in case.result.rows:
        assert row.file in card and row.artefact in table
        assert f"{row.oks:.2f}" in card and f"{row.oks:.2f}" in table
        assert row.milliseconds > 0
    assert "random" in card and "nearest" in card
    note = "Nothing was published for 13 keypoints at 64, width 0.35, heatmaps"
    assert note in card and note in table
    assert read(case.result.folder, "metrics.json")["published"]["note"].startswith(note)


@pytest.mark.usefixtures("no_conversion")
def test_a_file_that_fails_a_check_is_kept_as_rejected(case: Case, tmp_path: Path) -> None:
    result = case.export(
        tmp_path / "tiny", limits=CheckLimits(drift_p50_px=100, drop_pc=100, drop_pt=-100)
    )
    names = {path.name for path in result.folder.iterdir()}
    assert "net_64_int8_pt.rejected.tflite" in names and "net_64_int8_pt.tflite" not in names
    assert "net_64_int8_pc.tflite" in names
    assert not result.passed
    assert [row.status for row in result.rows][-2:] == ["passed", "REJECTED"]
    assert read(result.folder, "metrics.json")["artefacts"]["int8_pt"]["report"]["model"] in names
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_table(result, console)
    assert "REJECTED int8_pt by the accuracy check" in console.export_text()


@pytest.mark.usefixtures("no_conversion")
def test_without_evaluation_people_nothing_is_scored(case: Case, tmp_path: Path) -> None:
    result = case.export(tmp_path / "tiny", scored=False, artefacts=("int8_pc",))
    assert result.passed
    assert [row.status for row in result.rows] == ["reference", *["passed, not scored"] * 2]
    assert any(check["sentence"].startswith("Not scored") for check in result.checks)
    assert read(result.folder, "metrics.json")["scored"] is False
    print_table(result, Console(quiet=True))


def test_a_wrong_network_behind_a_file_is_noticed(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = a_lively_network()
    with torch.no_grad():
        other.head.output.norm.bias.add_(0.5)  # type: ignore[operator, union-attr]
    monkeypatch.setattr(assembly, "convert", lambda onnx, **_: case.converted["float32"])
    monkeypatch.setattr(
        Quantiser,
        "make",
        lambda *_: Quantised(content=case.converted["int8_pt"], method="ptq"),
    )
    result = case.export(tmp_path / "tiny", network=other, artefacts=("float32", "int8_pc"))
    failed = {(check["artefact"], check["name"]) for check in result.checks if not check["passed"]}
    assert failed == {("float32", "parity"), ("int8_pc", "flatbuffer")}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.usefixtures("no_conversion")
def test_an_older_bundle_is_replaced_whole(case: Case, tmp_path: Path) -> None:
    case.export(tmp_path / "tiny", model_name="older")
    case.export(tmp_path / "tiny", artefacts=("float32",))
    names = {path.name for path in (tmp_path / "tiny").iterdir()}
    assert not any(name.startswith("older") for name in names) and "net_64_float32.tflite" in names
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.usefixtures("no_conversion")
@pytest.mark.parametrize("stage", ["convert", "rows_of", "model_card"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, HeatposeError])
def test_an_interrupted_export_leaves_the_older_bundle_and_nothing_else(
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    error: type[BaseException],
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "manifest.json").write_text("{}", encoding="utf-8")
    before = files_of(tmp_path)

    def stop(*_: object, **__: object) -> None:
        raise error("stopped")

    monkeypatch.setattr(assembly, stage, stop)
    with pytest.raises(error):
        case.export(tmp_path / "tiny", artefacts=("float32",), evaluation=case.evaluation[:2])
    assert files_of(tmp_path) == before


Refusal = Callable[[Case], dict[str, Any]]
REFUSALS: dict[str, Refusal] = {
    "evaluation set": lambda case: {"training": [*case.training, case.evaluation[0]]},
    "calibration set is empty": lambda case: {"training": []},
    "not a valid model name for a bundle": lambda case: {"model_name": ""},
    "has no int8 output": lambda case: {
        "network": MoveNet(13, width=0.35, heads="all"),
        "output": "int8",
    },
    "13 heatmaps, but skeleton": lambda case: {"skeleton": COCO_17},
}


@pytest.mark.parametrize("words", REFUSALS)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    case: Case, tmp_path: Path, words: str
) -> None:
    with pytest.raises(HeatposeError, match=words):
        case.export(tmp_path / "exports/tiny", **REFUSALS[words](case))
    assert files_of(tmp_path) == {}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"artefacts": ("int4",)}, "quant.artefacts names"),
        ({"ptq": {}}, "quant.ptq has no entry for int8_pc, int8_pt"),
        ({"calibration_images": 0}, "quant.calibration_images must be >= 1"),
        ({"pose": "zx"}, "quant.pose=zx is unknown; choose one of xy, yx"),
        ({"pose": None}, "quant.pose=None is unknown"),
        ({"output": "uint8"}, "quant.output=uint8 is unknown; choose one of float32, int8"),
        ({"upsample": "cubic"}, "quant.upsample=cubic is unknown"),
    ],
)
def test_unknown_settings_are_refused(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(HeatposeError, match=words):
        ExportConfig(**setting)


@pytest.mark.parametrize("name", ["../elsewhere", "", ".hidden"])
def test_a_bundle_has_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(HeatposeError, match="not a valid name for a bundle"):
        check_place(tmp_path, name, "net")


def test_a_folder_that_is_not_a_bundle_is_not_replaced(case: Case, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(HeatposeError, match="is not a bundle"):
        case.export(tmp_path / "tiny")
    assert (tmp_path / "tiny" / "thesis.txt").is_file()
