"""Writes TFLite files of one convolution behind preprocessing in many artefacts.

Not a test: a program of its
own, because TensorFlow changes the process that it runs in.

A file whose name begins with `right_` makes `bytes / 127.5 - 1` of bytes, one that begins with
`wrong_` does not. Each is converted to float32 and to float16.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

SIZE = 32
RIGHT: dict[str, Callable[[Any], Any]] = {
    "right_division": lambda x: x / 127.5 - 1,
    "right_multiplication": lambda x: x * (1 / 127.5) - 1,
    "right_each_channel": lambda x: (
        (x - tf.constant([127.5, 127.5, 127.5])) * tf.constant([1 / 127.5] * 3)
    ),
    "right_negated": lambda x: (tf.constant(127.5) - x) * (-1 / 127.5),
    "right_list_of_images": lambda x: tf.expand_dims(tf.unstack(x)[0] * 2.0, 0) / 255.0 - 1,
    "right_squeezed": lambda x: tf.expand_dims(tf.squeeze(x, 0) - 127.5, 0) / 127.5,
    "right_flat": lambda x: tf.reshape(tf.reshape(x, (-1, 3)) - 127.5, (1, SIZE, SIZE, 3)) / 127.5,
    "right_in_integers": lambda x: tf.cast(2 * tf.cast(x, tf.int32) - 255, tf.float32) / 255.0,
}
WRONG: dict[str, Callable[[Any], Any]] = {
    "wrong_unit_range": lambda x: x / 255.0,
    "wrong_imagenet": lambda x: (
        (x / 255.0 - tf.constant([0.485, 0.456, 0.406])) / tf.constant([0.229, 0.224, 0.225])
    ),
    "wrong_one_channel": lambda x: x / 127.5 - tf.constant([1.0, 1.0, 0.9]),
    "wrong_layout": lambda x: tf.transpose(x, (0, 2, 1, 3)) / 127.5 - 1,
    "wrong_clipped": lambda x: tf.nn.relu(x / 127.5 - 1),
    "wrong_channels": lambda x: tf.reverse(x, [3]) / 127.5 - 1,
    "wrong_constant": lambda x: x * 0.0 + 0.5,
}


def written(folder: Path, name: str, preprocessing: Callable[[Any], Any]) -> None:
    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 3, 32)), tf.float32)

    def graph(x: Any) -> Any:
        return tf.nn.relu6(tf.nn.conv2d(preprocessing(tf.cast(x, tf.float32)), kernel, 2, "SAME"))

    concrete = tf.function(graph).get_concrete_function(tf.TensorSpec((1, SIZE, SIZE, 3), tf.uint8))
    for artefact in ("float32", "float16"):
        made = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
        if artefact == "float16":
            made.optimizations, made.target_spec.supported_types = (
                [tf.lite.Optimize.DEFAULT],
                [tf.float16],
            )
        (folder / f"{name}_{artefact}.tflite").write_bytes(made.convert())


if __name__ == "__main__":
    for name, preprocessing in (RIGHT | WRONG).items():
        written(Path(sys.argv[1]), name, preprocessing)
