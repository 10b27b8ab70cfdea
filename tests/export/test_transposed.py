"""The integers of a transposed convolution.

Torch against the TFLite interpreter, on one operator.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heatpose.models.layers import TransposedBlock
from heatpose.quantize.integer import (
    LOWEST,
    ActivationScale,
    Int8Conv,
    QuantParams,
    stored_weights,
    weight_scales,
)

if not all(find_spec(tool) for tool in ("tensorflow", "ai_edge_litert")):
    pytest.skip("the export extra is not installed", allow_module_level=True)

SIDE = 12


def file_of(layer: Int8Conv) -> bytes:
    """A model of the layer alone, int8 to int8."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    from heatpose.tflite.writer import Model, dense_kernel

    whole, graph = schema.ModelT(), schema.SubGraphT()
    whole.version, whole.operatorCodes, whole.subgraphs, whole.buffers = (
        3,
        [],
        [graph],
        [schema.BufferT()],
    )
    graph.tensors, graph.operators, graph.inputs, graph.outputs = (
        [],
        [],
        np.zeros(0, np.int32),
        np.zeros(0, np.int32),
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(whole.Pack(builder), b"TFL3")
    model = Model(bytes(builder.Output()))
    model.model.operatorCodes, model.graph.tensors = [], []  # what is empty is read as None

    def stored(scales: NDArray[np.float64], zero_point: int = 0) -> schema.QuantizationParametersT:
        result = schema.QuantizationParametersT()
        result.scale, result.zeroPoint, result.quantizedDimension = (
            scales.astype(np.float32),
            np.full(len(scales), zero_point, np.int64),
            0,
        )
        return result

    types, channels = schema.TensorType, layer.conv.in_channels
    ends = [
        model.add_tensor(
            name,
            [1, side, side, channels],
            types.INT8,
            None,
            stored(np.array([quant_params.scale]), quant_params.zero_point),
        )
        for name, side, quant_params in (("x", SIDE, layer.source), ("y", 2 * SIDE, layer.target))
    ]
    shape = model.add_tensor(
        "shape", [4], types.INT32, np.array([1, 2 * SIDE, 2 * SIDE, channels], np.int32)
    )
    kernel = dense_kernel(stored_weights(layer.conv.weight, layer.scales).numpy())
    weights = model.add_tensor(
        "weights", list(kernel.shape), types.INT8, kernel, stored(layer.scales.double().numpy())
    )
    assert layer.conv.bias is not None
    steps = layer.scales.double().numpy() * float(np.float32(layer.source.scale))
    values = np.rint(layer.conv.bias.detach().double().numpy() / steps).astype(np.int32)
    bias = model.add_tensor("bias", [channels], types.INT32, values, stored(steps))
    operator = model.operator(
        schema.BuiltinOperator.TRANSPOSE_CONV, 3, [shape, weights, ends[0], bias], [ends[1]]
    )
    options = schema.TransposeConvOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.SAME, 2, 2
    operator.builtinOptionsType, operator.builtinOptions = (
        schema.BuiltinOptions.TransposeConvOptions,
        options,
    )
    model.graph.operators = [operator]
    model.graph.inputs, model.graph.outputs = (np.array([end], np.int32) for end in ends)
    return model.pack()


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("channels", [1, 24])
def test_every_bit_is_the_interpreters(channels: int, per_channel: bool, fixed: bool) -> None:
    from ai_edge_litert.interpreter import Interpreter

    torch.manual_seed(channels)
    block = TransposedBlock(channels)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    with torch.no_grad():
        kernel = taps[:, None] * taps if fixed else torch.randn_like(block.conv.weight)
        # as equalisation leaves them
        block.conv.weight.copy_(kernel * torch.exp(torch.randn(channels, 1, 1, 1)))
        block.conv.bias.copy_(torch.randn(channels))
    layer = Int8Conv(
        block,
        ActivationScale(QuantParams.covering(-1.3, 4.2)),
        ActivationScale(QuantParams.covering(-6, 9)),
        weight_scales(block.conv.weight, per_channel),
    )
    image = torch.randint(LOWEST, -LOWEST, (1, channels, SIDE, SIDE))
    interpreter = Interpreter(model_content=file_of(layer))
    interpreter.allocate_tensors()
    # XNNPACK, whose arithmetic this is
    assert any(entry["op_name"] == "DELEGATE" for entry in interpreter._get_ops_details())
    interpreter.set_tensor(
        interpreter.get_input_details()[0]["index"],
        image.permute(0, 2, 3, 1).numpy().astype(np.int8),
    )
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    with torch.no_grad():
        wanted = layer((image - layer.source.zero_point).float()) + layer.target.zero_point
    assert wanted.std() > 10
    np.testing.assert_array_equal(found.transpose(0, 3, 1, 2), wanted.numpy())
