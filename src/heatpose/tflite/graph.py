"""A TFLite model as plain values: tensors, quantisation, operators, and statistics of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError

ABSENT = -1  # index of an omitted optional input


@dataclass(frozen=True, eq=False)
class Quantization:
    """Affine quantisation: real = scale * (stored - zero point).

    Attributes:
        scales: f32[1] per tensor, or f32[C] per slice along `axis`.
        zero_points: i64, of the length of `scales`.
        axis: Dimension of per-channel scales; meaningless for a single scale.
    """

    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the graph.

    Attributes:
        index: Index in the file.
        name: Name written by the converter, often fused and unreliable.
        shape: Dimensions; NHWC for images, OHWI for convolution kernels, (1, h, w, C) for depthwise
            kernels.
        dtype: "uint8", "int8", "int32", "float32", "float16", ...
        quantization: None if not quantised.
        data: Stored values of a constant (read-only, `shape`, `dtype`); None for activations.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None
    data: NDArray[Any] | None

    def dequantized(self) -> NDArray[np.float32]:
        """Real values of a constant, f32 of `shape`; unquantised values are cast.

        Raises:
            HeatposeError: The tensor is an activation.
        """
        if self.data is None:
            raise HeatposeError(
                f"Tensor {self.index} ('{self.name}') is not a constant and has no stored values."
            )
        if self.quantization is None or self.data.dtype.kind == "f":
            return self.data.astype(np.float32)
        scales, zeros = self.quantization.scales, self.quantization.zero_points
        if scales.size > 1:
            along = [1] * len(self.shape)
            along[self.quantization.axis] = scales.size
            scales, zeros = scales.reshape(along), zeros.reshape(along)
        # invalid scales are reported by lint
        with np.errstate(over="ignore", invalid="ignore"):
            return ((self.data.astype(np.int64) - zeros) * scales.astype(np.float64)).astype(
                np.float32
            )


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator.

    Attributes:
        index: Position in the order of execution.
        name: Schema name such as "CONV_2D"; the custom code of a custom operator.
        inputs: Tensor indices, `ABSENT` for omitted optional inputs.
        outputs: Tensor indices.
        options: For convolutions and pools "stride" (h, w), "padding" ("SAME", "VALID"),
            "activation" ("NONE", "RELU", "RELU6", ...) and, where the schema has them, "dilation"
            (h, w), "depth_multiplier" and "filter" (h, w); for arithmetic and FULLY_CONNECTED
            "activation"; for resizes "half_pixel_centers" and "align_corners"; else empty.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Graph:
    """The main subgraph, in topological order: each tensor is written once, before it is read."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    description: str
    version: int

    @cached_property
    def _producers(self) -> dict[int, Operator]:
        return {tensor: operator for operator in self.operators for tensor in operator.outputs}

    @cached_property
    def _consumers(self) -> dict[int, list[Operator]]:
        consumers: dict[int, list[Operator]] = {}
        for operator in self.operators:
            for tensor in set(operator.inputs):
                consumers.setdefault(tensor, []).append(operator)
        return consumers

    def producer(self, tensor: int) -> Operator | None:
        """The operator that writes a tensor; None for constants and graph inputs."""
        return self._producers.get(tensor)

    def consumers(self, tensor: int) -> list[Operator]:
        """The operators that read a tensor, in order, without duplicates."""
        return list(self._consumers.get(tensor, ()))

    def constant(self, tensor: int) -> Tensor | None:
        """The constant at an index or behind a DEQUANTIZE (float16 files); None for activations."""
        if tensor == ABSENT:
            return None
        source = self.producer(tensor)
        if source is not None and source.name == "DEQUANTIZE":
            tensor = source.inputs[0]
        return None if self.tensors[tensor].data is None else self.tensors[tensor]

    def resolve_constant(self, tensor: int) -> NDArray[np.float32] | None:
        """Real values (f32) of `constant`; None for activations."""
        constant = self.constant(tensor)
        return None if constant is None else constant.dequantized()


# weights are always input 1
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


def weights(graph: Graph) -> Iterator[tuple[Operator, Tensor]]:
    """Yields every convolution or dense operator with its constant weight tensor, as stored."""
    for operator in graph.operators:
        if operator.name in WEIGHTED:
            weight = graph.constant(operator.inputs[1])
            if weight is not None:
                yield operator, weight


def macs(graph: Graph) -> int:
    """Multiply-accumulates of one inference in convolutions and dense layers.

    Counts a full kernel at every output (TRANSPOSE_CONV: input) position, including padding;
    biases, additions and resizes are not counted.
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
    """Bytes of the constants that operators read (weights, biases, tables); shared ones once."""
    used = {
        tensor for operator in graph.operators for tensor in operator.inputs if tensor != ABSENT
    }
    stored = [data for data in (graph.tensors[i].data for i in used) if data is not None]
    # Several tensors may share a buffer; they are views of the same bytes then.
    return sum(
        {
            (data.__array_interface__["data"][0], data.nbytes): data.nbytes for data in stored
        }.values()
    )


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor; 0 for strings and resources, which have no fixed size."""
    if tensor.dtype in ("string", "resource", "variant"):
        return 0
    bits = {"int4": 4, "bfloat16": 16}.get(tensor.dtype) or 8 * np.dtype(tensor.dtype).itemsize
    return (math.prod(tensor.shape) * bits + 7) // 8


def peak_activation_bytes(graph: Graph) -> int:
    """Peak bytes of live activations when operators run in the file's order.

    During an operator its inputs, its outputs and all tensors read later are live. Graph inputs
    live until their last reader, graph outputs until the end. This is a lower bound for memory
    planners that neither compute in place nor split operators; constants converted by a DEQUANTIZE
    (float16 files) count as constants.
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
    """First and last operator index at which each activation is live: tensor -> operator."""
    born = dict.fromkeys(graph.inputs, 0)
    dies: dict[int, int] = {}
    for operator in graph.operators:
        born.update((i, operator.index) for i in operator.outputs if graph.constant(i) is None)
        dies.update((i, operator.index) for i in operator.inputs)
    dies.update((i, len(graph.operators) - 1) for i in graph.outputs)
    return born, dies
