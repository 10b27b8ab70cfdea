"""A TFLite model as plain values.

Tensors, their quantisation, operators, and who writes and reads what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError

ABSENT = -1  # the index of an optional input that is not given


@dataclass(frozen=True, eq=False)
class Quantization:
    """Affine quantisation: real = scale * (stored - zero point).

    Attributes:
        scales: f32[1] for one scale per tensor, f32[C] for one per slice along `axis`.
        zero_points: i64, as long as `scales`.
        axis: The dimension that `scales` runs along; without meaning for a single scale.
    """

    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of the graph.

    Attributes:
        index: Position in the file's list.
        name: As written by the converter; often a fused string, not to be relied on.
        shape: Dimensions; NHWC for images, OHWI for convolution kernels, (1, h, w, C) for depthwise
            ones.
        dtype: "uint8", "int8", "int32", "float32", "float16", ...
        quantization: None for a tensor that is not quantised.
        data: A constant's stored values (read-only, of `shape` and `dtype`); None for activations.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None
    data: NDArray[Any] | None

    def dequantized(self) -> NDArray[np.float32]:
        """A constant's real values, f32 of `shape`; unquantised numbers are cast.

        Raises:
            HeatposeError: The tensor is an activation.
        """
        if self.data is None:
            raise HeatposeError(
                f"Tensor {self.index} ('{self.name}') is no constant and has no stored values."
            )
        if self.quantization is None or self.data.dtype.kind == "f":
            return self.data.astype(np.float32)
        scales, zeros = self.quantization.scales, self.quantization.zero_points
        if scales.size > 1:
            along = [1] * len(self.shape)
            along[self.quantization.axis] = scales.size
            scales, zeros = scales.reshape(along), zeros.reshape(along)
        # a senseless scale is the inspection's to report
        with np.errstate(over="ignore", invalid="ignore"):
            return ((self.data.astype(np.int64) - zeros) * scales.astype(np.float64)).astype(
                np.float32
            )


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator.

    Attributes:
        index: Position in the order of execution.
        name: Schema name such as "CONV_2D"; the custom code for a custom operator.
        inputs: Tensor indices, `ABSENT` where an optional one is not given.
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
    """The main subgraph. Each tensor is written once and before it is read.

    Walks towards producers end.
    """

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
        """The operator that writes a tensor; None for constants and the graph's inputs."""
        return self._producers.get(tensor)

    def consumers(self, tensor: int) -> list[Operator]:
        """The operators that read a tensor, in order, each once."""
        return list(self._consumers.get(tensor, ()))

    def constant(self, tensor: int) -> Tensor | None:
        """The constant that a tensor index stands for, directly or behind a DEQUANTIZE.

        (float16 files).
        """
        if tensor == ABSENT:
            return None
        source = self.producer(tensor)
        if source is not None and source.name == "DEQUANTIZE":
            tensor = source.inputs[0]
        return None if self.tensors[tensor].data is None else self.tensors[tensor]

    def resolve_constant(self, tensor: int) -> NDArray[np.float32] | None:
        """Real values, f32, of the constant that a tensor index stands for.

        None if it is an activation.
        """
        constant = self.constant(tensor)
        return None if constant is None else constant.dequantized()
