"""Reads a TFLite flatbuffer into a `Graph`.

Needs only the schema package `tflite` and numpy, no interpreter. The file is not trusted: counts,
lengths, indices and the order of operators are checked, and any violation raises `HeatposeError`.
Schema:
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.tflite.graph import ABSENT, Graph, Operator, Quantization, Tensor

__all__ = ["ABSENT", "Graph", "Operator", "Quantization", "Tensor", "read_graph"]

IDENTIFIER = b"TFL3"
# Far above any pose network, and low enough to read any file within seconds.
MAX_ITEMS = 20_000  # tensors, or operators
MAX_ELEMENTS = 4_000_000  # of shapes, indices, scales and names together
MAX_SCALES = 65_536  # of one tensor
MAX_PORTS = 256  # inputs of the graph, or outputs
MAX_RANK = 8

_UNSUPPORTED = {
    "string",
    "resource",
    "variant",
    "int4",
    "bfloat16",
    "complex64",
    "complex128",
}  # as constants
_PADDINGS = {0: "SAME", 1: "VALID"}
_ACTIVATIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH", 5: "SIGN_BIT"}


def read_graph(path: str | Path, complete: bool = True) -> Graph:
    """Reads a file's main subgraph; constants are views of the file's bytes.

    Args:
        path: TFLite file.
        complete: False accepts missing constants.

    Raises:
        HeatposeError: The file is missing, not a TFLite file, truncated or corrupt, or has
            unsupported constants (sparse, 4 bit, text, complex).
    """
    path = Path(path)
    if not path.is_file():
        raise HeatposeError(
            f"'{path}' does not exist or is not a file; give the path of a TFLite model."
        )
    try:
        return _parse(path.read_bytes(), complete)
    except OSError as error:
        raise HeatposeError(f"'{path}' cannot be read ({error.strerror}).") from error
    except _FormatError as error:
        raise HeatposeError(
            f"'{path}' is not a readable TFLite file ({error}); give a complete .tflite file."
        ) from error
    except _UNREADABLE as error:
        raise HeatposeError(
            f"'{path}' is not a readable TFLite file (it is truncated or corrupt); get it again."
        ) from error


# Exceptions of the generated accessors for invalid offsets, indices and numbers.
_UNREADABLE = (
    struct.error,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    OverflowError,
)


class _FormatError(Exception):
    """Violation of the format, as a clause without a full stop."""


def _parse(content: bytes, complete: bool = True) -> Graph:
    """Reads the main subgraph; raises `_FormatError` or one of `_UNREADABLE`."""
    if len(content) < 8 or content[4:8] != IDENTIFIER:
        raise _FormatError(f"the file identifier {IDENTIFIER.decode()} is missing")
    return _Reader(content).graph(complete)


class _Reader:
    """Reads one file; limits the copied elements, so that small hostile files cannot take long."""

    def __init__(self, content: bytes) -> None:
        import tflite  # some 200 modules, loaded only when a file is read
        from flatbuffers.number_types import Int32Flags

        self.schema = tflite
        self.dtypes = {
            number: name.lower()
            for name, number in vars(tflite.TensorType).items()
            if name.isupper()
        }
        self.int32 = Int32Flags
        self.content = content
        self.model = tflite.Model.GetRootAs(content)
        self.elements = MAX_ELEMENTS

    def graph(self, complete: bool) -> Graph:
        """Reads and checks the main subgraph."""
        if self.model.Version() != 3:
            raise _FormatError(f"schema version {self.model.Version()} instead of 3")
        if self.model.SubgraphsLength() < 1:
            raise _FormatError("it has no graph")
        main = self.model.Subgraphs(0)
        count = _limited(main.TensorsLength(), MAX_ITEMS, "tensors")
        tensors = tuple(self.tensor(i, main.Tensors(i)) for i in range(count))
        count = _limited(main.OperatorsLength(), MAX_ITEMS, "operators")
        operators = tuple(self.operator(i, main.Operators(i)) for i in range(count))
        inputs = self.indices(
            _limited(main.InputsLength(), MAX_PORTS, "inputs"), main.InputsAsNumpy
        )
        outputs = self.indices(
            _limited(main.OutputsLength(), MAX_PORTS, "outputs"), main.OutputsAsNumpy
        )
        description = self.text(self.model, self.model.Description, 10)
        graph = Graph(tensors, operators, inputs, outputs, description, self.model.Version())
        variable = {i for i in range(len(tensors)) if main.Tensors(i).IsVariable()}
        missing = set(range(len(tensors))).difference(*(o.outputs for o in operators))
        _check_order(graph, variable if complete else variable | missing)
        return graph

    def tensor(self, index: int, table: Any) -> Tensor:
        """Reads a tensor."""
        rank = _limited(table.ShapeLength(), MAX_RANK, f"dimensions of tensor {index}")
        shape = self.indices(rank, table.ShapeAsNumpy)
        if min(shape, default=0) < 0 or table.Type() not in self.dtypes:
            raise _FormatError(
                f"tensor {index} has shape {list(shape)} and type number {table.Type()}"
            )
        name, dtype = self.text(table, table.Name, 10), self.dtypes[table.Type()]
        quantization = self.quantization(index, shape, table.Quantization())
        data = self.constant(index, shape, dtype, table)
        return Tensor(index, name, shape, dtype, quantization, data)

    def quantization(self, index: int, shape: tuple[int, ...], table: Any) -> Quantization | None:
        """Scales and zero points; None without scales (converters write empty tables)."""
        if table is None or table.ScaleLength() == 0:
            return None
        count = self.spend(_limited(table.ScaleLength(), MAX_SCALES, f"scales of tensor {index}"))
        zero_count = self.spend(table.ZeroPointLength())
        axis = table.QuantizedDimension()
        if count > 1 and not (0 <= axis < len(shape) and shape[axis] == count):
            raise _FormatError(
                f"tensor {index} has {count} scales along dimension {axis} of shape {list(shape)}"
            )
        if zero_count not in (0, 1, count):
            raise _FormatError(f"tensor {index} has {count} scales and {zero_count} zero points")
        stored = table.ZeroPointAsNumpy() if zero_count else np.zeros(1, np.int64)
        return Quantization(
            np.array(table.ScaleAsNumpy()), np.array(np.broadcast_to(stored, count)), axis
        )

    def constant(
        self, index: int, shape: tuple[int, ...], dtype: str, table: Any
    ) -> NDArray[Any] | None:
        """A view of a constant's bytes; None for an activation."""
        content = self.buffer(table.Buffer())
        if not content.size:
            return None
        if dtype in _UNSUPPORTED or table.Sparsity() is not None:
            raise _FormatError(
                f"tensor {index} is a {dtype} or sparse constant, which is not supported"
            )
        expected = math.prod(shape) * np.dtype(dtype).itemsize
        if content.size != expected:
            raise _FormatError(
                f"tensor {index} has {content.size} bytes where {dtype} {list(shape)} takes"
                f" {expected}"
            )
        return content.view(dtype).reshape(shape)

    def buffer(self, index: int) -> NDArray[np.uint8]:
        """Bytes of a buffer, inside the flatbuffer or (large models) at an offset of the file."""
        if index >= self.model.BuffersLength():
            raise _FormatError(f"buffer {index} does not exist")
        table = self.model.Buffers(index)
        if table.Offset() > 1:  # 0 and 1: inside the flatbuffer
            return np.frombuffer(self.content, np.uint8, table.Size(), table.Offset())
        return table.DataAsNumpy() if table.DataLength() else np.zeros(0, np.uint8)

    def operator(self, index: int, table: Any) -> Operator:
        """Reads an operator."""
        if table.OpcodeIndex() >= self.model.OperatorCodesLength():
            raise _FormatError(f"operator {index} has no operator code")
        code = self.model.OperatorCodes(table.OpcodeIndex())
        # The field was one byte wide in older files. The interpreter uses the larger of the old and
        # the new field; the accessor of the new one (vtable slot 10) ignores values below 127.
        number = max(code._tab.GetSlot(10, 0, self.int32), code.DeprecatedBuiltinCode())
        if number == self.schema.BuiltinOperator.CUSTOM:
            name = self.text(code, code.CustomCode, 6) or "CUSTOM"
        else:
            name = self.schema.BUILTIN_OPCODE2NAME.get(number) or f"BUILTIN_{number}"
        inputs = self.indices(table.InputsLength(), table.InputsAsNumpy)
        outputs = self.indices(table.OutputsLength(), table.OutputsAsNumpy)
        return Operator(index, name, inputs, outputs, self.options(index, name, table))

    def options(self, index: int, name: str, table: Any) -> dict[str, Any]:
        """Options of the operator that heatpose uses."""
        if name not in _OPTIONS:
            return {}
        kind, fields = _OPTIONS[name]
        union = table.BuiltinOptions()
        if union is None or table.BuiltinOptionsType() != getattr(self.schema.BuiltinOptions, kind):
            raise _FormatError(f"operator {index} ({name}) has no options")
        options = getattr(self.schema, kind)()
        options.Init(union.Bytes, union.Pos)
        values = {field: _FIELDS[field](options) for field in fields}
        if min(*values.get("stride", (1, 1)), *values.get("dilation", (1, 1))) < 1:
            raise _FormatError(f"operator {index} ({name}) has a stride or dilation below 1")
        return values

    def indices(self, length: int, vector: Callable[[], NDArray[np.int32]]) -> tuple[int, ...]:
        """A vector of int32 as Python integers."""
        return tuple(vector().tolist()) if self.spend(length) else ()

    def text(self, table: Any, read: Callable[[], bytes | None], slot: int) -> str:
        """A string; its length (at its vtable slot) is checked before it is copied."""
        offset = table._tab.Offset(slot)
        if not offset:
            return ""
        self.spend(table._tab.VectorLen(offset))
        return (read() or b"").decode("utf-8", errors="replace")

    def spend(self, length: int) -> int:
        """Subtracts a vector's length from the limit of the file."""
        self.elements -= length
        if self.elements < 0:
            raise _FormatError("its lists are too long")
        return length


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "stride": lambda o: (o.StrideH(), o.StrideW()),
    "padding": lambda o: _PADDINGS[o.Padding()],
    "activation": lambda o: _ACTIVATIONS[o.FusedActivationFunction()],
    "dilation": lambda o: (o.DilationHFactor(), o.DilationWFactor()),
    "depth_multiplier": lambda o: o.DepthMultiplier(),
    "filter": lambda o: (o.FilterHeight(), o.FilterWidth()),
    "half_pixel_centers": lambda o: o.HalfPixelCenters(),
    "align_corners": lambda o: o.AlignCorners(),
}
_CONVOLUTION = ("stride", "padding", "activation", "dilation")
_POOL = ("stride", "padding", "activation", "filter")
_RESIZE = ("half_pixel_centers", "align_corners")
_RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "CONV_2D": ("Conv2DOptions", _CONVOLUTION),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (*_CONVOLUTION, "depth_multiplier")),
    "TRANSPOSE_CONV": ("TransposeConvOptions", ("stride", "padding", "activation")),
    "AVERAGE_POOL_2D": ("Pool2DOptions", _POOL),
    "MAX_POOL_2D": ("Pool2DOptions", _POOL),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("activation",)),
    "ADD": ("AddOptions", ("activation",)),
    "SUB": ("SubOptions", ("activation",)),
    "MUL": ("MulOptions", ("activation",)),
    "DIV": ("DivOptions", ("activation",)),
    "CONCATENATION": ("ConcatenationOptions", ("activation",)),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", _RESIZE),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", _RESIZE),
}


# Required inputs with their ranks (None: any), on which users of a graph rely.
_REQUIRED: dict[str, tuple[int | None, ...]] = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), (4, 4)),
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV"), (None, None)),
    **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", *_RESIZES, "LOGISTIC", "RESHAPE", "CAST"), (None,)),
    "FULLY_CONNECTED": (None, 2),
    "TRANSPOSE_CONV": (1, 4, 4),
}
_IMAGE_OUTPUT = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"}


def _limited(length: int, limit: int, what: str) -> int:
    if length > limit:
        raise _FormatError(f"{length} {what}, more than the {limit} that are supported")
    return length


def _check_order(graph: Graph, variable: set[int]) -> None:
    """Rejects invalid indices, and tensors that are read before written, or written twice."""
    total = len(graph.tensors)
    known = {t.index for t in graph.tensors if t.data is not None or 0 in t.shape}
    known |= variable | set(graph.inputs)
    if not all(0 <= i < total for i in (*graph.inputs, *graph.outputs)):
        raise _FormatError("the graph's inputs or outputs refer to tensors that do not exist")
    for operator in graph.operators:
        where = f"operator {operator.index} ({operator.name})"
        read, written = operator.inputs, operator.outputs
        if not all(ABSENT <= i < total for i in read) or not all(0 <= i < total for i in written):
            raise _FormatError(f"{where} refers to a tensor that does not exist")
        _check_arity(graph, operator, where)
        if not known.issuperset(set(read) - {ABSENT}):
            raise _FormatError(f"{where} reads a tensor that is not written before")
        if not known.isdisjoint(written):
            raise _FormatError(f"{where} writes a tensor that is already written")
        known.update(written)
    if not known.issuperset(graph.outputs):
        raise _FormatError("an output of the graph is never written")


def _check_arity(graph: Graph, operator: Operator, where: str) -> None:
    """Rejects operators without the inputs, outputs and ranks of their kind."""
    required = _REQUIRED.get(operator.name, ())
    given = operator.inputs[: len(required)]
    if len(given) < len(required) or ABSENT in given or (required and not operator.outputs):
        raise _FormatError(f"{where} lacks an input or output")
    ranks = list(zip(given, required, strict=True))
    if operator.name in _IMAGE_OUTPUT:
        ranks.append((operator.outputs[0], 4))
    if any(rank is not None and len(graph.tensors[index].shape) != rank for index, rank in ranks):
        raise _FormatError(f"{where} has tensors with the wrong number of dimensions")
