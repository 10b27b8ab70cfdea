"""`heatpose verify`: a bundle that is not what was exported is found out.

Whatever was done to it.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heatpose.bundles.bundle import file_table, verify_bundle
from heatpose.errors import HeatposeError
from heatpose.utils.files import sha256, write_json

CONTENTS = {
    "pose_64_float32.tflite": bytes(range(256)) * 40,
    "pose_64.onnx": b"onnx" * 99,
    "metrics.json": b"{}",
    "README.md": b"# pose\n",
}


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A bundle with four files and a deployment package with one."""
    folder = tmp_path / "exports" / "pose"
    (folder / "stm32n6").mkdir(parents=True)
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    write_json(folder / "manifest.json", {"format": 1, "files": file_table(folder)})
    (folder / "stm32n6" / "run.sh").write_text("#!/bin/sh\n")
    write_json(
        folder / "stm32n6" / "deploy.json",
        {"files": {"run.sh": sha256(folder / "stm32n6" / "run.sh")}},
    )
    return folder


def test_a_bundle_as_it_was_exported(sealed: Path, heatpose: Callable[..., Any]) -> None:
    found = verify_bundle(sealed)
    assert found.findings == () and found.files == 5
    ran = heatpose("verify", sealed)
    assert ran.status == 0 and "is intact: 5 files" in ran.out and not ran.err


def test_a_name_that_no_file_can_have_is_a_finding(sealed: Path) -> None:
    """Found by spoiled manifests."""
    write_json(
        sealed / "manifest.json",
        {"format": 1, "files": {**file_table(sealed), "a" * 5000: {"bytes": 1, "sha256": "0"}}},
    )
    (finding,) = verify_bundle(sealed).findings
    assert "aaa' cannot be read (File name too long)." in finding


def test_every_flipped_bit_is_found(sealed: Path) -> None:
    chance = random.Random(0)
    for name in [*CONTENTS, "stm32n6/run.sh"] * 10:
        path = sealed / name
        before = path.read_bytes()
        at = chance.randrange(len(before))
        path.write_bytes(
            before[:at] + bytes([before[at] ^ 1 << chance.randrange(8)]) + before[at + 1 :]
        )
        (finding,) = verify_bundle(sealed).findings
        assert name in finding and "has changed" in finding
        path.write_bytes(before)
    assert not verify_bundle(sealed).findings


def test_all_findings_are_printed_and_the_status_is_1(
    sealed: Path, heatpose: Callable[..., Any], tmp_path: Path
) -> None:
    (sealed / "README.md").unlink()
    (sealed / "metrics.json").write_text("{ }")
    (sealed / "other_64_int8_pc.tflite").write_bytes(b"x")
    (sealed / "report.html").write_text("added by a later command")
    ran = heatpose("verify", sealed, "--json", tmp_path / "found.json")
    assert ran.status == 1 and ran.err.startswith("error: ") and "3 findings" in ran.err
    lines = ran.out.splitlines()
    assert len(lines) == 3 and all(line.endswith(".") for line in lines)
    assert any("README.md' is missing" in line for line in lines)
    assert any("3 bytes instead of 2" in line for line in lines)
    assert any("other_64_int8_pc.tflite' is not a file of this bundle" in line for line in lines)
    content = json.loads((tmp_path / "found.json").read_text())
    assert content == {"bundle": str(sealed), "files": 5, "whole": False, "findings": lines}


@pytest.mark.parametrize("name", ["../../secret.txt", "/etc/hostname", "a/../../../secret.txt"])
def test_a_manifest_cannot_make_it_read_elsewhere(sealed: Path, name: str) -> None:
    (sealed.parents[1] / "secret.txt").write_text("x")
    content = json.loads((sealed / "manifest.json").read_text())
    content["files"][name] = {"bytes": 1, "sha256": sha256(sealed.parents[1] / "secret.txt")}
    write_json(sealed / "manifest.json", content)
    (finding,) = verify_bundle(sealed).findings
    assert "outside of it" in finding


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[1]",
        "{ half",
        '{"files": [1]}',
        '{"files": {}}',
        '{"files": {"README.md": 3}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_a_sentence(sealed: Path, manifest: str) -> None:
    (sealed / "manifest.json").write_text(manifest)
    if manifest.endswith("3}}"):
        assert verify_bundle(sealed).findings
    else:
        with pytest.raises(HeatposeError, match=r"manifest\.json"):
            verify_bundle(sealed)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match="is not a bundle"):
        verify_bundle(tmp_path)
    with pytest.raises(HeatposeError, match="is not a bundle"):
        verify_bundle(tmp_path / "absent")


def test_a_copy_elsewhere_is_verified_by_itself(sealed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "-elsewhere ünï"
    shutil.copytree(sealed, copy)
    assert not verify_bundle(copy).findings
