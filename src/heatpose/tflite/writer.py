"""Edits TFLite models: unpacks a flatbuffer into objects, changes them and packs it again.

Uses LiteRT's generated schema; adds the alignment of constants that the format requires, and the
removal of unused tensors and buffers.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

ALIGNMENT = 16
"""Alignment in bytes, `force_align` of a buffer's data in the schema; SIMD kernels rely on it."""


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A constant's bytes, packed with alignment."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # the generated name
        vector = 0
        if self.data is not None and len(self.data):
            content = np.asarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(content), ALIGNMENT)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector:
            schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


class Model:
    """An editable model with one graph.

    Attributes:
        graph: The schema's `SubGraphT`: tensors, operators, inputs, outputs.
    """

    def __init__(self, content: bytes) -> None:
        self.model = schema.ModelT.InitFromPackedBuf(content)
        self.graph = self.model.subgraphs[0]

    def add_tensor(
        self,
        name: str,
        shape: list[int],
        dtype: int,
        data: NDArray[Any] | None = None,
        quantization: Any = None,
    ) -> int:
        """Appends a tensor and returns its index.

        Args:
            name: Of the tensor.
            shape: Its dimensions.
            dtype: One of the schema's `TensorType`.
            data: Values of a constant in that type; None for an activation.
            quantization: The schema's `QuantizationParametersT`; None for real values.
        """
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.hasRank = (
            name.encode(),
            np.array(shape, np.int32),
            dtype,
            True,
        )
        tensor.quantization = quantization
        tensor.buffer = len(self.model.buffers)
        buffer = schema.BufferT()
        if data is not None:
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, code: int, version: int, inputs: list[int], outputs: list[int]) -> Any:
        """Creates an operator without options; the caller inserts it in `graph.operators`."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self.code(code, version)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        return operator

    def code(self, code: int, version: int) -> int:
        """Index of a builtin operator's code, added if missing, with at least this version."""
        for i, known in enumerate(self.model.operatorCodes):
            if known.builtinCode == code:
                known.version = max(known.version, version)
                return i
        added = schema.OperatorCodeT()
        added.builtinCode, added.deprecatedBuiltinCode, added.version = (
            code,
            min(code, 127),
            version,
        )
        self.model.operatorCodes.append(added)
        return len(self.model.operatorCodes) - 1

    def pack(self) -> bytes:
        """Packs the model, without unused tensors and buffers."""
        self._drop_tensors()
        self._drop_buffers()
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _drop_tensors(self) -> None:
        graph = self.graph
        used = {int(i) for o in graph.operators for i in (*o.inputs, *o.outputs) if i >= 0} | {
            int(i) for i in (*graph.inputs, *graph.outputs)
        }
        kept = sorted(used)
        index = {old: new for new, old in enumerate(kept)}
        index[-1] = -1
        graph.tensors = [graph.tensors[i] for i in kept]
        for item in (*graph.operators, graph):
            item.inputs = np.array([index[int(i)] for i in item.inputs], np.int32)
            item.outputs = np.array([index[int(i)] for i in item.outputs], np.int32)
        for signature in self.model.signatureDefs or []:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = index[entry.tensorIndex]

    def _drop_buffers(self) -> None:
        owners = [*self.graph.tensors, *(self.model.metadata or [])]
        # the first is empty by convention
        kept = [0, *sorted({owner.buffer for owner in owners} - {0})]
        index = {old: new for new, old in enumerate(kept)}
        for owner in owners:
            owner.buffer = index[owner.buffer]
        self.model.buffers = [_aligned(self.model.buffers[i]) for i in kept]


def _aligned(buffer: Any) -> _AlignedBuffer:
    aligned = _AlignedBuffer()
    aligned.data = buffer.data
    return aligned


SHAPE, WEIGHTS, IMAGE = 0, 1, 2
"""Positions of the operator's inputs; a bias may follow."""
_KINDS = schema.BuiltinOperator


def without_crops(content: bytes) -> bytes:
    """Fuses TRANSPOSE_CONV (stride 2, VALID) and a STRIDED_SLICE that crops one cell per side.

    Each pair becomes a TRANSPOSE_CONV with SAME padding.

    Args:
        content: A TFLite file, returned unchanged if it has no such operators.
    """
    model = Model(content)
    codes = [code.builtinCode for code in model.model.operatorCodes]
    kinds = [codes[operator.opcodeIndex] for operator in model.graph.operators]
    if _KINDS.TRANSPOSE_CONV not in kinds:
        return content
    kept: list[Any] = []
    for operator, kind in zip(model.graph.operators, kinds, strict=True):
        writer = (
            next((o for o in kept if o.outputs[0] == operator.inputs[0]), None)
            if kind == _KINDS.STRIDED_SLICE
            else None
        )
        if (
            writer is not None
            and codes[writer.opcodeIndex] == _KINDS.TRANSPOSE_CONV
            and _crops(model, operator, writer)
        ):
            _pad_same(model, writer, operator.outputs)
        else:
            kept.append(operator)
    model.graph.operators = kept
    return model.pack()


def _crops(model: Model, crop: Any, convolution: Any) -> bool:
    """Whether the slice crops what SAME padding would, and is the only reader of its input."""
    begin = model.model.buffers[model.graph.tensors[crop.inputs[1]].buffer].data
    starts = np.frombuffer(np.asarray(begin, np.uint8).tobytes(), np.int32).tolist()
    kernel, large, small = (
        model.graph.tensors[i].shape.tolist()
        for i in (convolution.inputs[WEIGHTS], crop.inputs[0], crop.outputs[0])
    )
    readers = sum(
        int(convolution.outputs[0]) in operator.inputs for operator in model.graph.operators
    )
    options = convolution.builtinOptions
    return (
        starts == [0, 1, 1, 0]
        and kernel[1:3] == [4, 4]
        and (options.strideH, options.strideW) == (2, 2)
        and readers == 1
        and small == [large[0], large[1] - 2, large[2] - 2, large[3]]
    )


def _pad_same(model: Model, convolution: Any, outputs: NDArray[np.int32]) -> None:
    shape = model.graph.tensors[outputs[0]].shape
    constant = model.add_tensor(
        f"shape_of_{outputs[0]}", [4], schema.TensorType.INT32, np.asarray(shape, np.int32)
    )
    convolution.inputs = np.array([constant, *convolution.inputs[1:]], np.int32)
    convolution.outputs = outputs
    convolution.builtinOptions.padding = schema.Padding.SAME


def dense_kernel(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """Converts a depthwise transposed kernel i8[C, 1, h, w] to dense i8[C, h, w, C]."""
    channels, _, rows, columns = weight.shape
    dense = np.zeros((channels, rows, columns, channels), np.int8)
    each = np.arange(channels)
    dense[each, :, :, each] = weight[:, 0]
    return dense
