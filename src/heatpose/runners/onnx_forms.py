"""What an ONNX graph takes and gives, where its shapes and types alone do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing, check_resolution
from heatpose.runners.normalisation import BYTES, SIGNED, Arithmetic, InputReading, Normalisation
from heatpose.runners.outputs import check_size, no_pose_model

FLOATS = ("float32", "float16", "float64")
INTEGERS = ("uint8", "int32", "int64")
_MOVES = {"Cast", "Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Pad"}
_ARITHMETIC = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV"}


@dataclass(frozen=True)
class OnnxInput:
    """The one input.

    Attributes:
        name: As in the file.
        dtype: One of `FLOATS` and `INTEGERS`.
        batch: None where any will do.
        size: Side S.
        channels_last: (N, S, S, 3) instead of (N, 3, S, S).
    """

    name: str
    dtype: str
    batch: int | None
    size: int
    channels_last: bool

    def fill(self, images: NDArray[np.uint8], reading: InputReading) -> NDArray[Any]:
        """u8[B, S, S, 3] raw bytes -> what the input takes."""
        values = images if reading.raw else reading.normalisation.apply(images)
        ordered = values if self.channels_last else values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(ordered, self.dtype)


def find_input(
    path: Path, inputs: Sequence[tuple[str, str, Sequence[object]]], wanted: int | None
) -> OnnxInput:
    """Reads the inputs.

    Args:
        path: The file, for messages.
        inputs: Name, dtype and shape of each; what is not a number above 0 in a shape is open.
        wanted: Side to run a file at that leaves it open.

    Raises:
        HeatposeError: It is not one RGB image, its side is open and `wanted` None, or another one.
    """
    name, dtype, shape = inputs[0] if len(inputs) == 1 else ("", "", [])
    sides = [side if isinstance(side, int) and side > 0 else None for side in shape]
    last = len(sides) == 4 and sides[1] != 3 and sides[3] == 3
    fixed = {side for side in (sides[1:3] if last else sides[2:]) if side is not None}
    if (
        len(sides) != 4
        or not (last or sides[1] == 3)
        or len(fixed) > 1
        or dtype not in FLOATS + INTEGERS
    ):
        listed = ", ".join(f"{kind} {list(dims)}" for _, kind, dims in inputs) or "nothing"
        form = f"(1 or N, 3, S, S) or (1 or N, S, S, 3), as one of {', '.join(FLOATS + INTEGERS)}"
        raise no_pose_model(path, f"its input is {listed}, not one RGB image {form}")
    if not fixed and wanted is None:
        raise HeatposeError(
            f"'{path}' leaves the size of its input open; say which side to run it at."
        )
    side = int(next(iter(fixed), wanted or 0))
    check_size(path, side, wanted)
    check_resolution(side)
    return OnnxInput(name, dtype, sides[0], side, last)


def read_input(
    model: Any, form: OnnxInput, stated: Preprocessing | None, given: Normalisation | None = None
) -> InputReading:
    """How bytes go into the input, and how that is known; as `tflite_forms.read_input`.

    Args:
        model: The `ModelProto`.
        form: Its input.
        stated: How the training images were made, where the file or its bundle states it.
        given: By the user.
    """
    if form.dtype in INTEGERS:
        reading = InputReading(BYTES, "computed", f"the {form.dtype} input", raw=True)
        return reading.fixed_against(given)
    if stated is not None:
        return InputReading(Normalisation.of(stated), "stated").fixed_against(given)
    if given is not None:
        return InputReading(given, "given")
    return _first_arithmetic(model, form.name).reading(SIGNED)


def _first_arithmetic(model: Any, tensor: str) -> Arithmetic:
    """What the nodes up to the first that is not arithmetic compute.

    Nothing where the way forks.
    """
    constants = _constants(model)
    found = Arithmetic()
    for _ in range(len(model.graph.node)):
        readers = [node for node in model.graph.node if tensor in node.input]
        if len(readers) != 1 or readers[0].op_type not in _MOVES | _ARITHMETIC.keys():
            return found
        (node,) = readers
        if node.op_type in _ARITHMETIC:
            first = node.input[0] != tensor
            constant = constants.get(node.input[0 if first else 1])
            values = None if constant is None else _array(constant)
            if not found.take(_ARITHMETIC[node.op_type], values, first):
                return Arithmetic()
        tensor = node.output[0]
    return found


def output_scale(model: Any, output: str) -> tuple[float, int] | None:
    """Scale and zero point of the QuantizeLinear that writes an output; None where none does."""
    constants = _constants(model)
    for node in model.graph.node:
        if output in node.output and node.op_type == "QuantizeLinear" and len(node.input) == 3:
            numbers = [_array(constants[name]) for name in node.input[1:] if name in constants]
            if len(numbers) == 2 and all(n is not None and n.size == 1 for n in numbers):
                scale, zero = (float(n.reshape(())) for n in numbers if n is not None)
                return scale, int(zero)
    return None


def _constants(model: Any) -> dict[str, Any]:
    """Name -> `TensorProto` of what is stored in the graph."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        values = [a.t for a in node.attribute if a.name == "value" and a.HasField("t")]
        if node.op_type == "Constant" and values:
            found[node.output[0]] = values[0]
    return found


def _array(tensor: Any) -> NDArray[np.float64] | None:
    """The numbers of a small constant; None for one that is large, in another file, or damaged."""
    from onnx import numpy_helper

    if np.prod(tensor.dims, dtype=np.float64) > 3 or tensor.HasField("data_location"):
        return None
    try:
        return np.asarray(numpy_helper.to_array(tensor), np.float64)
    except (ValueError, TypeError, KeyError):
        return None
