"""Sizes of a TFLite graph: multiply-accumulates, constant bytes, activation bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from heatpose.tflite.graph import ABSENT, Graph, Operator, Tensor

# weights are always input 1
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


def weights(graph: Graph) -> Iterator[tuple[Operator, Tensor]]:
    """Every convolution or dense operator with its constant weight tensor.

    As stored (float16, int8, ...).
    """
    for operator in graph.operators:
        if operator.name in WEIGHTED:
            weight = graph.constant(operator.inputs[1])
            if weight is not None:
                yield operator, weight


def macs(graph: Graph) -> int:
    """Multiply-accumulates of one inference in convolutions.

    (also depthwise, transposed) and dense layers.

    Counted as usual: a full kernel at every output (TRANSPOSE_CONV: input) position, also where it
    overlaps the padding; biases, additions and resizes are not counted.
    """
    return sum(
        _operator_macs(graph, operator) for operator in graph.operators if operator.name in WEIGHTED
    )


def _operator_macs(graph: Graph, operator: Operator) -> int:
    kernel = graph.tensors[operator.inputs[1]].shape
    output = math.prod(graph.tensors[operator.outputs[0]].shape)
    if operator.name == "DEPTHWISE_CONV_2D":  # (1, h, w, C)
        return output * kernel[1] * kernel[2]
    if operator.name == "TRANSPOSE_CONV":  # (O, h, w, I), inputs are (output shape, weights, image)
        return math.prod(graph.tensors[operator.inputs[2]].shape) * math.prod(kernel[:3])
    return output * math.prod(kernel[1:])  # (O, h, w, I) or (O, I)


def weights_bytes(graph: Graph) -> int:
    """Bytes of the constants that operators read: weights, biases and tables.

    Shared ones count once.
    """
    used = {
        tensor for operator in graph.operators for tensor in operator.inputs if tensor != ABSENT
    }
    stored = [data for data in (graph.tensors[i].data for i in used) if data is not None]
    # Several tensors may name one buffer; they are views of the same bytes then.
    return sum(
        {
            (data.__array_interface__["data"][0], data.nbytes): data.nbytes for data in stored
        }.values()
    )


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's values; 0 for strings and resources, which have no fixed size."""
    if tensor.dtype in ("string", "resource", "variant"):
        return 0
    bits = {"int4": 4, "bfloat16": 16}.get(tensor.dtype) or 8 * np.dtype(tensor.dtype).itemsize
    return (math.prod(tensor.shape) * bits + 7) // 8


def peak_activation_bytes(graph: Graph) -> int:
    """The most bytes of activations alive at one time, when operators run in the file's order.

    While an operator runs, its inputs and outputs are alive together with everything a later
    operator reads. The graph's inputs live until their last reader, its outputs to the end. A lower
    bound for any memory planner that neither computes in place nor splits operators; constants
    unpacked by a DEQUANTIZE (float16 files) count as constants.
    """
    if not graph.operators:
        return sum(tensor_bytes(graph.tensors[i]) for i in {*graph.inputs, *graph.outputs})
    born, dies = lifetimes(graph)
    change = [0] * (len(graph.operators) + 1)
    for tensor, start in born.items():
        size = tensor_bytes(graph.tensors[tensor])
        change[start] += size
        change[dies.get(tensor, start) + 1] -= size
    alive = peak = 0
    for step in change:
        alive += step
        peak = max(peak, alive)
    return peak


def lifetimes(graph: Graph) -> tuple[dict[int, int], dict[int, int]]:
    """First and last operator index at which each activation is alive: tensor -> operator."""
    born = dict.fromkeys(graph.inputs, 0)
    dies: dict[int, int] = {}
    for operator in graph.operators:
        born.update((i, operator.index) for i in operator.outputs if graph.constant(i) is None)
        dies.update((i, operator.index) for i in operator.inputs)
    dies.update((i, len(graph.operators) - 1) for i in graph.outputs)
    return born, dies
