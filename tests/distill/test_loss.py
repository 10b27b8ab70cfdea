"""The teacher's term: its maps in the student's view, and the divergence against loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from heatpose.data.augment import GeometricAugment
from heatpose.data.sample import Person
from heatpose.distill.cache import RANGE, TeacherMaps
from heatpose.distill.loss import Distillation
from heatpose.distill.teacher import DistillSettings, view_box, view_matrix
from heatpose.models.losses import SpatialCrossEntropy
from heatpose.pose import geometry
from heatpose.pose.codec import decode

from .conftest import DOTS

SIZE, CELLS = 128, 32


def at_the_labels(
    instances: list[Person], grid: int | None, sigma: float = 1.2, margin: float | None = 1.0
) -> TeacherMaps:
    """A teacher whose maps are Gaussians of `sigma` cells around the labels.

    On a grid of any resolution.
    """
    views = np.array([view_matrix(view_box(person, margin)) for person in instances])
    points = np.stack([person.keypoints for person in instances])
    scores = np.array([[1.0, 0.5, 0.25]] * len(instances), np.float32)
    if grid is None:
        return TeacherMaps(None, points, scores, views)
    maps = np.zeros((len(instances), 3, grid, grid), np.uint8)
    y, x = np.mgrid[:grid, :grid] + 0.5
    for i, k in np.ndindex(len(instances), 3):
        px, py = grid * geometry.apply(views[i], points[i, k])
        logits = -((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)
        maps[i, k] = np.rint(255 * np.clip(1 + (logits - logits.max()) / RANGE, 0, 1))
    return TeacherMaps(maps, points, scores, views)


def views(
    instances: list[Person], rounds: int = 6
) -> tuple[torch.Tensor, list[geometry.Matrix], list[bool]]:
    """Random training views of all people."""
    random = np.random.default_rng(0)
    augment = GeometricAugment(degrees=40, rotate=0.8, crop=0.5, person_share=(0.3, 0.9))
    index = [i for _ in range(rounds) for i in range(len(instances))]
    drawn = [augment.transform(instances[i], SIZE, random) for i in index]
    return torch.tensor(index), [matrix for matrix, _ in drawn], [mirrored for _, mirrored in drawn]


@pytest.mark.parametrize(("grid", "margin"), [(12, 1.0), (24, 1.0), (64, 1.0), (48, None)])
def test_a_warped_map_lies_where_the_warped_label_lies(
    grid: int, margin: float | None, dotted: list[Person]
) -> None:
    """Whatever the view does, its mirror and the teacher's resolution: to half a cell."""
    instances = [person for person in dotted if person.labelled.all()]
    term = Distillation(
        at_the_labels(instances, grid, margin=margin), DistillSettings(temperature=0.5), DOTS
    )
    index, matrices, mirrored = views(instances)
    assert 5 < sum(mirrored) < len(mirrored) - 5
    batch = term.look_up(index, torch.from_numpy(np.array(matrices, np.float32)))
    target, weight = term.target(batch, CELLS)
    middle = np.arange(CELLS) + 0.5
    checked = 0
    for b, (i, matrix, mirror) in enumerate(zip(index.tolist(), matrices, mirrored, strict=True)):
        points = geometry.apply(matrix, instances[i].keypoints)[[1, 0, 2] if mirror else [0, 1, 2]]
        np.testing.assert_allclose(batch["teacher_points"][b].numpy(), points, atol=1e-2)
        scores = [0.5, 1.0, 0.25] if mirror else [1.0, 0.5, 0.25]
        for k, (x, y) in enumerate(points / 4):
            # at the edge a part of the map is missing
            if not (2.5 < x < CELLS - 2.5 and 2.5 < y < CELLS - 2.5):
                assert weight[b, k] == 0 or (-0.5 < x < CELLS + 0.5 and -0.5 < y < CELLS + 0.5)
                continue
            distribution = target[b, k].numpy()
            assert distribution.sum() == pytest.approx(1, abs=1e-4) and weight[b, k] == scores[k]
            assert (
                abs((distribution.sum(0) * middle).sum() - x) < 0.5
                and abs((distribution.sum(1) * middle).sum() - y) < 0.5
            )
            found = decode(distribution[None, None], "refined")[0, 0, :2] * CELLS
            # The highest cell can be no nearer than half a cell of the coarser of the two maps.
            coarser = max(
                1.0,
                np.linalg.norm(
                    np.linalg.inv(batch["teacher_frame"][b, :, :2].numpy()), axis=0
                ).max()
                / grid
                / 4,
            )
            assert np.abs(found - (x, y)).max() < 0.5 * coarser + 0.02
            checked += 1
    assert checked > 60


def test_a_target_does_not_depend_on_the_other_samples_of_the_batch(dotted: list[Person]) -> None:
    """Each is sampled as finely as itself needs, not as the batch's farthest view does."""
    instances = [person for person in dotted if person.labelled.all()]
    term = Distillation(at_the_labels(instances, 64), DistillSettings(), DOTS)
    index, drawn, _ = views(instances, rounds=2)
    matrices = torch.from_numpy(np.array(drawn, np.float32))
    batch = term.look_up(index, matrices)
    assert len(set(batch["teacher_samples"])) > 1
    target, weight = term.target(batch, CELLS)
    for b in range(len(index)):
        alone = term.target(term.look_up(index[b : b + 1], matrices[b : b + 1]), CELLS)
        torch.testing.assert_close(alone[0][0], target[b])
        torch.testing.assert_close(alone[1][0], weight[b])


def test_a_point_that_left_the_view_teaches_nothing(dotted: list[Person]) -> None:
    instances = dotted[1:2]
    (x, y) = instances[0].keypoints[0]
    # the point is beyond the left edge, its map's skirt within
    matrix = geometry.region((x + 12, y - 40, 80, 80), SIZE)
    for grid in (24, None):
        term = Distillation(at_the_labels(instances, grid), DistillSettings(), DOTS)
        batch = term.look_up(torch.tensor([0]), torch.from_numpy(matrix[None])) | {
            "box": torch.full((1, 2), 60.0)
        }
        weight = term.target(batch, CELLS)[1]
        inside = (geometry.apply(matrix, instances[0].keypoints) >= 0).all(-1) & (
            geometry.apply(matrix, instances[0].keypoints) < SIZE
        ).all(-1)
        assert not inside[0] and weight[0, 0] == 0
        assert ((weight[0] > 0).numpy() == inside).all()


@pytest.fixture
def identity(dotted: list[Person]) -> Any:
    """A batch of two people, each seen as the teacher saw them.

    And the term for settings and a grid.
    """
    instances = [dotted[1], dotted[2]]

    def make(
        grid: int | None = CELLS, **settings: Any
    ) -> tuple[Distillation, dict[str, torch.Tensor]]:
        term = Distillation(at_the_labels(instances, grid), DistillSettings(**settings), DOTS)
        matrices = np.stack(
            [
                geometry.region((left, top, right - left, bottom - top), SIZE)
                for left, top, right, bottom in (view_box(p, 1.0) for p in instances)
            ]
        )
        batch = {
            "points": torch.from_numpy(
                np.stack(
                    [
                        geometry.apply(m, p.keypoints)
                        for m, p in zip(matrices, instances, strict=True)
                    ]
                )
            ),
            "labelled": torch.from_numpy(np.stack([p.labelled for p in instances])),
            "box": torch.tensor([[96.0, 128.0], [96.0, 128.0]]),
        }
        return term, batch | term.look_up(torch.tensor([0, 1]), torch.from_numpy(matrices))

    return make


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (2.0, 0.3), (0.5, 1.0)])
def test_the_divergence_is_the_formula(temperature: float, weight: float, identity: Any) -> None:
    """Seen as the teacher saw it, the warp changes nothing.

    Softmax by softmax, by loops over cells, and by torch's own divergence.
    """
    term, batch = identity(temperature=temperature, weight=weight)
    student = torch.randn(2, 3, CELLS, CELLS, generator=torch.Generator().manual_seed(0)) * 2
    teacher = (batch["teacher_maps"].float() / 255 - 1) * RANGE
    instances = []
    for b in range(2):
        costs, weights = [], batch["teacher_scores"][b].tolist()
        for k in range(3):
            q = (teacher[b, k].flatten().double() / temperature).softmax(0).tolist()
            p = (student[b, k].flatten().double() / temperature).softmax(0).tolist()
            costs.append(
                math.fsum(qi * (math.log(qi) - math.log(pi)) for qi, pi in zip(q, p, strict=True))
            )
        instances.append(sum(w * c for w, c in zip(weights, costs, strict=True)) / sum(weights))
    want = weight * temperature**2 * sum(instances) / 2
    assert term(student, batch).item() == pytest.approx(want, rel=1e-3)
    log_p = (student / temperature).flatten(2).log_softmax(-1)
    whole = functional.kl_div(
        log_p, (teacher / temperature).flatten(2).log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    scores = batch["teacher_scores"]
    assert weight * temperature**2 * (
        (whole * scores).sum(1) / scores.sum(1)
    ).mean().item() == pytest.approx(want, rel=1e-4)


def test_a_student_like_the_teacher_costs_nothing_and_scores_weigh(identity: Any) -> None:
    term, batch = identity()
    # the level of a softmax's logits is free
    teacher = (batch["teacher_maps"].float() / 255 - 1) * RANGE + 5
    assert term(teacher, batch).item() == pytest.approx(0, abs=1e-3)
    batch["teacher_scores"][0, 1] = 0
    student = torch.zeros(2, 3, CELLS, CELLS, requires_grad=True)
    term(student, batch).backward()
    assert student.grad is not None
    assert (
        (student.grad[0, 1] == 0).all()
        and (student.grad[0, 0].abs().max() > 0)
        and torch.isfinite(student.grad).all()
    )


@pytest.mark.parametrize("height", [1e4, -1e4])
def test_extreme_logits_have_finite_gradients(height: float, identity: Any) -> None:
    for grid in (CELLS, None):
        term, batch = identity(grid)
        student = torch.zeros(2, 3, CELLS, CELLS)
        student[:, :, 3, 3] = height
        cost = term(student.requires_grad_(), batch)
        cost.backward()
        assert (
            torch.isfinite(cost) and student.grad is not None and torch.isfinite(student.grad).all()
        )


def test_a_teacher_of_points_is_fitted_as_the_kernel(identity: Any) -> None:
    term, batch = identity(grid=None, spread=0.7, weight=2.0)
    student = torch.randn(2, 3, CELLS, CELLS, generator=torch.Generator().manual_seed(1))
    placed = SpatialCrossEntropy(DOTS.sigmas, spread=0.7, score_weight=0.0)
    cross = placed(student, batch["teacher_points"], batch["teacher_scores"], batch["box"]).item()
    target, _ = term.target(batch, CELLS)
    entropy = -(target * target.clamp_min(1e-30).log()).sum((-1, -2))
    scores = batch["teacher_scores"]
    own = ((entropy * scores).sum(1) / scores.sum(1)).mean().item()
    assert term(student, batch).item() == pytest.approx(2 * (cross - own), rel=1e-4)


def test_missing_labels_are_filled_by_score(identity: Any) -> None:
    term, batch = identity(fill=True, min_score=0.3)
    batch["labelled"] = torch.tensor([[True, False, False], [True, True, True]])
    batch["points"][0, 1:] = -1
    points, weight = term.labels(batch)
    assert weight.tolist() == [[1, 0.5, 0], [1, 1, 1]]  # a score of 0.25 is too little
    assert torch.equal(points[0, 1], batch["teacher_points"][0, 1]) and torch.equal(
        points[1], batch["points"][1]
    )
    plain, batch = identity()
    assert plain.labels(batch) == (batch["points"], batch["labelled"])
