"""Which people come when, and which process of several takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from heatpose.errors import HeatposeError

Draw = tuple[int, int]
"""Number of a person, and the seed of its random view."""


class SharedBatches(Sampler[Draw]):
    """One process's part of shuffled batches: those of all processes together are the batches that one process alone would see.

    Order and views follow from seed and epoch, whatever the number of processes and of their loaders' workers. Lightning tells the epoch.

    Args:
        weights: Of the people; how often each is drawn against the others. None shows everyone once.
        count: Of the people.
        batch_size: Of all processes together.
        process: This one's number, and how many there are.
        seed: Of order and views.

    Raises:
        HeatposeError: The batch cannot be shared out evenly.
    """

    def __init__(self, weights: Sequence[float] | None, count: int, batch_size: int, process: tuple[int, int] = (0, 1), seed: int = 0) -> None:
        self.weights, self.batch_size, self.seed, self.epoch = weights, batch_size, seed, 0
        self.rank, self.processes = process
        part_of_batch(batch_size, self.processes)
        # The last, smaller batch is left out where there are several.
        self.count = count - count % (batch_size if count >= 2 * batch_size else self.processes)
        self.people = count

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.processes

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if self.weights is None:
            order = torch.randperm(self.people, generator=generator)
        else:
            order = torch.multinomial(torch.tensor(self.weights, dtype=torch.float64), self.people, replacement=True, generator=generator)
        seeds = torch.randint(2**62, (self.people,), generator=generator)
        for start in range(0, self.count, self.batch_size):
            part = (min(start + self.batch_size, self.count) - start) // self.processes
            mine = slice(start + self.rank * part, start + (self.rank + 1) * part)
            yield from zip(order[mine].tolist(), seeds[mine].tolist(), strict=True)


class SharedOnce(Sampler[int]):
    """One process's part of all people in order: every n-th. Some come twice at the end where the number does not divide; `in_order` drops them.

    Args:
        count: Of the people.
        process: This one's number, and how many there are.
    """

    def __init__(self, count: int, process: tuple[int, int] = (0, 1)) -> None:
        self.count = count
        self.rank, self.processes = process

    def __len__(self) -> int:
        return (self.count + self.processes - 1) // self.processes

    def __iter__(self) -> Iterator[int]:
        return (number % self.count for number in range(self.rank, len(self) * self.processes, self.processes))


def in_order(gathered: torch.Tensor, count: int) -> torch.Tensor:
    """What all processes found for their part of `SharedOnce`, f[processes, n] -> f[count], a value for each person in order."""
    return gathered.transpose(0, 1).flatten()[:count]


def part_of_batch(batch_size: int, processes: int) -> int:
    """Batch size of one process.

    Raises:
        HeatposeError: The batch cannot be shared out evenly.
    """
    if batch_size % processes:
        raise HeatposeError(f"data.batch_size={batch_size} is that of all {processes} processes together; use a multiple of {processes}.")
    return batch_size // processes
