"""`run.ps1` has the steps of `run.sh`, in their order, with their arguments.

`run.sh` is run in test_package.py; PowerShell only where it is installed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from heatpose.deploy.package import write_package
from heatpose.deploy.targets import load_target

TARGETS = ("stm32n6", "nucleo_n657x0", "stm32mp2")
STEPS = [
    # what is done, in run.sh, in run.ps1
    ("leave the caller's folder", r'^cd "\$\(dirname', r"^Set-Location \$PSScriptRoot"),
    ("remove an earlier run's products", r"^rm -rf ", r"^Remove-Item -Recurse -Force"),
    ("refuse a path that is not ASCII", r"plain ASCII", r"plain ASCII"),
    ("take STEDGEAI_CORE_DIR", r"STEDGEAI_CORE_DIR:-", r"\$env:STEDGEAI_CORE_DIR"),
    ("refuse without the tool", r"ST Edge AI Core not found", r"ST Edge AI Core not found"),
    ("read the version", r"--version", r"--version"),
    ("take Core 2's arguments", r"2\.\*\) set --", r"-like '2\.\*'"),
    ("answer the first question and run", r'^echo n \| "\$tool" "\$@"', r'^"n" \| & \$Tool @Arg'),
    ("go on after a status", r"ended with status", r"ended with status"),
    ("warn of a Core without a release", r"matches no release", r"matches no release"),
    ("take the tool's own folder", r"&& mv ", r"Move-Item -Force"),
    ("refuse without products", r"was not made", r"was not made"),
    ("copy the weights", r"^cp ", r"^Copy-Item "),
    ("make the hex file", r"-O ihex", r"-O ihex"),
    ("warn without objcopy", r"objcopy not found", r"objcopy not found"),
    ("list the products", r"^ls st_ai_output", r"^Get-ChildItem st_ai_output"),
]


@pytest.fixture(params=TARGETS)
def scripts(request: pytest.FixtureRequest, bundle: Path) -> tuple[str, str]:
    """Texts of both scripts of a target."""
    folder = write_package(bundle, load_target(request.param)).folder
    return (folder / "run.sh").read_text(), (folder / "run.ps1").read_text()


def _order(text: str, side: int) -> list[str]:
    """Names of the steps in a script, in the order of their first places."""
    found = ((re.search(step[side], text, re.MULTILINE), step[0]) for step in STEPS)
    return [name for match, name in sorted((m.start(), name) for m, name in found if m)]


def _sh(text: str) -> list[list[str]]:
    """Argument lists of run.sh: Core 2's, if there, and the others'."""
    return [
        shlex.split(found) for found in re.findall(r"set -- (generate .*?)(?:;;|$)", text, re.M)
    ]


def _ps(text: str) -> list[list[str]]:
    """Argument lists of run.ps1."""
    return [
        [a.replace("''", "'") for a in re.findall(r"'((?:[^']|'')*)'", found)]
        for found in re.findall(r"\$Arguments = @\((.*?)\)", text)
    ]


def test_the_same_steps_in_the_same_order(scripts: tuple[str, str]) -> None:
    sh, ps = (_order(text, side) for side, text in enumerate(scripts, 1))
    assert sh == ps and len(sh) >= 9


def test_the_same_arguments(scripts: tuple[str, str]) -> None:
    sh, ps = _sh(scripts[0]), _ps(scripts[1])
    assert sorted(sh) == sorted(ps) and sh
    if len(sh) == 2:  # run.sh tests for Core 2 first, run.ps1 replaces the newer arguments
        assert sh == ps[::-1] and "core_2@user_neuralart.json" in sh[0]


def test_the_same_files(scripts: tuple[str, str]) -> None:
    sh, ps = scripts
    removed = shlex.split(re.findall(r"^rm -rf (.*)$", sh, re.M)[0])
    assert removed == re.findall(r"'([^']+)'", re.findall(r"^Remove-Item.*$", ps, re.M)[0])
    needed = re.findall(r'^\[ -s "(.*?)" \] \|\|', sh, re.M)
    assert needed and needed == re.findall(r"Test-Filled '(.*?)'\)\) \{ throw", ps)
    assert re.findall(r"change-addresses (\S+)", sh) == re.findall(r"change-addresses (\S+)", ps)


@pytest.mark.parametrize("pair", ["()", "{}", "[]"])
def test_brackets_close(scripts: tuple[str, str], pair: str) -> None:
    code = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"|^#.*$", "", scripts[1], flags=re.M)
    assert code.count(pair[0]) == code.count(pair[1])


def test_powershell_parses_it(scripts: tuple[str, str], tmp_path: Path) -> None:
    shell = shutil.which("pwsh") or shutil.which("powershell")
    if shell is None:
        pytest.skip("no PowerShell on this machine")
    (tmp_path / "run.ps1").write_text(scripts[1])
    parser = "[System.Management.Automation.Language.Parser]::ParseFile"
    command = (
        f"$e = $null; $null = {parser}('{tmp_path / 'run.ps1'}', [ref]$null, [ref]$e);"
        " $e | ForEach-Object { $_.Message }; exit $e.Count"
    )
    ran = subprocess.run([shell, "-NoProfile", "-Command", command], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
