"""Full disks and folders that take no writes.

One sentence, and what was there before is there afterwards.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from heatpose.errors import HeatposeError, exit_on_user_error
from heatpose.models.checkpoint import load_checkpoint, save_checkpoint
from heatpose.training.fit import WholeCheckpointIO
from heatpose.utils.files import require_writable, write_json, write_json_output

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="small file systems are mounted as on Linux"
)
FULL = "No space left on device"


def fill(folder: Path) -> None:
    """Takes all the room but a few bytes."""
    with open(folder / "filler", "wb", buffering=0) as file, pytest.raises(OSError, match=FULL):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_is_reported_before_a_run_begins(small_disk: Path) -> None:
    require_writable(small_disk / "runs")
    fill(small_disk)
    with pytest.raises(HeatposeError, match=rf"Nothing can be written into .*{FULL}.*make room"):
        require_writable(small_disk / "runs")
    assert not list((small_disk / "runs").iterdir())


def test_checkpoints_that_do_not_fit_leave_the_older_ones(
    small_disk: Path, tiny_checkpoint: Path
) -> None:
    loaded = load_checkpoint(tiny_checkpoint)
    writer, path = WholeCheckpointIO(), small_disk / "checkpoints" / "last.ckpt"
    writer.save_checkpoint({"epoch": 1, "weights": torch.arange(10)}, path)
    before = path.read_bytes()
    with pytest.raises(HeatposeError, match="cannot be written"):
        writer.save_checkpoint({"epoch": 2, "weights": torch.zeros(10**6)}, path)
    with pytest.raises(HeatposeError, match="cannot be written"):  # 2 MB
        save_checkpoint(path, loaded.network, loaded.skeleton, loaded.preprocessing)
    assert [entry.name for entry in path.parent.iterdir()] == [
        "last.ckpt"
    ] and path.read_bytes() == before
    writer.save_checkpoint({"epoch": 3}, path)  # there is room for this again
    assert torch.load(path, weights_only=True) == {"epoch": 3}


@pytest.mark.parametrize("write", [write_json, write_json_output])
def test_json_files_that_do_not_fit_leave_the_older_ones(
    small_disk: Path, write: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_disk / "result.json"
    write(path, {"a": 1})
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        write(path, {"a": list(range(10**6))})
    assert ended.value.code == 1 and FULL in capsys.readouterr().err
    assert json.loads(path.read_text()) == {"a": 1}


def test_results_for_a_full_disk(
    small_disk: Path, tiny_checkpoint: Path, synthetic_root: Path, heatpose: Callable[..., Any]
) -> None:
    images = sorted((synthetic_root / "val2017").iterdir())[:2]
    (small_disk / "out").mkdir()
    fill(small_disk)
    ran = heatpose("predict", tiny_checkpoint, *images, "--out", small_disk / "out")
    assert ran.status == 1 and FULL in ran.err and "Traceback" not in ran.err
    assert not list((small_disk / "out").iterdir())


def test_results_for_a_read_only_folder(
    read_only: Path, tiny_checkpoint: Path, synthetic_root: Path, heatpose: Callable[..., Any]
) -> None:
    image = next((synthetic_root / "val2017").iterdir())
    labels, images = (
        synthetic_root / "annotations/person_keypoints_val2017.json",
        synthetic_root / "val2017",
    )
    for arguments in (
        ("predict", tiny_checkpoint, image, "--out", read_only / "out"),
        (
            "evaluate",
            tiny_checkpoint,
            "--annotations",
            labels,
            "--images",
            images,
            "--json",
            read_only / "out.json",
        ),
        ("inspect", tiny_checkpoint, "--json", read_only / "out.json"),
        ("data", synthetic_root, "--split", "val", "--sheet", read_only / "out.png"),
    ):
        ran = heatpose(*arguments)
        assert (
            ran.status == 1 and "Read-only file system" in ran.err and str(read_only) in ran.err
        ), arguments
    assert os.listdir(read_only) == ["kept.txt"]


def test_errors_of_the_surroundings_are_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever meets them, and whatever they were wrapped in.

    A mistake of the code is still shown as one.
    """
    with pytest.raises(SystemExit), exit_on_user_error():
        try:
            raise OSError(28, FULL, "/a/b")
        except OSError as error:
            raise ValueError("cannot go on") from error
    message = capsys.readouterr().err
    assert (
        message
        == f"error: '/a/b' cannot be used ({FULL}); make room or choose another folder, and run the"
        " same command again.\n"
    )
    with pytest.raises(ValueError, match="a mistake"), exit_on_user_error():
        raise ValueError("a mistake")
    with pytest.raises(FileNotFoundError), exit_on_user_error():
        raise FileNotFoundError(2, "No such file", "x")
