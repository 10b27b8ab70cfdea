"""Graph of a network before export: operators, shapes and weight sizes of its int8 TFLite.

Batch norms are folded, activations fused, weights int8, biases int32; constants are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from heatpose.deploy.estimate import NOT_EXPORTED
from heatpose.errors import HeatposeError
from heatpose.models.layers import Add, ConvBlock, TransposedBlock
from heatpose.tflite.graph import Graph, Operator, Quantization, Tensor

Shape = tuple[int, ...]
_TRACED = (ConvBlock, Add, nn.Upsample, nn.Linear, nn.AdaptiveAvgPool2d, nn.Flatten)


def graph_of_network(
    network: nn.Module,
    size: int | tuple[int, int],
    *,
    output: Literal["float32", "int8"] = "float32",
    ending: Literal["LOGISTIC", "SOFTMAX"] | None = "LOGISTIC",
) -> Graph:
    """Traces a network on zeros with forward hooks.

    Args:
        network: Consists of ConvBlock, Add, Upsample and classifier layers; other modules
            must return their input unchanged.
        size: S, or (rows, columns), pixels.
        output: Output type of the int8 file.
        ending: Operator after the last layer.

    Returns:
        Graph with uint8 input (1, rows, columns, 3), NHWC; constants are zeros.

    Raises:
        HeatposeError: A layer reads the result of a module of another kind.
    """
    trace = _Trace()
    handles = [
        module.register_forward_hook(trace.layer)
        for module in network.modules()
        if isinstance(module, _TRACED)
    ]
    training = network.training
    try:
        network.eval()
        with torch.inference_mode():
            rows, columns = (size, size) if isinstance(size, int) else size
            image = torch.zeros(1, 3, rows, columns, device=next(network.parameters()).device)
            source = trace.tensor((1, rows, columns, 3), "uint8")
            trace.seen[id(image)] = trace.operator("QUANTIZE", [source], (1, rows, columns, 3))
            trace.alive.append(image)
            results = network(image)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    found = [trace.seen[id(result)] for result in _tensors(results) if id(result) in trace.seen]
    ends = [trace.ending(index, output, ending) for index in found or [len(trace.tensors) - 1]]
    return Graph(
        tuple(trace.tensors), tuple(trace.operators), (source,), tuple(ends), NOT_EXPORTED, 3
    )


def _tensors(results: Any) -> list[torch.Tensor]:
    return (
        [results]
        if isinstance(results, torch.Tensor)
        else [result for result in results if isinstance(result, torch.Tensor)]
    )


class _Trace:
    """Tensors and operators traced so far.

    Torch's tensors are kept alive, so that their `id` stays unique.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []
        self.seen: dict[int, int] = {}
        self.alive: list[torch.Tensor] = []

    def tensor(self, shape: Shape, dtype: str = "int8", constant: bool = False) -> int:
        """Adds a tensor, quantised if it is an integer; returns its index."""
        index, scales = len(self.tensors), np.ones(1, np.float32)
        data = np.zeros(shape, dtype) if constant else None
        quantization = (
            None if dtype == "float32" else Quantization(scales, np.zeros(1, np.int64), 0)
        )
        self.tensors.append(Tensor(index, f"tensor_{index}", shape, dtype, quantization, data))
        return index

    def operator(
        self, name: str, inputs: Sequence[int], shape: Shape, dtype: str = "int8", **options: Any
    ) -> int:
        """Adds an operator; returns the index of its output."""
        result = self.tensor(shape, dtype)
        self.operators.append(
            Operator(len(self.operators), name, tuple(inputs), (result,), options)
        )
        return result

    def layer(
        self, module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor
    ) -> None:
        """Forward hook: adds the operators of one layer."""
        if any(id(tensor) not in self.seen for tensor in given):
            raise HeatposeError(
                f"The network cannot be traced: a {type(module).__name__} reads the result of a"
                f" layer that is none of {', '.join(layer.__name__ for layer in _TRACED)}."
            )
        inputs = [self.seen[id(tensor)] for tensor in given]
        shape = _channels_last(tuple(result.shape))
        if isinstance(module, TransposedBlock):
            index = self.transposed(inputs[0], shape)
        elif isinstance(module, ConvBlock):
            index = self.convolution(module.conv, inputs[0], shape)
        elif isinstance(module, nn.Linear):
            constants = [
                self.tensor(tuple(module.weight.shape), constant=True),
                self.tensor((module.out_features,), "int32", constant=True),
            ]
            index = self.operator("FULLY_CONNECTED", [*inputs, *constants], shape)
        else:
            names = {
                Add: "ADD",
                nn.Upsample: "RESIZE_BILINEAR",
                nn.AdaptiveAvgPool2d: "MEAN",
                nn.Flatten: "RESHAPE",
            }
            index = self.operator(_upsampling(module) or names[type(module)], inputs, shape)
        self.seen[id(result)] = index
        self.alive.append(result)

    def transposed(self, source: int, shape: Shape) -> int:
        """Adds a transposed convolution, which is dense in TFLite."""
        channels = shape[3]
        constants = [self.tensor(shape, "int32", constant=True) for shape in ((4,), (channels,))]
        weights = self.tensor((channels, 4, 4, channels), constant=True)
        return self.operator(
            "TRANSPOSE_CONV", [constants[0], weights, source, constants[1]], shape, stride=(2, 2)
        )

    def convolution(self, conv: nn.Conv2d | nn.ConvTranspose2d, source: int, shape: Shape) -> int:
        """Adds a convolution with folded weights and biases."""
        depthwise = conv.groups > 1
        high, wide = (int(side) for side in conv.kernel_size)
        kernel = (
            (1, high, wide, conv.out_channels)
            if depthwise
            else (conv.out_channels, high, wide, conv.in_channels)
        )
        constants = [
            self.tensor(kernel, constant=True),
            self.tensor((conv.out_channels,), "int32", constant=True),
        ]
        stride = tuple(int(step) for step in conv.stride)
        return self.operator(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            [source, *constants],
            shape,
            stride=stride,
        )

    def ending(self, index: int, output: str, name: str | None) -> int:
        """Adds the operators after the last layer."""
        shape = self.tensors[index].shape
        if name is not None:
            index = self.operator(name, [index], shape)
        return (
            self.operator("DEQUANTIZE", [index], shape, "float32") if output == "float32" else index
        )


def _upsampling(module: nn.Module) -> str | None:
    if not isinstance(module, nn.Upsample):
        return None
    return "RESIZE_NEAREST_NEIGHBOR" if module.mode == "nearest" else "RESIZE_BILINEAR"


def _channels_last(shape: Shape) -> Shape:
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else (1, math.prod(shape))
