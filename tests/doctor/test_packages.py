"""Versions and known-bad combinations."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from heatpose.doctor import worst
from heatpose.doctor.checks import (
    Check,
    installed_versions,
    known_bad,
    python_check,
    requirement_checks,
    unmet_checks,
)

GOOD = {
    "heatpose": "0.1.0",
    "torch": "2.15.0",
    "torchvision": "0.29.2",
    "lightning": "2.6.6",
    "pytorch-lightning": "2.6.6",
    "tensorflow": "2.19.0",
    "numpy": "1.26.4",
    "onnx2tf": "1.29.16",
    "opencv-python": "4.11.0.86",
}


def test_good_versions_are_not_complained_about() -> None:
    assert known_bad(GOOD) == [] and known_bad({}) == []
    labelled = {"torch": "2.15.0+cpu", "torchvision": "0.29.2+cpu"}
    assert known_bad({**GOOD, **labelled}) == []


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"lightning": "2.6.2"}, "fail", "GHSA-w37p-236h-pfx3"),
        ({"lightning": "2.6.3"}, "fail", "GHSA-w37p-236h-pfx3"),
        ({"pytorch-lightning": "2.6.3"}, "fail", "GHSA-w37p-236h-pfx3"),
        ({"onnx2tf": "1.29.17"}, "fail", "1.29.16"),
        ({"onnx2tf": "1.29.24"}, "fail", "1.29.16"),
        ({"torch": "2.15.0+cpu"}, "fail", "same index"),
        ({"torchvision": "0.29.2+cpu"}, "fail", "same index"),
        ({"numpy": "2.1.3"}, "warn", "numpy==1.26.4"),
        ({"opencv-python-headless": "4.11.0.86"}, "warn", "uninstall"),
    ],
)
def test_known_bad(change: dict[str, str], status: str, word: str) -> None:
    [check] = known_bad({**GOOD, **change})
    assert check.status == status and word in check.remedy and check.remedy.endswith(".")
    assert all(version in check.found for version in change.values() if version != "4.11.0.86")


@pytest.mark.parametrize(
    "change", [{"onnx2tf": "1.29.25"}, {"onnx2tf": "1.28.2"}, {"lightning": "2.6.1"}]
)
def test_neighbours_of_bad_versions_are_not_named(change: dict[str, str]) -> None:
    assert known_bad({**GOOD, **change}) == []


def test_requirements() -> None:
    wanted = [
        Requirement("Torch>=2.11"),
        Requirement("numpy>=1.26"),
        Requirement("lightning!=2.6.3,>=2.6.1"),
        Requirement("typer>=0.15"),
        Requirement("colorama>=0.4; sys_platform == 'nowhere'"),
        Requirement("onnx2tf==1.29.16; extra == 'export'"),
        Requirement("onnxruntime>=1.20; extra == 'export'"),
        Requirement("opencv-python>=4.10; extra == 'video'"),
    ]
    versions = {**GOOD, "torch": "2.10.0", "lightning": "2.6.3"}
    del versions["opencv-python"]
    found = {check.name: check for check in requirement_checks(versions, wanted)}
    assert {name: check.status for name, check in found.items()} == {
        "heatpose": "ok",
        "Torch": "fail",
        "numpy": "ok",
        "lightning": "fail",
        "typer": "fail",
        "onnx2tf": "ok",
        "onnxruntime": "warn",
        "opencv-python": "warn",
    }
    assert (
        "Torch>=2.11" in found["Torch"].remedy
        and "heatpose[export]" in found["onnxruntime"].remedy
        and "heatpose[video]" in found["opencv-python"].remedy
    )


def test_without_an_installation() -> None:
    [check] = requirement_checks({"torch": "2.15.0"}, [Requirement("torch>=9")])
    assert check.status == "warn" and "uv sync" in check.remedy


@pytest.mark.parametrize(
    ("version", "status"),
    [("3.11.7", "ok"), ("3.12.9", "ok"), ("3.10.14", "fail"), ("3.13.0", "fail")],
)
def test_python(version: str, status: str) -> None:
    assert python_check(version).status == status


def test_what_packages_ask_of_each_other() -> None:
    """Read off the installed packages; torchvision asks for a torch of its own time."""
    versions = installed_versions()
    assert versions["numpy"].count(".") == 2 and versions["heatpose"] == "0.1.0"
    [check] = [
        check
        for check in unmet_checks({**versions, "torch": "1.0.0"})
        if check.name == "torchvision needs torch"
    ]
    assert (
        check.status == "warn" and check.found == "1.0.0" and "pip install 'torch" in check.remedy
    )


def test_the_worst_counts() -> None:
    checks = [Check("a", "ok", ""), Check("b", "warn", "", "Do."), Check("c", "fail", "", "Do.")]
    assert [worst(checks[:n]) for n in (1, 2, 3)] == ["ok", "warn", "fail"]
