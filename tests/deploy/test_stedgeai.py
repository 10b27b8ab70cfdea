"""Which ST Edge AI Core is taken, and which is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from heatpose.deploy import stedgeai
from heatpose.deploy.stedgeai import find_installation, is_installed
from heatpose.deploy.targets import Target, load_target
from heatpose.errors import HeatposeError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
Install = Callable[..., Path]
N6, MP2 = load_target("stm32n6"), load_target("stm32mp2")
MP2_COMPONENTS = {"STM32CubeAI": "10.2.0", "STM32MP2": "1.0"}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No installation of this machine is found: the usual folders are below the test's own."""
    monkeypatch.setattr(stedgeai, "_ROOTS", (f"{tmp_path}/STEdgeAI/*",))
    return tmp_path


def _found(target: Target, explicit: Path | None = None, **environment: str) -> tuple[int, ...]:
    return find_installation(target, explicit, {"PATH": "", **environment}).version[:3]


def test_version_and_components(install: Install) -> None:
    found = find_installation(
        N6, install(version="2.2.0", components={"StellarStudioAI": "2.0.0", "STM32MP2": "1.0"}), {}
    )
    assert found.version == (2, 2, 0, 20266) and found.version_text == "2.2.0-20266"
    assert found.components == {"StellarStudioAI": "2.0.0", "STM32MP2": "1.0"}


def test_an_explicit_path_is_a_folder_or_the_executable(install: Install) -> None:
    root = install(version="3.0.0")
    executable = next(root.rglob("stedgeai"))
    assert _found(N6, root) == _found(N6, executable) == (3, 0, 0)


def test_order_of_the_places(install: Install, tmp_path: Path) -> None:
    assert install("3.0", version="3.0.0") and install("4.0", version="4.0.0")
    assert _found(N6) == (4, 0, 0)  # the newest of the usual folders
    core = tmp_path / "STEdgeAI" / "3.0"
    assert _found(N6, STEDGEAI_CORE_DIR=str(core)) == (3, 0, 0)
    own = install("own", version="2.2.0")
    assert _found(N6, STEDGEAI_CORE_DIR=str(core), STEDGEAI_CORE_DIR_STM32N6=str(own)) == (2, 2, 0)
    assert N6.tool is not None
    assert _found(replace(N6, tool=replace(N6.tool, path=str(own)))) == (2, 2, 0)
    assert _found(N6, tmp_path / "STEdgeAI" / "4.0", STEDGEAI_CORE_DIR_STM32N6=str(own)) == (
        4,
        0,
        0,
    )


def test_the_search_path_comes_last(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    root = install(version="2.0.0")
    monkeypatch.setattr(stedgeai, "_ROOTS", ())
    assert _found(N6, PATH=str(next(root.rglob("stedgeai")).parent)) == (2, 0, 0)


def test_mp2_finds_its_own_version_beside_a_newer_one(install: Install) -> None:
    assert install("4.0", version="4.0.0") and install(
        "2.2", version="2.2.0", components=MP2_COMPONENTS
    )
    assert _found(MP2) == (2, 2, 0) and _found(N6) == (4, 0, 0)


@pytest.mark.parametrize(
    ("target", "behaviour", "words"),
    [
        (MP2, {"version": "4.0.0", "components": MP2_COMPONENTS}, "2.0 to 2.2"),
        (MP2, {"version": "2.2.0"}, "lacks the component STM32MP"),
        (N6, {"mode": "other_program"}, "edgetool 7.1"),
    ],
)
def test_what_does_not_fit_is_refused(
    install: Install, target: Target, behaviour: dict[str, object], words: str
) -> None:
    root = install(**behaviour)
    for explicit in (root, None):  # named, or found
        with pytest.raises(HeatposeError, match=words):
            find_installation(target, explicit, {"PATH": ""})


def test_an_executable_is_found_without_being_run(install: Install) -> None:
    root = install(mode="hang")
    assert is_installed(N6, {"PATH": "", "STEDGEAI_CORE_DIR": str(root)})


def test_nothing_there(tmp_path: Path) -> None:
    assert not is_installed(N6, {"PATH": ""})
    with pytest.raises(HeatposeError, match="STEDGEAI_CORE_DIR"):
        find_installation(N6, None, {"PATH": ""})
    for named in (tmp_path, tmp_path / "absent"):
        with pytest.raises(HeatposeError, match="neither stedgeai nor an installation folder"):
            find_installation(N6, named, {})
    script = tmp_path / "stedgeai"
    script.write_text("not executable")
    with pytest.raises(HeatposeError, match="cannot be started"):
        find_installation(N6, script, {})


def test_no_answer(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stedgeai, "VERSION_LIMIT_S", 0.5)
    script = tmp_path / "slow"
    script.write_text("#!/bin/sh\nsleep 30\n")
    script.chmod(0o755)
    with pytest.raises(HeatposeError, match="did not finish"):
        find_installation(N6, script, {})
