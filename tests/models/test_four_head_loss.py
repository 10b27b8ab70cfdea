"""The loss of four heads, and its targets, against the same formulas written as loops over people.

Keypoints and cells.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from heatpose.errors import HeatposeError
from heatpose.models.decode import decode_maps
from heatpose.models.losses import FourHeadLoss, GaussianMSE, SpatialCrossEntropy
from heatpose.models.movenet import MoveNet, PoseMaps
from heatpose.pose.codec import cell_vectors, near_cell
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13
from heatpose.training.module import Optimization, PoseModule

BATCH, KEYPOINTS, CELLS = 3, 4, 8
SIZE = 4 * CELLS
SIGMAS = [0.026, 0.079, 0.107, 0.35]
Batch = tuple[PoseMaps, Tensor, Tensor, Tensor]


@pytest.fixture
def batch() -> Batch:
    """A person with all keypoints, one with some outside or not labelled, one with none."""
    torch.manual_seed(0)
    labelled = torch.rand(BATCH, KEYPOINTS) < 0.7
    labelled[0], labelled[2] = True, False
    labelled[1, :2] = True
    points = torch.rand(BATCH, KEYPOINTS, 2) * SIZE
    points[1, 0] = torch.tensor([SIZE + 3.0, 5.0])
    maps = [
        torch.randn(BATCH, c, CELLS, CELLS, requires_grad=True)
        for c in (1, 2 * KEYPOINTS, KEYPOINTS, 2 * KEYPOINTS)
    ]
    return PoseMaps(*maps), points, labelled, torch.rand(BATCH, 2) * 20 + 10


def window(cell: float, radius: int) -> range:
    """Rows or columns of the map that are within a radius of a cell."""
    return range(max(0, int(cell) - radius), min(CELLS, int(cell) + radius + 1))


def vectors_by_hand(batch: Batch, head: str, radius: int) -> float:
    """Mean over people of the mean over counted keypoints of the mean over the supervised cells of
    |dy| + |dx|.
    """
    maps, points, labelled, _ = batch
    instances = []
    for b in range(BATCH):
        counted = [
            k
            for k in range(KEYPOINTS)
            if labelled[b, k] and all(0 <= value < SIZE for value in points[b, k].tolist())
        ]
        if not counted:
            continue
        centre = [sum(points[b, k, axis].item() for k in counted) / len(counted) for axis in (0, 1)]
        costs = []
        for k in counted:
            x, y = points[b, k].tolist()
            at = centre if head == "regression" else (x, y)
            cells = [(v, u) for v in window(at[1] // 4, radius) for u in window(at[0] // 4, radius)]
            found = getattr(maps, head)[b]
            wrong = [
                abs(found[2 * k, v, u].item() - (y / 4 - v))
                + abs(found[2 * k + 1, v, u].item() - (x / 4 - u))
                for v, u in cells
            ]
            costs.append(sum(wrong) / len(wrong))
        instances.append(sum(costs) / len(costs))
    assert len(instances) == 2
    return sum(instances) / len(instances)


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_vectors_cost_their_length_around_the_right_cell(radius: int, batch: Batch) -> None:
    terms = FourHeadLoss(SIGMAS, regression=0.3, offset=2.0, radius=radius).terms(*batch)
    assert terms["regression"].item() == pytest.approx(
        0.3 * vectors_by_hand(batch, "regression", radius), rel=1e-5
    )
    assert terms["offset"].item() == pytest.approx(
        2.0 * vectors_by_hand(batch, "offset", radius), rel=1e-5
    )


def test_heatmaps_and_centre_have_the_heatmap_loss(batch: Batch) -> None:
    maps, points, labelled, box = batch
    alone, centre = SpatialCrossEntropy(SIGMAS, 0.7, 3.0), SpatialCrossEntropy([0.2], 0.7, 3.0)
    terms = FourHeadLoss(SIGMAS, 0.7, 3.0, centre_sigma=0.2, centre=0.5).terms(*batch)
    assert terms["heatmap"].item() == pytest.approx(
        alone(maps.heatmaps, points, labelled, box).item()
    )
    means = torch.zeros(BATCH, 1, 2)
    for b in range(2):
        counted = [
            k
            for k in range(KEYPOINTS)
            if labelled[b, k] and points[b, k].min() >= 0 and points[b, k].max() < SIZE
        ]
        means[b, 0] = torch.stack([points[b, k] for k in counted]).mean(0)
    has_any = torch.tensor([[True], [True], [False]])
    assert terms["centre"].item() == pytest.approx(
        0.5 * centre(maps.centre, means, has_any, box).item(), rel=1e-5
    )


def test_the_loss_is_the_sum_of_its_terms(batch: Batch) -> None:
    loss = FourHeadLoss(SIGMAS)
    terms = loss.terms(*batch)
    assert list(terms) == ["heatmap", "centre", "regression", "offset"]
    assert loss(*batch).item() == pytest.approx(
        math.fsum(term.item() for term in terms.values()), rel=1e-6
    )


def test_only_supervised_cells_have_a_gradient(batch: Batch) -> None:
    maps, points, labelled, box = batch
    FourHeadLoss(SIGMAS, radius=0)(maps, points, labelled, box).backward()
    assert maps.offset.grad is not None and maps.regression.grad is not None
    used = (maps.offset.grad != 0).nonzero().tolist()
    expected = []
    for b, k in ((b, k) for b in range(BATCH) for k in range(KEYPOINTS)):
        x, y = points[b, k].tolist()
        if labelled[b, k] and 0 <= x < SIZE and 0 <= y < SIZE:
            expected += [[b, 2 * k + axis, int(y / 4), int(x / 4)] for axis in (0, 1)]
    assert sorted(used) == sorted(expected)
    # one centre a person
    assert len({(b, v, u) for b, _, v, u in (maps.regression.grad != 0).nonzero().tolist()}) == 2


def test_a_batch_without_labels_costs_nothing(batch: Batch) -> None:
    maps, points, labelled, box = batch
    cost = FourHeadLoss(SIGMAS)(maps, points, torch.zeros_like(labelled), box)
    cost.backward()
    assert cost.item() == 0 and all(m.grad is not None and (m.grad == 0).all() for m in maps)


@pytest.mark.parametrize("far", [1e3, -1e6, 1e12])
def test_points_far_outside_stay_finite(far: float, batch: Batch) -> None:
    maps, points, labelled, box = batch
    points[0, 0], points[1], box[0] = far, far, 0
    cost = FourHeadLoss(SIGMAS)(maps, points, labelled, box)
    cost.backward()
    assert torch.isfinite(cost) and all(
        m.grad is not None and torch.isfinite(m.grad).all() for m in maps
    )


def test_descent_on_the_maps_decodes_to_the_keypoints() -> None:
    """What the loss asks for is what the decode reads.

    To a tenth of a pixel, wherever in its cell a keypoint is.
    """
    points = torch.tensor(
        [
            [[6.3, 10.9], [30.0, 2.2], [14.7, 18.5], [2.1, 26.0]],
            [[21.0, 21.5], [9.9, 31.0], [27.5, 12.4], [16.0, 15.9]],
        ]
    )
    labelled, box = torch.ones(2, KEYPOINTS, dtype=torch.bool), torch.full((2, 2), 24.0)
    maps = PoseMaps(
        *(
            torch.zeros(2, c, CELLS, CELLS, requires_grad=True)
            for c in (1, 2 * KEYPOINTS, KEYPOINTS, 2 * KEYPOINTS)
        )
    )
    optimizer = torch.optim.Adam(maps, lr=0.2)
    loss = FourHeadLoss(SIGMAS)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 400)
        optimizer.zero_grad()
        loss(maps, points, labelled, box).backward()
        optimizer.step()
    poses = decode_maps(maps).detach()
    assert (poses[..., :2] * SIZE - points).abs().max() < 0.1
    assert (poses[..., 2] > 0.5).all()


def test_vectors_lead_from_every_cell_to_the_point() -> None:
    points = torch.rand(2, 3, 2) * 60 - 10
    vectors = cell_vectors(points, CELLS)
    assert vectors.shape == (2, 6, CELLS, CELLS)
    for b, k, v, u in (
        (b, k, v, u) for b in range(2) for k in range(3) for v in range(CELLS) for u in range(CELLS)
    ):
        x, y = points[b, k].tolist()
        assert (
            4 * (u + vectors[b, 2 * k + 1, v, u]).item(),
            4 * (v + vectors[b, 2 * k, v, u]).item(),
        ) == pytest.approx((x, y), abs=1e-4)


def test_the_near_cells_are_those_of_a_square() -> None:
    points = torch.tensor([[[0.0, 0.0], [31.9, 4.0], [13.0, 17.0], [-9.0, 5.0]]])
    for radius in (0, 1, 2):
        near = near_cell(points, CELLS, radius)[0]
        for k, (x, y) in enumerate(points[0].tolist()):
            wanted = [[v, u] for v in window(y // 4, radius) for u in window(x // 4, radius)]
            assert near[k].nonzero().tolist() == wanted
    assert near_cell(points, CELLS)[0].sum((1, 2)).tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("heads", "choice"), [("all", "loss=four_heads"), ("heatmap", "loss=spatial_cross_entropy")]
)
def test_a_loss_for_the_other_kind_of_network_is_refused(heads: str, choice: str) -> None:
    network = MoveNet(13, 0.35, heads=heads)  # type: ignore[arg-type]
    loss = GaussianMSE() if heads == "all" else FourHeadLoss(ST_13.sigmas)
    with pytest.raises(
        HeatposeError, match=f"does not fit a network with model.heads={heads}; set {choice}"
    ):
        PoseModule(
            network,
            loss,
            ST_13,
            Preprocessing(64),
            Optimization(
                lambda groups: torch.optim.SGD(groups, 0.1),
                lambda **_: None,  # type: ignore[arg-type,return-value]
            ),
        )
