"""TFLite files of every supported kind.

Against what they must answer, and against a plain use of the interpreter.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.runners import open_runner

pytest.importorskip("ai_edge_litert", reason="the export extra is not installed")

SHARED = Path(os.environ.get("HEATPOSE_SHARED", Path(__file__).parents[3] / "shared"))
GOOGLE = SHARED / "models" / "movenet_singlepose_lightning_int8_4.tflite"
RELEASED = Path(__file__).parents[2] / "exports" / "released" / "st_movenet_17kpt_192"
MAPS = (
    "float_logits",
    "float_probabilities",
    "float_raw",
    "uint8_raw",
    "int32_raw",
    "int8_to_int8",
    "uint8_to_float",
    "uint8_to_uint8_logits",
    "channels_first",
)


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _ask(interpreter: Any, values: NDArray[Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    entry, answer = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert entry["dtype"] == values.dtype
    interpreter.set_tensor(entry["index"], values)
    interpreter.invoke()
    return interpreter.get_tensor(answer["index"]), answer


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("decode", ["argmax", "refined"])
def test_finds_each_colours_block(
    name: str,
    decode: str,
    tflite_files: Path,
    blocks: NDArray[np.uint8],
    expected: NDArray[np.float32],
) -> None:
    runner = open_runner(tflite_files / f"{name}.tflite")
    poses = runner.predict(blocks, decode)
    assert poses.dtype == np.float32 and poses.shape == (1, 3, 3)
    # A lone peak between equal neighbours stays at its cell's centre, but for int8's noise in the
    # neighbours.
    np.testing.assert_allclose(
        poses[..., :2], expected[..., :2], atol=1e-6 if decode == "argmax" else 0.002
    )
    np.testing.assert_allclose(poses[..., 2], expected[..., 2], atol=0.02)


def test_describes_the_file(tflite_files: Path) -> None:
    runner = open_runner(str(tflite_files / "uint8_to_float.tflite"), threads=1)
    assert (runner.name, runner.path) == (
        "uint8_to_float.tflite",
        tflite_files / "uint8_to_float.tflite",
    )
    assert (runner.kind, runner.keypoints, runner.size) == ("tflite", 3, 64)
    assert (runner.skeleton, runner.preprocessing) == (None, None)
    assert runner.kernels == "XNNPACK, 1 threads" or "built-in" in runner.kernels


def test_a_batch_is_its_images(tflite_files: Path, blocks: NDArray[np.uint8]) -> None:
    rng = np.random.default_rng(0)
    images = np.concatenate(
        [blocks, rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8), blocks[:, ::-1]]
    )
    runner = open_runner(tflite_files / "uint8_to_float.tflite")
    together = runner.predict(images)
    np.testing.assert_array_equal(
        together, np.concatenate([runner.predict(image[None]) for image in images])
    )
    assert len(np.unique(together[:, 0, :2], axis=0)) > 2  # images do not run into each other


@pytest.mark.parametrize("name", MAPS)
def test_a_batch_on_several_threads_is_its_images_on_one(
    name: str, tflite_files: Path, blocks: NDArray[np.uint8]
) -> None:
    path, images = tflite_files / f"{name}.tflite", _moved(blocks, 7)
    one = open_runner(path, threads=1).heatmaps(images)
    assert len(np.unique(one.reshape(7, -1), axis=0)) == 7  # a wrong order would be seen
    for threads in (2, 3, 16):
        assert np.array_equal(open_runner(path, threads=threads).heatmaps(images), one)


def test_threads_do_not_change_a_released_network(blocks: NDArray[np.uint8]) -> None:
    path = next(RELEASED.glob("*int8_pc.tflite"))
    images = _moved(blocks.repeat(3, 1).repeat(3, 2), 5)
    one, two = (open_runner(path, threads=threads).heatmaps(images) for threads in (1, 2))
    alone = np.concatenate([open_runner(path, threads=2).heatmaps(image[None]) for image in images])
    assert np.array_equal(one, two) and np.array_equal(one, alone)


def _moved(image: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """`count` images, each moved by four columns from the one before."""
    return np.concatenate([np.roll(image, 4 * step, 2) for step in range(count)])


def test_int8_heatmaps_are_the_interpreters_dequantised(tflite_files: Path) -> None:
    """Written out by hand: input raw - 128, output scale * (stored - zero point), NHWC -> NCHW."""
    image = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    path = tflite_files / "int8_to_int8.tflite"
    stored, answer = _ask(_interpreter(path), (image.astype(int) - 128).astype(np.int8))
    scale, zero = answer["quantization"]
    by_hand = np.zeros((1, 3, 16, 16), np.float32)
    for row, column, k in np.ndindex(16, 16, 3):
        by_hand[0, k, row, column] = scale * (int(stored[0, row, column, k]) - zero)
    runner = open_runner(path, threads=1)
    np.testing.assert_allclose(runner.heatmaps(image), by_hand, rtol=1e-6)
    poses = runner.predict(image)
    for k in range(3):
        row, column = divmod(int(by_hand[0, k].argmax()), 16)
        np.testing.assert_allclose(
            poses[0, k], [(column + 0.5) / 16, (row + 0.5) / 16, by_hand[0, k].max()], rtol=1e-6
        )


@pytest.mark.parametrize("name", ["float_logits", "float_raw", "uint8_to_uint8_logits"])
def test_logits_become_scores_and_heatmaps_stay_logits(name: str, tflite_files: Path) -> None:
    image = np.random.default_rng(2).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    runner = open_runner(tflite_files / f"{name}.tflite")
    heatmaps = runner.heatmaps(image)
    assert heatmaps.min() < -1
    peaks = heatmaps.max((2, 3))
    np.testing.assert_allclose(runner.predict(image)[..., 2], 1 / (1 + np.exp(-peaks)), rtol=1e-5)


@pytest.mark.parametrize("name", ["pose_xy", "pose_and_maps"])
def test_a_pose_from_inside(
    name: str, tflite_files: Path, blocks: NDArray[np.uint8], decoded: NDArray[np.float32]
) -> None:
    runner = open_runner(tflite_files / f"{name}.tflite")
    np.testing.assert_allclose(runner.predict(blocks), decoded, atol=1e-5)
    assert runner.includes_decode
    with pytest.raises(HeatposeError, match="includes its decode"):
        runner.heatmaps(blocks)


def test_googles_pose_is_y_x_score(
    tflite_files: Path, blocks: NDArray[np.uint8], decoded: NDArray[np.float32]
) -> None:
    poses = open_runner(tflite_files / "pose_yx.tflite").predict(blocks, "refined")
    np.testing.assert_allclose(poses[0, :, 0], decoded[0, :, 1], atol=1e-5)
    np.testing.assert_allclose(poses[0, :, 1], decoded[0, :, 0], atol=1e-5)
    np.testing.assert_allclose(poses[0, :, 2], decoded[0, :, 2], atol=1e-5)


def test_reference_kernels_agree_but_are_named(
    tflite_files: Path, blocks: NDArray[np.uint8]
) -> None:
    path = tflite_files / "uint8_to_float.tflite"
    plain = open_runner(path, reference_kernels=True)
    assert "reference" in plain.kernels
    np.testing.assert_allclose(plain.predict(blocks), open_runner(path).predict(blocks), atol=0.02)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("classes", "softmax over classes"),
        ("ten_classes", r"outputs are \(1, 10\)"),
        ("two_maps", "several could be the pose"),
        ("coarse_map", r"outputs are \(1, 2, 2, 3\)"),
        ("not_square", r"input is float32 \(1, 32, 64, 3\)"),
        ("grey", r"input is float32 \(1, 64, 64, 1\)"),
        ("not_a_multiple", "multiple of 32"),
        ("two_inputs", "not one RGB image"),
        ("vector", r"input is float32 \(1, 9\)"),
    ],
)
def test_refuses_other_models_than_pose_models(name: str, said: str, tflite_files: Path) -> None:
    with pytest.raises(HeatposeError, match=said) as error:
        open_runner(tflite_files / f"{name}.tflite")
    assert "is not a single-person pose model" in str(error.value) and "\n" not in str(error.value)


def test_refuses_another_size(tflite_files: Path) -> None:
    assert open_runner(tflite_files / "float_raw.tflite", size=64).size == 64
    with pytest.raises(HeatposeError, match="64x64 images and cannot run at 96"):
        open_runner(tflite_files / "float_raw.tflite", size=96)


@pytest.mark.parametrize(
    "content", [b"", b"hello, I am text\n" * 100, b"\x1c\0\0\0TFL3" + bytes(1000)]
)
def test_refuses_files_that_are_not_tflite(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(HeatposeError, match="is not a readable TFLite file"):
        open_runner(path)


def test_refuses_a_truncated_file(tflite_files: Path, tmp_path: Path) -> None:
    content = (tflite_files / "float_raw.tflite").read_bytes()
    path = tmp_path / "model.tflite"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(HeatposeError):
        open_runner(path)


def test_names_the_package_to_install(tflite_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(HeatposeError, match=r"pip install 'heatpose\[export\]'"):
        open_runner(tflite_files / "float_raw.tflite")


def test_an_odd_name(tflite_files: Path, tmp_path: Path, blocks: NDArray[np.uint8]) -> None:
    path = tmp_path / "modèle [v2]\n'x'.TFLite"
    shutil.copy(tflite_files / "float_raw.tflite", path)
    assert open_runner(path).predict(blocks).shape == (1, 3, 3)


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 32, 32, 3), (0, 64, 64, 3), (1, 3, 64, 64)])
def test_refuses_arrays_that_are_not_images(shape: tuple[int, ...], tflite_files: Path) -> None:
    with pytest.raises(ValueError, match=r"takes u8\[B, 64, 64, 3\]"):
        open_runner(tflite_files / "float_raw.tflite").predict(np.zeros(shape, np.uint8))


@pytest.mark.skipif(
    not GOOGLE.is_file(), reason=f"{GOOGLE} is absent (HEATPOSE_SHARED says where it could be)"
)
def test_googles_file() -> None:
    """Noise and gradients through the real file.

    17 keypoints, y and x exchanged, nothing else changed.
    """
    runner = open_runner(GOOGLE)
    assert (runner.keypoints, runner.size, runner.skeleton) == (17, 192, None)
    plain = _interpreter(GOOGLE)
    ramp = np.linspace(0, 255, 192).astype(np.uint8)
    noise = np.random.default_rng(3).integers(0, 256, (192, 192, 3), dtype=np.uint8)
    images = np.stack([noise, np.broadcast_to(ramp[:, None, None], (192, 192, 3))])
    poses = runner.predict(images)
    for image, pose in zip(images, poses, strict=True):
        answer, _ = _ask(plain, image[None])
        np.testing.assert_array_equal(pose, answer[0, 0][:, [1, 0, 2]])
