"""What a network takes of a board's memories: activations placed in the pools of its target.

A compiler reports the highest byte that it ever used of each memory, and those are added up. So the
activations are placed here: the largest first, each in a bank of fast RAM where it fits, else in
the largest memory, else across neighbouring ones, else outside the chip. No number is fitted; of
the published builds that the profiles are held against none is off by more than 8 %
(docs/stm32.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heatpose.deploy.targets import Npu, Pool
from heatpose.tflite.graph import Graph
from heatpose.tflite.stats import lifetimes, tensor_bytes

KIB = 1024
Span = tuple[int, int]


@dataclass(frozen=True)
class Taken:
    """RAM in KiB.

    Attributes:
        on_chip: Highest bytes used of each memory on the chip, added up.
        external: Of external RAM; 0 where all activations fit on the chip.
        left_over: Of activations that fit nowhere.
    """

    on_chip: float
    external: float
    left_over: float


@dataclass(frozen=True)
class _Placed:
    span: Span
    born: int
    dies: int


def taken(graph: Graph, npu: Npu) -> Taken:
    """Places every integer activation of a graph.

    Args:
        graph: Float tensors are left out: they are on the processor's side of the border.
        npu: Its pools; those of size 0 and read-only ones take nothing.
    """
    ram = [pool for pool in npu.pools if pool.rights == "ACC_WRITE" and pool.kib]
    chip = sorted((p for p in ram if not p.external), key=lambda p: p.address)
    outside = [_span(pool) for pool in ram if pool.external]
    groups = [*_groups(chip), outside]
    placed: list[_Placed] = []
    missing = 0
    born, dies = lifetimes(graph)
    wanted = [
        (tensor_bytes(graph.tensors[i]), start, dies.get(i, start))
        for i, start in born.items()
        if not graph.tensors[i].dtype.startswith("float")
    ]
    for size, start, end in sorted(wanted, key=lambda entry: (-entry[0], entry[1])):
        busy = [p.span for p in placed if p.born <= end and p.dies >= start]
        place = _first_fit(size, groups, busy)
        if place is None:
            missing += size
        else:
            placed.append(_Placed((place, place + size), start, end))
    spans = [p.span for p in placed]
    on_chip = sum(_highest(_span(pool), spans) for pool in chip)
    external = sum(_highest(span, spans) for span in outside)
    return Taken(on_chip / KIB, external / KIB, missing / KIB)


def _groups(chip: Sequence[Pool]) -> list[list[Span]]:
    """Where a tensor may go, in the order in which it is tried."""
    fast = [_span(pool) for pool in reversed(chip) if pool.latency == "LOW"]
    slow = [_span(pool) for pool in chip if pool.latency != "LOW"]
    return [fast, slow, _joined([_span(pool) for pool in chip])]


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Neighbouring memories as one, as the compiler's virtual pools have them."""
    found: list[Span] = []
    for low, high in spans:
        if found and found[-1][1] == low:
            found[-1] = (found[-1][0], high)
        else:
            found.append((low, high))
    return found


def _span(pool: Pool) -> Span:
    return pool.address, pool.address + pool.kib * KIB


def _first_fit(size: int, groups: Sequence[Sequence[Span]], busy: Sequence[Span]) -> int | None:
    for group in groups:
        for memory in group:
            place = _gap(size, memory, busy)
            if place is not None:
                return place
    return None


def _gap(size: int, memory: Span, busy: Sequence[Span]) -> int | None:
    """Lowest address in a memory with `size` bytes that no living tensor has."""
    at, high = memory
    for low, end in sorted(span for span in busy if span[1] > memory[0] and span[0] < high):
        if low - at >= size:
            return at
        at = max(at, end)
    return at if high - at >= size else None


def _highest(memory: Span, spans: Sequence[Span]) -> int:
    """Bytes from a memory's start to the end of the last tensor in it."""
    low, high = memory
    return max((min(end, high) - low for at, end in spans if end > low and at < high), default=0)
