"""`heatpose train` and `heatpose export`: the same entries as train.py and export.py, Hydra's arguments untouched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from heatpose import entries
from heatpose.errors import HeatposeError
from tests.conftest import Heatpose

REPOSITORY = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("hydra_as_before")


def test_the_configuration_is_the_checkouts() -> None:
    assert entries.conf_folder() == REPOSITORY / "conf"


def test_a_package_without_its_configuration_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(entries, "CONF_FOLDERS", (tmp_path, tmp_path / "conf"))
    with pytest.raises(HeatposeError, match="install heatpose again"):
        entries.conf_folder()


@pytest.mark.parametrize(("entry", "own"), [("train", {"fit": True}), ("export", {"fit": False, "checkpoint": None})])
def test_overrides_and_options_are_hydras(heatpose: Heatpose, entry: str, own: dict[str, object]) -> None:
    folder = REPOSITORY / "examples/upper_body5"
    ran = heatpose(entry, "--config-dir", folder, "--cfg", "job", "experiment=upper_body5_192", "trainer.max_epochs=2")
    assert ran.status == 0, ran.err
    composed = yaml.safe_load(ran.out)
    assert composed["trainer"]["max_epochs"] == 2 and composed["skeleton"]["name"] == "upper_body5" and own.items() <= composed.items()


@pytest.mark.parametrize("argument", ["target=null", "loss="])
def test_a_group_that_is_given_nothing_is_one_sentence(heatpose: Heatpose, argument: str) -> None:
    ran = heatpose("export", "checkpoint=a.ckpt", argument)
    assert ran.status == 1 and ran.err.startswith(f"error: {argument} chooses nothing; leave it out, or choose one of ")


def test_the_scripts_of_a_checkout_are_the_same(heatpose: Heatpose) -> None:
    settings = ["--cfg", "job", "experiment=quickstart", "resolution=96"]
    ran = heatpose("train", *settings)
    script = subprocess.run([sys.executable, REPOSITORY / "train.py", *settings], check=True, capture_output=True, text=True)
    assert ran.status == 0 and ran.out == script.stdout != ""


def test_an_unknown_setting_is_refused(heatpose: Heatpose) -> None:
    ran = heatpose("train", "experiment=quickstart", "modle.width=1")
    assert ran.status == 1 and "modle" in ran.err and "Traceback" not in ran.err


def test_help_is_hydras() -> None:
    # In a process of its own: Hydra prints its help into a stream that pytest has closed by the end of the test.
    ran = subprocess.run([sys.executable, "-m", "heatpose.cli", "export", "--help"], capture_output=True, text=True)
    assert ran.returncode == 0 and "experiment: " in ran.stdout and "calibration_images: 128" in ran.stdout
