"""The trial of a machine: run for real, and with faults that machines have."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from heatpose.doctor.trial import Step, _reason, _summary, _Trial, run_trial
from heatpose.utils.process import Ended
from tests.conftest import Heatpose

NAMES = [
    "images",
    "training",
    "scoring",
    "export",
    "speed of steps",
    "speed of training",
    "speed of two trainings",
]


@pytest.mark.slow
def test_a_machine_that_works(
    heatpose: Heatpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole trial: every step is ok and timed, and nothing is left behind."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a busy machine matters less
    monkeypatch.chdir(tmp_path)
    ran = heatpose("doctor", "--run", "--json", "doctor.json")
    content = json.loads((tmp_path / "doctor.json").read_text())
    steps = {step["name"]: step for step in content["steps"]}
    assert list(steps) == NAMES, ran.out
    exported = find_spec("onnx2tf") is not None and find_spec("tensorflow") is not None
    wanted = {name: "ok" for name in NAMES} | ({} if exported else {"export": "warn"})
    assert {name: step["status"] for name, step in steps.items()} == wanted, ran.out
    assert all(step["seconds"] > 0 for step in steps.values() if step["status"] == "ok")
    lines = ran.out.splitlines()
    assert all(any(f" s  {name}: " in line for line in lines) for name in NAMES)
    bare = [speed["name"] for speed in steps["speed of steps"]["speeds"]]
    assert bare[0] == "steps, 32-true" and len(bare) <= 3
    assert len(steps["speed of training"]["speeds"]) == 1
    assert len(steps["speed of two trainings"]["speeds"]) == 2
    for step in steps.values():
        assert all(speed["images_per_second"] > 0 for speed in step["speeds"])
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.json"]
    failed = [check for check in content["checks"] if check["status"] == "fail"]
    assert ran.status == (1 if failed else 0)


@pytest.mark.slow
def test_a_damaged_package_fails_the_step_that_needs_it(
    heatpose: Heatpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message is found, what needs the step is not tried, and the logs stay."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    broken = tmp_path / "broken" / "lightning"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libnvrtc.so.13 is not there')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    monkeypatch.chdir(tmp_path)
    ran = heatpose("doctor", "--run", "--json", "doctor.json")
    steps = {s["name"]: s for s in json.loads(Path("doctor.json").read_text())["steps"]}
    assert ran.status == 1 and "training" in ran.err and "speed of steps" in ran.err
    assert steps["images"]["status"] == "ok"
    assert "libnvrtc.so.13 is not there" in steps["training"]["found"]
    assert "trainer.accelerator=cpu trainer.precision=32-true" in steps["training"]["remedy"]
    for name in ("scoring", "export", "speed of training", "speed of two trainings"):
        assert steps[name]["found"] == "skipped, because it needs training"
    [log] = tmp_path.glob("heatpose_doctor_*/training.log")
    assert str(log) in steps["training"]["found"]
    command, *_ = log.read_text().splitlines()
    assert command.startswith(sys.executable) and "heatpose.cli train experiment=quick" in command


def test_a_folder_that_cannot_be_written_is_the_first_step(
    read_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(read_only)
    message: list[Step] = []
    assert run_trial(message.append) == message
    [step] = message
    assert (step.name, step.status) == ("working folder", "fail")
    assert str(read_only) in step.found and step.remedy


def test_a_full_disk_fails_the_rendering(
    disk_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = disk_of("300k")
    monkeypatch.chdir(folder)
    steps = run_trial(lambda step: None)
    assert [step.name for step in steps] == NAMES
    assert steps[0].status == "fail" and "Make room" in steps[0].remedy
    assert all(step.found.startswith("skipped, because it needs") for step in steps[1:])


def test_without_the_export_extra_the_export_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx2tf", None)  # as Python notes an absent module
    found = _Trial(tmp_path).export()
    assert found.status == "warn" and "onnx2tf" in found.text
    assert "skipped" in found.text and "heatpose[export]" in found.remedy


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_how_a_process_ended() -> None:
    trace = "Traceback (most recent call last):\n  File x\nRuntimeError: no kernel image\n\n"
    assert _reason(Ended(-signal.SIGSEGV, 1.0, "")) == "crashed with SIGSEGV"
    assert _reason(Ended(None, 600.0, "")) == "not finished after 600 s"
    assert _reason(Ended(1, 1.0, trace)) == "RuntimeError: no kernel image"
    hydra = trace + "Set the environment variable HYDRA_FULL_ERROR=1 for a trace.\n"
    assert _reason(Ended(1, 1.0, hydra)) == "RuntimeError: no kernel image"
    assert _reason(Ended(1, 1.0, "error: Do this.\nbye\n")) == "Do this."
    assert _reason(Ended(3, 1.0, "")) == "exit status 3"


def test_processes_at_once_are_added_up() -> None:
    speeds = [{"name": "training", "images_per_second": rate, "error": ""} for rate in (90.4, 60)]
    assert _summary(speeds, 2) == "90 + 60 = 150 images/s"
    assert _summary(speeds[:1], 1) == "training: 90 images/s"
    assert "no compiler" in _summary([{**speeds[0], "error": "no compiler"}], 1)
