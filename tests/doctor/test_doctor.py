"""The machine and a data set, looked at for real."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from heatpose.data.download import MARKER, Archive, changed_folders
from heatpose.doctor.machine import data_checks, disk_checks, program_checks
from tests.conftest import Heatpose

STEDGEAI = "#!/bin/sh\necho 'ST Edge AI Core v{version}-20000 329b0e98'\necho '  STM32N6 1.0'\n"


@pytest.fixture
def data(synthetic_root: Path, tmp_path: Path) -> Path:
    """A copy of the rendered set that a test may damage."""
    return Path(shutil.copytree(synthetic_root, tmp_path / "data", copy_function=os.link))


def test_a_whole_data_set(data: Path) -> None:
    checks = data_checks(data)
    assert [(check.name, check.status) for check in checks] == [
        ("data, train", "ok"),
        ("data, val", "ok"),
    ]
    labels = data / "annotations/person_keypoints_val2017.json"
    assert (
        "on 12 images" in checks[1].found
        and sha256(labels.read_bytes()).hexdigest() in checks[1].found
    )


def test_missing_images_and_labels(data: Path) -> None:
    next((data / "val2017").iterdir()).unlink()
    (data / "annotations/person_keypoints_train2017.json").unlink()
    train, val = data_checks(data)
    assert (train.status, val.status) == (
        "warn",
        "fail",
    ) and "person_keypoints_train2017.json" in train.remedy
    assert val.found.startswith("1 of 12 images are missing")
    labels = data / "annotations/person_keypoints_val2017.json"
    labels.unlink()
    labels.write_text("{")
    assert [check.status for check in data_checks(data)] == ["warn", "fail"]
    labels.unlink()
    assert [check.status for check in data_checks(data)] == ["warn", "warn", "fail"]
    [check] = data_checks(data / "absent")
    assert check.status == "fail" and "absent" in check.found


def test_one_label_file_is_looked_at_once(data: Path) -> None:
    flat = data / "flat"
    (data / "val2017").rename(flat)
    (data / "annotations/person_keypoints_val2017.json").rename(flat / "person_keypoints_mine.json")
    [check] = data_checks(flat)
    assert (check.name, check.status) == ("data, labels", "ok")


def test_files_that_changed_since_their_download(data: Path) -> None:
    archive = Archive(
        path="zips/val2017.zip", folder="val2017", size=1, sha256="", unpacked=1, files=12
    )
    assert changed_folders(data, {"val2017": archive}) is None
    size = sum(path.stat().st_size for path in (data / "val2017").iterdir())
    (data / MARKER).write_text(
        json.dumps({"val2017": {"files": 12, "bytes": size}, "other": {"files": 1, "bytes": 1}})
    )
    assert changed_folders(data, {"val2017": archive}) == []
    next((data / "val2017").iterdir()).unlink()
    assert changed_folders(data, {"val2017": archive}) == ["val2017"]
    assert (
        data_checks(data)[-1].status == "fail"
        and "data.download=true" in data_checks(data)[-1].remedy
    )


def test_disks(tmp_path: Path) -> None:
    assert {check.name for check in disk_checks([tmp_path])} == {"working folder", "disk"}
    assert disk_checks([tmp_path])[0].status == "ok"
    assert disk_checks([tmp_path / "absent"])[0].status == "fail"


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
def test_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEDGEAI_CORE_DIR_STM32N6", "STEDGEAI_CORE_DIR", "STM32_AI_EXE", "STM_AI_EXE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {check.name: check for check in program_checks({})}
    assert {
        found[name].status for name in ("git", "C compiler", "ST Edge AI Core for stm32n6")
    } == {"warn"}
    for name, content in (("git", "#!/bin/sh\n"), ("stedgeai", STEDGEAI.format(version="3.0.0"))):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(stat.S_IRWXU)
    (tmp_path / "atonn").touch()
    found = {check.name: check for check in program_checks({})}
    assert (
        found["git"].status == found["ST Edge AI Core for stm32n6"].status == "ok"
        and "3.0.0" in found["ST Edge AI Core for stm32n6"].found
    )
    (tmp_path / "atonn").unlink()
    found = {check.name: check for check in program_checks({})}
    assert (
        found["ST Edge AI Core for stm32n6"].status == "warn"
        and "atonn" in found["ST Edge AI Core for stm32n6"].remedy
    )


def test_the_command(heatpose: Heatpose, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "doctor.json"
    ran = heatpose("doctor", "--data", data, "--json", out)
    content = json.loads(out.read_text())
    names = [check["name"] for check in content["checks"]]
    assert {
        "python",
        "torch",
        "numpy",
        "processor",
        "memory",
        "accelerator",
        "disk",
        "git",
        "data, val",
    } <= set(names)
    assert all(name in ran.out for name in ("python", "processor", "data, val"))
    assert all(bool(check["remedy"]) == (check["status"] != "ok") for check in content["checks"])
    failed = [check["name"] for check in content["checks"] if check["status"] == "fail"]
    assert (ran.status, content["status"] == "fail") == ((1, True) if failed else (0, False))
    shutil.rmtree(data / "val2017")
    shutil.rmtree(data / "train2017")
    ran = heatpose("doctor", "--data", data, "--json", out)
    assert (
        ran.status == 1
        and "error: " in ran.err
        and "data" in ran.err
        and json.loads(out.read_text())["status"] == "fail"
    )


def test_it_loads_torch_and_nothing_else_that_is_heavy() -> None:
    code = (
        "import sys\nfrom heatpose.doctor import examine\nexamine()\nsys.exit(str([name for name in"
        " ('tensorflow', 'onnx2tf', 'torchvision', 'lightning', 'onnxruntime', 'cv2') if name in"
        " sys.modules] or 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == "0", done.stderr
