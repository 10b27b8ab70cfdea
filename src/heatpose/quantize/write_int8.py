"""Writes an int8 TFLite file: the graph of the float file with the parameters of a plan.

The float file comes from onnx2tf and TensorFlow, which decide operators, layout, padding and fused
activations. TensorFlow's own quantiser only supports min-max ranges; here every scale, zero point,
weight and bias is the plan's, so the file computes what was simulated. Specification:
https://ai.google.dev/edge/litert/models/quantization_spec.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from heatpose.errors import HeatposeError
from heatpose.models.layers import ConvBlock
from heatpose.models.tflite_walk import Located, locate
from heatpose.models.topology import Topology
from heatpose.quantize.equalize import bias_of
from heatpose.quantize.integer import LOWEST, QuantParams, input_quant_params, stored_weights
from heatpose.quantize.simulate import Plan, blocks
from heatpose.tflite.graph import Graph, Operator
from heatpose.tflite.inspect import Output
from heatpose.tflite.reader import read_graph
from heatpose.tflite.writer import IMAGE, SHAPE, Model, dense_kernel

_PROBABILITY = QuantParams(1 / 256, LOWEST)
"""What the specification fixes for the output of LOGISTIC."""
_KINDS = schema.BuiltinOperator
_VERSIONS = {
    _KINDS.CONV_2D: 3,
    _KINDS.DEPTHWISE_CONV_2D: 3,
    _KINDS.TRANSPOSE_CONV: 3,
    _KINDS.ADD: 2,
    _KINDS.RESIZE_BILINEAR: 3,
    _KINDS.RESIZE_NEAREST_NEIGHBOR: 2,
    _KINDS.LOGISTIC: 2,
}
"""First versions of the operators that take int8 per channel (bilinear resize: half-pixel centres.

Transposed convolution: a bias).
"""


def write_int8(float_file: Path, plan: Plan, *, output: Output = "float32") -> bytes:
    """Turns a float file into an int8 file that takes raw bytes as uint8.

    Convolutions, sums and resizes are integer, and so is a sigmoid at the end. What follows the
    heads otherwise (MoveNet's decode) stays float behind DEQUANTIZE operators.

    Args:
        float_file: A float32 TFLite file of the network that the plan was made for.
        plan: Scales, zero points, weights and biases.
        output: Type of the heatmaps; "int8" leaves the last DEQUANTIZE out.

    Returns:
        The file's bytes; the same input gives the same bytes.

    Raises:
        HeatposeError: The file is not of the plan's architecture, holds two layers as one operator,
            or decodes inside and is asked for int8 output.
    """
    graph = read_graph(float_file)
    located = locate(graph, plan.network, f"'{float_file}'")
    return _Writer(float_file.read_bytes(), graph, located, plan).run(output)


class _Writer:
    """Changes one model, from the input to the output."""

    def __init__(self, content: bytes, graph: Graph, located: Located, plan: Plan) -> None:
        if len({o.index for o in located.convolutions.values()}) < len(located.convolutions):
            raise HeatposeError(
                "Two layers of the network are equal and became one operator; train the network"
                " before it is quantised."
            )
        self.source, self.located, self.plan = graph, located, plan
        self.model = Model(content)
        self.graph = self.model.graph
        # by their index in the source
        self.operators: list[Any] = list(self.graph.operators)
        self.body = {
            o.index
            for o in (
                *located.convolutions.values(),
                *located.additions.values(),
                *located.resizes.values(),
            )
        }
        self.stored = self._stored_tensors()
        self.scales = {
            id(block): plan.weight_scales[name] for name, block in blocks(plan.network).items()
        }

    def _stored_tensors(self) -> dict[int, QuantParams]:
        """Tensor -> how it is stored, for every activation that becomes int8."""
        source, located = self.source, self.located
        modules = {
            id(module): name for name, module in Topology(self.plan.network).stored().items()
        }
        stored = {source.inputs[0]: input_quant_params(self.plan.preprocessing)}
        for module, operator in (*located.convolutions.items(), *located.additions.items()):
            stored[operator.outputs[0]] = self.plan.activation_params[modules[id(module)]]
        for operator in located.resizes.values():  # resizing does not change the scale
            stored[operator.outputs[0]] = stored[operator.inputs[0]]
        for operator in source.operators:
            if (
                operator.name == "LOGISTIC"
                and operator.inputs[0] in stored
                and operator.outputs[0] in source.outputs
            ):
                self.body.add(operator.index)
                stored[operator.outputs[0]] = _PROBABILITY
        return stored

    def run(self, output: Output) -> bytes:
        for block, operator in self.located.convolutions.items():
            self._store_layer(block, operator)
        inserted = self._store_activations(output)
        self._raise_versions()
        order = [self._quantize_input()]
        for i, operator in enumerate(self.operators):
            order += [operator, *inserted.get(i, [])]
        self.graph.operators = order
        return self.model.pack()

    def _store_layer(self, block: ConvBlock, operator: Operator) -> None:
        """Stores int8 weights and an int32 bias; the bias has the scale of the products."""
        weight, bias = block.conv.weight, bias_of(block).detach().double().numpy()
        scales = self.scales[id(block)]
        depthwise, transposed = (
            operator.name == "DEPTHWISE_CONV_2D",
            operator.name == "TRANSPOSE_CONV",
        )
        image = operator.inputs[IMAGE if transposed else 0]
        stored = stored_weights(weight, scales)
        # torch OIHW -> OHWI; depthwise (C, 1, H, W) -> (1, H, W, C)
        values = (
            dense_kernel(stored.numpy())
            if transposed
            else stored.permute((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)).numpy()
        )
        steps = scales.double().numpy() * float(np.float32(self.stored[image].scale))
        stored_bias = np.rint(bias / steps).clip(-(2**31), 2**31 - 1).astype(np.int32)
        axis = 3 if depthwise else 0
        name = f"layer{operator.index}"
        weights = self.model.add_tensor(
            f"{name}/weights",
            list(values.shape),
            schema.TensorType.INT8,
            values,
            _quantization(scales.numpy(), np.zeros(len(scales)), axis),
        )
        zeros = np.zeros(len(steps))
        biases = self.model.add_tensor(
            f"{name}/bias",
            [len(bias)],
            schema.TensorType.INT32,
            stored_bias,
            _quantization(steps, zeros, 0),
        )
        inputs = (
            [operator.inputs[SHAPE], weights, image, biases]
            if transposed
            else [image, weights, biases]
        )
        self.operators[operator.index].inputs = np.array(inputs, np.int32)

    def _store_activations(self, output: Output) -> dict[int, list[Any]]:
        """Makes the tensors int8, with float copies where float operators or the caller read them.

        Returns:
            Operators to insert, by the operator that they follow.
        """
        inserted: dict[int, list[Any]] = {}
        for index, quant_params in self.stored.items():
            producer = self.source.producer(index)
            floats = [o for o in self.source.consumers(index) if o.index not in self.body]
            ends = index in self.source.outputs
            if output == "int8" and (floats or (ends and len(self.source.outputs) != 1)):
                raise HeatposeError(
                    "A network whose decode is in the graph has no int8 output; choose"
                    " quant.output=float32."
                )
            if producer is None or not (floats or (ends and output == "float32")):
                self._make_int8(index, quant_params)
                continue
            tensor = self.graph.tensors[index]
            stored = self.model.add_tensor(
                f"{tensor.name.decode()}/int8",
                tensor.shape.tolist(),
                schema.TensorType.INT8,
                None,
                _of(quant_params),
            )
            self._redirect(index, stored, producer)
            inserted[producer.index] = [
                self.model.operator(_KINDS.DEQUANTIZE, 2, [stored], [index])
            ]
        return inserted

    def _make_int8(self, index: int, quant_params: QuantParams) -> None:
        tensor = self.graph.tensors[index]
        tensor.type, tensor.quantization = schema.TensorType.INT8, _of(quant_params)

    def _redirect(self, old: int, new: int, producer: Operator) -> None:
        """Replaces a tensor by another one in all operators of the body."""
        self.operators[producer.index].outputs = np.array([new], np.int32)
        for consumer in self.source.consumers(old):
            if consumer.index in self.body:
                operator = self.operators[consumer.index]
                operator.inputs = np.where(operator.inputs == old, new, operator.inputs).astype(
                    np.int32
                )

    def _quantize_input(self) -> Any:
        """Makes the uint8 input and the QUANTIZE to int8: the same scale, another zero point."""
        (inner,) = self.source.inputs
        quant_params, tensor = self.stored[inner], self.graph.tensors[inner]
        name, tensor.name = tensor.name.decode(), b"image/int8"
        raw = QuantParams(quant_params.scale, quant_params.zero_point - LOWEST)
        outer = self.model.add_tensor(
            name, tensor.shape.tolist(), schema.TensorType.UINT8, None, _of(raw)
        )
        self.graph.inputs = np.array([outer], np.int32)
        for signature in self.model.model.signatureDefs or []:
            for entry in signature.inputs:
                entry.tensorIndex = outer
        return self.model.operator(_KINDS.QUANTIZE, 1, [outer], [inner])

    def _raise_versions(self) -> None:
        codes = [code.builtinCode for code in self.model.model.operatorCodes]
        for code in {codes[self.operators[i].opcodeIndex] for i in self.body}:
            self.model.code(code, _VERSIONS[code])


def _of(quant_params: QuantParams) -> Any:
    return _quantization([quant_params.scale], [quant_params.zero_point], 0)


def _quantization(scales: Iterable[float], zero_points: Iterable[float], axis: int) -> Any:
    result = schema.QuantizationParametersT()
    result.scale = np.array(list(scales), np.float32)
    result.zeroPoint = np.array(list(zero_points), np.int64)
    result.quantizedDimension = axis
    return result
