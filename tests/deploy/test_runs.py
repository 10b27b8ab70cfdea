"""A board beside a run: its budget before training, its deployment package after the export."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from heatpose.deploy.targets import built_in
from heatpose.entries import build
from heatpose.errors import HeatposeError
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing


def _config(name: str = "stm32n6", **changes: object) -> DictConfig:
    content = yaml.safe_load(built_in()[name].read_text())
    return OmegaConf.create({"target": {**content, **changes}})


def test_no_board_no_word(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    config = OmegaConf.create({"target": None})
    build.check_budget(config, MoveNet(13, 0.35), Preprocessing(64))
    build.deploy_bundle(config, bundle)
    assert not capsys.readouterr().out and not (bundle / "stm32n6").exists()


def test_the_estimate_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    build.check_budget(_config(), MoveNet(13), Preprocessing(192))
    out = capsys.readouterr().out
    assert "STM32N6570-DK" in out and "RAM" in out and "ms" in out and "extrapolated" not in out
    build.check_budget(_config(), MoveNet(13, 0.35), Preprocessing(64))
    assert "extrapolated" in capsys.readouterr().out
    build.check_budget(_config("stm32mp1"), MoveNet(13), Preprocessing(192))
    assert "RAM" not in capsys.readouterr().out  # nothing is published


def test_a_budget_ends_the_run_or_warns(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HeatposeError, match="does not fit stm32n6"):
        build.check_budget(_config(budget={"ms": 5}), MoveNet(13), Preprocessing(192))
    build.check_budget(_config(budget={"ms": 19}), MoveNet(13), Preprocessing(192))
    assert "may not fit" in capsys.readouterr().out
    # nothing to hold against it
    build.check_budget(_config(estimator=None, budget={"ms": 5}), MoveNet(13), Preprocessing(192))


def test_a_finished_bundle_is_handed_over(bundle: Path) -> None:
    build.deploy_bundle(_config(), bundle)
    assert (bundle / "stm32n6/user_neuralart.json").is_file()
    build.deploy_bundle(_config("stm32mp2"), bundle)
    assert (bundle / "stm32mp2/pose_app.py").is_file()


def test_a_rejected_artefact_is_left_to_the_acceptance_checks(bundle: Path) -> None:
    (bundle / "pose_64_int8_pt.tflite").rename(bundle / "pose_64_int8_pt.rejected.tflite")
    build.deploy_bundle(_config("stm32mp2"), bundle)
    assert not (bundle / "stm32mp2").exists()
