"""ONNX -> TFLite in a process of its own.

A crash of the converter is one sentence, and nothing leaks.

The two sides share a folder: the parent writes `network.onnx`; the child (`python -m
heatpose.export.convert`, working in the folder) writes `network.tflite`. The child's standard
output carries one line per step, its standard error everything that the tools print.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from heatpose.errors import HeatposeError
from heatpose.export.onnx2tf import onnx_to_saved_model, to_tflite
from heatpose.tflite.writer import without_crops

_NETWORK, _RESULT = "network.onnx", "network.tflite"
_STEP, _ERROR = "step ", "error "


def convert(onnx: Path, *, on_step: Callable[[str], None] = lambda step: None) -> bytes:
    """Converts an ONNX file into a float32 TFLite file.

    `int8.write_int8` makes the int8 files out of that.

    Args:
        onnx: A file of `onnx.export_onnx`.
        on_step: Is told what is being done.

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
    """Refuses to start without the tools.

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
    """Runs the child and passes its steps on.

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
    """Passes the child's steps on until it closes its output.

    Returns the sentence it gave up with, or "".
    """
    error = ""
    for line in lines:
        if line.startswith(_STEP):
            on_step(line.removeprefix(_STEP).strip())
        elif line.startswith(_ERROR):
            error = line.removeprefix(_ERROR).strip()
    return error


def _environment() -> dict[str, str]:
    """No GPU (TensorFlow would take all of its memory), few messages.

    And the same hashes in every run.
    """
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
    """The child: converts what the request in the working directory asks for.

    Returns the exit status.
    """
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


if __name__ == "__main__":
    sys.exit(main())
