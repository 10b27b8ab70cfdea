"""The whole conversion at full size: slow, and against what was measured on the benchmark beforehand."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from heatpose.data.coco import benchmark_people, people, read_labels
from heatpose.export.bundle import export_bundle
from heatpose.export.convert import convert
from heatpose.export.inspection import check_artefact, inspect_tflite
from heatpose.export.onnx import export_onnx
from heatpose.models.movenet import MoveNet
from heatpose.models.tflite_import import import_movenet
from heatpose.preprocessing import Preprocessing
from heatpose.skeleton import COCO_17

# Looked for, not imported: onnx2tf lifts the recursion limit of the whole process, and a deeply nested file then ends it.
if not all(find_spec(tool) for tool in ("onnx2tf", "tensorflow", "onnxruntime", "ai_edge_litert")):
    pytest.skip("the export extra is not installed", allow_module_level=True)

pytestmark = pytest.mark.slow
INTEGER_OPERATORS = {
    "QUANTIZE": 1, "CONV_2D": 44, "DEPTHWISE_CONV_2D": 21, "ADD": 13, "RESIZE_BILINEAR": 3, "LOGISTIC": 1, "DEQUANTIZE": 1,
}  # fmt: skip
"""The 84 operators that independent converters agree on."""


def pinned_noise(count: int, size: int) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    images[0, 0, 0, :2] = 0, 255
    return images


def test_full_width_at_192_has_the_84_operators_and_the_same_bytes_twice(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MoveNet(17)
    made = []
    for run in ("first", "second"):
        onnx = tmp_path / f"{run}.onnx"
        export_onnx(network, 192, onnx, sigmoid=True)
        files = convert(onnx, forms=("int8_pc", "int8_pt"), calibration=pinned_noise(8, 192), preprocessing=Preprocessing(192))
        made.append(files)
    assert made[0] == made[1]
    for form in ("int8_pc", "int8_pt"):
        path = tmp_path / f"{form}.tflite"
        path.write_bytes(made[0][form])
        assert inspect_tflite(path).operators == INTEGER_OPERATORS


def test_int8_output_and_logits_on_request(tmp_path: Path) -> None:
    export_onnx(MoveNet(5, width=0.35), 96, tmp_path / "net.onnx", sigmoid=False)
    files = convert(tmp_path / "net.onnx", forms=("int8_pt",), calibration=pinned_noise(4, 96), preprocessing=Preprocessing(96), output="int8")
    path = tmp_path / "net.tflite"
    path.write_bytes(files["int8_pt"])
    found = inspect_tflite(path)
    assert [(port.dtype, port.shape) for port in found.outputs] == [("int8", (1, 24, 24, 5))]
    assert found.operators == {k: v for k, v in INTEGER_OPERATORS.items() if k not in ("LOGISTIC", "DEQUANTIZE")}
    assert check_artefact(found, "int8_pt", Preprocessing(96)) == []


def test_google_weights_score_what_was_measured_and_the_collapse_is_rejected(shared: Path, tmp_path: Path) -> None:
    train, dev = shared / "data/coco_train_small", shared / "data/coco_val_dev"
    training, _ = people(read_labels(train / "person_keypoints_train2017.json"), train / "train2017", COCO_17)
    evaluation, _ = benchmark_people(read_labels(dev / "person_keypoints_val2017.json"), dev / "val2017", COCO_17)
    result = export_bundle(
        network=import_movenet(shared / "models/movenet_singlepose_lightning_int8_4.tflite"), skeleton=COCO_17, preprocessing=Preprocessing(192),
        name="google", model_name="movenet_lightning_heatmaps", out=tmp_path, calibration_people=training, evaluation_people=evaluation,
        config={}, provenance={}, console=Console(quiet=True),
    )  # fmt: skip
    oks = {row.artefact: row.oks or 0.0 for row in result.rows}
    assert oks["torch"] == pytest.approx(55.84, abs=0.05)
    assert oks["onnx"] == pytest.approx(oks["torch"], abs=0.05) and oks["float32"] == pytest.approx(oks["torch"], abs=0.05)
    assert 51.5 < oks["int8_pc"] < 53.5
    assert oks["int8_pt"] < 10
    verdicts = {row.artefact: row.verdict for row in result.rows}
    assert verdicts["float32"] == "passed" and verdicts["int8_pt"] == "REJECTED" and not result.passed
    assert (result.folder / "movenet_lightning_heatmaps_192_int8_pt.rejected.tflite").is_file()
