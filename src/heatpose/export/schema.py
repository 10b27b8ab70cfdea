"""A TFLite model taken apart into plain objects, changed, and put together again.

LiteRT's generated schema does the reading and the writing; this adds what it lacks: constants aligned as the format asks, and a way to drop what
nothing refers to any more.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

ALIGNMENT = 16
"""Bytes; `force_align` of a buffer's data in the schema. Kernels that load vectors rely on it."""


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A constant's bytes, aligned in the file."""

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
    """A model with one graph, open to changes.

    Attributes:
        graph: The schema's `SubGraphT`: tensors, operators, inputs, outputs.
    """

    def __init__(self, content: bytes) -> None:
        self.model = schema.ModelT.InitFromPackedBuf(content)
        self.graph = self.model.subgraphs[0]

    def add_tensor(self, name: str, shape: list[int], dtype: int, data: NDArray[Any] | None = None, quantization: Any = None) -> int:
        """Appends a tensor, a constant where `data` is given. Returns its index."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.hasRank = name.encode(), np.array(shape, np.int32), dtype, True
        tensor.quantization = quantization
        tensor.buffer = len(self.model.buffers)
        buffer = schema.BufferT()
        if data is not None:
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, code: int, version: int, inputs: list[int], outputs: list[int]) -> Any:
        """A new operator without options; the caller places it in `graph.operators`."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self.code(code, version)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        return operator

    def code(self, code: int, version: int) -> int:
        """Index of a builtin operator's code, which is added or, where it is there already, raised to the version."""
        for i, known in enumerate(self.model.operatorCodes):
            if known.builtinCode == code:
                known.version = max(known.version, version)
                return i
        added = schema.OperatorCodeT()
        added.builtinCode, added.deprecatedBuiltinCode, added.version = code, min(code, 127), version
        self.model.operatorCodes.append(added)
        return len(self.model.operatorCodes) - 1

    def pack(self) -> bytes:
        """The file's bytes, without tensors and constants that nothing refers to."""
        self._drop_tensors()
        self._drop_buffers()
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _drop_tensors(self) -> None:
        graph = self.graph
        used = {int(i) for o in graph.operators for i in (*o.inputs, *o.outputs) if i >= 0} | {int(i) for i in (*graph.inputs, *graph.outputs)}
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
        kept = [0, *sorted({owner.buffer for owner in owners} - {0})]  # the first is empty by convention
        index = {old: new for new, old in enumerate(kept)}
        for owner in owners:
            owner.buffer = index[owner.buffer]
        self.model.buffers = [_aligned(self.model.buffers[i]) for i in kept]


def _aligned(buffer: Any) -> _AlignedBuffer:
    aligned = _AlignedBuffer()
    aligned.data = buffer.data
    return aligned
