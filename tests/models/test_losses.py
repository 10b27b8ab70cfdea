"""The losses against the same formulas written as loops over people, keypoints and cells."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from heatpose.errors import HeatposeError
from heatpose.models.losses import (
    Focal,
    GaussianMSE,
    HeatmapLoss,
    OneHotCrossEntropy,
    OneHotMSE,
    SpatialCrossEntropy,
    masked_mean,
)

BATCH, KEYPOINTS, CELLS = 3, 4, 8
SIZE = 4 * CELLS
SIGMAS = [0.026, 0.079, 0.107, 0.35]
LOSSES: list[HeatmapLoss] = [
    GaussianMSE(1.5),
    SpatialCrossEntropy(SIGMAS, spread=0.7, score_weight=3.0),
    SpatialCrossEntropy(SIGMAS, spread=1.0, score_weight=2.0, place_weight=0.0),
    OneHotMSE(),
    OneHotCrossEntropy(),
    Focal(SIGMAS),
]


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
        "points": points,
        "labelled": labelled,
        "box": torch.rand(BATCH, 2) * 20 + 10,
    }


def distances(point: list[float]) -> dict[tuple[int, int], float]:
    """Squared distance of each cell's centre (row, column) to a point in input pixels."""
    x, y = point
    return {
        (v, u): ((u + 0.5) * 4 - x) ** 2 + ((v + 0.5) * 4 - y) ** 2
        for v in range(CELLS)
        for u in range(CELLS)
    }


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def gaussian_mse(
    logits: list[list[float]], point: list[float], area: float, sigma_k: float
) -> float:
    spread = 2 * (1.5 * 4) ** 2
    squares: list[float] = [
        (sigmoid(logits[v][u]) - math.exp(-d / spread)) ** 2
        for (v, u), d in distances(point).items()
    ]
    return math.fsum(squares)


def cross_entropy(
    logits: list[list[float]], point: list[float], area: float, sigma_k: float
) -> float:
    cells = distances(point)
    oks = {cell: math.exp(-d / (2 * (2 * sigma_k) ** 2 * area)) for cell, d in cells.items()}
    floor = {cell: math.exp(-d / (2 * (0.5 * 4) ** 2)) for cell, d in cells.items()}
    target: dict[tuple[int, int], float] = {
        cell: max(oks[cell] ** (1 / 0.7**2), floor[cell]) for cell in cells
    }
    total, partition = sum(target.values()), sum(math.exp(logits[v][u]) for v, u in cells)
    placed = -sum(t / total * (logits[v][u] - math.log(partition)) for (v, u), t in target.items())
    score = 0.0
    for (v, u), kernel in oks.items():
        wanted, p = max(kernel, floor[v, u]), sigmoid(logits[v][u])
        score -= wanted * math.log(p) + (1 - wanted) * math.log(1 - p)
    return placed + 3.0 * score / len(cells)


def expected_oks(
    logits: list[list[float]], point: list[float], area: float, sigma_k: float
) -> float:
    """Binary cross entropy against the kernel, alone."""
    score = 0.0
    for (v, u), d in distances(point).items():
        wanted = max(
            math.exp(-d / (2 * (2 * sigma_k) ** 2 * area)), math.exp(-d / (2 * (0.5 * 4) ** 2))
        )
        p = sigmoid(logits[v][u])
        score -= wanted * math.log(p) + (1 - wanted) * math.log(1 - p)
    return 2.0 * score / CELLS**2


def one_hot_mse(
    logits: list[list[float]], point: list[float], area: float, sigma_k: float
) -> float:
    cell = (int(point[1] // 4), int(point[0] // 4))
    return math.fsum(
        (sigmoid(logits[v][u]) - (cell == (v, u))) ** 2 for v in range(CELLS) for u in range(CELLS)
    )


def one_hot_cross_entropy(
    logits: list[list[float]], point: list[float], area: float, sigma_k: float
) -> float:
    return (
        math.log(math.fsum(math.exp(value) for row in logits for value in row))
        - logits[int(point[1] // 4)][int(point[0] // 4)]
    )


def focal(logits: list[list[float]], point: list[float], area: float, sigma_k: float) -> float:
    row, column = int(point[1] // 4), int(point[0] // 4)
    total = 0.0
    for (v, u), d in distances([4 * column + 2, 4 * row + 2]).items():
        p = sigmoid(logits[v][u])
        if (v, u) == (row, column):
            total -= (1 - p) ** 2 * math.log(p)
        else:
            total -= (
                (1 - math.exp(-d / (2 * (2 * sigma_k) ** 2 * area))) ** 4 * p**2 * math.log(1 - p)
            )
    return total


def by_hand(formula: Any, batch: dict[str, Tensor]) -> float:
    """Mean over people who have a keypoint inside, of the mean over those keypoints."""
    instances: list[float] = []
    for b in range(BATCH):
        width, height = batch["box"][b].tolist()
        costs: list[float] = []
        for k in range(KEYPOINTS):
            x, y = batch["points"][b, k].tolist()
            if batch["labelled"][b, k] and 0 <= x < SIZE and 0 <= y < SIZE:
                logits = batch["logits"][b, k].tolist()
                costs.append(formula(logits, [x, y], 0.53 * width * height, SIGMAS[k]))
        if costs:
            instances.append(sum(costs) / len(costs))
    assert len(instances) == 2
    return sum(instances) / len(instances)


FORMULAS = [gaussian_mse, cross_entropy, expected_oks, one_hot_mse, one_hot_cross_entropy, focal]


@pytest.mark.parametrize(("loss", "formula"), [*zip(LOSSES, FORMULAS, strict=True)])
def test_is_the_formula(loss: HeatmapLoss, formula: Any, batch: dict[str, Tensor]) -> None:
    assert loss(**batch).item() == pytest.approx(by_hand(formula, batch), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_not_labelled_or_outside_has_exactly_no_gradient(
    loss: HeatmapLoss, batch: dict[str, Tensor]
) -> None:
    loss(**batch).backward()
    gradient = batch["logits"].grad
    assert gradient is not None
    counted = batch["labelled"] & (batch["points"] >= 0).all(-1) & (batch["points"] < SIZE).all(-1)
    assert counted.any() and not counted.all()
    assert (gradient[~counted] == 0).all()
    assert (gradient[counted].abs().amax((-1, -2)) > 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_moving_an_unlabelled_point_changes_nothing(
    loss: HeatmapLoss, batch: dict[str, Tensor]
) -> None:
    before = loss(**batch).item()
    batch["points"][~batch["labelled"]] = 7.5
    assert loss(**batch).item() == before


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_without_labels_costs_nothing(loss: HeatmapLoss, batch: dict[str, Tensor]) -> None:
    batch["labelled"][:] = False
    cost = loss(**batch)
    cost.backward()
    assert (
        cost.item() == 0 and batch["logits"].grad is not None and (batch["logits"].grad == 0).all()
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("far", [1e3, 1e6, -1e6, 1e12])
def test_points_far_outside_and_boxes_without_area_stay_finite(
    loss: HeatmapLoss, far: float, batch: dict[str, Tensor]
) -> None:
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
    # centres of cells
    points = torch.tensor([[[6.0, 10.0], [30.0, 2.0], [14.0, 18.0], [2.0, 26.0]]])
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


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("height", [1e2, 1e4, -1e4, 3e38])
def test_extreme_logits_have_finite_gradients(
    loss: HeatmapLoss, height: float, batch: dict[str, Tensor]
) -> None:
    """A peak in the wrong cell, in every cell, and the negative of both."""
    logits = torch.zeros(BATCH, KEYPOINTS, CELLS, CELLS)
    logits[:, :, 5, 6] = height
    logits[1] = height
    logits = (logits if abs(height) < 1e30 else logits.clamp(-1e30, 1e30)).requires_grad_()
    cost = loss(logits, batch["points"], batch["labelled"], batch["box"])
    cost.backward()
    assert torch.isfinite(cost) and cost >= 0
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_very_wrong_keypoints_still_have_a_gradient() -> None:
    """A softmax clipped away from 0, as in frameworks that take probabilities, has none."""
    logits = torch.zeros(1, 1, CELLS, CELLS)
    logits[0, 0, 7, 7] = 60
    logits.requires_grad_()
    OneHotCrossEntropy()(
        logits, torch.tensor([[[2.0, 2.0]]]), torch.tensor([[True]]), torch.ones(1, 2)
    ).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 0, 0].item() == pytest.approx(-1) and logits.grad[
        0, 0, 7, 7
    ].item() == pytest.approx(1)


def test_softmax_against_one_cell_is_torchs_own(batch: dict[str, Tensor]) -> None:
    inside = [
        (b, k)
        for b in range(BATCH)
        for k in range(KEYPOINTS)
        if all(0 <= value < SIZE for value in batch["points"][b, k].tolist())
    ]
    kept = [(b, k) for b, k in inside if batch["labelled"][b, k]]
    rows = torch.stack([batch["logits"][b, k].flatten() for b, k in kept])
    cells = torch.tensor(
        [
            int(batch["points"][b, k, 1] // 4) * CELLS + int(batch["points"][b, k, 0] // 4)
            for b, k in kept
        ]
    )
    want = torch.nn.functional.cross_entropy(rows, cells)
    assert OneHotCrossEntropy(weighting="keypoint")(**batch).item() == pytest.approx(
        want.item(), rel=1e-6
    )


def test_the_target_with_the_least_cost_is_the_kernel() -> None:
    """Descent on the expected-OKS loss converges to the metric's kernel.

    The sigmoid becomes the OKS of choosing the cell.
    """
    point, box, sigma = [13.0, 18.5], [30.0, 20.0], 0.15
    logits = torch.zeros(1, 1, CELLS, CELLS, requires_grad=True)
    loss = SpatialCrossEntropy([sigma], spread=1.0, score_weight=64.0, place_weight=0.0)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        loss(
            logits, torch.tensor([[point]]), torch.tensor([[True]]), torch.tensor([box])
        ).backward()
        optimizer.step()
    for (v, u), d in distances(point).items():
        # In the protocol's own normalised coordinates.
        oks = math.exp(
            -(d / SIZE**2) / (2 * (2 * sigma) ** 2 * 0.53 * (box[0] / SIZE) * (box[1] / SIZE))
        )
        assert logits[0, 0, v, u].sigmoid().item() == pytest.approx(oks, abs=0.02)


def test_what_counts_once() -> None:
    cost = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 0.0, 0.0, 0.0], [7.0, 7.0, 7.0, 7.0]])
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert masked_mean(cost, weight).item() == (2.5 + 10) / 2
    assert masked_mean(cost, weight, "keypoint").item() == (10 + 10) / 5
    assert masked_mean(cost, weight, "map").item() == pytest.approx(20 / 12)
    half = torch.tensor([[1.0, 0.5, 0.0, 0.5]])
    assert masked_mean(cost[:1], half).item() == (1 + 1 + 2) / 2
    with pytest.raises(
        HeatposeError, match=r"weighting=image is unknown; choose one of person, keypoint, map"
    ):
        OneHotMSE(weighting="image")


def test_half_a_weight_is_half_a_keypoint(batch: dict[str, Tensor]) -> None:
    loss = OneHotCrossEntropy(weighting="keypoint")
    points, box = batch["points"].clamp(0, SIZE - 1), batch["box"]
    alone = [
        loss(batch["logits"], points, torch.eye(KEYPOINTS)[k].expand(BATCH, -1), box).item()
        for k in (0, 1)
    ]
    weights = torch.tensor([1.0, 0.5, 0.0, 0.0]).expand(BATCH, -1)
    assert loss(batch["logits"], points, weights, box).item() == pytest.approx(
        (alone[0] + 0.5 * alone[1]) / 1.5, rel=1e-5
    )


def test_a_sharp_kernel_keeps_half_a_cell() -> None:
    """A small far person's OKS kernel falls between the centres.

    Without the floor no cell would be the target.
    """
    loss = SpatialCrossEntropy([0.026])
    logits = torch.zeros(1, 1, CELLS, CELLS, requires_grad=True)
    loss(
        logits, torch.tensor([[[12.0, 12.0]]]), torch.tensor([[True]]), torch.tensor([[2.0, 2.0]])
    ).backward()
    assert logits.grad is not None
    corner = logits.grad[0, 0, 2:4, 2:4]  # the point is the corner of these four cells
    assert (corner < 0).all() and corner.flatten().std() < 1e-6
    assert (logits.grad.sum() - corner.sum()) > 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(
    loss: HeatmapLoss, dtype: torch.dtype, batch: dict[str, Tensor]
) -> None:
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
    alone = [
        loss(logits[b : b + 1], points[b : b + 1], labelled[b : b + 1], box[:1]).item()
        for b in (0, 1)
    ]
    assert loss(logits, points, labelled, box).item() == pytest.approx(sum(alone) / 2, rel=1e-6)
