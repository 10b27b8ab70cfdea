"""Averaged weights, the image grid in the logger, and the progress bar's numbers."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from numpy.typing import NDArray
from omegaconf import OmegaConf

from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import load_checkpoint
from heatpose.training import fit as training
from heatpose.training.callbacks import (
    KEPT,
    AveragedWeights,
    Divergence,
    PredictionGrid,
    diverged,
)


@pytest.mark.parametrize(("use_buffers", "every"), [(False, 1), (True, 2)])
def test_averages_are_those_of_lightning(use_buffers: bool, every: int) -> None:
    options: dict[str, Any] = {
        "decay": 0.7,
        "use_buffers": use_buffers,
        "update_every_n_steps": every,
    }
    module: Any = lightning.LightningModule()
    module.layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    both: list[Any] = [AveragedWeights(**options), EMAWeightAveraging(**options)]
    for callback in both:
        callback.setup(SimpleNamespace(), module, "fit")
    for step in range(5):
        module.layers(torch.randn(8, 3))  # moves the statistics
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(torch.randn_like(weight))
        for callback in both:
            callback.on_train_batch_end(
                SimpleNamespace(global_step=step + 1), module, None, None, step
            )
    ours, theirs = (callback._average_model.module.state_dict() for callback in both)
    assert ours.keys() == theirs.keys() == module.state_dict().keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)
    assert not torch.allclose(ours["layers.0.weight"], module.layers[0].weight)


class ImageStore:
    """A logger that takes images."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, NDArray[np.uint8], int]] = []
        self.experiment = self

    def add_image(self, tag: str, image: NDArray[np.uint8], step: int, dataformats: str) -> None:
        assert dataformats == "HWC"
        self.taken.append((tag, image, step))


def trainer(logger: Any, epoch: int = 0, **settings: Any) -> Any:
    usual = {
        "sanity_checking": False,
        "current_epoch": epoch,
        "is_global_zero": True,
        "global_step": 10 * epoch,
    }
    return SimpleNamespace(**{**usual, "logger": logger, **settings})


def batch(instances: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(
            0, 256, (instances, 3, 64, 64), dtype=torch.uint8, generator=generator
        ),
        "points": torch.rand(instances, 13, 2, generator=generator) * 64,
        "labelled": torch.ones(instances, 13, dtype=torch.bool),
        "box": torch.full((instances, 2), 40.0),
    }


def validate(
    grid: PredictionGrid, module: Any, at: Any, logits: torch.Tensor, instances: int = 5
) -> None:
    """One validation of two batches."""
    grid.on_validation_batch_end(at, module, logits, batch(instances), 0)
    grid.on_validation_batch_end(at, module, logits * 0 - 5, batch(instances), 1)
    grid.on_validation_epoch_end(at, module)


@pytest.fixture
def logits() -> torch.Tensor:
    """Peaks at random places."""
    return torch.randn(5, 13, 16, 16, generator=torch.Generator().manual_seed(1)) * 4


def test_a_grid_shows_label_prediction_and_heatmaps(tiny_run: Any, logits: torch.Tensor) -> None:
    module, logger = tiny_run.module(), ImageStore()
    validate(PredictionGrid(instances=3), module, trainer(logger, epoch=2), logits)
    ((tag, image, step),) = logger.taken
    assert (tag, step) == ("val/predictions", 20)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    # three people, two in a row of six tiles
    assert image.shape[1] >= 6 * 64 and image.shape[0] >= 2 * 64
    other = ImageStore()
    validate(PredictionGrid(instances=3), module, trainer(other), -logits)
    changed = np.abs(image.astype(int) - other.taken[0][1]).max((0, 2)) > 0
    side = image.shape[1] // 6
    columns = [bool(changed[i * side : (i + 1) * side].any()) for i in range(6)]
    # labels stay, predictions and heatmaps follow the network
    assert columns == [False, True, True] * 2


def test_the_first_batch_is_shown(tiny_run: Any, logits: torch.Tensor) -> None:
    module = tiny_run.module()
    several, one = ImageStore(), ImageStore()
    validate(PredictionGrid(2), module, trainer(several), logits)
    alone = PredictionGrid(2)
    alone.on_validation_batch_end(trainer(one), module, logits, batch(), 0)
    alone.on_validation_epoch_end(trainer(one), module)
    np.testing.assert_array_equal(several.taken[0][1], one.taken[0][1])


def test_fewer_people_than_asked_for_are_enough(tiny_run: Any, logits: torch.Tensor) -> None:
    logger = ImageStore()
    validate(PredictionGrid(8), tiny_run.module(), trainer(logger), logits[:2], instances=2)
    assert len(logger.taken) == 1


def test_only_some_epochs_are_drawn(tiny_run: Any, logits: torch.Tensor) -> None:
    logger, grid, module = ImageStore(), PredictionGrid(1, every=3), tiny_run.module()
    for epoch in range(7):
        validate(grid, module, trainer(logger, epoch), logits)
    assert [step for _, _, step in logger.taken] == [0, 30, 60]


@pytest.mark.parametrize("settings", [{"sanity_checking": True}, {"is_global_zero": False}])
def test_nothing_is_drawn_in_a_sanity_check_or_twice(
    settings: dict[str, bool], tiny_run: Any, logits: torch.Tensor
) -> None:
    logger = ImageStore()
    validate(PredictionGrid(), tiny_run.module(), trainer(logger, **settings), logits)
    assert not logger.taken


@pytest.mark.parametrize(
    "logger", [None, SimpleNamespace(experiment=None), SimpleNamespace(experiment=object())]
)
def test_a_logger_without_images_works(logger: Any, tiny_run: Any, logits: torch.Tensor) -> None:
    validate(PredictionGrid(), tiny_run.module(), trainer(logger), logits)


def test_half_precision_logits_can_be_drawn(tiny_run: Any, logits: torch.Tensor) -> None:
    logger = ImageStore()
    validate(PredictionGrid(1), tiny_run.module(), trainer(logger), logits.bfloat16())
    assert len(logger.taken) == 1


def test_a_real_validation_draws_once(tiny_run: Any) -> None:
    """In Lightning's own order of calls, with the averaged weights swapped in."""

    class Counts(PredictionGrid):
        drawn = 0

        def _draw(self, *args: Any) -> NDArray[np.uint8]:
            Counts.drawn += 1
            return super()._draw(*args)

    tiny_run.trainer(2, Counts(2)).fit(tiny_run.module(), datamodule=tiny_run.data())
    assert Counts.drawn == 2


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
def test_a_non_finite_loss_stops_the_first_epoch(precision: str, tiny_run: Any) -> None:
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
