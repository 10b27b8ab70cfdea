"""Features of a graph for estimates: memory traffic, arithmetic, CPU operators, RAM allocation.

Definitions: section "estimates" of docs/stm32.md. On the STM32N6 time depends on memory traffic
(weights from flash, activations in RAM) more than on arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from heatpose.deploy.targets import Npu, Pool
from heatpose.tflite.graph import (
    ABSENT,
    Graph,
    Operator,
    lifetimes,
    macs,
    peak_activation_bytes,
    tensor_bytes,
    weights_bytes,
)

RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
_SOFTWARE = (*RESIZES, "SOFTMAX", "DEQUANTIZE")
_DENSE = ("CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_DEPTHWISE = "DEPTHWISE_CONV_2D"
_CONVOLUTIONS = ("CONV_2D", _DEPTHWISE)
_WIDE = 512


@dataclass(frozen=True)
class Features:
    """Features of one inference.

    Attributes:
        weights: Bytes of weights, biases and tables.
        traffic: Bytes of activations read and written by hardware operators.
        macs: Multiply-accumulate operations.
        macs_power_of_two: `macs` if the input's side is a power of two (faster on STM32MP2), else
            0.
        macs_other: `macs` if it is not, else 0.
        resized: Elements written by resize operators.
        softmax: Elements written by SOFTMAX.
        kernels: Bytes of the kernels of convolutions and dense layers, depthwise ones excluded.
        depthwise: Bytes of the kernels of depthwise convolutions; the N6's compiler expands them.
        row_tables: Bytes of the tables of wide convolutions that the N6's compiler stores for
            every column of the output (`_row_tables`).
        peak: Peak bytes of live activations.
        largest: Bytes of the largest integer activation.
        inference: 1, for the constant term.
    """

    weights: float
    traffic: float
    macs: float
    macs_power_of_two: float
    macs_other: float
    resized: float
    softmax: float
    kernels: float
    depthwise: float
    row_tables: float
    peak: float
    largest: float
    inference: float = 1.0

    def of(self, name: str) -> float:
        """Returns a feature by name.

        Raises:
            KeyError: The name is unknown.
        """
        return float(asdict(self)[name])


def features_of(graph: Graph, hardware: Collection[str] = ()) -> Features:
    """Computes the features of a graph.

    Args:
        graph: Graph of a TFLite file, or of a network before export.
        hardware: Names of operators to count as hardware operators.
    """
    resizes, software = (
        [name for name in names if name not in hardware] for names in (RESIZES, _SOFTWARE)
    )
    side = max(
        (graph.tensors[i].shape[1] for i in graph.inputs if len(graph.tensors[i].shape) == 4),
        default=0,
    )
    total, even = macs(graph), side > 0 and side & (side - 1) == 0
    written = {*graph.inputs, *(i for operator in graph.operators for i in operator.outputs)}
    activations = (graph.tensors[i] for i in written)
    integers = (t for t in activations if t.data is None and not t.dtype.startswith("float"))
    return Features(
        weights=weights_bytes(graph),
        traffic=sum(
            _traffic(graph, operator)
            for operator in graph.operators
            if operator.name not in software
        ),
        macs=total,
        macs_power_of_two=total if even else 0,
        macs_other=0 if even else total,
        resized=sum(
            _written(graph, operator) for operator in graph.operators if operator.name in resizes
        ),
        softmax=sum(
            _written(graph, operator) for operator in graph.operators if operator.name == "SOFTMAX"
        ),
        kernels=sum(_kernel(graph, operator) for operator in _layers(graph, *_DENSE)),
        depthwise=sum(_kernel(graph, operator) for operator in _layers(graph, _DEPTHWISE)),
        row_tables=sum(_row_tables(graph, operator) for operator in graph.operators),
        peak=peak_activation_bytes(graph),
        largest=max(map(tensor_bytes, integers), default=0),
    )


def as_compiled(graph: Graph) -> Graph:
    """Leaves out PAD operators that only convolutions read: ST's compiler makes them padding.

    Files of Keras have one before each strided convolution; the code generated for ST's own file
    has no buffer for any.
    """
    padded = {
        operator.outputs[0]: operator.inputs[0]
        for operator in graph.operators
        if operator.name == "PAD"
        and operator.outputs[0] not in graph.outputs
        and all(r.name in _CONVOLUTIONS for r in graph.consumers(operator.outputs[0]))
    }
    if not padded:
        return graph
    kept = [o for o in graph.operators if not padded.keys() & set(o.outputs)]
    return replace(
        graph,
        operators=tuple(
            replace(o, index=i, inputs=tuple(padded.get(tensor, tensor) for tensor in o.inputs))
            for i, o in enumerate(kept)
        ),
    )


def _layers(graph: Graph, *names: str) -> Iterator[Operator]:
    return (operator for operator in graph.operators if operator.name in names)


def _kernel(graph: Graph, operator: Operator) -> int:
    return tensor_bytes(graph.tensors[operator.inputs[1]])


def _row_tables(graph: Graph, operator: Operator) -> int:
    """Scales and offsets of a convolution with more than 512 channels.

    The code that ST's compiler generates for MoveNet and MobileNetV2 (`mul_scale`, `off_bias`) has
    them for 576 channels and more, not for 384: 16-bit values, one per channel and column.
    """
    shape = graph.tensors[operator.outputs[0]].shape
    if operator.name not in _CONVOLUTIONS or len(shape) != 4 or shape[3] <= _WIDE:
        return 0
    return 2 * 2 * shape[3] * shape[2]


def _traffic(graph: Graph, operator: Operator) -> int:
    touched = (graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i != ABSENT)
    return sum(tensor_bytes(tensor) for tensor in touched if tensor.data is None)


def _written(graph: Graph, operator: Operator) -> int:
    return sum(math.prod(graph.tensors[i].shape) for i in operator.outputs)


_IMAGE = {"TRANSPOSE_CONV": 2, "RESIZE_NEAREST_NEIGHBOR": 0}
"""Upsampling operator -> index of the image among its inputs."""


def as_bilinear(graph: Graph) -> Graph | None:
    """Replaces other upsampling operators by RESIZE_BILINEAR, to estimate the time they save.

    These are TRANSPOSE_CONV, and RESIZE_NEAREST_NEIGHBOR followed by a depthwise convolution, that
    double the sides and keep the channels (`models.layers.upsample`).

    Returns:
        New graph; None if there is no such operator.
    """
    replaced: dict[int, Operator] = {}
    left_out: set[int] = set()
    for first, last in _places(graph):
        replaced[first.index] = Operator(
            first.index, "RESIZE_BILINEAR", (first.inputs[_IMAGE[first.name]],), last.outputs, {}
        )
        left_out |= {last.index} - {first.index}
    if not replaced:
        return None
    kept = (
        replaced.get(operator.index, operator)
        for operator in graph.operators
        if operator.index not in left_out
    )
    return replace(
        graph, operators=tuple(replace(operator, index=i) for i, operator in enumerate(kept))
    )


def _places(graph: Graph) -> Iterator[tuple[Operator, Operator]]:
    """First and last operator of each upsampling."""
    for operator in graph.operators:
        if operator.name not in _IMAGE:
            continue
        image, result = (
            graph.tensors[i].shape
            for i in (operator.inputs[_IMAGE[operator.name]], operator.outputs[0])
        )
        if len(image) != 4 or result != (image[0], 2 * image[1], 2 * image[2], image[3]):
            continue
        if operator.name == "TRANSPOSE_CONV":
            yield operator, operator
        else:
            readers = graph.consumers(operator.outputs[0])
            if [reader.name for reader in readers] == ["DEPTHWISE_CONV_2D"]:
                yield operator, readers[0]


KIB = 1024
_FREE = 8
"""Bytes: 458744 of npuRAM6's 458752 and 16777208 of hyperRAM's 16777216 are used in ST's builds."""
Span = tuple[int, int]


@dataclass(frozen=True)
class Allocation:
    """RAM in KiB.

    Attributes:
        on_chip: Sum of the highest used address of each on-chip memory.
        external: Highest used address of external RAM; 0 if all activations fit on the chip.
        left_over: Activations that fit nowhere.
    """

    on_chip: float
    external: float
    left_over: float


@dataclass(frozen=True)
class _Placed:
    span: Span
    born: int
    dies: int


def allocate(graph: Graph, npu: Npu) -> Allocation:
    """Places every integer activation of a graph in the memory pools of a target.

    The compiler reports the highest used byte of each memory. Activations are placed largest first:
    in a bank of fast RAM, else in the largest memory, else across adjacent memories, else off-chip.
    Two facts are taken from the code that ST's compiler generates: the last 8 bytes of each run of
    adjacent memories stay free, and of two convolutions that read one tensor (in a pyramid) the
    later one has a temporary of 16 bits. No number is fitted; the largest error on the published
    builds is 9 % (docs/stm32.md).

    Args:
        graph: Graph; float tensors are ignored, because they are on the CPU.
        npu: Pools; read-only ones and those of size 0 are ignored.
    """
    ram = [pool for pool in npu.pools if pool.rights == "ACC_WRITE" and pool.kib]
    chip = sorted((p for p in ram if not p.external), key=lambda p: p.address)
    outside = [_usable(pool, ram) for pool in ram if pool.external]
    groups = [*_groups(chip), outside]
    placed: list[_Placed] = []
    missing = 0
    born, dies = lifetimes(graph)
    wanted = [
        (tensor_bytes(graph.tensors[i]), start, dies.get(i, start))
        for i, start in born.items()
        if not graph.tensors[i].dtype.startswith("float")
    ]
    wanted += _temporaries(graph, born)
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
    return Allocation(on_chip / KIB, external / KIB, missing / KIB)


def _groups(chip: Sequence[Pool]) -> list[list[Span]]:
    """Memories in the order in which they are tried."""
    fast = [_usable(pool, chip) for pool in reversed(chip) if pool.latency == "LOW"]
    slow = [_usable(pool, chip) for pool in chip if pool.latency != "LOW"]
    return [fast, slow, _joined([_usable(pool, chip) for pool in chip])]


def _temporaries(graph: Graph, born: Mapping[int, int]) -> list[tuple[int, int, int]]:
    """(bytes, first, last operator) of the 16-bit results of second convolutions of a tensor."""
    readers: dict[int, list[Operator]] = {}
    for operator in _layers(graph, "CONV_2D"):
        readers.setdefault(operator.inputs[0], []).append(operator)
    return [
        (2 * tensor_bytes(graph.tensors[later.outputs[0]]), born[shared], born[shared] + 1)
        for shared, (_, *others) in readers.items()
        for later in others
        if shared in born and not graph.tensors[later.outputs[0]].dtype.startswith("float")
    ]


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Joins adjacent memories, as the compiler's virtual pools do."""
    found: list[Span] = []
    for low, high in spans:
        if found and found[-1][1] == low:
            found[-1] = (found[-1][0], high)
        else:
            found.append((low, high))
    return found


def _span(pool: Pool) -> Span:
    return pool.address, pool.address + pool.kib * KIB


def _usable(pool: Pool, pools: Sequence[Pool]) -> Span:
    """A memory without the bytes that stay free at the end of a run of adjacent memories."""
    low, high = _span(pool)
    return low, high if any(other.address == high for other in pools) else high - _FREE


def _first_fit(size: int, groups: Sequence[Sequence[Span]], busy: Sequence[Span]) -> int | None:
    for group in groups:
        for memory in group:
            place = _gap(size, memory, busy)
            if place is not None:
                return place
    return None


def _gap(size: int, memory: Span, busy: Sequence[Span]) -> int | None:
    """Lowest address in a memory with `size` bytes free of live tensors; None if there is none."""
    at, high = memory
    for low, end in sorted(span for span in busy if span[1] > memory[0] and span[0] < high):
        if low - at >= size:
            return at
        at = max(at, end)
    return at if high - at >= size else None


def _highest(memory: Span, spans: Sequence[Span]) -> int:
    """Bytes from the start of a memory to the end of its last tensor."""
    low, high = memory
    return max((min(end, high) - low for at, end in spans if end > low and at < high), default=0)
