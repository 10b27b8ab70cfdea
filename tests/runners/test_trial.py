"""Files that end the process that runs them, and how that is told."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatpose.errors import HeatposeError
from heatpose.runners import open_runner, trial
from heatpose.runners.trial import check_runs

TINY = Path(__file__).parents[1] / "faults/files/tiny_64_int8_pt.tflite"
DEADLY = {78080: 160, 77528: 0, 74133: 246}
"""Position of a byte -> the value with which LiteRT aborts; found by `tests/faults/fuzzing.py`."""
NO_TEXT = (76777, 255)
"""The same for a name that is no UTF-8."""

pytest.importorskip("ai_edge_litert", reason="the export extra is not installed")


def spoiled(folder: Path, position: int, value: int) -> Path:
    content = bytearray(TINY.read_bytes())
    content[position] = value
    path = folder / "spoiled.tflite"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("position", DEADLY)
def test_a_file_that_would_end_the_process_is_refused(position: int, tmp_path: Path) -> None:
    path = spoiled(tmp_path, position, DEADLY[position])
    run = (
        f"import sys; sys.argv[1:] = [{str(path)!r}]; from heatpose.runners.trial import main;"
        " main()"
    )
    alone = subprocess.run([sys.executable, "-c", run], capture_output=True)
    assert alone.returncode < 0, "this version of LiteRT survives the file; find another byte"
    with pytest.raises(
        HeatposeError,
        match=r"crashes LiteRT \(SIG[A-Z]+\); the file is damaged: export or download it again\.$",
    ):
        check_runs(path)


def test_the_command_ends_with_the_sentence(tmp_path: Path) -> None:
    path = spoiled(tmp_path, *next(iter(DEADLY.items())))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    command = [
        sys.executable,
        "-m",
        "heatpose.cli",
        "predict",
        str(path),
        str(tmp_path / "a.png"),
        "--out",
        str(tmp_path / "drawn"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (
        done.returncode == 1 and "crashes LiteRT" in done.stderr and "Traceback" not in done.stderr
    )
    assert not (tmp_path / "drawn").exists()


def test_other_files_pass(tmp_path: Path) -> None:
    """What is wrong with them is `open_runner`'s to say."""
    (tmp_path / "text.tflite").write_text("no model")
    for path in (TINY, tmp_path / "text.tflite", tmp_path / "nothing.onnx", tmp_path):
        check_runs(path)
    with pytest.raises(HeatposeError, match="no readable TFLite"):
        open_runner(tmp_path / "text.tflite")


def test_a_file_of_a_whole_bundle_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.tflite"
    path.write_bytes(TINY.read_bytes())
    manifest = {"files": {path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(trial.subprocess, "run", lambda *_, **__: pytest.fail("it was tried"))
    check_runs(path)
    path.write_bytes(spoiled(tmp_path, 100, 1).read_bytes())
    with pytest.raises(pytest.fail.Exception):
        check_runs(path)


def test_what_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LONGEST_S", 0.01)
    with pytest.raises(HeatposeError, match="did not run through LiteRT once in"):
        check_runs(TINY)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match=r"cannot be run by LiteRT \('utf-8' codec"):
        open_runner(spoiled(tmp_path, *NO_TEXT))
