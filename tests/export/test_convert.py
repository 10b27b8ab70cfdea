"""The converter's process from outside: a script stands in for it, so that nothing heavy runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from heatpose.errors import HeatposeError
from heatpose.export import convert as module
from heatpose.export.convert import convert

StandIn = Callable[[str], None]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Puts a shell script in the place of Python, and the log files where the test can see them."""
    monkeypatch.setattr(module, "check_installed", lambda: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def install(script: str) -> None:
        program = tmp_path / "stand_in"
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return install


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"a network")
    return path


def run(onnx: Path, on_step: Callable[[str], None] = lambda step: None) -> bytes:
    return convert(onnx, on_step=on_step)


def left_behind(folder: Path) -> list[str]:
    return sorted(
        p.name for p in folder.iterdir() if p.name not in ("net.onnx", "stand_in", "seen")
    )


def test_the_child_gets_the_network_and_its_file_comes_back(
    tmp_path: Path, onnx: Path, stand_in: StandIn
) -> None:
    stand_in(
        f'echo "$@ $CUDA_VISIBLE_DEVICES" > {tmp_path}/seen; cat network.onnx - > network.tflite;'
        " echo step one; echo noise; echo step two"
    )
    steps: list[str] = []
    assert run(onnx, steps.append) == b"a network"
    # no GPU
    assert (tmp_path / "seen").read_text(encoding="utf-8") == "-m heatpose.export.convert -1\n"
    assert steps == ["one", "two"]
    assert left_behind(tmp_path) == []


def test_its_sentence_is_the_error_and_the_log_is_kept(
    tmp_path: Path, onnx: Path, stand_in: StandIn
) -> None:
    stand_in("echo the reason in full >&2; echo error 'It is no network.'; exit 1")
    with pytest.raises(
        HeatposeError, match=r"^It is no network\. The converter's log is kept in"
    ) as caught:
        run(onnx)
    (name,) = left_behind(tmp_path)
    assert name in str(caught.value)
    assert (tmp_path / name).read_text(encoding="utf-8") == "the reason in full\n"


@pytest.mark.parametrize(
    ("ending", "words"), [("exit 3", "status 3"), ("kill -9 $$", "signal 9.*memory")]
)
def test_a_crash_is_one_sentence(onnx: Path, stand_in: StandIn, ending: str, words: str) -> None:
    stand_in(ending)
    with pytest.raises(HeatposeError, match=words):
        run(onnx)


def test_an_interruption_ends_the_child_and_leaves_nothing(
    tmp_path: Path, onnx: Path, stand_in: StandIn
) -> None:
    stand_in(f"echo $$ > {tmp_path}/seen; echo step one; exec sleep 60")

    def interrupt(step: str) -> None:
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(onnx, interrupt)
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "seen").read_text(encoding="utf-8")), 0)
    assert left_behind(tmp_path) == []


def test_missing_tools_are_named(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "onnx2tf" else name
    )
    with pytest.raises(HeatposeError, match=r"needs onnx2tf: install heatpose\[export\]"):
        run(onnx)
