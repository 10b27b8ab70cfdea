"""Files that decode inside: their operators, their poses against the network's.

And bundles of them.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from heatpose.data.coco import benchmark_instances, instances, read_labels
from heatpose.data.formats.folder import find_split
from heatpose.export.checks import (
    DecodedReference,
    PoseParity,
    decoded_reference,
    expected_operators,
    flatbuffer_check,
    pose_check,
    pose_parity,
    with_decode,
)
from heatpose.export.job import ExportJob
from heatpose.export.onnx import export_onnx
from heatpose.export.pipeline import export_bundle
from heatpose.models.checkpoint import LoadedCheckpoint
from heatpose.models.decode import decode_maps
from heatpose.models.movenet import MoveNet
from heatpose.models.tflite_import import import_movenet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13
from heatpose.quantize.calibration import ExportData
from heatpose.quantize.settings import CheckLimits, ExportConfig
from heatpose.runners import open_runner
from heatpose.tflite.reader import read_graph

LIMITS = CheckLimits()


def a_lively_network(keypoints: int = 13) -> MoveNet:
    """Random weights, but every map has a clear maximum and vectors stay on it."""
    torch.manual_seed(0)
    network = MoveNet(keypoints, width=0.35, heads="all").train()
    with torch.no_grad():
        for head in network.heads().values():
            head.output.norm.weight.mul_(20)  # type: ignore[operator]
        for _ in range(40):  # fills the statistics of the batch norms
            network(torch.nn.functional.interpolate(torch.rand(8, 3, 16, 16) * 2 - 1, size=64))
    return network.eval()


def images(count: int, size: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 3), np.uint8)


def poses(network: MoveNet, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        result: NDArray[np.float32] = decode_maps(
            network(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
        ).numpy()
    return result


@pytest.mark.parametrize(("pose", "shape"), [("xy", (1, 39)), ("yx", (1, 1, 13, 3))])
def test_the_onnx_file_gives_the_networks_poses(
    pose: Any, shape: tuple[int, ...], tmp_path: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    network, path = a_lively_network(), tmp_path / "net.onnx"
    export_onnx(network, 64, path, sigmoid=True, pose=pose)
    (output,) = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_outputs()
    assert (output.name, tuple(output.shape)) == ("pose", shape)
    photos = images(6)
    found, reference = (
        open_runner(path).predict(photos),
        decoded_reference(network, Preprocessing(64), photos),
    )
    np.testing.assert_allclose(reference.poses, poses(network, photos), atol=1e-6)
    clear = reference.margins > 4e-3
    assert clear.mean() > 0.6
    np.testing.assert_allclose(found[clear], reference.poses[clear], atol=1e-4)


def test_a_converted_lightning_has_these_operators() -> None:
    """Counted in a file of the converter: body of 90, decode of 50."""
    network = MoveNet(17, norm=False, heads="all")
    found = with_decode(expected_operators(network, "float32", sigmoid=False, output="float32"), 17)
    assert found == {
        "CONV_2D": 50, "DEPTHWISE_CONV_2D": 24, "ADD": 21, "RESHAPE": 9, "GATHER": 8, "MUL": 8,
        "RESIZE_BILINEAR": 3, "LESS": 3, "CAST": 3, "LOGISTIC": 2, "ARG_MAX": 2, "SUB": 2,
        "STRIDED_SLICE": 2, "SQRT": 1, "DIV": 1,
        "CONCATENATION": 1,
    }  # fmt: skip
    assert sum(found.values()) == 140
    assert with_decode({}, 17, "yx")["GATHER"] == 9


def a_reference(count: int = 20, seed: int = 0) -> DecodedReference:
    random = np.random.default_rng(seed)
    return DecodedReference(
        random.random((count, 5, 3)).astype(np.float32), np.full((count, 5), 0.1, np.float32)
    )


@pytest.mark.parametrize(
    ("change", "score", "pixels", "passed"),
    [((0, 0, 0), 0, 0, True), ((0.003, 0.004, 0), 0, 0.96, False), ((0, 0, 0.02), 0.02, 0, False)],
)
def test_one_moved_keypoint_is_found(
    change: tuple[float, ...], score: float, pixels: float, passed: bool
) -> None:
    reference = a_reference()
    found = reference.poses.copy()
    found[7, 3] += np.array(change, np.float32)
    parity = pose_parity(reference, found, size=192, tie=1e-3)
    assert (parity.score, parity.pose_px) == (
        pytest.approx(score, abs=1e-6),
        pytest.approx(pixels, abs=1e-3),
    )
    assert (parity.tied, parity.keypoints) == (0, 100)
    assert pose_check("onnx", parity, LIMITS).passed is passed


def test_tied_keypoints_may_differ_but_not_all_of_them_may_be_tied() -> None:
    reference = a_reference()
    reference.margins[7] = 0.003
    found = reference.poses.copy()
    found[7] += 0.3
    parity = pose_parity(reference, found, size=192, tie=1e-3)
    assert parity == PoseParity(0, 0, 5, 100) and pose_check("float32", parity, LIMITS).passed
    reference.margins[:] = 0
    assert not pose_check(
        "float32", pose_parity(reference, found, size=192, tie=1e-3), LIMITS
    ).passed


@pytest.mark.parametrize(
    "parity",
    [
        PoseParity(2e-3, 0, 0, 10),
        PoseParity(0, 0.06, 0, 10),
        PoseParity(float("nan"), 0, 0, 10),
        PoseParity(0, float("nan"), 0, 10),
    ],
)
def test_different_or_non_finite_values_are_refused(parity: PoseParity) -> None:
    assert not pose_check("onnx", parity, LIMITS).passed


@pytest.mark.slow
@pytest.mark.parametrize(("pose", "layout"), [("xy", (1, 39)), ("yx", (1, 1, 13, 3))])
def test_a_bundle_of_decoded_files(
    synthetic_root: Path, tmp_path: Path, pose: Any, layout: tuple[int, ...]
) -> None:
    if not all(
        find_spec(tool) for tool in ("onnx2tf", "tensorflow", "onnxruntime", "ai_edge_litert")
    ):
        pytest.skip("the export extra is not installed")
    network = a_lively_network()
    splits = {part: find_split(synthetic_root, part) for part in ("train", "val")}  # type: ignore[arg-type]
    training, _ = instances(read_labels(splits["train"].annotations), splits["train"].images, ST_13)
    evaluation, _ = benchmark_instances(
        read_labels(splits["val"].annotations), splits["val"].images, ST_13
    )
    job = ExportJob(
        model=LoadedCheckpoint(network, ST_13, Preprocessing(64), {}),
        data=ExportData(training, evaluation),
        config=ExportConfig(artefacts=("float32",), pose=pose, calibration_images=16),
        folder=tmp_path / "tiny",
        model_name="net",
        run_config={},
        provenance={"init": "random"},
    )
    result = export_bundle(job, Console(quiet=True))
    assert result.passed and [row.artefact for row in result.rows] == ["torch", "onnx", "float32"]
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert manifest["pose"] == pose and manifest["network"]["heads"] == "all"
    card = (result.folder / "README.md").read_text()
    assert str(layout) in card and "heatmaps" not in card
    path = result.folder / "net_64_float32.tflite"
    graph = read_graph(path)
    assert graph.tensors[graph.outputs[0]].shape == layout
    photos = images(6)
    reference = decoded_reference(network, Preprocessing(64), photos)
    parity = pose_parity(reference, open_runner(path, threads=1).predict(photos), size=64, tie=1e-3)
    assert parity.pose_px < 0.05 and parity.score < 1e-3
    assert import_movenet(path).settings == {**network.settings, "norm": False}
    # The check distinguishes the operators of both layouts, and a network without decode.
    body = expected_operators(network, "float32", sigmoid=False, output="float32")
    for operators in (body, with_decode(body, 13, "yx" if pose == "xy" else "xy")):
        assert not flatbuffer_check(path, "float32", Preprocessing(64), operators).passed
