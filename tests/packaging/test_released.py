"""Released networks in the archives: the marked ones, with the files that their manifests list."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
BUILT_FROM = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "NOTICE",
    "THIRD_PARTY_NOTICES.md",
    ".gitignore",
    "hatch_build.py",
)


def _project(folder: Path) -> Path:
    """What both archives are built from, without a released network."""
    for name in BUILT_FROM:
        shutil.copy(REPOSITORY / name, folder / name)
    for name in ("src", "conf"):
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


def _built(folder: Path) -> tuple[set[str], set[str]]:
    """Names in the source archive and in the wheel that is built out of it."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    subprocess.run([uv, "build", "--quiet", "--out-dir", folder / "out", folder], check=True)
    (archive,), (wheel,) = (folder / "out").glob("*.tar.gz"), (folder / "out").glob("*.whl")
    with tarfile.open(archive) as tar, zipfile.ZipFile(wheel) as zipped:
        return {name.partition("/")[2] for name in tar.getnames()}, set(zipped.namelist())


def test_a_checkout_without_them_builds(tmp_path: Path) -> None:
    source, wheel = _built(_project(tmp_path))
    assert "heatpose/cli/released.py" in wheel and "hatch_build.py" in source
    assert not [name for name in wheel if name.startswith("heatpose/released")]


def test_marked_networks_are_in_both_archives(tmp_path: Path) -> None:
    released = _project(tmp_path) / "exports/released"
    for name, package in (("small", True), ("large", False)):
        folder = released / name
        (folder / "stm32n6").mkdir(parents=True)
        for file in ("net_int8_pc.tflite", "net_float16.ckpt", "unlisted.onnx", "stm32n6/a.c"):
            (folder / file).write_text(name)
        content = {
            "released": {"package": package},
            "files": {"net_int8_pc.tflite": {}, "net_float16.ckpt": {}},
        }
        (folder / "manifest.json").write_text(json.dumps(content))
    files = {"manifest.json", "net_int8_pc.tflite", "net_float16.ckpt"}
    source, wheel = _built(tmp_path)
    assert {n for n in wheel if n.startswith("heatpose/released/")} == {
        f"heatpose/released/small/{file}" for file in files
    }
    assert {n for n in source if n.startswith("exports/")} == {
        f"exports/released/small/{file}" for file in files
    }
