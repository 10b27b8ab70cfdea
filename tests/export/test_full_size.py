"""The whole conversion at full size.

Slow, and against what was measured on the benchmark beforehand.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from heatpose.data.coco import benchmark_instances, instances, read_labels
from heatpose.evaluation.evaluate import evaluate
from heatpose.export.convert import convert
from heatpose.export.job import ExportJob
from heatpose.export.onnx import export_onnx
from heatpose.export.pipeline import export_bundle
from heatpose.models.checkpoint import LoadedCheckpoint
from heatpose.models.init import from_movenet
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17
from heatpose.quantize.calibration import ExportData, calibration_images, choose_calibration
from heatpose.quantize.ptq import plan_int8
from heatpose.quantize.settings import PER_CHANNEL, PER_TENSOR, PLAIN, ExportConfig
from heatpose.quantize.write_int8 import write_int8
from heatpose.runners import open_runner
from heatpose.tflite.inspect import Output, check_artefact, inspect_tflite

# Looked for, not imported: onnx2tf lifts the recursion limit of the whole process, and a deeply
# nested file then ends it.
if not all(find_spec(tool) for tool in ("onnx2tf", "tensorflow", "onnxruntime", "ai_edge_litert")):
    pytest.skip("the export extra is not installed", allow_module_level=True)

pytestmark = pytest.mark.slow
INTEGER_OPERATORS = {
    "QUANTIZE": 1,
    "CONV_2D": 44,
    "DEPTHWISE_CONV_2D": 21,
    "ADD": 13,
    "RESIZE_BILINEAR": 3,
    "LOGISTIC": 1,
    "DEQUANTIZE": 1,
}
"""The 84 operators that independent converters agree on."""


def pinned_noise(count: int, size: int) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    images[0, 0, 0, :2] = 0, 255
    return images


def int8_file(
    network: MoveNet,
    folder: Path,
    size: int,
    *,
    per_channel: bool,
    output: Output = "float32",
    sigmoid: bool = True,
) -> Path:
    export_onnx(network, size, folder / "net.onnx", sigmoid=sigmoid)
    whole = folder / "whole.tflite"
    whole.write_bytes(convert(folder / "net.onnx"))
    ptq = PER_CHANNEL if per_channel else PER_TENSOR
    plan = plan_int8(
        network, pinned_noise(8, size), Preprocessing(size), per_channel=per_channel, ptq=ptq
    )
    path = folder / "net.tflite"
    path.write_bytes(write_int8(whole, plan, output=output))
    return path


def test_full_width_at_192_has_the_84_operators_and_the_same_bytes_twice(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MoveNet(17).eval()
    first = int8_file(network, tmp_path, 192, per_channel=True).read_bytes()
    again = int8_file(network, tmp_path, 192, per_channel=True)
    assert again.read_bytes() == first
    assert inspect_tflite(again).operators == INTEGER_OPERATORS


def test_int8_output_and_logits_on_request(tmp_path: Path) -> None:
    found = inspect_tflite(
        int8_file(
            MoveNet(5, width=0.35).eval(),
            tmp_path,
            96,
            per_channel=False,
            output="int8",
            sigmoid=False,
        )
    )
    assert [(port.dtype, port.shape) for port in found.outputs] == [("int8", (1, 24, 24, 5))]
    assert found.operators == {
        k: v for k, v in INTEGER_OPERATORS.items() if k not in ("LOGISTIC", "DEQUANTIZE")
    }
    assert check_artefact(found, "int8_pt", Preprocessing(96)) == []


def test_google_weights_keep_their_score_with_ptq_and_lose_it_with_min_max(
    shared: Path, tmp_path: Path
) -> None:
    train, dev = shared / "data/coco_train_small", shared / "data/coco_val_dev"
    training, _ = instances(
        read_labels(train / "person_keypoints_train2017.json"), train / "train2017", COCO_17
    )
    evaluation, _ = benchmark_instances(
        read_labels(dev / "person_keypoints_val2017.json"), dev / "val2017", COCO_17
    )
    start = MoveNet(17, norm=False)
    network = from_movenet(
        start, COCO_17, str(shared / "models/movenet_singlepose_lightning_int8_4.tflite")
    )
    job = ExportJob(
        model=LoadedCheckpoint(network, COCO_17, Preprocessing(192), {}),
        data=ExportData(training, evaluation),
        config=ExportConfig(),
        folder=tmp_path / "google",
        model_name="movenet_lightning_heatmaps",
        run_config={},
        provenance={},
    )
    result = export_bundle(job, Console(quiet=True))
    oks = {row.artefact: row.oks or 0.0 for row in result.rows}
    assert oks["torch"] == pytest.approx(55.84, abs=0.05)
    assert oks["onnx"] == pytest.approx(oks["torch"], abs=0.05) and oks["float32"] == pytest.approx(
        oks["torch"], abs=0.05
    )
    assert oks["torch"] - oks["int8_pc"] < 1.3 and oks["torch"] - oks["int8_pt"] < 1.5
    images = calibration_images(choose_calibration(training, 32, 0), Preprocessing(192))
    naive = plan_int8(network, images, Preprocessing(192), per_channel=False, ptq=PLAIN)
    path = tmp_path / "naive.tflite"
    path.write_bytes(write_int8(next(result.folder.glob("*_float32.tflite")), naive))
    assert evaluate(open_runner(path), evaluation[:100], COCO_17).oks < 10
