"""Weights out of TFLite files: a round trip through the export's own tools, files that are no MoveNet, and Google's file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from heatpose.data.sources import CocoSource
from heatpose.errors import HeatposeError
from heatpose.evaluate import evaluate
from heatpose.export.flatbuffer import read_graph
from heatpose.export.graph import Graph, Operator
from heatpose.models import tflite_import, tflite_walk
from heatpose.models.checkpoint import LoadedCheckpoint
from heatpose.models.initial import from_movenet
from heatpose.models.movenet import MoveNet
from heatpose.models.tflite_import import import_movenet
from heatpose.preprocessing import Preprocessing
from heatpose.quantize.fold import fold_batch_norm
from heatpose.runners.torch_runner import TorchRunner
from heatpose.skeleton import COCO_17, ST_13, Skeleton

SIZE = 64


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make_tflite_files.py` filled."""
    if any(find_spec(name) is None for name in ("tensorflow", "onnx2tf")):
        pytest.skip("the export extra is not installed")
    folder = tmp_path_factory.mktemp("movenet_files")
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    program = Path(__file__).with_name("make_tflite_files.py")
    result = subprocess.run([sys.executable, str(program), str(folder)], env={**os.environ, **quiet}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return folder


def original(files: Path, name: str) -> MoveNet:
    saved = torch.load(files / f"{name}.pt", weights_only=True)
    network = MoveNet(**saved["settings"])
    network.load_state_dict(saved["state"])
    return fold_batch_norm(network)


def logits(network: MoveNet) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        result: torch.Tensor = network(torch.rand(2, 3, SIZE, SIZE) * 2 - 1)
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "name", "keypoints", "width"),
    [
        ("plain_float32", "plain", 17, 0.35),
        ("four_heads", "four_heads", 5, 1.75),
        ("normed", "normed", 13, 0.5),
    ],
)
def test_float_files_give_the_same_network(files: Path, file: str, name: str, keypoints: int, width: float) -> None:
    network, source = import_movenet(files / f"{file}.tflite"), original(files, name)
    assert (network.keypoints, network.settings) == (keypoints, source.settings)
    assert network.settings["width"] == width and not network.settings["norm"] and not network.training
    want = logits(source)
    assert want.std() > 0.1  # else this would compare biases only
    torch.testing.assert_close(logits(network), want, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_float16_files_give_the_weights_rounded_to_half_precision(files: Path) -> None:
    network, source = import_movenet(files / "plain_float16.tflite"), original(files, "plain")
    for (name, found), want in zip(network.named_parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(found, want.half().float(), atol=1e-7, rtol=1e-5, msg=name)
    assert (logits(network) - logits(source)).abs().max() < 0.02 * logits(source).std()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["int8_pc", "int8_pt"])
def test_int8_files_give_the_weights_within_half_a_scale(files: Path, form: str) -> None:
    file = files / f"plain_{form}.tflite"
    network, source = import_movenet(file), original(files, "plain")
    graph = read_graph(file)
    convolutions = [o for o in graph.operators if o.name in tflite_walk.CONVOLUTIONS]
    biases = [graph.tensors[o.inputs[2]].quantization for o in convolutions]
    coarsest = max(float(q.scales.max()) for q in biases if q is not None)
    for found, want in zip(network.conv_blocks(), source.conv_blocks(), strict=True):
        weight = want.conv.weight
        largest = weight.abs().amax((1, 2, 3), keepdim=True) if form == "int8_pc" else weight.abs().max()
        assert ((found.conv.weight - weight).abs() <= 0.501 * largest / 127).all()
        assert found.conv.bias is not None and want.conv.bias is not None
        torch.testing.assert_close(found.conv.bias, want.conv.bias, atol=0.501 * coarsest, rtol=0)
    if form == "int8_pc":
        difference = (logits(network) - logits(source)).flatten()
        assert difference.std() < 0.2 * logits(source).std()


@pytest.mark.slow
@pytest.mark.parametrize(("file", "layer"), [("other_head", "block 1"), ("no_head", "block 1, depthwise"), ("unit_range", "input")])
def test_a_graph_that_is_no_movenet_is_refused_with_the_layer(files: Path, file: str, layer: str) -> None:
    with pytest.raises(HeatposeError, match=rf"{file}.tflite' is no MoveNet that can be imported: at {layer}"):
        import_movenet(files / f"{file}.tflite")


def edited(graph: Graph, fits: Callable[[Operator], bool], **options: Any) -> Graph:
    """The graph with the first operator that fits given other options."""
    index = next(operator.index for operator in graph.operators if fits(operator))
    changed = [replace(o, options={**o.options, **options}) if o.index == index else o for o in graph.operators]
    return replace(graph, operators=tuple(changed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("CONV_2D", {"activation": "RELU"}, "at stem, activation RELU6 was expected, but the file has RELU"),
        ("CONV_2D", {"stride": (1, 1)}, r"at stem, stride \(2, 2\) was expected"),
        ("DEPTHWISE_CONV_2D", {"padding": "VALID"}, "at block 1, depthwise, padding SAME was expected"),
        ("RESIZE_BILINEAR", {"half_pixel_centers": False}, "at pyramid step 0, the resize"),
        ("RESIZE_BILINEAR", {"align_corners": True}, "at pyramid step 0, the resize"),
    ],
)
def test_a_layer_that_computes_something_else_is_named(files: Path, kind: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = edited(read_graph(files / "plain_float32.tflite"), lambda o: o.name == kind, **options)
    monkeypatch.setattr(tflite_import, "read_graph", lambda path: graph)
    with pytest.raises(HeatposeError, match=message):
        import_movenet("changed.tflite")


@pytest.mark.slow
def test_a_missing_addition_is_named(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = read_graph(files / "plain_float32.tflite")
    graph = replace(graph, operators=tuple(replace(o, name="SUB") if o.name == "ADD" else o for o in graph.operators))
    monkeypatch.setattr(tflite_import, "read_graph", lambda path: graph)
    with pytest.raises(HeatposeError, match="at block 3, the graph needs an addition of its two branches"):
        import_movenet("changed.tflite")


@pytest.mark.slow
def test_another_width_than_asked_for_is_refused(files: Path) -> None:
    path = str(files / "plain_float32.tflite")
    with pytest.raises(HeatposeError, match=r"at stem, weights \(32, 3, 3, 3\) were expected, but the file has \(16, 3, 3, 3\); set model\.width=0\.35,"):
        from_movenet(MoveNet(17, norm=False), COCO_17, path)
    network = from_movenet(MoveNet(17, 0.35, norm=False), COCO_17, path)
    torch.testing.assert_close(logits(network), logits(import_movenet(path)))


def test_files_that_are_no_tflite_are_one_sentence(tmp_path: Path) -> None:
    text, empty = tmp_path / "text.tflite", tmp_path / "empty.tflite"
    text.write_text("hello, this is no model")
    empty.touch()
    for path, message in (
        (text, "no readable TFLite file"),
        (empty, "no readable TFLite file"),
        (tmp_path / "none.tflite", "does not exist"),
        (tmp_path, "is no file"),
    ):
        with pytest.raises(HeatposeError, match=message) as caught:
            import_movenet(path)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def lightning(shared: Path) -> Path:
    path = shared / "models" / "movenet_singlepose_lightning_int8_4.tflite"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path


def test_googles_file_is_lightning(lightning: Path) -> None:
    network = import_movenet(lightning)
    assert network.keypoints == 17 and network.settings["width"] == 1.0 and not network.settings["norm"]
    assert network.settings["heads"] == "all" and len(network.conv_blocks()) == 65 + 9
    heatmaps = import_movenet(lightning, MoveNet(17))
    assert sum(p.numel() for p in heatmaps.parameters()) == 2_303_577
    assert all(torch.equal(network.state_dict()[name], value) for name, value in heatmaps.state_dict().items())
    assert all(torch.isfinite(p).all() for p in network.parameters())
    assert all(block.conv.weight.abs().sum() > 0 for block in network.conv_blocks())


def development_oks(shared: Path, network: MoveNet, skeleton: Skeleton) -> float:
    people = CocoSource(eval_root=str(shared / "data" / "coco_val_dev")).evaluation(skeleton)
    assert people is not None and len(people) == 470
    loaded = LoadedCheckpoint(network, skeleton, Preprocessing(192), {})
    return evaluate(TorchRunner(Path("memory"), loaded), people, skeleton, progress=False).oks


@pytest.mark.slow
def test_googles_network_scores_what_was_measured_before(shared: Path, lightning: Path) -> None:
    assert development_oks(shared, import_movenet(lightning, MoveNet(17)), COCO_17) == pytest.approx(55.84, abs=0.15)


@pytest.mark.slow
def test_thirteen_keypoints_start_above_54_without_training(shared: Path, lightning: Path) -> None:
    network = from_movenet(MoveNet(13, norm=False), ST_13, str(lightning))
    assert development_oks(shared, network, ST_13) >= 54
