"""Runs that cannot come to anything: they stop, say why, and keep the weights from before."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from omegaconf import OmegaConf

from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import load_checkpoint
from heatpose.training import fit as training
from heatpose.training.callbacks import KEPT, Divergence, diverged


class Jumps(lightning.Callback):
    """From an epoch on, steps are so large that weights overflow."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if trainer.current_epoch == self.epoch:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = group["initial_lr"] = 1e37
            trainer.lr_scheduler_configs.clear()


def stopped(run: Any, epoch: int, every: int, precision: str = "32-true") -> str:
    trainer = run_trainer(run, Jumps(epoch), Divergence(every), precision=precision)
    fused = partial(torch.optim.AdamW, lr=4e-3, fused=True)
    with pytest.raises(HeatposeError) as message:
        training.fit(run.module(optimizer=fused), run.data(), trainer, None)
    return str(message.value)


def run_trainer(
    run: Any, *callbacks: lightning.Callback, precision: str = "32-true"
) -> lightning.Trainer:
    trainer: lightning.Trainer = run.trainer(3, *callbacks, precision=precision)
    trainer._default_root_dir = str(run.folder)
    return trainer


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_loss_that_is_no_number_stops_the_first_epoch(precision: str, tiny_run: Any) -> None:
    sentence = stopped(tiny_run, epoch=0, every=50, precision=precision)
    folder = tiny_run.folder / "checkpoints"
    assert (
        re.search(r"became (nan|inf)", sentence)
        and "step 0 are kept" in sentence
        and str(folder / KEPT) in sentence
        and "optimizer.lr" in sentence
    )
    assert [path.name for path in folder.iterdir()] == [KEPT]  # nothing of broken weights was saved
    for found, first in zip(
        load_checkpoint(folder / KEPT).network.parameters(),
        tiny_run.module().network.parameters(),
        strict=True,
    ):
        assert torch.equal(found, first)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_later_one_leaves_the_last_good_checkpoint(precision: str, tiny_run: Any) -> None:
    sentence = stopped(tiny_run, epoch=1, every=3, precision=precision)  # an epoch is three steps
    folder = tiny_run.folder / "checkpoints"
    assert "(epoch 1)" in sentence and "step 3 are kept" in sentence
    assert sorted(path.name for path in folder.iterdir()) == [
        "before_divergence.ckpt",
        "best.ckpt",
        "last.ckpt",
    ]
    for path in folder.iterdir():
        loaded = load_checkpoint(path)
        assert all(torch.isfinite(value).all() for value in loaded.network.state_dict().values())
    assert (
        load_checkpoint(folder / "last.ckpt").metadata["epoch"] == 0
        and load_checkpoint(folder / KEPT).metadata["step"] == 3
    )


def test_a_good_run_is_left_alone(tiny_run: Any) -> None:
    best = training.fit(
        tiny_run.module(), tiny_run.data(), run_trainer(tiny_run, Divergence(2)), None
    )
    assert best.is_file() and not best.with_name(KEPT).exists()


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([6, 5, 4, 70, 80, 90], True),  # cross-entropy that explodes
        ([6, 5, 4, 70, 80, 4], False),  # and one that comes back
        ([6, 5, 4, 70], False),  # one bad window
        ([6, 5, 4, 7, 8, 9], False),  # overfitting, or a harder part of the data
        # ten times the lowest, but no worse than at the beginning
        ([0.1, 0.001, 0.02, 0.02, 0.02], False),
        ([0.1, 0.001, 0.3, 0.3, 0.3], True),
        ([], False),
        ([5.0], False),
        ([math.inf], False),
    ],
)
def test_what_counts_as_growing(means: list[float], expected: bool) -> None:
    assert diverged(means, 10.0, 3) is expected


def test_it_is_part_of_every_run() -> None:
    configured = OmegaConf.load(Path(__file__).parents[2] / "conf" / "callbacks" / "default.yaml")
    assert configured.divergence._target_ == "heatpose.training.callbacks.Divergence"
