"""Small real models: a pose-like convolution graph as every artefact, and a rejected one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import MadeOnce

SIZE = 32


def _pose_like(tf: Any) -> Callable[[Any], Any]:
    """Strided, pointwise and depthwise convolutions, an addition, a resize, a sigmoid.

    f32[1, 16, 16, 5].
    """
    rng = np.random.default_rng(3)
    stem = tf.constant(rng.normal(0, 0.3, (3, 3, 3, 8)), tf.float32)
    depthwise = tf.constant(rng.normal(0, 0.3, (3, 3, 8, 1)), tf.float32)
    project = tf.constant(rng.normal(0, 0.3, (1, 1, 8, 12)), tf.float32)
    lateral = tf.constant(rng.normal(0, 0.3, (1, 1, 8, 12)), tf.float32)
    # The last channel is a hundred times smaller, which is where one scale per tensor and per
    # channel differ.
    head = tf.constant(rng.normal(0, 0.3, (1, 1, 12, 5)) * [1, 1, 1, 1, 0.01], tf.float32)
    bias = tf.constant(rng.normal(0, 0.1, 8), tf.float32)

    def network(image: Any) -> Any:
        fine = tf.nn.relu6(tf.nn.conv2d(image, stem, 2, "SAME") + bias)
        deep = tf.nn.relu6(tf.nn.depthwise_conv2d(fine, depthwise, [1, 2, 2, 1], "SAME"))
        deep = tf.nn.conv2d(deep, project, 1, "SAME")
        deep = tf.compat.v1.image.resize_bilinear(
            deep, (SIZE // 2, SIZE // 2), half_pixel_centers=True
        )
        merged = deep + tf.nn.conv2d(fine, lateral, 1, "SAME")
        return tf.sigmoid(tf.nn.conv2d(merged, head, 1, "SAME"))

    return network


def _awkward(tf: Any) -> Callable[[Any], Any]:
    """Padding, a transpose, a transposed convolution, a sine (no int8 kernel), a dense layer.

    f32[1, 4].
    """
    rng = np.random.default_rng(4)
    stem = tf.constant(rng.normal(0, 0.3, (3, 3, 3, 6)), tf.float32)
    up = tf.constant(rng.normal(0, 0.3, (3, 3, 5, 6)), tf.float32)
    dense = tf.constant(rng.normal(0, 0.3, (5, 4)), tf.float32)

    def network(image: Any) -> Any:
        x = tf.nn.conv2d(tf.pad(image, [[0, 0], [2, 1], [2, 1], [0, 0]]), stem, 2, "VALID")
        x = tf.transpose(x, [0, 2, 1, 3])
        x = tf.nn.conv2d_transpose(x, up, (1, 34, 34, 5), 2, "SAME")
        return tf.matmul(tf.reduce_mean(tf.math.sin(x), [1, 2]), dense)

    return network


def _images() -> Iterator[list[NDArray[np.float32]]]:
    rng = np.random.default_rng(5)
    for _ in range(8):
        image = rng.uniform(-1, 1, (1, SIZE, SIZE, 3)).astype(np.float32)
        image[0, 0, 0, :2] = -1, 1
        yield [image]


@pytest.fixture(scope="session")
def small_models(made_once: MadeOnce) -> dict[str, Path]:
    """TFLite files by artefact; "int8_pc" and "int8_pt" take uint8 and give float32.

    "float_io" takes float32.
    """
    return {path.stem: path for path in made_once("small_models", _write_all).iterdir()}


def _write_all(folder: Path) -> None:
    tf = pytest.importorskip("tensorflow", reason="the export extra is not installed")

    def convert(name: str, network: Callable[[Any], Any], **settings: Any) -> None:
        signature = tf.TensorSpec((1, SIZE, SIZE, 3), tf.float32, name="image")
        module = tf.Module()
        concrete = tf.function(network).get_concrete_function(signature)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
        for key, value in settings.items():
            setattr(converter, key, value)
        (folder / f"{name}.tflite").write_bytes(converter.convert())

    optimise = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    float_io = optimise | {"representative_dataset": _images}
    builtins = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
    int8 = float_io | {"inference_input_type": tf.uint8, "inference_output_type": tf.float32}
    target = {"target_spec": tf.lite.TargetSpec(supported_ops=[builtins])}
    half = tf.lite.TargetSpec(supported_types=[tf.float16])
    pose, awkward = _pose_like(tf), _awkward(tf)
    per_tensor = {"_experimental_disable_per_channel": True}
    convert("float32", pose)
    convert("float16", pose, **optimise, target_spec=half)
    convert("int8_pc", pose, **int8, **target)
    convert("int8_pt", pose, **int8, **target, **per_tensor)
    convert("int8_out", pose, **int8 | {"inference_output_type": tf.int8}, **target)
    convert("float_io", pose, **float_io, **target)
    convert("awkward", awkward)
    convert("awkward_int8", awkward, **int8)
