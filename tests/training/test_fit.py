"""Runs of seconds: what they leave behind, and how they go on after an interruption."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from heatpose.data.augment import Photometric
from heatpose.data.datamodule import PersonDataset, PoseData
from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import KEY, load_checkpoint
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13
from heatpose.training import fit as training
from heatpose.training.callbacks import AveragedWeights


class Stops(lightning.Callback):
    """Ends the run at the start of an epoch, as a lost connection or a person would."""

    def __init__(self, epoch: int, error: type[BaseException]) -> None:
        self.epoch, self.error = epoch, error

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if trainer.current_epoch == self.epoch:
            raise self.error("stopped")


def test_a_run_leaves_the_best_and_the_last_checkpoint(fitted: Any) -> None:
    folder = fitted.run.folder / "checkpoints"
    assert fitted.best == folder / "best.ckpt"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    for path in folder.iterdir():
        loaded = load_checkpoint(path)
        assert loaded.skeleton == ST_13 and loaded.preprocessing == Preprocessing(64)
        assert loaded.metadata["run"] == "tiny"


def test_the_last_checkpoint_is_of_the_last_epoch_also_when_another_is_best(tiny_run: Any) -> None:
    """An interrupted run must not fall back to its best epoch."""

    class Worsens(lightning.Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.validation_oks[:] = [np.array([1.0 / (1 + trainer.current_epoch)])]

    best = training.fit(tiny_run.module(), tiny_run.data(), tiny_run.trainer(3, Worsens()), None)
    assert load_checkpoint(best).metadata["epoch"] == 0
    last = load_checkpoint(best.with_name("last.ckpt")).metadata
    assert last["epoch"] == 2 and last["validation_oks"] == pytest.approx(100 / 3)


def test_checkpoints_hold_the_average_of_the_weights(fitted: Any) -> None:
    """average <- 0.6 average + 0.4 weights after each step.

    From the weights after the first step on.
    """
    average = [p.double() for p in fitted.history[0]]
    for parameters in fitted.history[1:]:
        average = [0.6 * a + 0.4 * p.double() for a, p in zip(average, parameters, strict=True)]
    saved = list(load_checkpoint(fitted.best.with_name("last.ckpt")).network.parameters())
    for found, want, newest in zip(saved, average, fitted.history[-1], strict=True):
        torch.testing.assert_close(found.double(), want, atol=1e-5, rtol=1e-5)
        assert found.numel() < 100 or not torch.equal(found, newest)


def unvarying(data: Any) -> Any:
    """Data without chance, in a fixed order.

    What is left to differ between two runs is what a checkpoint does not hold.
    """
    data.train_dataloader = lambda: DataLoader(
        PersonDataset(data.train_instances, ST_13, Preprocessing(64)), 8
    )
    return data


def states(path: Path) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    return {
        "weights": content["state_dict"],
        "not averaged": content["current_model_state"],
        "optimizer": {
            f"{i}.{k}": v
            for i, s in content["optimizer_states"][0]["state"].items()
            for k, v in s.items()
        },
        "rates": {
            i: torch.tensor(group["lr"])
            for i, group in enumerate(content["optimizer_states"][0]["param_groups"])
        },
        "steps": {
            "global": torch.tensor(content["global_step"]),
            "epoch": torch.tensor(content["epoch"]),
        },
    }


def _halving(trainer: lightning.Trainer) -> lightning.Trainer:
    trainer.strategy.checkpoint_io = training.WholeCheckpointIO(half=True)
    return trainer


def test_a_halved_checkpoint_is_half_the_size_and_continues_the_run(tiny_run: Any) -> None:
    """Killed and continued from rounded values, it ends near the run that was not interrupted."""
    whole, parts = (
        type(tiny_run)(tiny_run.root, tiny_run.folder / name) for name in ("whole", "parts")
    )
    training.fit(whole.module(), unvarying(whole.data()), whole.trainer(3), None)
    with pytest.raises(RuntimeError, match="stopped"):
        stopped = _halving(parts.trainer(3, Stops(2, RuntimeError)))
        training.fit(parts.module(), unvarying(parts.data()), stopped, None)
    last, usual = (run.folder / "checkpoints" / "last.ckpt" for run in (parts, whole))
    assert last.stat().st_size < 0.62 * usual.stat().st_size
    assert load_checkpoint(last).metadata["epoch"] == 1
    halved = states(last)
    kinds = {name: {v.dtype for v in halved[name].values() if v.dim() > 1} for name in halved}
    assert kinds["weights"] == kinds["not averaged"] == {torch.float16}
    assert kinds["optimizer"] == {torch.bfloat16}
    assert all(v.dtype is torch.float32 for v in halved["weights"].values() if v.dim() == 1)

    trainer = _halving(parts.trainer(3))
    training.fit(parts.module(seed=99), unvarying(parts.data()), trainer, last)
    moments = trainer.optimizers[0].state.values()
    assert {m["exp_avg"].dtype for m in moments} == {torch.float32}
    expected, found = states(usual), states(last)
    assert found["steps"] == expected["steps"] and found["rates"] == expected["rates"]
    for name in ("weights", "not averaged"):
        for key, value in expected[name].items():
            if value.dim() > 1:  # three steps of a rate of 0.004 lie between the two
                off = (found[name][key].float() - value).abs().mean() / value.abs().mean()
                assert off < 0.02, f"{name}: {key} {off}"


def test_a_halved_checkpoint_has_the_values_rounded(fitted: Any) -> None:
    content = torch.load(fitted.best, weights_only=True)
    before = {key: value.clone() for key, value in content["state_dict"].items()}
    halved = training.halved(content)
    for key, value in before.items():
        assert torch.equal(content["state_dict"][key], value)
        wanted = value.half() if value.dim() > 1 else value
        assert torch.equal(halved["state_dict"][key], wanted)
    kept = {*content} - {"state_dict", "current_model_state", "optimizer_states"}
    assert kept and all(halved[key] is content[key] for key in kept)
    name = next(key for key, value in before.items() if value.dim() > 1)
    content["state_dict"][name][0] = 1e5
    with pytest.raises(HeatposeError, match=r"float16 cannot hold; keep this checkpoint"):
        training.halved(content)


@pytest.mark.parametrize("killed_in", [1, 2])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(killed_in: int, tiny_run: Any) -> None:
    whole, parts = (
        type(tiny_run)(tiny_run.root, tiny_run.folder / name) for name in ("whole", "parts")
    )
    training.fit(whole.module(), unvarying(whole.data()), whole.trainer(3), None)

    with pytest.raises(RuntimeError, match="stopped"):
        training.fit(
            parts.module(),
            unvarying(parts.data()),
            parts.trainer(3, Stops(killed_in, RuntimeError)),
            None,
        )
    last = parts.folder / "checkpoints" / "last.ckpt"
    assert load_checkpoint(last).metadata["epoch"] == killed_in - 1
    fresh = parts.module(seed=99)  # other first weights: all must come from the checkpoint
    best = training.fit(fresh, unvarying(parts.data()), parts.trainer(3), last)

    assert best == parts.folder / "checkpoints" / "best.ckpt"
    expected, found = (states(run.folder / "checkpoints" / "last.ckpt") for run in (whole, parts))
    for name, values in expected.items():
        assert found[name].keys() == values.keys()
        for key, value in values.items():
            torch.testing.assert_close(
                found[name][key], value, atol=1e-6, rtol=1e-6, msg=f"{name}: {key}"
            )
    metadata = [
        load_checkpoint(run.folder / "checkpoints" / "best.ckpt").metadata for run in (whole, parts)
    ]
    assert metadata[0] == pytest.approx(metadata[1])


DRAWN_BY_PLACE = "seed" in inspect.signature(PoseData.__init__).parameters
"""Views and order depend on seed, epoch and place alone.

Not on how many numbers were drawn before.
"""


@pytest.mark.skipif(
    not DRAWN_BY_PLACE,
    reason="views are drawn from torch's running generators, which a checkpoint does not hold",
)
def test_a_killed_run_with_views_by_chance_goes_on_as_if_nothing_had_happened(
    tiny_run: Any,
) -> None:
    """Order, augmentation and colours as configured by default."""
    colours = {"photometric": Photometric(0.2, 0.3, 0.3)}
    whole, parts = (
        type(tiny_run)(tiny_run.root, tiny_run.folder / name) for name in ("whole", "parts")
    )
    training.fit(whole.module(**colours), whole.data(), whole.trainer(3), None)
    with pytest.raises(RuntimeError, match="stopped"):
        training.fit(
            parts.module(**colours), parts.data(), parts.trainer(3, Stops(2, RuntimeError)), None
        )
    torch.rand(17)  # another process has drawn other numbers by now
    training.fit(
        parts.module(seed=99, **colours),
        parts.data(),
        parts.trainer(3),
        parts.folder / "checkpoints" / "last.ckpt",
    )
    expected, found = (states(run.folder / "checkpoints" / "last.ckpt") for run in (whole, parts))
    for name, values in expected.items():
        for key, value in values.items():
            torch.testing.assert_close(
                found[name][key], value, atol=1e-6, rtol=1e-6, msg=f"{name}: {key}"
            )


def first_points(run: Any, last: Path | None) -> torch.Tensor:
    """Keypoints of the first training batch of a run, started or continued with the same seed."""
    seen: list[torch.Tensor] = []

    class First(lightning.Callback):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            seen.append(batch["points"])
            raise RuntimeError("seen")

    with pytest.raises(RuntimeError, match="seen"):
        training.fit(run.module(), run.data(), run.trainer(3, First()), last)
    return seen[0]


def test_a_continued_run_sees_other_views_than_the_first_epoch_did(tiny_run: Any) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        training.fit(
            tiny_run.module(), tiny_run.data(), tiny_run.trainer(3, Stops(1, RuntimeError)), None
        )
    last = tiny_run.folder / "checkpoints" / "last.ckpt"
    begun, again, continued, repeated = (
        first_points(tiny_run, path) for path in (None, None, last, last)
    )
    assert torch.equal(begun, again) and torch.equal(continued, repeated)
    assert not torch.equal(begun, continued)


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_last_checkpoint_that_is_none_is_one_sentence(content: bytes, tiny_run: Any) -> None:
    last = tiny_run.folder / "last.ckpt"
    last.parent.mkdir()
    last.write_bytes(content)
    with pytest.raises(HeatposeError, match="is not a readable checkpoint"):
        training.fit(tiny_run.module(), tiny_run.data(), tiny_run.trainer(1), last)


def test_the_same_seed_gives_the_same_run(fitted: Any, tiny_run: Any) -> None:
    module = tiny_run.module()
    best = training.fit(module, tiny_run.data(), tiny_run.trainer(3), None)
    expected, found = (
        states(path.with_name("last.ckpt"))["weights"] for path in (fitted.best, best)
    )
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-6, rtol=1e-6, msg=key)


def test_a_finished_run_is_not_trained_again(
    fitted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = replace(fitted.run, folder=tmp_path / "run")  # the logger writes into it
    shutil.copytree(fitted.run.folder, run.folder)
    last, best = (run.folder / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    before = {path: path.read_bytes() for path in (best, last)}

    class Steps(lightning.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            pytest.fail("a finished run was trained on")

    # where the checkpoint says
    assert (
        training.fit(run.module(seed=5), run.data(), run.trainer(3, Steps()), last) == fitted.best
    )
    assert {path: path.read_bytes() for path in before} == before
    assert "complete already; resume=false repeats it" in capsys.readouterr().out


def test_an_interruption_is_one_sentence(tiny_run: Any) -> None:
    with pytest.raises(
        HeatposeError, match="was interrupted; the same command resumes from the last checkpoint"
    ):
        training.fit(
            tiny_run.module(),
            tiny_run.data(),
            tiny_run.trainer(2, Stops(1, KeyboardInterrupt)),
            None,
        )
    assert load_checkpoint(tiny_run.folder / "checkpoints" / "last.ckpt").metadata["epoch"] == 0


def test_a_run_without_checkpoint_callback_is_one_sentence(tiny_run: Any) -> None:
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with pytest.raises(
        HeatposeError, match=r"ended without a checkpoint; check trainer\.max_epochs"
    ):
        training.fit(tiny_run.module(), tiny_run.data(), trainer, None)


def test_too_little_data_is_one_sentence(tiny_run: Any) -> None:
    with pytest.raises(HeatposeError, match="is held out for model selection"):
        training.fit(tiny_run.module(), tiny_run.data(held_out=1e-6), tiny_run.trainer(1), None)


def test_the_initial_checkpoint_holds_the_first_weights(tiny_run: Any) -> None:
    module = tiny_run.module()
    path = training.initial_checkpoint(module, tiny_run.folder)
    assert path == tiny_run.folder / "checkpoints" / "initial.ckpt"
    loaded = load_checkpoint(path)
    for found, want in zip(loaded.network.parameters(), module.network.parameters(), strict=True):
        assert torch.equal(found, want)
    assert loaded.metadata == {"run": "tiny"}
    assert KEY in torch.load(path, weights_only=True)


CONFIGURATION = {"seed": 0, "optimizer": {"lr": 0.1}, "skeleton": {"name": "st13"}}


def test_a_new_run_starts_from_nothing(tmp_path: Path) -> None:
    assert training.open_run(tmp_path / "run", CONFIGURATION, resume=True) is None
    record = json.loads((tmp_path / "run" / training.FINGERPRINT).read_text())
    assert record["configuration"] == CONFIGURATION
    assert [path.name for path in (tmp_path / "run").iterdir()] == [training.FINGERPRINT]


def begun(folder: Path) -> Path:
    """A run that has a checkpoint; answers its path."""
    training.open_run(folder, CONFIGURATION, resume=True)
    last = folder / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.write_bytes(b"weights")
    return last


def test_the_same_configuration_goes_on(tmp_path: Path) -> None:
    last = begun(tmp_path / "run")
    reordered = dict(reversed(CONFIGURATION.items()))
    assert training.open_run(tmp_path / "run", reordered, resume=True) == last


def test_another_configuration_is_refused_and_named(tmp_path: Path) -> None:
    last = begun(tmp_path / "run")
    other = {**CONFIGURATION, "optimizer": {"lr": 0.2}, "loss": "new"}
    with pytest.raises(
        HeatposeError,
        match=(
            r"another configuration \(different: loss, optimizer\); choose another name=\.\.\. or"
            r" resume=false"
        ),
    ):
        training.open_run(tmp_path / "run", other, resume=True)
    assert last.read_bytes() == b"weights"
    # the record is as it was
    assert training.open_run(tmp_path / "run", CONFIGURATION, resume=True) == last


def test_without_resume_a_run_starts_anew(tmp_path: Path) -> None:
    last = begun(tmp_path / "run")
    other = {**CONFIGURATION, "seed": 1}
    assert training.open_run(tmp_path / "run", other, resume=False) is None
    assert not last.exists()
    assert (
        json.loads((tmp_path / "run" / training.FINGERPRINT).read_text())["configuration"] == other
    )


def test_a_run_that_failed_before_its_first_checkpoint_does_not_block(tmp_path: Path) -> None:
    training.open_run(tmp_path / "run", CONFIGURATION, resume=True)
    other = {**CONFIGURATION, "seed": 1}
    assert training.open_run(tmp_path / "run", other, resume=True) is None
    begun_record = json.loads((tmp_path / "run" / training.FINGERPRINT).read_text())
    assert begun_record["configuration"] == other  # what goes on from here is the new one


def test_a_folder_that_is_not_a_run_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "holiday.jpg").write_text("dear")
    assert training.open_run(tmp_path / "run", CONFIGURATION, resume=False) is None
    assert (tmp_path / "run" / "holiday.jpg").read_text() == "dear"


def test_a_broken_record_is_refused(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    (tmp_path / "run" / training.FINGERPRINT).write_text("{ half")
    with pytest.raises(HeatposeError, match="another configuration"):
        training.open_run(tmp_path / "run", CONFIGURATION, resume=True)


def test_callbacks_get_the_runs_folder_and_nulls_are_left_out(tmp_path: Path) -> None:
    checkpoint, stopping = ModelCheckpoint(), EarlyStopping("val/oks")
    chosen = training.callbacks_of({"a": checkpoint, "b": None, "c": stopping}, tmp_path)
    assert list(chosen) == [checkpoint, stopping]
    assert checkpoint.dirpath == str(tmp_path / "checkpoints")
    assert not training.callbacks_of({"ema": None}, tmp_path)
    assert isinstance(
        training.callbacks_of({"ema": AveragedWeights()}, tmp_path)[0], AveragedWeights
    )


def test_averaged_weights_keep_the_norms_own_statistics(tiny_run: Any) -> None:
    """Averaged statistics would keep their initial values for long.

    Those exceed the variances of layers with small activations.
    """
    averaging = instantiate(
        OmegaConf.load(Path(__file__).parents[2] / "conf" / "callbacks" / "default.yaml").ema
    )
    trainer = tiny_run.trainer(1)
    trainer.callbacks = [
        averaging,
        *(c for c in trainer.callbacks if not isinstance(c, WeightAveraging)),
    ]
    training.fit(tiny_run.module(), tiny_run.data(), trainer, None)
    saved = torch.load(tiny_run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    averaged, current = saved["state_dict"], saved["current_model_state"]
    statistics = [name for name in averaged if "running_" in name]
    assert len(statistics) > 100 and all(
        torch.equal(averaged[name], current[name]) for name in statistics
    )
    assert not torch.equal(
        averaged["network.head.output.conv.weight"], current["network.head.output.conv.weight"]
    )
