"""The Lightning module: its score against plain loops, its optimiser.

And what happens when training breaks.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch.utils._python_dispatch import TorchDispatchMode

from heatpose.data.augment import Occlusion, Photometric
from heatpose.data.batches import AugmentedBatches, BatchPlan
from heatpose.distill.cache import TeacherMaps
from heatpose.distill.loss import Distillation
from heatpose.distill.teacher import DistillSettings
from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import load_checkpoint
from heatpose.models.decode import decode_maps
from heatpose.models.losses import FourHeadLoss, HeatmapLoss, SpatialCrossEntropy
from heatpose.models.movenet import MoveNet, PoseMaps
from heatpose.pose.skeleton import ST_13
from heatpose.runners import open_runner
from heatpose.training.callbacks import PredictionGrid
from heatpose.training.fit import fit
from heatpose.training.module import constant, warmup_cosine


def oks_by_hand(network: MoveNet, batches: Any, size: int) -> list[float]:
    """OKS of every person in percent.

    The highest cell's centre, and the protocol's formula over the labelled keypoints.
    """
    result = []
    # as in training: on flat maps the last bit decides where the peak is
    network = network.to(memory_format=torch.channels_last)
    for batch in batches:
        with torch.inference_mode():
            heatmaps = network(
                (batch["image"] / 127.5 - 1).to(memory_format=torch.channels_last)
            ).numpy()
        for i, person in enumerate(heatmaps):
            width, height = batch["box"][i].tolist()
            similarities = []
            for k, heatmap in enumerate(person):
                if batch["labelled"][i, k]:
                    row, column = divmod(int(heatmap.argmax()), heatmap.shape[1])
                    x, y = batch["points"][i, k].tolist()
                    d2 = ((4 * column + 2 - x) ** 2 + (4 * row + 2 - y) ** 2) / size**2
                    area = 0.53 * width * height / size**2
                    similarities.append(
                        math.exp(-d2 / (2 * (2 * ST_13.sigmas[k]) ** 2 * (area + 1e-7)))
                    )
            result.append(100 * sum(similarities) / len(similarities))
    return result


def test_the_logged_oks_is_that_of_the_checkpoint(fitted: Any) -> None:
    """The averaged weights in the file give the number that chose it, computed anew."""
    scores = [row["val/oks"] for row in fitted.logged if "val/oks" in row]
    assert len(scores) == 3
    data = fitted.run.data()
    data.setup()
    assert len(data.validation_instances) >= 6
    for path, score in (
        (fitted.best, max(scores)),
        (fitted.best.with_name("last.ckpt"), scores[-1]),
    ):
        loaded = load_checkpoint(path)
        values = oks_by_hand(loaded.network, data.val_dataloader(), 64)
        assert len(values) == len(data.validation_instances)
        assert float(np.mean(values)) == pytest.approx(score, abs=0.01)
        assert loaded.metadata["validation_oks"] == pytest.approx(score, abs=1e-4)
    assert load_checkpoint(fitted.best).metadata["epoch"] == int(np.argmax(scores))


def test_the_losses_are_logged(fitted: Any) -> None:
    steps = [row["train/loss_step"] for row in fitted.logged if "train/loss_step" in row]
    epochs = [row["train/loss_epoch"] for row in fitted.logged if "train/loss_epoch" in row]
    assert len(steps) == 9 and len(epochs) == 3
    for epoch, mean in enumerate(epochs):
        assert mean == pytest.approx(np.mean(steps[3 * epoch : 3 * epoch + 3]), rel=1e-4)
    assert epochs[-1] < epochs[0]
    assert sum("val/loss" in row for row in fitted.logged) == 3


def test_training_overfits_a_batch(tiny_run: Any) -> None:
    """The same few people over and over: the network must find them, whatever else is wrong."""
    seed_everything(0, verbose=False)
    module, data = tiny_run.module(), tiny_run.data()
    data.setup()
    data.validation_instances = data.validation_instances[:4]
    (batch,) = data.val_dataloader()
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    module.train()
    for _ in range(60):
        optimizer.zero_grad()
        module.loss(
            module(batch["image"]), batch["points"], batch["labelled"], batch["box"]
        ).backward()
        optimizer.step()
    with torch.no_grad():
        assert float(np.mean(oks_by_hand(module.network, [batch], 64))) > 60


def test_takes_bytes_and_gives_logits(tiny_run: Any) -> None:
    module = tiny_run.module().eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(module(images), module.network(images / 127.5 - 1))


def test_colours_change_in_training_alone(tiny_run: Any) -> None:
    module = tiny_run.module(photometric=Photometric())
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    changed = module.train().on_after_batch_transfer(
        {"image": images, "colour": torch.tensor([[0.5, 1, -1], [-1, 0, 1]])}, 0
    )["image"]
    assert changed.dtype == torch.float32 and (changed - images).abs().mean() > 1
    assert module.eval().on_after_batch_transfer({"image": images}, 0)["image"] is images
    plain = tiny_run.module().train()
    assert plain.on_after_batch_transfer({"image": images}, 0)["image"] is images


def test_biases_and_norms_do_not_decay(tiny_run: Any) -> None:
    module = tiny_run.module(lr=0.1)
    module.make_optimizer = lambda given: torch.optim.AdamW(given, lr=0.1, weight_decay=0.5)
    module.trainer = SimpleNamespace(estimated_stepping_batches=10)
    configured = module.configure_optimizers()
    matrices, vectors = configured["optimizer"].param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.5, 0)
    groups = [matrices, vectors]
    kinds = [{p.dim() for p in group["params"]} for group in groups]
    assert kinds == [{4}, {1}]
    assert sum(len(group["params"]) for group in groups) == len(list(module.network.parameters()))
    assert configured["lr_scheduler"]["interval"] == "step"


class Breaks(HeatmapLoss):
    """A loss that is NaN from a given step on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.steps = after, 0

    def forward(self, logits: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        return logits.square().mean() * (math.nan if self.steps > self.after else 1)


def test_a_non_finite_loss_ends_the_run_and_keeps_the_last_good_checkpoint(
    tiny_run: Any,
) -> None:
    with pytest.raises(HeatposeError, match=r"in epoch 1; lower optimizer\.lr"):
        fit(tiny_run.module(loss=Breaks(after=4)), tiny_run.data(), tiny_run.trainer(3), None)
    last = load_checkpoint(tiny_run.folder / "checkpoints" / "last.ckpt")
    assert last.metadata["epoch"] == 0
    assert all(torch.isfinite(p).all() for p in last.network.parameters())


def test_a_first_epoch_without_numbers_leaves_no_checkpoint(tiny_run: Any) -> None:
    with pytest.raises(HeatposeError, match="in epoch 0"):
        fit(tiny_run.module(loss=Breaks(after=0)), tiny_run.data(), tiny_run.trainer(2), None)
    assert not list(Path(tiny_run.folder).rglob("*.ckpt"))


@pytest.mark.parametrize("total", [1, 2, 3, 40, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5])
def test_the_rate_rises_then_falls_to_almost_nothing(total: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.2)
    schedule = warmup_cosine(optimizer, total, warmup)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    first = min(max(1, int(warmup * total)), max(1, total - 1))
    for step, rate in enumerate(rates):
        if step < first:
            expected = 0.2 * (0.01 + 0.99 * step / first)
        else:
            share = (step - first) / (total - first)
            expected = 2e-5 + (0.2 - 2e-5) * (1 + math.cos(math.pi * share)) / 2
        assert rate == pytest.approx(expected, rel=1e-4)
    if total > 2:
        assert max(rates) == pytest.approx(0.2) and optimizer.param_groups[0][
            "lr"
        ] == pytest.approx(2e-5)


def test_the_constant_rate_rises_and_stays() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.2)
    schedule = constant(optimizer, 100, warmup=0.1)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([0.2 * (0.01 + 0.99 * step / 10) for step in range(10)])
    assert rates[10:] == pytest.approx([0.2] * 90)


def test_a_teachers_points_lie_on_the_labels_of_every_view(tiny_run: Any) -> None:
    """A teacher that answers with the labels gives their points, at every training resolution."""
    data = tiny_run.data(resolutions=[64, 96], prominent_weight=2.0, select="prominent", limit=None)
    data.setup()
    instances = data.train_instances
    maps = TeacherMaps(
        None,
        np.stack([p.keypoints for p in instances]),
        np.stack([p.labelled for p in instances]).astype(np.float32),
        np.zeros((len(instances), 2, 3)),
    )
    module = tiny_run.module(distillation=Distillation(maps, DistillSettings(), ST_13))
    seen = set()
    for batch in data.train_dataloader():
        taught = module.on_before_batch_transfer(batch, 0)
        torch.testing.assert_close(taught["teacher_points"], batch["points"], atol=1e-3, rtol=0)
        assert torch.equal(taught["teacher_scores"].bool(), batch["labelled"])
        seen |= {(batch["image"].shape[-1], mirrored) for mirrored in batch["mirrored"].tolist()}
        assert torch.isfinite(module.training_step(module.on_after_batch_transfer(taught, 0), 0))
    assert seen == {(64, True), (64, False), (96, True), (96, False)}


class Waits(TorchDispatchMode):
    """Notes the operators that make the host wait for the device.

    Reading a value, or a shape that depends on values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        boolean = func is torch.ops.aten.index.Tensor and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if boolean or func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.masked_select.default,
        ):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("heads", ["heatmap", "all"])
def test_no_step_makes_the_host_wait_for_the_device(heads: str, tiny_run: Any) -> None:
    loss = FourHeadLoss(ST_13.sigmas) if heads == "all" else SpatialCrossEntropy(ST_13.sigmas)
    module = tiny_run.module(
        network=MoveNet(13, 0.35, heads=heads),
        loss=loss,
        photometric=Photometric(),
        optimizer=partial(torch.optim.AdamW, lr=1e-3, fused=True),
    )
    waits: list[list[str]] = []

    class Watch(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            self.mode = Waits()
            self.mode.__enter__()

        def on_train_batch_end(self, *args: Any) -> None:
            self.mode.__exit__(None, None, None)
            waits.append(self.mode.found)

    data = tiny_run.data(occlusion=Occlusion(1.0))
    data.setup()
    packed = AugmentedBatches(
        data.train_instances,
        ST_13,
        data.augment,
        data.images,
        occlusion=data.occlusion,
        packed=True,
    )[BatchPlan(64, 0, (0, 1), (0, 1))]
    with Waits() as transfer:
        module.on_after_batch_transfer(packed, 0)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        gradient_clip_val=1.0,
        callbacks=[Watch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=data)
    assert len(waits) == 3 and not sum(waits, transfer.found)


HEADS = ("heatmap", "centre", "regression", "offset")


def four_heads() -> dict[str, Any]:
    return {"network": MoveNet(13, 0.35, heads="all"), "loss": FourHeadLoss(ST_13.sigmas)}


def test_learning_a_batch_by_heart_lowers_every_loss(tiny_run: Any) -> None:
    torch.manual_seed(0)
    module, data = tiny_run.module(**four_heads()), tiny_run.data()
    data.setup()
    data.validation_instances = data.validation_instances[:4]
    (batch,) = data.val_dataloader()
    optimizer = torch.optim.AdamW(module.parameters(), lr=4e-3)
    history: list[dict[str, float]] = []
    for _ in range(60):
        optimizer.zero_grad()
        terms = module.loss.terms(
            module(batch["image"]), batch["points"], batch["labelled"], batch["box"]
        )
        torch.stack([*terms.values()]).sum().backward()
        optimizer.step()
        history.append({name: term.item() for name, term in terms.items()})
    for head in HEADS:
        assert history[-1][head] < 0.8 * history[0][head], (head, history[0], history[-1])
    with torch.no_grad():
        poses = torch.from_numpy(module.poses(module(batch["image"])))
    wrong = (poses[..., :2] * 64 - batch["points"]).norm(dim=-1)[batch["labelled"]]
    assert wrong.median() < 4


@pytest.mark.slow
def test_a_run_of_a_few_epochs_lowers_every_loss_and_finds_people(tiny_run: Any) -> None:
    module, data = tiny_run.module(**four_heads()), tiny_run.data(limit=None)
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    best = fit(module, data, tiny_run.trainer(40, PredictionGrid()), None)
    table = Path(tiny_run.folder / "csv" / "metrics.csv").read_text().splitlines()
    names = table[0].split(",")
    for head in HEADS:
        column = names.index(f"train/{head}_loss")
        values = [float(row.split(",")[column]) for row in table[1:] if row.split(",")[column]]
        assert len(values) == 40 and np.mean(values[-3:]) < 0.93 * values[0], (head, values)
    scores = [
        float(row.split(",")[names.index("val/oks")])
        for row in table[1:]
        if row.split(",")[names.index("val/oks")]
    ]
    assert max(scores) > scores[0] + 3, scores
    loaded = load_checkpoint(best)
    assert loaded.network.four_heads and loaded.metadata["validation_oks"] == pytest.approx(
        max(scores), abs=1e-3
    )
    state = loaded.network.state_dict()
    for head in ("head", "centre", "regression", "offset"):
        assert not torch.equal(
            state[f"{head}.output.conv.weight"], before[f"{head}.output.conv.weight"]
        )
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = open_runner(best).predict(images)
    with torch.inference_mode():
        maps = loaded.network(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    assert isinstance(maps, PoseMaps)
    np.testing.assert_allclose(found, decode_maps(maps).numpy(), atol=1e-4)
