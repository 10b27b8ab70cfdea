"""ONNX -> SavedModel -> TFLite with onnx2tf and TensorFlow's converter.

These functions load TensorFlow into the process, and onnx2tf with it, which seeds every random generator,
raises the recursion limit, changes environment variables and calls `sys.exit` on errors. So only the process
that `convert.py` starts calls them.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.export.inspection import Artefact
from heatpose.export.onnx import OUTPUT
from heatpose.preprocessing import Preprocessing

Output = Literal["float32", "int8"]

# onnx2tf fetches this array over the network at every conversion of an RGB network, unless it lies in the
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
    signature = traced.get_concrete_function(tf.TensorSpec(image.shape, image.dtype, name=image.name))
    tf.saved_model.save(tf.Module(), str(folder), signatures=signature)


def to_tflite(
    saved_model: Path,
    *,
    form: Artefact,
    calibration: NDArray[np.uint8] | None,
    preprocessing: Preprocessing,
    output: Output = "float32",
) -> bytes:
    """Converts a SavedModel of `onnx_to_saved_model` into a TFLite file.

    Args:
        saved_model: Its folder.
        form: "float32" takes normalised floats. "int8_pc" and "int8_pt" take raw bytes as uint8, compute with
            integers only, and have one weight scale per output channel or per tensor.
        calibration: u8[N, S, S, 3] raw bytes that set the activations' ranges; must hold a 0 and a 255, so
            that the input's range is exact. Unused for "float32".
        preprocessing: How bytes become the network's input.
        output: Type of the heatmaps of an int8 form.

    Returns:
        The file's bytes; the same input gives the same bytes.

    Raises:
        HeatposeError: An int8 form without calibration images, or ones without a 0 and a 255.
    """
    images = _checked(calibration) if form != "float32" else None
    import tensorflow as tf  # seconds, and not before the images are known to be good

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    if images is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: _representative(images, preprocessing)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = {"float32": tf.float32, "int8": tf.int8}[output]
        converter._experimental_disable_per_channel = form == "int8_pt"
    content: bytes = converter.convert()
    return content


def _checked(calibration: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    if calibration is None or not len(calibration):
        raise HeatposeError(
            "An int8 file needs calibration images, and there are none; give training images."
        )
    if calibration.min() != 0 or calibration.max() != 255:
        raise HeatposeError(
            "The calibration images hold no 0 or no 255; make them with `calibration_images`."
        )
    return calibration


def _representative(
    calibration: NDArray[np.uint8], preprocessing: Preprocessing
) -> Iterator[list[NDArray[np.float32]]]:
    """One normalised f32[1, S, S, 3] after the other."""
    divisor, shift = np.float32(preprocessing.divisor), np.float32(preprocessing.shift)
    for image in calibration:
        yield [image[None].astype(np.float32) / divisor - shift]
