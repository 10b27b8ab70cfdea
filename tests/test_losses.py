"""The losses against the same formulas written as loops over people, keypoints and cells."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from heatpose.losses import GaussianMSE, HeatmapLoss, SpatialCrossEntropy

BATCH, KEYPOINTS, CELLS = 3, 4, 8
SIZE = 4 * CELLS
SIGMAS = [0.026, 0.079, 0.107, 0.35]
LOSSES: list[HeatmapLoss] = [GaussianMSE(1.5), SpatialCrossEntropy(SIGMAS, spread=0.7, score_weight=3.0)]


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """A person with all keypoints, one with some outside or not labelled, one with none."""
    torch.manual_seed(0)
    labelled = torch.rand(BATCH, KEYPOINTS) < 0.7
    labelled[0], labelled[2] = True, False
    labelled[1, :2] = True
    points = torch.rand(BATCH, KEYPOINTS, 2) * SIZE
    points[1, 0] = torch.tensor([SIZE + 3.0, 5.0])
    return {
        "logits": torch.randn(BATCH, KEYPOINTS, CELLS, CELLS, requires_grad=True),
        "points": points, "labelled": labelled, "box": torch.rand(BATCH, 2) * 20 + 10,
    }  # fmt: skip


def distances(point: list[float]) -> dict[tuple[int, int], float]:
    """Squared distance of each cell's centre (row, column) to a point in input pixels."""
    x, y = point
    return {(v, u): ((u + 0.5) * 4 - x) ** 2 + ((v + 0.5) * 4 - y) ** 2 for v in range(CELLS) for u in range(CELLS)}


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def gaussian_mse(logits: list[list[float]], point: list[float], area: float, sigma_k: float) -> float:
    spread = 2 * (1.5 * 4) ** 2
    squares: list[float] = [(sigmoid(logits[v][u]) - math.exp(-d / spread)) ** 2 for (v, u), d in distances(point).items()]
    return math.fsum(squares)


def cross_entropy(logits: list[list[float]], point: list[float], area: float, sigma_k: float) -> float:
    cells = distances(point)
    oks = {cell: math.exp(-d / (2 * (2 * sigma_k) ** 2 * area)) for cell, d in cells.items()}
    floor = {cell: math.exp(-d / (2 * (0.5 * 4) ** 2)) for cell, d in cells.items()}
    target: dict[tuple[int, int], float] = {cell: max(oks[cell] ** (1 / 0.7**2), floor[cell]) for cell in cells}
    total, partition = sum(target.values()), sum(math.exp(logits[v][u]) for v, u in cells)
    placed = -sum(t / total * (logits[v][u] - math.log(partition)) for (v, u), t in target.items())
    score = 0.0
    for (v, u), kernel in oks.items():
        wanted, p = max(kernel, floor[v, u]), sigmoid(logits[v][u])
        score -= wanted * math.log(p) + (1 - wanted) * math.log(1 - p)
    return placed + 3.0 * score / len(cells)


def by_hand(formula: Any, batch: dict[str, Tensor]) -> float:
    """Mean over people who have a keypoint inside, of the mean over those keypoints."""
    people: list[float] = []
    for b in range(BATCH):
        width, height = batch["box"][b].tolist()
        costs: list[float] = []
        for k in range(KEYPOINTS):
            x, y = batch["points"][b, k].tolist()
            if batch["labelled"][b, k] and 0 <= x < SIZE and 0 <= y < SIZE:
                logits = batch["logits"][b, k].tolist()
                costs.append(formula(logits, [x, y], 0.53 * width * height, SIGMAS[k]))
        if costs:
            people.append(sum(costs) / len(costs))
    assert len(people) == 2
    return sum(people) / len(people)


@pytest.mark.parametrize(("loss", "formula"), [(LOSSES[0], gaussian_mse), (LOSSES[1], cross_entropy)])
def test_is_the_formula(loss: HeatmapLoss, formula: Any, batch: dict[str, Tensor]) -> None:
    assert loss(**batch).item() == pytest.approx(by_hand(formula, batch), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_not_labelled_or_outside_has_exactly_no_gradient(loss: HeatmapLoss, batch: dict[str, Tensor]) -> None:
    loss(**batch).backward()
    gradient = batch["logits"].grad
    assert gradient is not None
    counted = batch["labelled"] & (batch["points"] >= 0).all(-1) & (batch["points"] < SIZE).all(-1)
    assert counted.any() and not counted.all()
    assert (gradient[~counted] == 0).all()
    assert (gradient[counted].abs().amax((-1, -2)) > 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_moving_an_unlabelled_point_changes_nothing(loss: HeatmapLoss, batch: dict[str, Tensor]) -> None:
    before = loss(**batch).item()
    batch["points"][~batch["labelled"]] = 7.5
    assert loss(**batch).item() == before


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_without_labels_costs_nothing(loss: HeatmapLoss, batch: dict[str, Tensor]) -> None:
    batch["labelled"][:] = False
    cost = loss(**batch)
    cost.backward()
    assert cost.item() == 0 and batch["logits"].grad is not None and (batch["logits"].grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("far", [1e3, 1e6, -1e6, 1e12])
def test_points_far_outside_and_boxes_without_area_stay_finite(loss: HeatmapLoss, far: float, batch: dict[str, Tensor]) -> None:
    batch["points"][0, 0] = far
    batch["points"][1] = far
    batch["box"][0] = 0
    with torch.no_grad():
        batch["logits"] *= 50
    cost = loss(**batch)
    cost.backward()
    assert torch.isfinite(cost) and batch["logits"].grad is not None
    assert torch.isfinite(batch["logits"].grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_descent_puts_the_peak_on_the_keypoint(loss: HeatmapLoss, batch: dict[str, Tensor]) -> None:
    points = torch.tensor([[[6.0, 10.0], [30.0, 2.0], [14.0, 18.0], [2.0, 26.0]]])  # centres of cells
    logits = torch.zeros(1, KEYPOINTS, CELLS, CELLS, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    box, labelled = torch.tensor([[24.0, 24.0]]), torch.ones(1, KEYPOINTS, dtype=torch.bool)
    costs = []
    for _ in range(60):
        optimizer.zero_grad()
        cost = loss(logits, points, labelled, box)
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < costs[20] < costs[0]
    best = logits.detach().flatten(2).argmax(-1)[0]
    assert [(int(i) % CELLS, int(i) // CELLS) for i in best] == [(1, 2), (7, 0), (3, 4), (0, 6)]
    assert (logits.detach().sigmoid().amax((-1, -2)) > 0.5).all()  # the peak is a score


def test_a_sharp_kernel_keeps_half_a_cell() -> None:
    """A small far person's OKS kernel falls between the centres: without the floor no cell would be the target."""
    loss = SpatialCrossEntropy([0.026])
    logits = torch.zeros(1, 1, CELLS, CELLS, requires_grad=True)
    loss(logits, torch.tensor([[[12.0, 12.0]]]), torch.tensor([[True]]), torch.tensor([[2.0, 2.0]])).backward()
    assert logits.grad is not None
    corner = logits.grad[0, 0, 2:4, 2:4]  # the point is the corner of these four cells
    assert (corner < 0).all() and corner.flatten().std() < 1e-6
    assert (logits.grad.sum() - corner.sum()) > 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(loss: HeatmapLoss, dtype: torch.dtype, batch: dict[str, Tensor]) -> None:
    rounded = batch["logits"].detach().to(dtype)
    cost = loss(rounded, batch["points"], batch["labelled"], batch["box"])
    assert cost.dtype == torch.float32
    want = loss(rounded.float(), batch["points"], batch["labelled"], batch["box"])
    assert cost.item() == pytest.approx(want.item(), rel=1e-6)


def test_each_person_counts_once() -> None:
    """One labelled keypoint weighs as much as another person's four, as in the mean OKS."""
    loss = GaussianMSE()
    torch.manual_seed(0)
    logits, points = torch.randn(2, KEYPOINTS, CELLS, CELLS), torch.rand(2, KEYPOINTS, 2) * SIZE
    labelled, box = torch.ones(2, KEYPOINTS, dtype=torch.bool), torch.ones(2, 2)
    labelled[1, 1:] = False
    alone = [loss(logits[b : b + 1], points[b : b + 1], labelled[b : b + 1], box[:1]).item() for b in (0, 1)]
    assert loss(logits, points, labelled, box).item() == pytest.approx(sum(alone) / 2, rel=1e-6)
