"""Packages are pinned, by version and by content; nothing of it names a registry."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import load_module

REPOSITORY = Path(__file__).parents[2]
CI = REPOSITORY / ".ci"


@pytest.fixture(scope="module")
def hashes() -> ModuleType:
    """`.ci/hashes.py`."""
    return load_module(CI / "hashes.py", "ci_hashes")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_recorded_file_is_of_a_version_that_is_pinned(hashes: ModuleType) -> None:
    constraints = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))[
        "tool"
    ]["uv"]["constraint-dependencies"]
    pinned: dict[str, set[str]] = {}
    for line in constraints:
        name, version = re.fullmatch(r"([\w.-]+)==([^ ;]+)(;.*)?", line).groups()[:2]  # type: ignore[union-attr]
        pinned.setdefault(_plain(name), set()).add(version)
    record = hashes.recorded(CI / "hashes.txt")
    found = {}
    for name, digest in record.items():
        assert re.fullmatch("[0-9a-f]{64}", digest) and "/" not in name
        package, version = (
            (name.removesuffix(".tar.gz").rpartition("-")[::2])
            if name.endswith(".tar.gz")
            else name.split("-")[:2]
        )
        found[_plain(package)] = version
        assert version in pinned[_plain(package)], (
            f"{name} is not pinned; write .ci/hashes.txt anew (CONTRIBUTING.md)"
        )
    assert {"torch", "numpy", "tensorflow", "lightning", "onnx2tf", "pytest"} <= found.keys()
    assert "/" not in (CI / "hashes.txt").read_text()


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("a-1-cp38-abi3-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp312-abi3-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("a-1-cp311-cp311-macosx_11_0_arm64.whl", False),
        ("a-1-cp311-cp311-win_amd64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_28_aarch64.whl", False),
        ("a-1.tar.gz", False),
    ],
)
def test_the_wheels_of_ci_are_known_by_their_names(
    hashes: ModuleType, name: str, fits: bool
) -> None:
    assert hashes.fits(name) is fits


def test_another_content_under_a_known_name_is_refused(hashes: ModuleType, tmp_path: Path) -> None:
    digests = {
        name: hashlib.sha256(name.encode()).hexdigest()
        for name in ("a-1-py3-none-any.whl", "b-2.tar.gz", "c-3-py3-none-any.whl")
    }

    def run(**changed: str) -> subprocess.CompletedProcess[str]:
        entries = {
            name: changed.get(name[0], f"sha256:{digest}") for name, digest in digests.items()
        }
        wheels = [
            f'[[package]]\nname = "{name[0]}"\nversion = "{name[2]}"\nsource = {{ registry = "x"'
            " }\n"
            + (
                f"{'sdist = ' if name.endswith('.gz') else 'wheels = ['}"
                + f'{{ url = "x://y/z/{name}", hash = "{digest}" }}'
            )
            + ("" if name.endswith(".gz") else "]")
            for name, digest in entries.items()
        ]
        (tmp_path / "uv.lock").write_text("version = 1\n" + "\n".join(wheels))
        command = [
            sys.executable,
            str(CI / "hashes.py"),
            "--lock",
            str(tmp_path / "uv.lock"),
            "--record",
            str(tmp_path / "hashes.txt"),
        ]
        return subprocess.run(
            [*command, *(["--write"] if not changed else [])], capture_output=True, text=True
        )

    assert run().returncode == 0
    assert hashes.recorded(tmp_path / "hashes.txt") == digests
    same = run(a=f"sha256:{digests['a-1-py3-none-any.whl']}")
    assert (
        same.returncode == 0
        and "3 files of packages are those" in same.stdout
        and "0 are not recorded" in same.stdout
    )
    other = run(a=f"sha256:{'0' * 64}")
    assert (
        other.returncode == 1
        and "a-1-py3-none-any.whl" in other.stderr
        and "2 files" in other.stdout
    )
    (tmp_path / "hashes.txt").write_text(
        (tmp_path / "hashes.txt").read_text().splitlines()[0] + "\n"
    )
    unknown = run(a=f"sha256:{digests['a-1-py3-none-any.whl']}")
    assert (
        unknown.returncode == 0
        and "2 are not recorded" in unknown.stdout
        and "b-2.tar.gz" in unknown.stdout
    )


FOUND = {
    "dependencies": [
        {"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]},
        {"name": "b", "skip_reason": "not there"},
    ]
}
UNKNOWN = {"dependencies": FOUND["dependencies"][1:]}


@pytest.mark.parametrize(
    ("tool", "said", "status"),
    [
        (
            f"printf %s '{json.dumps(FOUND)}' > \"$OUT\"; exit 1",
            (
                "1 of them not known to the service, 1 known vulnerabilities\n  a 1: X-1 (mended in"
                " 2)\n"
            ),
            1,
        ),
        (f"printf %s '{json.dumps(UNKNOWN)}' > \"$OUT\"", "nothing was looked up", 2),
        (
            "echo no route >&2; exit 1",
            (
                "nothing was looked up, the service cannot be reached or the tool cannot be had (no"
                " route)"
            ),
            2,
        ),
        (
            'printf \'{"dependencies": []}\' > "$OUT"',
            "0 packages, 0 of them not known to the service, 0 known vulnerabilities",
            0,
        ),
    ],
)
def test_an_audit_without_a_network_fails_nothing(
    tool: str, said: str, status: int, tmp_path: Path
) -> None:
    stand_in = tmp_path / "uv"  # the service cannot be asked in a test
    stand_in.write_text(
        f'#!/bin/sh\nwhile [ "$1" != --output ]; do shift; done\nOUT="$2"\n{tool}\n'
    )
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for strict, expected in (([], 0), (["--strict"], status)):
        done = subprocess.run(
            [sys.executable, str(CI / "audit.py"), *strict],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == expected and said in done.stdout, done.stdout + done.stderr
