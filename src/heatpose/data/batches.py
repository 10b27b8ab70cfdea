"""Which people come together in which batch.

A plan that the seed and the epoch decide alone, whatever the workers and the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import SequentialSampler

from heatpose.data.augment import prominent
from heatpose.data.sample import Person

ORDER, RESOLUTION, SAMPLE = 1, 2, 3
"""What a generator is for: part of its seed, so that no two draw the same numbers."""


class BatchPlan(NamedTuple):
    """What a batch is made of.

    Attributes:
        size: Input side S.
        epoch: Counted from 0.
        positions: Places in the epoch's order, over all processes; with the seed and the epoch they
            decide each view.
        instances: Index of the person at each of them.
    """

    size: int
    epoch: int
    positions: tuple[int, ...]
    instances: tuple[int, ...]


def generator(seed: int, purpose: int, epoch: int, number: int = 0) -> np.random.Generator:
    """The generator of one order, batch or view: the same wherever and whenever it is made."""
    key = np.array((seed * 4 + purpose, (epoch << 40) + number), np.uint64)
    # streams by key: half the time of hashing a seed, once for each view
    return np.random.Generator(np.random.Philox(key=key))


class EpochBatches(SequentialSampler):
    """Plans of an epoch's batches, given to a loader as its sampler, without automatic batches.

    Lightning tells it the epoch.

    It calls itself sequential because Lightning's `overfit_batches` replaces every other kind, and
    with it the batches.

    Args:
        instances: How many there are.
        batch_size: Of one process.
        sizes: Input sides; each batch has one of them, the same in all processes.
        seed: Of the run.
        weights: How often each comes up against the others, drawn with replacement; None shows
            everyone once.
        shuffle: False keeps the order.
        rank: Number of this process.
        ranks: Processes; together they take what one with `ranks` times the batch would take.
    """

    def __init__(
        self,
        instances: int,
        batch_size: int,
        sizes: Sequence[int],
        seed: int = 0,
        weights: NDArray[np.float64] | None = None,
        shuffle: bool = True,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        super().__init__(range(instances))
        self.instances, self.sizes, self.seed, self.shuffle, self.rank, self.ranks = (
            instances,
            tuple(sizes),
            seed,
            shuffle,
            rank,
            ranks,
        )
        self.weights = None if weights is None else weights / weights.sum()
        self.together = batch_size * ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches; the last, smaller one is left out where there are several full ones."""
        return (
            self.instances // self.together
            if self.instances >= 2 * self.together
            else -(-self.instances // self.together)
        )

    def __iter__(self) -> Iterator[BatchPlan]:  # type: ignore[override]  # "sequential" in name alone
        order = self._order()
        for number in range(len(self)):
            start = number * self.together
            # all processes need their share
            end = (
                start + self.together
                if self.ranks > 1
                else min(start + self.together, self.instances)
            )
            positions = tuple(range(start, end))[self.rank :: self.ranks]
            size = self.sizes[
                int(generator(self.seed, RESOLUTION, self.epoch, number).integers(len(self.sizes)))
            ]
            yield BatchPlan(
                size,
                self.epoch,
                positions,
                tuple(int(order[place % self.instances]) for place in positions),
            )

    def _order(self) -> NDArray[np.intp]:
        random = generator(self.seed, ORDER, self.epoch)
        if not self.shuffle:
            return np.arange(self.instances)
        return (
            random.permutation(self.instances)
            if self.weights is None
            else random.choice(self.instances, self.instances, p=self.weights)
        )


def sampling_weights(
    instances: Sequence[Person], prominence: float = 1.0, size: float = 0.0, keypoints: float = 0.0
) -> NDArray[np.float64] | None:
    """How often each person comes up against the others.

    Args:
        instances: N of them.
        prominence: Factor for those who are prominent on the whole image, as the benchmark's
            people are.
        size: Power of the person's share of the image's side (square root of box area over
            image area): 1 shows someone of twice the size twice as often.
        keypoints: Power of the share of keypoints that are labelled.

    Returns:
        f64[N] > 0; None where all are alike.
    """
    if (prominence, size, keypoints) == (1.0, 0.0, 0.0):
        return None
    known = np.array([prominent(person) for person in instances])
    share = np.array(
        [
            np.sqrt(person.box[2] * person.box[3] / (person.width * person.height))
            for person in instances
        ]
    )
    labelled = np.array([max(float(person.labelled.mean()), 1e-3) for person in instances])
    weights: NDArray[np.float64] = (
        np.where(known, prominence, 1.0) * np.maximum(share, 1e-3) ** size * labelled**keypoints
    )
    return weights
