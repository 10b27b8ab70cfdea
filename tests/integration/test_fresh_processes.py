"""Two fresh processes without internet access.

The quick start does not need it, does not try it, and gives the same files twice.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
MODELS = (".ckpt", ".onnx", ".tflite")
HOOK = Path(__file__).with_name("no_network.py")


def cut_off() -> list[str]:
    """What runs a command without any network, not even its own machine's.

    Nothing where that cannot be had.
    """
    for command in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], capture_output=True).returncode == 0
        ):
            return command
    return []


def watched(folder: Path) -> dict[str, str]:
    """Environment in which a Python process that connects or resolves an address ends with 70.

    Holds for children, too. A vain attempt is detected as well, so the test is valid on machines
    whose network cannot be disconnected.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK.read_text() + "\nsys.addaudithook(watch)\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_the_hook_is_in_every_process(tmp_path: Path) -> None:
    """Else the next test would prove nothing."""
    ask = "import socket; socket.getaddrinfo('example.org', 80)"
    nested = (
        "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c',"
        f" {ask!r}]).returncode)"
    )
    for code in (ask, nested):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=watched(tmp_path / str(len(code))),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 70 and "example.org" in done.stderr


def test_the_quick_start_needs_no_network_and_repeats_itself(place: Any) -> None:
    """Trains, scores and exports.

    Every checkpoint and every model file of the bundle is the same, byte for byte.
    """
    runs: list[dict[str, str]] = []
    environment = watched(place.folder / "watched")
    no_limits = [
        "quant.limits.drop_pc=1000",
        "quant.limits.drop_pt=1000",
        "quant.limits.drift_p50_px=1000",
        "quant.calibration_images=8",
    ]
    command = [
        *cut_off(),
        *place.command("train", *place.tiny, *no_limits, "name=fresh", "data.module.limit=16"),
    ]
    for number in (1, 2):
        done = subprocess.run(
            command,
            cwd=place.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        files = [
            path
            for kind in ("runs", "exports")
            for path in (place.folder / kind).rglob("*")
            if path.suffix in MODELS
        ]
        runs.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
        for kind in ("runs", "exports"):
            (place.folder / kind).rename(place.folder / f"{kind}{number}")
    assert (
        sum(name.endswith(".tflite") for name in runs[0]) == 3
        and {"best.ckpt", "last.ckpt"} < runs[0].keys()
    )
    assert runs[0] == runs[1]
