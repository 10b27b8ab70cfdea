"""Files of any origin: reported assumptions, computed facts, and options for the rest."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import load_checkpoint
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton
from heatpose.runners import open_runner, reading
from heatpose.runners.normalisation import Normalisation
from heatpose.runners.reading import check_runs, describe_file, reading_of
from tests.conftest import Heatpose

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="the export extra is not installed")

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
# What the input takes -> gain and offset that make [-1, 1] of it.
TO_SIGNED = {"0..1": (np.full(3, 2.0), np.full(3, -1.0)), "imagenet": (2 * STD, 2 * MEAN - 1)}


class Scaled(nn.Module):
    """`gain * x + offset` for each channel, as arithmetic."""

    def __init__(self, gain: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float32).reshape(1, 3, 1, 1))
        self.offset = nn.Parameter(torch.tensor(offset, dtype=torch.float32).reshape(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain + self.offset


def hidden(gain: NDArray[np.float64], offset: NDArray[np.float64]) -> nn.Module:
    """The same as a 1x1 convolution, which could be any first layer."""
    layer = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor(gain))[:, :, None, None])
        layer.bias.copy_(torch.tensor(offset))  # type: ignore[union-attr]
    return layer


class ChannelsLast(nn.Module):
    """Takes NHWC and gives NHWC."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def blocks_network(
    kernel: tuple[NDArray[np.float32], NDArray[np.float32]], repeat: int = 1
) -> nn.Module:
    """The convolution that finds the colour blocks, its three maps `repeat` times."""
    layer = nn.Conv2d(3, 3 * repeat, 4, 4)
    with torch.no_grad():
        layer.weight.copy_(
            torch.tensor(np.tile(kernel[0].transpose(3, 2, 0, 1), (repeat, 1, 1, 1)))
        )
        layer.bias.copy_(torch.tensor(np.tile(kernel[1], repeat)))  # type: ignore[union-attr]
    return layer


def export(
    path: Path,
    *layers: nn.Module,
    shape: tuple[int, ...] = (1, 3, 64, 64),
    free: tuple[int, ...] = (),
) -> Path:
    axes = {"image": {axis: f"n{axis}" for axis in free}, "maps": {0: "n0"}} if free else None
    module = nn.Sequential(*layers).eval()
    names = {"input_names": ["image"], "output_names": ["maps"], "dynamic_axes": axes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated, as in export/onnx.py
        torch.onnx.export(
            module, (torch.zeros(shape),), str(path), opset_version=17, dynamo=False, **names
        )  # type: ignore[arg-type]
    return path


Kernel = tuple[NDArray[np.float32], NDArray[np.float32]]


@pytest.mark.parametrize("takes", TO_SIGNED)
def test_another_normalisation_is_computed_from_arithmetic(
    takes: str, kernel: Kernel, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    right = open_runner(export(tmp_path / "own.onnx", blocks_network(kernel))).heatmaps(images)
    path = export(tmp_path / "other.onnx", Scaled(*TO_SIGNED[takes]), blocks_network(kernel))
    runner = open_runner(path)
    if takes == "0..1":  # 2 x - 1 can be read in one way only
        np.testing.assert_allclose(runner.heatmaps(images), right, atol=1e-4)
        reading = reading_of(runner, Skeleton("colours", list("rgb"), [0.1] * 3))
        assert (
            reading.line()
            == "other.onnx: computed normalisation 0..1 (from the graph's own arithmetic)."
        )
    else:  # from ImageNet's range to [-1, 1] is nobody's usual step: not computed, and told
        assert runner.input.origin == "assumed"


@pytest.mark.parametrize("takes", TO_SIGNED)
def test_the_option_sets_a_normalisation_that_cannot_be_computed(
    takes: str, kernel: Kernel, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    right = open_runner(export(tmp_path / "own.onnx", blocks_network(kernel))).heatmaps(images)
    path = export(tmp_path / "other.onnx", hidden(*TO_SIGNED[takes]), blocks_network(kernel))
    assumed = open_runner(path)
    assert (
        assumed.input.origin == "assumed" and np.abs(assumed.heatmaps(images) - right).max() > 0.5
    )
    given = open_runner(path, normalisation=Normalisation.parse(takes))
    np.testing.assert_allclose(given.heatmaps(images), right, atol=1e-4)
    assert given.input.origin == "given"


@pytest.mark.parametrize("batch", [(), (0,)])
def test_channels_last_and_free_batch(
    batch: tuple[int, ...],
    kernel: Kernel,
    blocks: NDArray[np.uint8],
    expected: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    path = export(
        tmp_path / "nhwc.onnx",
        ChannelsLast(blocks_network(kernel)),
        shape=(1, 64, 64, 3),
        free=batch,
    )
    found = open_runner(path).predict(np.concatenate([blocks] * 3))
    np.testing.assert_allclose(found, np.concatenate([expected] * 3), atol=1e-5)


def test_a_cube_of_maps_is_read_in_the_inputs_order_and_reported(
    kernel: Kernel, tmp_path: Path
) -> None:
    """16 keypoints on 16 x 16 cells: the shape fits both ways."""
    sixteen = nn.Sequential(blocks_network(kernel, 5), nn.ZeroPad3d((0, 0, 0, 0, 0, 1)))
    skeleton = Skeleton("16", [str(k) for k in range(16)], [0.1] * 16)
    for name, module, shape, layout in (
        ("first", sixteen, (1, 3, 64, 64), "(B, K, H, W) heatmaps"),
        ("last", ChannelsLast(sixteen), (1, 64, 64, 3), "(B, H, W, K) heatmaps"),
    ):
        path = export(tmp_path / f"{name}.onnx", module, shape=shape)
        assert reading_of(open_runner(path), skeleton).assumed["output"] == layout


def _quantised(path: Path, scale: bool) -> Path:
    """The same file with its maps as uint8, by a QuantizeLinear or (without scale) by a Cast."""
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(path))
    node = model.graph.node[-1]
    node.output[0] = "real"
    if scale:
        numbers = [
            numpy_helper.from_array(np.array(n), m)
            for n, m in ((np.float32(1 / 16), "s"), (np.uint8(128), "z"))
        ]
        model.graph.initializer.extend(numbers)
        model.graph.node.append(helper.make_node("QuantizeLinear", ["real", "s", "z"], ["maps"]))
    else:
        model.graph.node.append(helper.make_node("Cast", ["real"], ["maps"], to=TensorProto.UINT8))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.save(model, str(path))
    return path


def test_integer_maps_need_a_scale(
    kernel: Kernel, blocks: NDArray[np.uint8], expected: NDArray[np.float32], tmp_path: Path
) -> None:
    path = _quantised(export(tmp_path / "m.onnx", blocks_network(kernel)), scale=True)
    np.testing.assert_allclose(open_runner(path).predict(blocks), expected, atol=0.01)
    np.testing.assert_allclose(open_runner(path).heatmaps(blocks).max(), 4, atol=1 / 16)
    path = _quantised(export(tmp_path / "n.onnx", blocks_network(kernel)), scale=False)
    with pytest.raises(
        HeatposeError,
        match=r"its output 'maps' is uint8 without a scale; export it with a float output\.$",
    ):
        open_runner(path)


@pytest.mark.parametrize(
    ("name", "origin", "normalisation"),
    [
        ("float_logits", "assumed", "-1..1"),
        ("float_raw", "computed", "0..255"),
        ("uint8_raw", "computed", "0..255"),
        ("int32_raw", "computed", "0..255"),
        ("int8_to_int8", "computed", "-1..1"),
        ("uint8_to_float", "computed", "-1..1"),
    ],
)
def test_what_a_tflite_input_means(
    tflite_files: Path, name: str, origin: str, normalisation: str
) -> None:
    path = tflite_files / f"{name}.tflite"
    found = open_runner(path).input
    assert (found.origin, str(found.normalisation)) == (origin, normalisation)
    described = describe_file(path)
    assert described == {
        "assumed": {},
        "computed": {},
    }  # three keypoints: nothing is assumed about them
    given = open_runner(path, normalisation=Normalisation.parse("mean=0.4,std=0.3")).input
    fixed = origin == "computed" and name != "float_raw"
    assert (given.origin == "given") is not fixed
    assert bool(given.note) is fixed


def test_an_unusual_scale_is_reported_and_can_be_set(
    tflite_files: Path, tmp_path: Path, blocks: NDArray[np.uint8]
) -> None:
    """A uint8 input over [-2.5, 2.5], as quantisers make of ImageNet's range."""
    from heatpose.tflite.writer import Model

    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    model = Model((tflite_files / "uint8_to_float.tflite").read_bytes())
    wide = model.graph.tensors[model.graph.inputs[0]].quantization
    wide.scale, wide.zeroPoint = np.array([5 / 255], np.float32), np.array([128], np.int64)
    path = tmp_path / "wide.tflite"
    path.write_bytes(model.pack())
    assumed = open_runner(path)
    assert assumed.input.origin == "assumed" and str(assumed.input.normalisation).startswith(
        "-2.51.."
    )
    given = open_runner(path, normalisation=Normalisation.parse("-1..1"))
    stored = given._input.fill(images[0], given.input).astype(float)  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        (stored - 128) * 5 / 255, images / 127.5 - 1, atol=0.5 * 5 / 255 + 1e-6
    )


def test_no_built_in_skeleton_and_a_wrong_one(tflite_files: Path) -> None:
    runner = open_runner(tflite_files / "float_logits.tflite")
    with pytest.raises(HeatposeError, match="3 keypoints and no skeleton of its own"):
        reading_of(runner)
    with pytest.raises(
        HeatposeError,
        match=r"has 3 keypoints, but skeleton 'coco17' has 17; choose the one it was made for\.$",
    ):
        reading_of(runner, COCO_17)


# The commands.

Score = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture
def score(heatpose: Heatpose, synthetic_root: Path, tmp_path: Path) -> Score:
    def call(model: Path, *options: object) -> tuple[str, dict[str, Any]]:
        labels = synthetic_root / "annotations/person_keypoints_val2017.json"
        out = tmp_path / "report.json"
        ran = heatpose(
            "evaluate",
            model,
            "--annotations",
            labels,
            "--images",
            synthetic_root / "val2017",
            *options,
            "--json",
            out,
        )
        assert ran.status == 0, ran.err
        return ran.out, json.loads(out.read_text())

    return call


@pytest.mark.parametrize("takes", TO_SIGNED)
def test_a_foreign_file_scores_as_the_network_with_the_option(
    score: Score, case: Any, takes: str, tmp_path: Path
) -> None:
    own = score(case.result.folder / "net_64.onnx")[1]
    assert own["assumed"] == own["computed"] == {}
    path = export(tmp_path / "m.onnx", hidden(*TO_SIGNED[takes]), case.network, nn.Sigmoid())
    said, report = score(path)
    assert (
        "m.onnx: assumed skeleton st13, normalisation -1..1 "
        "(to change: --skeleton, --normalisation)." in said
    )
    assert (
        report["assumed"] == {"skeleton": "st13", "normalisation": "-1..1"}
        and report["oks"] != own["oks"]
    )
    said, report = score(path, "--normalisation", takes, "--skeleton", "st13")
    assert "assumed" not in said and report["assumed"] == {}
    assert report["oks"] == pytest.approx(own["oks"], abs=0.05)
    assert describe_file(path)["assumed"] == {"skeleton": "st13", "normalisation": "-1..1"}


def test_a_needless_option_is_reported(score: Score, case: Any) -> None:
    said, report = score(case.result.folder / "net_64.onnx", "--normalisation", "0..1")
    assert (
        "net_64.onnx: normalisation 0..1 is not used: -1..1 follows from the file or its bundle."
        in said
    )
    assert report["oks"] == score(case.result.folder / "net_64.onnx")[1]["oks"]


def test_predictions_and_inspections_have_it_too(
    heatpose: Heatpose, tiny_checkpoint: Path, synthetic_root: Path, tmp_path: Path
) -> None:
    path = export(tmp_path / "m.onnx", load_checkpoint(tiny_checkpoint).network)
    image, out = next((synthetic_root / "val2017").iterdir()), tmp_path / "out"
    ran = heatpose("predict", path, image, "--out", out)
    (entry,) = json.loads((out / "predictions.json").read_text())
    assumed = {"skeleton": "st13", "normalisation": "-1..1"}
    assert "assumed skeleton st13" in ran.out and entry["assumed"] == assumed
    assert (
        heatpose(
            "predict", path, image, "--out", out, "--skeleton", "st13", "--normalisation", "-1..1"
        ).status
        == 0
    )
    assert "assumed" not in json.loads((out / "predictions.json").read_text())[0]
    ran = heatpose("inspect", path, "--json", tmp_path / "facts.json")
    assert (
        json.loads((tmp_path / "facts.json").read_text())["assumed"] == assumed
        and "skeleton st13" in ran.out
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--normalisation", "caffe"], "'caffe' is not understood"),
        (["--skeleton", "coco18"], "neither built in (coco17, st13) nor a file"),
        (["--skeleton", "coco17"], "has 13 keypoints, but skeleton 'coco17' has 17"),
    ],
)
def test_wrong_options_are_one_sentence(
    heatpose: Heatpose, tiny_checkpoint: Path, synthetic_root: Path, options: list[str], said: str
) -> None:
    labels = synthetic_root / "annotations/person_keypoints_val2017.json"
    ran = heatpose(
        "evaluate",
        tiny_checkpoint,
        "--annotations",
        labels,
        "--images",
        synthetic_root / "val2017",
        *options,
    )
    assert ran.status == 1 and said in ran.err and ran.err.count("\n") == 1


def test_built_in_names_are_the_files_of_conf() -> None:
    conf = Path(__file__).parents[2] / "conf/skeleton"
    assert [Skeleton.from_yaml(conf / f"{s.name}.yaml") for s in (COCO_17, ST_13)] == [
        COCO_17,
        ST_13,
    ]


TINY = Path(__file__).parents[1] / "faults/files/tiny_64_int8_pt.tflite"
DEADLY = {78080: 160, 77528: 0, 74133: 246}
"""Position of a byte -> the value with which LiteRT aborts; found by `tests/faults/fuzzing.py`."""
NO_TEXT = (76777, 255)
"""The same for a name that is no UTF-8."""

pytest.importorskip("ai_edge_litert", reason="the export extra is not installed")


def spoiled(folder: Path, position: int, value: int) -> Path:
    content = bytearray(TINY.read_bytes())
    content[position] = value
    path = folder / "spoiled.tflite"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("position", DEADLY)
def test_a_file_that_would_end_the_process_is_refused(position: int, tmp_path: Path) -> None:
    path = spoiled(tmp_path, position, DEADLY[position])
    run = (
        f"import sys; sys.argv[1:] = [{str(path)!r}]; from heatpose.runners.reading import main;"
        " main()"
    )
    alone = subprocess.run([sys.executable, "-c", run], capture_output=True)
    assert alone.returncode < 0, "this version of LiteRT survives the file; find another byte"
    with pytest.raises(
        HeatposeError,
        match=r"crashes LiteRT \(SIG[A-Z]+\); the file is damaged: export or download it again\.$",
    ):
        check_runs(path)


def test_the_command_ends_with_the_sentence(tmp_path: Path) -> None:
    path = spoiled(tmp_path, *next(iter(DEADLY.items())))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    command = [
        sys.executable,
        "-m",
        "heatpose.cli",
        "predict",
        str(path),
        str(tmp_path / "a.png"),
        "--out",
        str(tmp_path / "drawn"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (
        done.returncode == 1 and "crashes LiteRT" in done.stderr and "Traceback" not in done.stderr
    )
    assert not (tmp_path / "drawn").exists()


def test_other_files_pass(tmp_path: Path) -> None:
    """Their faults are reported by `open_runner`."""
    (tmp_path / "text.tflite").write_text("no model")
    for path in (TINY, tmp_path / "text.tflite", tmp_path / "nothing.onnx", tmp_path):
        check_runs(path)
    with pytest.raises(HeatposeError, match="not a readable TFLite"):
        open_runner(tmp_path / "text.tflite")


def test_a_file_of_a_whole_bundle_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.tflite"
    path.write_bytes(TINY.read_bytes())
    manifest = {"files": {path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(reading.subprocess, "run", lambda *_, **__: pytest.fail("it was tried"))
    check_runs(path)
    path.write_bytes(spoiled(tmp_path, 100, 1).read_bytes())
    with pytest.raises(pytest.fail.Exception):
        check_runs(path)


def test_a_run_that_does_not_end_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_S", 0.01)
    with pytest.raises(HeatposeError, match="did not run through LiteRT once in"):
        check_runs(TINY)


def test_names_that_are_not_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match=r"cannot be run by LiteRT \('utf-8' codec"):
        open_runner(spoiled(tmp_path, *NO_TEXT))
