"""People of the validation, shared out among processes."""

from __future__ import annotations

import pytest
import torch

from heatpose.data.datamodule import SharedOnce, in_order, part_of_batch
from heatpose.errors import HeatposeError


@pytest.mark.parametrize(("count", "ranks"), [(12, 1), (12, 2), (13, 2), (13, 4), (2, 4), (1, 3)])
def test_everyone_comes_in_order_whatever_the_number_of_processes(count: int, ranks: int) -> None:
    parts = [list(SharedOnce(count, rank, ranks)) for rank in range(ranks)]
    assert (
        len({len(part) for part in parts})
        == 1
        == len({len(SharedOnce(count, rank, ranks)) for rank in range(ranks)})
    )
    assert len(parts[0]) == len(SharedOnce(count, 0, ranks))
    assert in_order(torch.tensor(parts), count).tolist() == list(range(count))


def test_a_batch_is_shared_out_evenly() -> None:
    assert part_of_batch(32, 4) == 8
    with pytest.raises(
        HeatposeError,
        match="data.batch_size=32 is that of all 3 processes together; use a multiple of 3",
    ):
        part_of_batch(32, 3)
