"""ONNX files: fixed and free batch and sides, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.runners import open_runner

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="the export extra is not installed")


Write = Callable[..., Path]


@pytest.fixture
def write(kernel: tuple[NDArray[np.float32], NDArray[np.float32]], tmp_path: Path) -> Write:
    """Writes the convolution that finds the colour blocks, with the operator `last` behind it."""
    from onnx import helper, numpy_helper

    def write_file(
        shape: list[Any], last: str = "Identity", dtype: int = onnx.TensorProto.FLOAT
    ) -> Path:
        weights = [
            numpy_helper.from_array(kernel[0].transpose(3, 2, 0, 1).copy(), "w"),
            numpy_helper.from_array(kernel[1], "b"),
        ]
        nodes = [
            helper.make_node("Conv", ["image", "w", "b"], ["maps"], strides=[4, 4]),
            helper.make_node(last, ["maps"], ["answer"]),
        ]
        entry = helper.make_tensor_value_info("image", dtype, shape)
        answer = helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, [None] * 4)
        graph = helper.make_graph(nodes, "blocks", [entry], [answer], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(tmp_path / "m.onnx"))
        return tmp_path / "m.onnx"

    return write_file


@pytest.mark.parametrize("batch", [1, 2, "N"])
@pytest.mark.parametrize("last", ["Identity", "Sigmoid"])
def test_finds_each_colours_block(
    batch: int | str,
    last: str,
    write: Write,
    blocks: NDArray[np.uint8],
    expected: NDArray[np.float32],
) -> None:
    runner = open_runner(write([batch, 3, 64, 64], last))
    assert (runner.kind, runner.keypoints, runner.size, runner.skeleton) == ("onnx", 3, 64, None)
    assert "onnxruntime" in runner.kernels
    images = np.concatenate([blocks, blocks[:, ::-1], blocks])
    poses = runner.predict(images)
    np.testing.assert_allclose(poses[[0, 2]], np.concatenate([expected, expected]), atol=1e-5)
    np.testing.assert_allclose(poses[1, :, 1], 1 - expected[0, :, 1], atol=1e-6)


def test_heatmaps_are_logits(write: Write, blocks: NDArray[np.uint8]) -> None:
    heatmaps = open_runner(write([1, 3, 64, 64])).heatmaps(blocks)
    assert heatmaps.shape == (1, 3, 16, 16) and heatmaps.dtype == np.float32
    np.testing.assert_allclose([heatmaps.max(), heatmaps[0, 0, 0, 0]], [4, -4], atol=1e-4)


def test_free_sides_need_a_size(
    write: Write, blocks: NDArray[np.uint8], expected: NDArray[np.float32]
) -> None:
    path = write(["N", 3, "H", "W"])
    with pytest.raises(HeatposeError, match="leaves the size of its input open"):
        open_runner(path)
    np.testing.assert_allclose(open_runner(path, size=64).predict(blocks), expected, atol=1e-5)
    with pytest.raises(HeatposeError, match="Resolution 100"):
        open_runner(path, size=100)


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ([1, 3, 64, 96], (), "not one RGB image"),
        (["N", 5, 64, 64], (), "not one RGB image|not an ONNX file"),
        (
            [1, 3, 64, 64],
            ("Identity", onnx.TensorProto.FLOAT16),
            "not one RGB image|not an ONNX file",
        ),
        ([1, 3, 64, 64], ("GlobalAveragePool",), r"outputs are \(1, 3, 1, 1\)"),
    ],
)
def test_refuses_other_models_than_pose_models(
    shape: list[Any], options: tuple[Any, ...], said: str, write: Write
) -> None:
    with pytest.raises(HeatposeError, match=said) as error:
        open_runner(write(shape, *options))
    assert "\n" not in str(error.value)


def test_refuses_another_size(write: Write) -> None:
    with pytest.raises(HeatposeError, match="64x64 images and cannot run at 192"):
        open_runner(write([1, 3, 64, 64]), size=192)


@pytest.mark.parametrize("content", [b"", b"hello, I am text\n" * 100])
def test_refuses_files_that_are_not_onnx(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(HeatposeError, match="is not an ONNX file") as error:
        open_runner(path)
    assert "\n" not in str(error.value)


def test_names_the_package_to_install(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(HeatposeError, match=r"pip install 'heatpose\[export\]'"):
        open_runner(write([1, 3, 64, 64]))
