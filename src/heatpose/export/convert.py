"""ONNX -> SavedModel -> float TFLite with onnx2tf and TensorFlow's converter, in a child process.

The tools load TensorFlow, seed every random generator, raise the recursion limit, change
environment variables and call `sys.exit` on errors, so only a child process calls them; its crash
is reported in one sentence. Parent and child share a folder: the parent writes `network.onnx`; the
child (`python -m heatpose.export.convert`, working in the folder) writes `network.tflite`. The
child's standard output carries one line per step, its standard error everything that the tools
print.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from heatpose.errors import HeatposeError
from heatpose.export.onnx import OUTPUT
from heatpose.tflite.writer import without_crops

_NETWORK, _RESULT = "network.onnx", "network.tflite"
_STEP, _ERROR = "step ", "error "
# onnx2tf downloads this array at every conversion of an RGB network, unless it lies in the working
# directory. It compares layouts with it and sets no range, so any values do.
_SAMPLE_FILE = "calibration_image_sample_data_20x128x128x3_float32.npy"
_SAMPLE_SHAPE = (20, 128, 128, 3)


def convert(onnx: Path, *, on_step: Callable[[str], None] = lambda step: None) -> bytes:
    """Converts an ONNX file into a float32 TFLite file.

    `quantize.write_int8` makes the int8 files from it.

    Args:
        onnx: A file of `onnx.export_onnx`.
        on_step: Called with the name of each step that begins.

    Returns:
        The file's bytes.

    Raises:
        HeatposeError: The tools are not installed, or the conversion failed; the message names the
            kept log.
    """
    check_installed()
    with tempfile.TemporaryDirectory(prefix="heatpose_convert_") as temporary:
        folder = Path(temporary)
        shutil.copy(onnx, folder / _NETWORK)
        _run_child(folder, on_step)
        return (folder / _RESULT).read_bytes()


def check_installed() -> None:
    """Checks that the tools are installed.

    Raises:
        HeatposeError: onnx2tf or TensorFlow is missing.
    """
    missing = [name for name in ("onnx2tf", "tensorflow") if importlib.util.find_spec(name) is None]
    if missing:
        raise HeatposeError(
            f"Exporting TFLite needs {' and '.join(missing)}: install heatpose[export] (Python"
            " 3.11)."
        )


def _run_child(folder: Path, on_step: Callable[[str], None]) -> None:
    """Runs the child and forwards its steps.

    Raises:
        HeatposeError: It failed or was killed.
    """
    log = folder / "log.txt"
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            [sys.executable, "-m", "heatpose.export.convert"],
            cwd=folder,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=sink,
            stdin=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        ) as child,
    ):
        try:
            assert child.stdout is not None
            error = _follow(child.stdout, on_step)
            status = child.wait()
        finally:  # an interrupted export leaves no converter running
            child.kill()
    if status:
        raise HeatposeError(
            f"{error or _how_it_ended(status)} The converter's log is kept in '{_keep(log)}'."
        )


def _follow(lines: Iterable[str], on_step: Callable[[str], None]) -> str:
    """Forwards the child's steps until it closes its output; returns its error message, or ""."""
    error = ""
    for line in lines:
        if line.startswith(_STEP):
            on_step(line.removeprefix(_STEP).strip())
        elif line.startswith(_ERROR):
            error = line.removeprefix(_ERROR).strip()
    return error


def _environment() -> dict[str, str]:
    """No GPU (TensorFlow would take all of its memory), few messages, the same hashes every run."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONHASHSEED": "0"}
    return {**os.environ, **quiet}


def _how_it_ended(status: int) -> str:
    if status < 0:
        return (
            f"The TFLite converter was ended by signal {-status}; 9 usually means that memory ran"
            " out."
        )
    return f"The TFLite converter failed with status {status}."


def _keep(log: Path) -> Path:
    handle, kept = tempfile.mkstemp(prefix="heatpose_convert_", suffix=".log")
    with os.fdopen(handle, "wb") as sink:
        sink.write(log.read_bytes())
    return Path(kept)


def main() -> int:
    """The child: converts the network in the working directory; returns the exit status."""
    # The tools print to standard output; here it belongs to the steps, so theirs goes to the log.
    steps = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    try:
        _convert_here(Path.cwd(), lambda step: print(_STEP + step, file=steps))
    except HeatposeError as error:
        print(_ERROR + " ".join(str(error).split()), file=steps)
        return 1
    return 0


def _convert_here(folder: Path, on_step: Callable[[str], None]) -> None:
    on_step("ONNX to SavedModel")
    onnx_to_saved_model(folder / _NETWORK, folder / "saved_model")
    on_step("SavedModel to TFLite")
    (folder / _RESULT).write_bytes(without_crops(to_tflite(folder / "saved_model")))


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


if __name__ == "__main__":
    sys.exit(main())
