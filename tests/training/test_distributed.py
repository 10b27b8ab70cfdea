"""What further processes are started with, and what is left of it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from heatpose.errors import HeatposeError
from heatpose.training.distributed import program, several_processes


def test_the_program_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without the console script
    assert program("train.py") == ["train.py"]
    script, *command = program("heatpose train")
    assert command == ["train"]
    call = [sys.executable, script, "train", "--help"]
    ran = subprocess.run(call, capture_output=True, text=True)
    assert ran.returncode == 0 and "experiment: " in ran.stdout, ran.stderr
    assert program("absent train") == ["absent train"]
    spaced = tmp_path / "my train.py"
    spaced.touch()
    assert program(str(spaced)) == [str(spaced)]


def test_nothing_is_left_for_the_next_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    before, argv = dict(os.environ), sys.argv
    with several_processes("run=mine"):
        os.environ.update(MASTER_PORT="1234", LOCAL_RANK="7", WORLD_SIZE="2")
    assert dict(os.environ) == before and sys.argv is argv


def test_a_worker_of_another_program_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        sys.modules["__main__"], "__spec__", ModuleSpec("joblib.externals.loky", None)
    )
    with (
        pytest.raises(HeatposeError, match="trainer.devices=1, or hydra/launcher=basic or slurm"),
        several_processes(),
    ):
        pass
