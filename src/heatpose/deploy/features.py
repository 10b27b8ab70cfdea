"""What an estimate is made of, read off a graph.

Traffic, arithmetic, and what the processor does by itself.

Counted as in section "estimates" of docs/stm32.md: time on the N6 is dominated by bytes (weights
from flash, activations in RAM), not by arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass

from heatpose.tflite.graph import ABSENT, Graph, Operator
from heatpose.tflite.stats import macs, peak_activation_bytes, tensor_bytes, weights_bytes

RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
_SOFTWARE = (*RESIZES, "SOFTMAX", "DEQUANTIZE")


@dataclass(frozen=True)
class Features:
    """Of one inference.

    Attributes:
        weights: Bytes of weights, biases and tables.
        traffic: Bytes of activations that hardware operators read and write.
        macs: Multiply-accumulates.
        macs_power_of_two: The same where the input's side is a power of two, else 0: STM32MP2's
            units are faster there.
        macs_other: The same where it is not, else 0.
        resized: Elements that resizes write.
        softmax: Elements that softmaxes write.
        peak: Most bytes of activations alive at one time.
        largest: Bytes of the largest integer activation.
        inference: 1.
    """

    weights: float
    traffic: float
    macs: float
    macs_power_of_two: float
    macs_other: float
    resized: float
    softmax: float
    peak: float
    largest: float
    inference: float = 1.0

    def of(self, name: str) -> float:
        """A feature by name.

        Raises:
            KeyError: There is none of that name.
        """
        return float(asdict(self)[name])


def features_of(graph: Graph, hardware: Collection[str] = ()) -> Features:
    """Reads a graph: of a TFLite file, or one that a network will have.

    Args:
        graph: What is counted.
        hardware: Operators that are taken for hardware ones, whatever is usual.
    """
    resizes, software = (
        [name for name in names if name not in hardware] for names in (RESIZES, _SOFTWARE)
    )
    side = max(
        (graph.tensors[i].shape[1] for i in graph.inputs if len(graph.tensors[i].shape) == 4),
        default=0,
    )
    total, even = macs(graph), side > 0 and side & (side - 1) == 0
    integers = (t for t in graph.tensors if t.data is None and not t.dtype.startswith("float"))
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
        peak=peak_activation_bytes(graph),
        largest=max(map(tensor_bytes, integers), default=0),
    )


def _traffic(graph: Graph, operator: Operator) -> int:
    touched = (graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i != ABSENT)
    return sum(tensor_bytes(tensor) for tensor in touched if tensor.data is None)


def _written(graph: Graph, operator: Operator) -> int:
    return sum(math.prod(graph.tensors[i].shape) for i in operator.outputs)
