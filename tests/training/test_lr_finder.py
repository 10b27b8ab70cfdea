"""The suggestion of a learning rate: what is read off the curve, and a short real test."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from heatpose.errors import HeatposeError
from heatpose.training.callbacks import Divergence
from heatpose.training.lr_finder import (
    BETA,
    curve_image,
    find_rate,
    smoothed,
    steepest,
    step_losses,
)


def test_lightnings_averages_are_undone() -> None:
    """By its own formula: avg = beta avg + (1 - beta) loss, shown as avg /.

    (1 - beta^(global step + 1)) with the step already counted.
    """
    losses = np.random.default_rng(0).uniform(1, 9, 50)
    shown, average = [], 0.0
    for i, loss in enumerate(losses):
        average = BETA * average + (1 - BETA) * loss
        shown.append(average / (1 - BETA ** (i + 2)))
    np.testing.assert_allclose(step_losses(np.array(shown)), losses, rtol=1e-9)


def test_a_constant_is_smoothed_to_itself() -> None:
    np.testing.assert_allclose(smoothed(np.full(20, 3.0)), 3.0)


RATES = np.logspace(-6, 0, 100)


def curve(fall: float, rise: float) -> Any:
    """Falls by 3 around one rate, and explodes beyond another."""
    x = np.log10(RATES)
    return 6 - 3 / (1 + np.exp(-4 * (x - math.log10(fall)))) + np.exp(6 * (x - math.log10(rise)))


@pytest.mark.parametrize("fall", [1e-4, 1e-3, 1e-2])
def test_the_steepest_fall_is_found(fall: float) -> None:
    rate = steepest(RATES, curve(fall, 30 * fall))
    assert rate is not None and 0.6 * fall < rate < 1.6 * fall


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    assert steepest(RATES, np.linspace(1, 2, 100)) is None
    assert steepest(RATES[:4], np.array([4.0, 3, 2, 1])) is None
    assert steepest(RATES, np.full(100, np.nan)) is None


def test_the_rate_is_marked_where_it_is() -> None:
    image = curve_image(RATES, curve(1e-3, 3e-2), 1e-3).astype(int)
    assert image.shape == (560, 900, 3)
    red = (image == (210, 60, 40)).all(-1).sum(0)
    assert abs(int(red.argmax()) - (80 + (870 - 80) / 2)) <= 2  # the middle of 1e-6 and 1


def test_a_short_test(tiny_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    module = tiny_run.module()
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    trainer = tiny_run.trainer(1, Divergence())  # one epoch of three steps is no limit
    rate = find_rate(module, tiny_run.data(), trainer, tiny_run.folder / "found", steps=25)
    assert 1e-6 <= rate < 1
    assert f"optimizer.lr={rate:.1e}" in capsys.readouterr().out
    found = json.loads((tiny_run.folder / "found" / "lr_find.json").read_text())
    assert found["suggestion"] == rate and len(found["lr"]) == len(found["loss"]) == found["steps"]
    assert 10 <= found["steps"] <= 25 and found["lr"] == sorted(found["lr"])
    # of an untrained network over 256 cells; half of it by Lightning's average
    assert abs(found["loss"][0] - math.log(16 * 16)) < 2
    with Image.open(tiny_run.folder / "found" / "lr_find.png") as image:
        assert image.size == (900, 560)
    assert all(
        torch.equal(value, before[name]) for name, value in module.network.state_dict().items()
    )
    assert sorted(path.name for path in (tiny_run.folder / "found").iterdir()) == [
        "lr_find.json",
        "lr_find.png",
    ]


def test_a_loss_without_a_fall_is_a_sentence(tiny_run: Any) -> None:
    module = tiny_run.module()
    module.training_step = lambda batch, batch_idx: (
        module(batch["image"]).square().mean() * 0 + module.trainer.global_step + 1.0
    )
    with pytest.raises(HeatposeError, match="does not fall at any learning rate"):
        find_rate(module, tiny_run.data(), tiny_run.trainer(1), tiny_run.folder, steps=12)
