"""Two fresh processes with the network cut off: training needs none, and gives the same weights twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from heatpose.models.checkpoint import KEY

pytestmark = pytest.mark.slow


def cut_off() -> list[str]:
    """What runs a command without any network, not even its own machine's; nothing where that cannot be had."""
    command = ["unshare", "--net"]
    can = shutil.which("unshare") and os.geteuid() == 0 and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if can else []


def weights_hash(path: Path) -> str:
    """sha256 over a checkpoint's tensors and its description."""
    content, digest = torch.load(path, weights_only=True), hashlib.sha256()
    for part in (content["state_dict"], content["current_model_state"]):
        for name, value in sorted(part.items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    digest.update(repr(content[KEY]).encode())
    return digest.hexdigest()


def test_training_needs_no_network_and_repeats_itself(place: Any) -> None:
    hashes = []
    for number in (1, 2):
        overrides = [*place.tiny, "name=fresh", "export=false", "data.module.limit=16"]
        command = [*cut_off(), *place.command("train", *overrides)]
        done = subprocess.run(command, cwd=place.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        hashes.append(weights_hash(place.folder / "runs" / "fresh" / "checkpoints" / "last.ckpt"))
        (place.folder / "runs").rename(place.folder / f"runs{number}")
    assert hashes[0] == hashes[1]
    if not cut_off():
        pytest.skip("the weights are the same, but only root can cut off the network")
