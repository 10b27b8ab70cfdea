"""Trainings and exports on a disk that fills up, and on one that takes nothing.

One sentence, and what was there before is as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heatpose.bundles.bundle import verify_bundle

pytestmark = [pytest.mark.slow]
FULL = "No space left on device"
TINY = [
    "model.width=0.1",
    "+model.last_channels=16",
    "+model.pyramid=[8,8,8,8]",
    "+model.head_channels=8",
    "callbacks.prediction_grid=null",
]
ROOM = 200_000
"""Bytes left: enough to begin with, and too little for a checkpoint."""


def fill(folder: Path) -> Path:
    """Takes all the room but `ROOM`; the file that takes it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match=FULL):
        while True:
            file.write(bytes(1 << 14))
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - ROOM)
    return filler


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_disk_that_fills_up_in_the_middle(place: Any, disk_of: Callable[[str], Path]) -> None:
    disk = disk_of("24m")
    small = [o for o in place.tiny if not o.startswith("model.width")] + TINY
    train = [
        *small,
        f"runs={disk}/runs",
        f"exports={place.folder}/exports",
        "export=false",
        "evaluate=false",
    ]
    ran = place.run("train", *train, "name=first")
    assert ran.status == 0, ran.err
    checkpoint = disk / "runs/first/checkpoints/best.ckpt"
    chosen = [f"checkpoint={checkpoint}", "quant.artefacts=[]", "quant.calibration_images=4"]
    export = [*chosen, f"runs={place.folder}/runs", f"exports={disk}/exports"]
    ran = place.run("export", *export, "name=first")
    assert ran.status == 0, ran.err
    before = {part: contents(disk / part / "first") for part in ("runs", "exports")}

    filler = fill(disk)
    place.run("train", *train, "name=second").fails_with("second", "full", "make room")
    filler.unlink()
    filler = fill(disk)
    place.run("export", *export, "name=second").fails_with("make room")
    assert before == {part: contents(disk / part / "first") for part in ("runs", "exports")}
    assert not verify_bundle(disk / "exports/first").findings
    assert [path.name for path in (disk / "exports").iterdir() if path.is_dir()] == ["first"]
    assert not list(disk.rglob("*.part"))

    filler.unlink()
    for entry, arguments in (("train", train), ("export", export)):
        ran = place.run(entry, *arguments, "name=second")
        assert ran.status == 0, ran.err


def test_a_folder_that_takes_no_writes(place: Any, read_only: Path, tiny_checkpoint: Path) -> None:
    small = [*place.tiny, "export=false", "evaluate=false"]
    place.run("train", *small, f"runs={read_only}/runs").fails_with(
        str(read_only), "Read-only", "another folder"
    )
    exported = [
        f"checkpoint={tiny_checkpoint}",
        "name=mine",
        "quant.artefacts=[]",
        "quant.calibration_images=4",
    ]
    place.run("export", *exported, f"exports={read_only}/exports").fails_with(
        str(read_only), "Read-only", "another folder"
    )
    assert [path.name for path in read_only.iterdir()] == ["kept.txt"]
