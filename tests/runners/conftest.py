"""Small real model files whose right answer is known without running them.

Keypoint k is the block of colour k (red, green, blue) on a black image: a 4x4 convolution of stride
4 answers +4 at the block's cell and -4 elsewhere, whatever the file's number format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import MadeOnce

SIZE, CELLS, KEYPOINTS = 64, 16, 3
COLUMNS_ROWS = ((11, 3), (0, 15), (6, 9))  # (column, row) of the red, green and blue block
# outputs of the decoded models
POSE = np.array([[0.1, 0.2, 0.9], [0.3, 0.4, 0.8], [0.5, 0.6, 0.7]], np.float32)


def filters() -> NDArray[np.float32]:
    """f32[4, 4, 3, 3] (rows, columns, colour, keypoint).

    Black in [-1, 1] gives 0, block k gives 8.
    """
    colours = np.full((3, 3), -0.5, np.float32) + 1.5 * np.eye(3, dtype=np.float32)
    return np.broadcast_to(4 * colours / 16, (4, 4, 3, 3)).astype(np.float32)


BIAS = np.full(KEYPOINTS, -4, np.float32)


@pytest.fixture(scope="session")
def kernel() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The convolution's weights (rows, columns, colour, keypoint) and its bias."""
    return filters(), BIAS


@pytest.fixture(scope="session")
def blocks() -> NDArray[np.uint8]:
    """u8[1, 64, 64, 3]: one block of each colour."""
    image = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    for k, (column, row) in enumerate(COLUMNS_ROWS):
        image[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4, k] = 255
    return image


@pytest.fixture(scope="session")
def expected() -> NDArray[np.float32]:
    """f32[1, 3, 3]: the centre of each block's cell, and the sigmoid of 4."""
    score = 1 / (1 + np.exp(-4))
    return np.array(
        [[((c + 0.5) / CELLS, (r + 0.5) / CELLS, score) for c, r in COLUMNS_ROWS]], np.float32
    )


@pytest.fixture(scope="session")
def decoded() -> NDArray[np.float32]:
    """f32[1, 3, 3]: what the files with the decode inside answer."""
    return POSE[None]


def _images() -> Iterator[list[NDArray[np.float32]]]:
    rng = np.random.default_rng(0)
    for _ in range(4):
        image = (
            rng.choice([-1.0, 1.0], (1, CELLS, CELLS, 3), p=[0.8, 0.2]).repeat(4, 1).repeat(4, 2)
        )
        yield [image.astype(np.float32)]


class Builder:
    """Turns TensorFlow functions into TFLite files."""

    def __init__(self, tf: Any, folder: Path) -> None:
        self.tf, self.folder = tf, folder

    def logits(self, image: Any) -> Any:
        """f32[1, S, S, 3] in [-1, 1] -> (1, 16, 16, 3).

        SAME, although nothing is padded: into a VALID convolution the converter folds a
        normalisation before it.
        """
        return self.tf.nn.conv2d(image, filters(), 4, "SAME") + BIAS

    def probabilities(self, image: Any) -> Any:
        """The sigmoid of the logits."""
        return self.tf.sigmoid(self.logits(image))

    def pose(self, image: Any) -> Any:
        """(3, 3): `POSE` and a trace of the image, so that the converter does not fold it away."""
        return self.tf.constant(POSE) + 1e-6 * self.tf.reduce_mean(image)

    def write(
        self,
        name: str,
        network: Callable[..., Any],
        shapes: tuple[tuple[int, ...], ...] = ((1, SIZE, SIZE, 3),),
        dtype: str = "float32",
        quantised: tuple[str, str] | None = None,
    ) -> None:
        """Converts `network` (inputs of `shapes` and `dtype`), quantised to.

        (input, output) types.
        """
        tf = self.tf
        specs = [tf.TensorSpec(shape, dtype) for shape in shapes]
        concrete = tf.function(network).get_concrete_function(*specs)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
        if quantised:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = _images
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type, converter.inference_output_type = map(
                tf.as_dtype, quantised
            )
        (self.folder / f"{name}.tflite").write_bytes(converter.convert())


@pytest.fixture(scope="session")
def tflite_files(made_once: MadeOnce) -> Path:
    """A folder of TFLite files: kinds that a runner accepts, and some that it refuses."""
    return made_once("runner_files", _write_all)


def _write_all(folder: Path) -> None:
    build = Builder(
        pytest.importorskip("tensorflow", reason="the export extra is not installed"), folder
    )
    _pose_models(build)
    _other_models(build)


def _pose_models(build: Builder) -> None:
    tf = build.tf

    def inside(image: Any) -> Any:
        return build.logits(tf.cast(image, tf.float32) / 127.5 - 1.0)

    build.write("float_logits", build.logits)
    build.write("float_probabilities", build.probabilities)
    build.write("float_raw", inside)
    build.write("uint8_raw", inside, dtype="uint8")
    build.write("int32_raw", inside, dtype="int32")
    build.write("int8_to_int8", build.probabilities, quantised=("int8", "int8"))
    build.write("uint8_to_float", build.probabilities, quantised=("uint8", "float32"))
    build.write("uint8_to_uint8_logits", build.logits, quantised=("uint8", "uint8"))
    build.write("channels_first", lambda image: tf.transpose(build.logits(image), (0, 3, 1, 2)))
    build.write("pose_yx", lambda image: tf.reshape(build.pose(image), (1, 1, 3, 3)))
    build.write("pose_xy", lambda image: tf.reshape(build.pose(image), (1, 9)))
    build.write(
        "pose_and_maps", lambda image: (build.logits(image), tf.reshape(build.pose(image), (1, 9)))
    )


def _other_models(build: Builder) -> None:
    tf = build.tf

    def classes(image: Any) -> Any:
        return tf.nn.softmax(tf.reduce_mean(build.logits(image), (1, 2)))

    build.write("classes", classes)
    build.write("ten_classes", lambda image: tf.reduce_mean(image) * tf.ones((1, 10)))
    build.write(
        "two_maps", lambda image: (build.logits(image), tf.tile(build.logits(image), (1, 1, 1, 2)))
    )
    build.write("coarse_map", lambda image: tf.nn.avg_pool2d(build.logits(image), 8, 8, "VALID"))
    build.write("not_square", build.logits, shapes=((1, 32, 64, 3),))
    build.write(
        "grey",
        lambda image: build.logits(tf.tile(image, (1, 1, 1, 3))),
        shapes=((1, SIZE, SIZE, 1),),
    )
    build.write("not_a_multiple", build.logits, shapes=((1, 72, 72, 3),))
    build.write("two_inputs", lambda a, b: build.logits(a - b), shapes=((1, SIZE, SIZE, 3),) * 2)
    build.write("vector", tf.sin, shapes=((1, 9),))
