"""Training of four heads on rendered people.

Every loss falls, and the score is that of the full decode.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heatpose.models.checkpoint import load_checkpoint
from heatpose.models.decode import decode_maps
from heatpose.models.losses import FourHeadLoss
from heatpose.models.movenet import MoveNet, PoseMaps
from heatpose.pose.skeleton import ST_13
from heatpose.runners import open_runner
from heatpose.training.callbacks import PredictionGrid
from heatpose.training.fit import fit

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
