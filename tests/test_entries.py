"""`heatpose train` and `heatpose export`.

The same entries as train.py and export.py, Hydra's arguments untouched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from lightning import Trainer
from omegaconf import DictConfig

import heatpose.sweeps.hydra_callback  # noqa: F401  (registers the resolver that the configuration uses)
from heatpose import entries
from heatpose.errors import HeatposeError, exit_on_user_error
from heatpose.utils import files
from tests.conftest import Heatpose
from tests.test_cli import HEAVY

REPOSITORY = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("hydra_as_before")


def test_the_configuration_is_the_checkouts() -> None:
    assert files.conf_folder() == REPOSITORY / "conf"


def test_a_command_line_is_read_before_torch_is_loaded() -> None:
    """Importing torch and Lightning takes more than ten seconds, a misspelt setting should not."""
    code = "import sys, heatpose.entries.jobs as j; sys.argv[1:] = ['experiment=none']\n"
    code += "try: j.train_main()\nexcept SystemExit: pass\n"
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and "experiment=none" in done.stderr


def test_a_package_without_its_configuration_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(files, "CONF_FOLDERS", (tmp_path, tmp_path / "conf"))
    with pytest.raises(HeatposeError, match="install heatpose again"):
        files.conf_folder()


@pytest.mark.parametrize(
    ("entry", "own"), [("train", {"fit": True}), ("export", {"fit": False, "checkpoint": None})]
)
def test_overrides_and_options_are_hydras(
    heatpose: Heatpose, entry: str, own: dict[str, object]
) -> None:
    folder = REPOSITORY / "examples/upper_body5"
    ran = heatpose(
        entry,
        "--config-dir",
        folder,
        "--cfg",
        "job",
        "experiment=upper_body5_192",
        "trainer.max_epochs=2",
    )
    assert ran.status == 0, ran.err
    composed = yaml.safe_load(ran.out)
    assert (
        composed["trainer"]["max_epochs"] == 2
        and composed["skeleton"]["name"] == "upper_body5"
        and own.items() <= composed.items()
    )


@pytest.mark.parametrize("argument", ["target=null", "loss="])
def test_a_group_that_is_given_nothing_is_one_sentence(heatpose: Heatpose, argument: str) -> None:
    ran = heatpose("export", "checkpoint=a.ckpt", argument)
    assert ran.status == 1 and ran.err.startswith(
        f"error: {argument} chooses nothing; leave it out, or choose one of "
    )


def test_the_scripts_of_a_checkout_are_the_same(heatpose: Heatpose) -> None:
    settings = ["--cfg", "job", "experiment=quickstart", "resolution=96"]
    ran = heatpose("train", *settings)
    script = subprocess.run(
        [sys.executable, REPOSITORY / "train.py", *settings],
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.status == 0 and ran.out == script.stdout != ""


def test_an_unknown_setting_is_refused(heatpose: Heatpose) -> None:
    ran = heatpose("train", "experiment=quickstart", "modle.width=1")
    assert ran.status == 1 and "modle" in ran.err and "Traceback" not in ran.err


def test_help_is_hydras() -> None:
    # In a process of its own: Hydra prints its help into a stream that pytest has closed by the end
    # of the test.
    ran = subprocess.run(
        [sys.executable, "-m", "heatpose.cli", "export", "--help"], capture_output=True, text=True
    )
    assert (
        ran.returncode == 0
        and "experiment: " in ran.stdout
        and "calibration_images: 128" in ran.stdout
    )


def started(
    monkeypatch: pytest.MonkeyPatch, folder: Path, task: Callable[[DictConfig], None]
) -> int:
    """Exit status of an entry with that task."""
    arguments = ["experiment=quickstart", f"runs={folder}", "name=x"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        entries.run(task, "train")
    assert "HYDRA_FULL_ERROR" not in os.environ  # as before
    return int(str(ended.value.code))


def test_ctrl_c_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def task(config: DictConfig) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    # ignored where the tests run in the background
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert started(monkeypatch, tmp_path, task) == 1
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "error: Interrupted; run the same command again.\n"


def test_a_refusal_of_lightnings_is_never_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def task(config: DictConfig) -> None:
        with exit_on_user_error():  # as `run_entry` has it
            Trainer(accelerator="cpu", devices=1, max_steps=-3)

    assert started(monkeypatch, tmp_path, task) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: Lightning rejects") and "max_steps" in said
    assert said.count("\n") == 1


def test_hydras_own_errors_are_shown_where_they_are_asked_for() -> None:
    environment = {**os.environ, "HYDRA_FULL_ERROR": "1"}
    command = [sys.executable, REPOSITORY / "train.py", "trainer.epoch=3"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 1 and "Traceback" in ran.stderr and "not in struct" in ran.stderr
