"""TRANSPOSE_CONV as TFLite has it: dense, with the output's shape and the weights before the image, and with SAME padding.

onnx2tf turns a padded ONNX ConvTranspose into one with VALID padding, which writes a larger map, and a STRIDED_SLICE that cuts the border off (and one
with groups into as many of both as there are groups). SAME padding writes the same map at once: a kernel of 4 and a stride of 2 cut one cell off each
side (TensorFlow Lite, `ComputePaddingHeightWidth`, applied to the output).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from heatpose.export.schema import Model

SHAPE, WEIGHTS, IMAGE = 0, 1, 2
"""Positions of the operator's inputs; a bias may follow."""
_KINDS = schema.BuiltinOperator


def without_crops(content: bytes) -> bytes:
    """Turns every TRANSPOSE_CONV of stride 2 with VALID padding, and the STRIDED_SLICE that cuts one cell off each side, into one with SAME padding.

    Args:
        content: A TFLite file; one without such operators is given back as it is.
    """
    model = Model(content)
    codes = [code.builtinCode for code in model.model.operatorCodes]
    kinds = [codes[operator.opcodeIndex] for operator in model.graph.operators]
    if _KINDS.TRANSPOSE_CONV not in kinds:
        return content
    kept: list[Any] = []
    for operator, kind in zip(model.graph.operators, kinds, strict=True):
        writer = next((o for o in kept if o.outputs[0] == operator.inputs[0]), None) if kind == _KINDS.STRIDED_SLICE else None
        if writer is not None and codes[writer.opcodeIndex] == _KINDS.TRANSPOSE_CONV and _crops(model, operator, writer):
            _pad_same(model, writer, operator.outputs)
        else:
            kept.append(operator)
    model.graph.operators = kept
    return model.pack()


def _crops(model: Model, crop: Any, convolution: Any) -> bool:
    """Whether SAME padding would cut off what the slice does, one cell on each side, and nothing else reads the larger map."""
    begin = model.model.buffers[model.graph.tensors[crop.inputs[1]].buffer].data
    starts = np.frombuffer(np.asarray(begin, np.uint8).tobytes(), np.int32).tolist()
    kernel, large, small = (model.graph.tensors[i].shape.tolist() for i in (convolution.inputs[WEIGHTS], crop.inputs[0], crop.outputs[0]))
    readers = sum(int(convolution.outputs[0]) in operator.inputs for operator in model.graph.operators)
    options = convolution.builtinOptions
    return (
        starts == [0, 1, 1, 0] and kernel[1:3] == [4, 4] and (options.strideH, options.strideW) == (2, 2) and readers == 1
        and small == [large[0], large[1] - 2, large[2] - 2, large[3]]
    )  # fmt: skip


def _pad_same(model: Model, convolution: Any, outputs: NDArray[np.int32]) -> None:
    shape = model.graph.tensors[outputs[0]].shape
    constant = model.add_tensor(f"shape_of_{outputs[0]}", [4], schema.TensorType.INT32, np.asarray(shape, np.int32))
    convolution.inputs = np.array([constant, *convolution.inputs[1:]], np.int32)
    convolution.outputs = outputs
    convolution.builtinOptions.padding = schema.Padding.SAME


def dense_kernel(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """A depthwise transposed kernel i8[C, 1, h, w] as the operator takes it: i8[C, h, w, C], zero off the diagonal."""
    channels, _, rows, columns = weight.shape
    dense = np.zeros((channels, rows, columns, channels), np.int8)
    each = np.arange(channels)
    dense[each, :, :, each] = weight[:, 0]
    return dense
