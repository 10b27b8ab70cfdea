"""TFLite files of random networks, made once in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import MadeOnce


@pytest.fixture(scope="session")
def files(made_once: MadeOnce) -> Path:
    """The folder that `make_tflite_files.py` filled."""
    if any(find_spec(name) is None for name in ("tensorflow", "onnx2tf")):
        pytest.skip("the export extra is not installed")
    return made_once("movenet_files", _make)


def _make(folder: Path) -> None:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    program = Path(__file__).with_name("make_tflite_files.py")
    result = subprocess.run(
        [sys.executable, str(program), str(folder)],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.fixture(scope="session")
def lightning(shared: Path) -> Path:
    """Google's MoveNet SinglePose Lightning, int8."""
    path = shared / "models" / "movenet_singlepose_lightning_int8_4.tflite"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path
