"""Configurations that cannot be composed: one sentence, and what it shows is tried."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from heatpose.entries.command_line import known_keys, nearest
from heatpose.utils.files import conf_folder
from tests.conftest import Heatpose


@pytest.fixture(scope="module")
def known() -> list[str]:
    """Keys of the configuration."""
    return known_keys("train", [], [conf_folder()])


pytestmark = pytest.mark.usefixtures("hydra_as_before")


def refused(heatpose: Heatpose, *arguments: str) -> str:
    """The one sentence."""
    ran = heatpose("train", *arguments, "--cfg", "job")
    assert ran.status == 1 and ran.err.startswith("error: ") and ran.err.count("\n") == 1, ran.err
    assert "HYDRA_FULL_ERROR" not in ran.err
    return str(ran.err)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("trainer.epoch", "trainer.max_epochs"),
        ("epochs", "trainer.max_epochs"),
        ("lr", "optimizer.lr"),
        ("batchsize", "data.batch_size"),
        ("modle.width", "model.width"),
        ("width", "model.width"),
        ("expriment", "experiment"),
        ("calibration_images", "quant.calibration_images"),
        ("optimiser.lr", "optimizer.lr"),
        ("trainer.foo", ""),
    ],
)
def test_the_nearest_key(known: list[str], given: str, meant: str) -> None:
    assert nearest(given, known) == meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("epochs=3", "trainer.max_epochs=3"),
        ("~trainer.precisions", "~trainer.precision"),
        ("+trainer.max_epochs=3", "trainer.max_epochs=3"),
        ("+experiment=quickstart", "experiment=quickstart"),
    ],
)
def test_the_nearest_key_is_named_and_works(heatpose: Heatpose, given: str, meant: str) -> None:
    (shown,) = re.findall(
        r"(?:did you mean|leave out the \+:) (\S+?)[?.]\n", refused(heatpose, given)
    )
    assert shown == meant and heatpose("train", meant, "--cfg", "job").status == 0


def test_a_key_of_another_choice_names_it(heatpose: Heatpose) -> None:
    said = refused(heatpose, "experiment=quickstart", "data.root=COCO")
    shown = said.partition("so write ")[2].rstrip(".\n").split()
    assert shown == ["data=coco_person", "data.root=COCO"]
    assert heatpose("train", "experiment=quickstart", *shown, "--cfg", "job").status == 0


def test_a_key_like_no_other(heatpose: Heatpose) -> None:
    assert (
        refused(heatpose, "qqq=1") == "error: There is no setting qqq; --cfg job shows them all.\n"
    )


def test_several_mistakes_at_a_time(heatpose: Heatpose) -> None:
    assert "trainer.max_epochs=1" in refused(
        heatpose, "experiment=quickstart", "epochs=1", "bogus=2", "data.rot=x"
    )


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("experiment=quikstart", "experiment=quickstart"),
        ("skeleton=coco", "skeleton=coco17"),
        ("hydra/launcher=paralel", "hydra/launcher=parallel"),
    ],
)
def test_an_unknown_choice(heatpose: Heatpose, given: str, near: str) -> None:
    said = refused(heatpose, given)
    assert said.startswith(f"error: {given} is unknown; did you mean {near}? There are ")
    assert heatpose("train", near, "--cfg", "job").status == 0


def test_a_choice_in_a_sweep(tmp_path: Path) -> None:
    # In a process of its own: Hydra closes the log handlers of the process that starts a sweep, and
    # absl's handler takes the stream that pytest captures with it.
    command = [
        sys.executable,
        "-m",
        "heatpose.cli",
        "train",
        "-m",
        "experiment=quikstart,quickstart",
    ]
    ran = subprocess.run(
        [*command, f"runs={tmp_path}"], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 1
    assert "did you mean experiment=quickstart?" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--config-name", "nowhere"],
            "There is no configuration 'nowhere'; leave out --config-name.",
        ),
        (["--config-dir", "nowhere"], "--config-dir names 'nowhere', which is not a folder"),
        (["~trainer"], "~trainer chooses nothing; leave it out, or choose one of ddp, default."),
    ],
)
def test_other_places(heatpose: Heatpose, arguments: list[str], words: str) -> None:
    assert words in refused(heatpose, *arguments)


def test_ones_own_files(heatpose: Heatpose, tmp_path: Path) -> None:
    """A folder of one's own: its choices count, and its mistakes are told with file and line."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nresolution: 96\n")
    assert "did you mean experiment=mine?" in refused(
        heatpose, "--config-dir", str(tmp_path), "experiment=mien"
    )
    (tmp_path / "experiment/bad.yaml").write_text(
        "# @package _global_\ntrainer: {max_epochs: 3\nname: x: y\n"
    )
    said = refused(heatpose, "--config-dir", str(tmp_path), "experiment=bad")
    assert "bad.yaml" in said and "line 3" in said
    assert (
        heatpose("train", "--config-dir", tmp_path, "experiment=mine", "--cfg", "job").status == 0
    )


def test_likeness_is_that_of_the_last_part_most_of_all() -> None:
    keys = ["trainer.max_epochs", "target.tool", "optimizer.lr", "export"]
    assert (
        nearest("epochs", keys) == "trainer.max_epochs"
        and nearest("model.lr", keys) == "optimizer.lr"
    )
    assert nearest("trainer.foo", keys) == "" and nearest("x", []) == ""
