"""The report's keys and values, check 1 on every artefact of a model, and ONNX."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.tflite.inspect import check_artefact, inspect_onnx, inspect_tflite

SHARED = Path(os.environ.get("HEATPOSE_SHARED", Path(__file__).parents[2] / ".." / "shared"))
LIGHTNING = SHARED / "models" / "movenet_singlepose_lightning_int8_4.tflite"
KEYS = [
    *(
        "sha256",
        "bytes",
        "inputs",
        "outputs",
        "operators",
        "granularity",
        "full_integer",
        "weights_bytes",
        "macs",
    ),
    *("peak_activation_bytes", "findings"),
]


def _rules(findings: Any) -> set[str]:
    return {finding.rule for finding in findings}


def test_json_is_the_contracts(small_models: dict[str, Path]) -> None:
    path = small_models["int8_pc"]
    report = json.loads(json.dumps(inspect_tflite(path).to_json(), allow_nan=False))
    assert list(report) == KEYS
    content = path.read_bytes()
    assert (report["sha256"], report["bytes"]) == (
        hashlib.sha256(content).hexdigest(),
        len(content),
    )
    (image,) = report["inputs"]
    assert image | {"name": "", "scale": 0} == {
        "name": "",
        "shape": [1, 32, 32, 3],
        "dtype": "uint8",
        "scale": 0,
        "zero_point": 127,
    }
    assert image["scale"] == pytest.approx(1 / 127.5, rel=1e-6)
    (heatmaps,) = report["outputs"]
    assert (heatmaps["shape"], heatmaps["dtype"], heatmaps["scale"]) == (
        [1, 16, 16, 5],
        "float32",
        None,
    )
    once = dict.fromkeys(
        ("QUANTIZE", "DEPTHWISE_CONV_2D", "RESIZE_BILINEAR", "ADD", "LOGISTIC", "DEQUANTIZE"), 1
    )
    assert report["operators"] == once | {"CONV_2D": 4}
    awkward = inspect_tflite(small_models["awkward"]).to_json()
    assert all(
        list(finding) == ["severity", "rule", "operator", "message"]
        for finding in awkward["findings"]
    )
    assert len(awkward["findings"]) >= 4


@pytest.mark.parametrize(
    ("artefact", "granularity", "full_integer"),
    [
        ("float32", "float", False),
        ("float16", "float", False),
        ("int8_pc", "per_channel", True),
        ("int8_pt", "per_tensor", True),
        ("int8_out", "per_channel", True),
        ("float_io", "per_channel", False),
        ("awkward_int8", "per_channel", False),
    ],
)
def test_granularity_and_integers(
    small_models: dict[str, Path], artefact: str, granularity: str, full_integer: bool
) -> None:
    inspection = inspect_tflite(small_models[artefact])
    assert (inspection.granularity, inspection.full_integer) == (granularity, full_integer)


def test_check_passes_files_that_match_their_names(small_models: dict[str, Path]) -> None:
    network = Preprocessing(32)
    assert check_artefact(inspect_tflite(small_models["float32"]), "float32") == []
    assert check_artefact(inspect_tflite(small_models["int8_pc"]), "int8_pc", network) == []
    assert check_artefact(inspect_tflite(small_models["int8_out"]), "int8_pc", network) == []
    assert check_artefact(inspect_tflite(small_models["int8_pt"]), "int8_pt", network) == []


@pytest.mark.parametrize(
    ("artefact", "expect", "rules"),
    [
        ("int8_pc", "int8_pt", {"weight_granularity"}),
        ("int8_pt", "int8_pc", {"weight_granularity"}),
        ("float32", "int8_pc", {"weight_granularity", "raw_bytes_input", "float_operator"}),
        ("int8_pc", "float32", {"weight_granularity", "port_dtype"}),
        ("float16", "float32", {"weight_granularity"}),
        ("float_io", "int8_pc", {"raw_bytes_input", "float_operator"}),
        ("awkward", "float32", {"pad_operator", "transpose_operator"}),
        ("awkward_int8", "int8_pc", {"pad_operator", "transpose_operator", "float_operator"}),
    ],
)
def test_check_refuses_the_rest(
    small_models: dict[str, Path], artefact: str, expect: Any, rules: set[str]
) -> None:
    violated = check_artefact(inspect_tflite(small_models[artefact]), expect)
    assert _rules(violated) == rules
    assert {finding.severity for finding in violated} == {"error"}


def test_check_compares_the_networks_range(small_models: dict[str, Path]) -> None:
    inspection = inspect_tflite(small_models["int8_pc"])
    violated = check_artefact(inspection, "int8_pc", Preprocessing(32, divisor=255, shift=0))
    assert [finding.rule for finding in violated] == ["preprocessing"]
    assert "0.00392157" in violated[0].message
    flat = replace(inspection, inputs=(replace(inspection.inputs[0], shape=(1, 3, 32, 32)),))
    assert _rules(check_artefact(flat, "int8_pc")) == {"input_layout"}


def test_flipped_bytes_never_break_the_inspection(
    small_models: dict[str, Path], tmp_path: Path
) -> None:
    rng, content = np.random.default_rng(12), small_models["int8_pt"].read_bytes()
    path, outcomes = tmp_path / "flipped.tflite", Counter[str]()
    for _ in range(400):
        broken = bytearray(content)
        for place in rng.integers(8, len(content), rng.choice([1, 3])):
            broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            inspection = inspect_tflite(path)
        except HeatposeError:
            outcomes["refused"] += 1
            continue
        json.dumps(inspection.to_json(), allow_nan=False)
        outcomes["gate" if check_artefact(inspection, "int8_pt") else "passed"] += 1
    assert min(outcomes[outcome] for outcome in ("refused", "gate", "passed")) > 10


@pytest.mark.skipif(not LIGHTNING.is_file(), reason=f"{LIGHTNING} is not here; set HEATPOSE_SHARED")
def test_published_movenet() -> None:
    inspection = inspect_tflite(LIGHTNING)
    assert (inspection.granularity, inspection.full_integer) == ("per_channel", False)
    assert inspection.operators["CONV_2D"] == 50
    assert inspection.operators["DEPTHWISE_CONV_2D"] == 24
    assert _rules(inspection.findings) == {"raw_bytes_input", "float_operator"}
    assert {"CAST #0", "SQRT #123", "DIV #127"} <= {
        finding.operator for finding in inspection.findings
    }
    assert check_artefact(inspection, "int8_pc")


def _onnx_file(path: Path) -> Path:
    onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
    helper, numpy_helper, kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
    kernel = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "kernel")
    bias = numpy_helper.from_array(np.ones((1, 4, 1, 1), np.float16), "bias")
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["x"], pads=[1, 1, 1, 1]),
        helper.make_node("Constant", [], ["half"], value=bias),
        helper.make_node("Cast", ["half"], ["whole"], to=kind),
        helper.make_node("Add", ["x", "whole"], ["heatmaps"]),
    ]
    image = helper.make_tensor_value_info("image", kind, ["batch", 3, 8, 8])
    heatmaps = helper.make_tensor_value_info("heatmaps", kind, ["batch", 4, 8, 8])
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [image], [heatmaps], [kernel])), path)
    return path


def test_onnx(tmp_path: Path) -> None:
    path = _onnx_file(tmp_path / "small.onnx")
    report = json.loads(json.dumps(inspect_onnx(path).to_json(), allow_nan=False))
    assert list(report) == KEYS
    port = {
        "name": "image",
        "shape": [-1, 3, 8, 8],
        "dtype": "float32",
        "scale": None,
        "zero_point": None,
    }
    assert report["inputs"] == [port]
    assert report["outputs"] == [port | {"name": "heatmaps", "shape": [-1, 4, 8, 8]}]
    assert report["operators"] == {"Conv": 1, "Constant": 1, "Cast": 1, "Add": 1}
    assert report["weights_bytes"] == 4 * 27 * 4 + 4 * 2
    assert (report["granularity"], report["full_integer"], report["macs"]) == ("float", False, None)
    assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_onnx_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _onnx_file(tmp_path / "small.onnx")
    with pytest.raises(HeatposeError, match="does not exist"):
        inspect_onnx(tmp_path / "missing.onnx")
    for content in (b"", b"not protobuf", path.read_bytes()[:-20]):
        broken = tmp_path / "broken.onnx"
        broken.write_bytes(content)
        with pytest.raises(HeatposeError, match=r"is not (an|a readable) ONNX file"):
            inspect_onnx(broken)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(HeatposeError, match="install"):
        inspect_onnx(path)
