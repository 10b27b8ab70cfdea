"""Training with a teacher: batch content, logged values, a decreasing loss."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heatpose.distill.cache import teacher_maps
from heatpose.distill.loss import Distillation
from heatpose.distill.teacher import DistillSettings
from heatpose.pose import geometry
from heatpose.pose.skeleton import ST_13
from heatpose.training.fit import fit


@pytest.fixture
def taught(tiny_run: Any, tiny_checkpoint: Path, tmp_path: Path) -> Any:
    """The tiny run's data and the term of a teacher of random weights that has looked at its
    people.
    """
    data = tiny_run.data()
    data.setup()
    settings = DistillSettings(str(tiny_checkpoint), weight=0.5, folder=str(tmp_path / "kept"))
    return data, Distillation(
        teacher_maps(settings, data.train_instances, ST_13, progress=False), settings, ST_13
    )


def test_a_batch_has_instance_and_transform_of_each_sample(tiny_run: Any) -> None:
    """With the index and the matrix a label goes from the image to where the batch has it."""
    data = tiny_run.data()
    data.setup()
    for batch in data.train_dataloader():
        for b, i in enumerate(batch["index"].tolist()):
            person, matrix = data.train_instances[i], batch["matrix"][b].double().numpy()
            points, labelled = geometry.apply(matrix, person.keypoints), person.labelled
            if np.linalg.det(matrix[:, :2]) < 0:
                points, labelled = points[ST_13.flip_order], labelled[ST_13.flip_order]
            np.testing.assert_array_equal(batch["labelled"][b].numpy(), labelled)
            np.testing.assert_allclose(batch["points"][b].numpy(), points, atol=1e-2)


def test_a_run_is_trained_on_both_terms(tiny_run: Any, taught: Any) -> None:
    data, term = taught
    fit(tiny_run.module(distillation=term), data, tiny_run.trainer(2), None)
    with (tiny_run.folder / "csv" / "metrics.csv").open() as table:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(table)]
    epochs = [row for row in rows if "train/distill_loss" in row]
    assert len(epochs) == 2
    for row in epochs:
        assert row["train/loss_epoch"] == pytest.approx(
            row["train/heatmap_loss"] + row["train/distill_loss"], rel=1e-4
        )
    assert epochs[0]["train/distill_loss"] > 0
    # the labels alone choose the checkpoint
    assert not any("val/distill_loss" in row for row in rows)
    assert sum("val/oks" in row for row in rows) == 2


def test_a_student_can_be_brought_to_the_teachers_maps(tiny_run: Any, taught: Any) -> None:
    data, term = taught
    module = tiny_run.module(seed=1, distillation=term).train()
    batch = module.on_before_batch_transfer(next(iter(data.train_dataloader())), 0)
    optimizer = torch.optim.AdamW(module.network.parameters(), lr=4e-3)
    costs = []
    for _ in range(40):
        optimizer.zero_grad()
        cost = term(module(batch["image"]), batch)
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < 0.7 * costs[0]


def test_nobody_is_asked_in_validation(tiny_run: Any, taught: Any) -> None:
    data, term = taught
    module = tiny_run.module(distillation=term).eval()
    batch = next(iter(data.val_dataloader()))
    assert not [
        name for name in module.on_before_batch_transfer(batch, 0) if name.startswith("teacher")
    ]
