"""ONNX -> SavedModel -> float TFLite with onnx2tf and TensorFlow's converter.

These functions load TensorFlow into the process, and onnx2tf with it, which seeds every random
generator, raises the recursion limit, changes environment variables and calls `sys.exit` on errors.
So only the process that `convert.py` starts calls them.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from heatpose.errors import HeatposeError
from heatpose.export.onnx import OUTPUT

# onnx2tf fetches this array over the network at every conversion of an RGB network, unless it lies
# in the
# working directory. It compares layouts with it and sets no range, so any values do.
_SAMPLE_FILE = "calibration_image_sample_data_20x128x128x3_float32.npy"
_SAMPLE_SHAPE = (20, 128, 128, 3)


def onnx_to_saved_model(onnx: Path, folder: Path) -> None:
    """Converts an ONNX file into a SavedModel in NHWC layout, with the signature image -> heatmaps.

    Args:
        onnx: A file of `onnx.export_onnx`; it is left as it is.
        folder: Where to write the SavedModel.

    Raises:
        HeatposeError: onnx2tf refuses the file.
    """
    onnx, folder = onnx.resolve(), folder.resolve()
    with tempfile.TemporaryDirectory(prefix="heatpose_onnx2tf_") as work, _working_in(Path(work)):
        # A copy, because onnx2tf writes the simplified graph over its input.
        copied = shutil.copy(onnx, Path(work) / "network.onnx")
        np.save(Path(work) / _SAMPLE_FILE, np.full(_SAMPLE_SHAPE, 0.5, np.float32))
        model = _keras_model(str(copied), str(Path(work) / "unused"))
        _save(model, folder)


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Works in `folder` with the environment's programs on PATH.

    onnx2tf runs `onnxsim` and skips it silently where it is not found, only to fail later.
    """
    before, path = Path.cwd(), os.environ.get("PATH", "")
    os.chdir(folder)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), path])
    try:
        yield
    finally:
        os.chdir(before)
        os.environ["PATH"] = path


def _keras_model(onnx: str, folder: str) -> Any:
    """The Keras model that onnx2tf builds.

    It saves nothing: its own float TFLite files would take three times as long as everything else.
    """
    import onnx2tf

    try:
        return onnx2tf.convert(
            input_onnx_file_path=onnx,
            output_folder_path=folder,
            disable_model_save=True,
            non_verbose=True,
            verbosity="error",
        )
    except SystemExit as error:
        raise HeatposeError("onnx2tf could not convert the ONNX file.") from error


def _save(model: Any, folder: Path) -> None:
    """Saves the traced function alone; saving the Keras model would trace each of its layers."""
    import tensorflow as tf

    (image,) = model.inputs
    traced = tf.function(lambda values: {OUTPUT: model(values)})
    signature = traced.get_concrete_function(
        tf.TensorSpec(image.shape, image.dtype, name=image.name)
    )
    tf.saved_model.save(tf.Module(), str(folder), signatures=signature)


def to_tflite(saved_model: Path) -> bytes:
    """Converts a SavedModel of `onnx_to_saved_model` into a float32 TFLite file.

    Returns:
        The file's bytes; the same input gives the same bytes.
    """
    import tensorflow as tf  # seconds

    content: bytes = tf.lite.TFLiteConverter.from_saved_model(str(saved_model)).convert()
    return content
