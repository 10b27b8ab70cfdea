"""Plans of batches: everyone once or as weighted, one size for all processes.

The same numbers again for the same seed and epoch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from heatpose.data.batches import BatchPlan, EpochBatches, generator, sampling_weights
from heatpose.data.sample import Person


def plans(
    instances: int = 50,
    batch_size: int = 8,
    sizes: tuple[int, ...] = (64,),
    epoch: int = 0,
    **settings: object,
) -> list[BatchPlan]:
    batches = EpochBatches(instances, batch_size, sizes, **settings)  # type: ignore[arg-type]
    batches.set_epoch(epoch)
    found = list(batches)
    assert len(found) == len(batches)
    return found


def drawn(found: list[BatchPlan]) -> list[int]:
    return [person for plan in found for person in plan.instances]


def test_an_epoch_shows_everyone_at_most_once_in_another_order() -> None:
    first, second = drawn(plans()), drawn(plans(epoch=1))
    assert len(first) == len({*first}) == 48 and len({*second}) == 48
    assert first != second and first != sorted(first)
    assert drawn(plans()) == first and drawn(plans(seed=1)) != first
    assert drawn(plans(shuffle=False)) == list(range(48)) == drawn(plans(shuffle=False, epoch=3))


def test_positions_count_through_the_epoch() -> None:
    assert [place for plan in plans() for place in plan.positions] == list(range(48))
    assert {plan.epoch for plan in plans(epoch=5)} == {5}


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_share_the_batches_of_one(ranks: int) -> None:
    alone = plans(sizes=(64, 96, 128))
    together = [
        plans(batch_size=8 // ranks, sizes=(64, 96, 128), rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]
    assert {len(found) for found in together} == {len(alone)}
    for number, whole in enumerate(alone):
        parts = [found[number] for found in together]
        assert {part.size for part in parts} == {whole.size}
        assert {len(part.instances) for part in parts} == {8 // ranks}
        pairs = [
            pair for part in parts for pair in zip(part.positions, part.instances, strict=True)
        ]
        assert sorted(pairs) == list(zip(whole.positions, whole.instances, strict=True))


def test_a_last_small_batch_has_people_for_every_process() -> None:
    found = [plans(instances=5, batch_size=4, rank=rank, ranks=2) for rank in range(2)]
    assert [len(plan.instances) for rank in found for plan in rank] == [4, 4]
    assert {person for rank in found for person in drawn(rank)} == set(range(5))


def test_each_batch_has_one_of_the_sizes_in_equal_parts() -> None:
    sizes = [
        plan.size
        for epoch in range(20)
        for plan in plans(instances=480, sizes=(64, 96, 128), epoch=epoch)
    ]
    counts = np.array([sizes.count(size) for size in (64, 96, 128)])
    assert counts.sum() == 1200 and counts.min() > 340
    assert sizes[:60] != sizes[60:120]


def test_weights_decide_how_often_someone_comes_up() -> None:
    weights = np.arange(1, 51, dtype=float)
    found = np.bincount(
        [p for epoch in range(200) for p in drawn(plans(weights=weights, epoch=epoch))],
        minlength=50,
    )
    expected = weights / weights.sum() * found.sum()
    assert (np.abs(found - expected) < 5 * np.sqrt(expected)).all()


def a_person(
    side: float, labelled: int, others: list[tuple[float, float, float, float]] | None = None
) -> Person:
    flags = np.arange(4) < labelled
    neighbours = np.array(others or [], np.float32).reshape(-1, 4)
    return Person(
        Path("x"),
        1,
        1,
        100,
        100,
        np.zeros((4, 2), np.float32),
        flags,
        (0, 0, side, side),
        side**2,
        not len(neighbours),
        neighbours,
    )


def test_weights_by_prominence_size_and_keypoints() -> None:
    instances = [
        a_person(40, 4),
        a_person(20, 4),
        a_person(40, 2),
        a_person(20, 4, [(0, 0, 100, 100)]),
    ]
    assert sampling_weights(instances) is None

    def relative(**settings: float) -> list[float]:
        weights = sampling_weights(instances, **settings)
        assert weights is not None
        return [round(float(w / weights[0]), 6) for w in weights]

    assert relative(prominence=2) == [1, 1, 1, 0.5]
    assert relative(size=1) == [1, 0.5, 1, 0.5]
    assert relative(size=2) == [1, 0.25, 1, 0.25]
    assert relative(keypoints=1) == [1, 1, 0.5, 1]
    assert relative(prominence=2, size=1, keypoints=1) == [1, 0.5, 0.5, 0.25]


def test_generators_repeat_and_differ_by_everything_that_they_are_for() -> None:
    keys = [
        (0, 1, 0, 0),
        (1, 1, 0, 0),
        (0, 2, 0, 0),
        (0, 1, 1, 0),
        (0, 1, 0, 1),
        (2**32 - 1, 3, 139, 200_000),
    ]
    numbers = [generator(*key).random() for key in keys]
    assert len({*numbers}) == len(keys) and numbers == [generator(*key).random() for key in keys]
    many = np.array(
        [generator(0, 3, epoch, place).random() for epoch in range(20) for place in range(100)]
    )
    assert abs(many.mean() - 0.5) < 0.03 and abs(np.corrcoef(many[:-1], many[1:])[0, 1]) < 0.08
