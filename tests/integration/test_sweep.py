"""Several runs from one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heatpose.models.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


def test_every_member_has_a_run_of_its_own(place: Any) -> None:
    fixed = [override for override in place.tiny if not override.startswith("resolution")]
    sweep = ["-m", *fixed, "resolution=64,96", "export=false"]
    ran = place.run("train", *sweep)
    assert ran.status == 0, ran.err
    members = {size: Path(place.folder, f"runs/quickstart_resolution-{size}") for size in (64, 96)}
    for size, folder in members.items():
        loaded = load_checkpoint(folder / "checkpoints/best.ckpt")
        assert loaded.preprocessing.size == size and loaded.metadata["run"] == folder.name
        assert json.loads((folder / "configuration.json").read_text())["configuration"]["resolution"] == size
        assert list((folder / "tensorboard").iterdir()) and (folder / "hydra/config/config.yaml").is_file()
    assert {path.name for path in place.folder.joinpath("runs").iterdir()} == {"multirun.yaml", *(path.name for path in members.values())}
    again = place.run("train", *sweep)  # goes on where it was, which is at the end
    assert again.status == 0, again.err


def test_a_failing_member_stops_no_other(place: Any) -> None:
    few = "data.module.held_out=1.0e-9"  # nobody is left to choose the checkpoint on
    ran = place.run("train", "-m", *place.tiny, "evaluate=false", "export=false", "resolution=100,64", few)
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert ran.status == 1 and len(errors) == 3 and "2 of the sweep's runs failed" in errors[-1] and "Traceback" not in ran.err
    assert "multiple of 32" in errors[0] and "held out" in errors[1]
