"""How several processes that train one network share out what the model is selected on; training batches are `batches.EpochBatches`'s."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from heatpose.errors import HeatposeError


class SharedOnce(Sampler[int]):
    """One process's part of all people in order: every n-th. Some come twice at the end where the number does not divide; `in_order` drops them.

    All processes have the same number, because each batch is a meeting of all of them.

    Args:
        count: Of the people.
        rank: Number of this process.
        ranks: How many there are.
    """

    def __init__(self, count: int, rank: int = 0, ranks: int = 1) -> None:
        self.count, self.rank, self.ranks = count, rank, ranks

    def __len__(self) -> int:
        return (self.count + self.ranks - 1) // self.ranks

    def __iter__(self) -> Iterator[int]:
        return (place % self.count for place in range(self.rank, len(self) * self.ranks, self.ranks))


def in_order(gathered: torch.Tensor, count: int) -> torch.Tensor:
    """What all processes found for their part of `SharedOnce`, f[ranks, n] -> f[count], a value for each person in order."""
    return gathered.transpose(0, 1).flatten()[:count]


def part_of_batch(batch_size: int, ranks: int) -> int:
    """Batch size of one process.

    Raises:
        HeatposeError: The batch cannot be shared out evenly.
    """
    if batch_size % ranks:
        raise HeatposeError(f"data.batch_size={batch_size} is that of all {ranks} processes together; use a multiple of {ranks}.")
    return batch_size // ranks
