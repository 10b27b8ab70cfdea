"""From the input of a TFLite file to its first convolution: the preprocessing that a file carries.

Converters write `bytes / 127.5 - 1` in many ways: casts, a list of images taken apart and put together
again, a scale for each channel, quantised arithmetic. The order is not looked at. The operators are
computed on images of bytes instead, and the result must be what MoveNet's first layer expects.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.export.graph import Graph, Operator
from heatpose.models.tflite_heads import consumers

TOLERANCE = 0.02
"""Largest difference from `bytes / 127.5 - 1` (range [-1, 1]): quantised preprocessing is 1/127 apart."""
MAX_OPERATORS = 24
"""Far above any preprocessing; a longer chain is another graph."""

_ARITHMETIC: dict[str, np.ufunc] = {
    "SUB": np.subtract, "ADD": np.add, "MUL": np.multiply, "DIV": np.divide,
}  # fmt: skip
_RESHAPING = {"RESHAPE", "EXPAND_DIMS", "SQUEEZE", "UNPACK", "PACK"}
"""Operators that leave the order of the elements of one image as it is."""
_FORMATS = {"CAST", "QUANTIZE", "DEQUANTIZE"}


class LayerMismatch(HeatposeError):
    """A graph that is not the network's.

    Attributes:
        layer: The first layer that does not fit.
        why: What is wrong there.
        depth: Number of convolutions that fit.
    """

    def __init__(self, file: str, layer: str, why: str, depth: int = 0) -> None:
        super().__init__(f"{file} is not a MoveNet that can be imported: at {layer}, {why}.")
        self.layer, self.why, self.depth = layer, why, depth


def first_convolution(graph: Graph, file: str) -> tuple[Operator, list[Operator]]:
    """The stem, and the operators between the input and it, in order.

    Raises:
        LayerMismatch: Not one input, a branch, an operator that is not part of a preprocessing, or no
            convolution at the end.
    """
    if len(graph.inputs) != 1:
        raise LayerMismatch(
            file, "input", f"one image is expected, but the file has {len(graph.inputs)} inputs"
        )
    before: list[Operator] = []
    tensor, allowed = graph.inputs[0], _ARITHMETIC.keys() | _RESHAPING | _FORMATS
    for _ in range(MAX_OPERATORS):
        operators = list(consumers(graph, tensor, set()))
        if len(operators) != 1:
            raise LayerMismatch(
                file, "input", f"{len(operators)} operators read the image where one is expected"
            )
        operator = operators[0]
        if operator.name == "CONV_2D":
            return operator, before
        if operator.name not in allowed or len(operator.outputs) != 1:
            raise LayerMismatch(
                file,
                "input",
                f"no convolution follows: the operator {operator.name} is not part of a preprocessing",
            )
        before.append(operator)
        tensor = operator.outputs[0]
    raise LayerMismatch(file, "input", f"no convolution follows within {MAX_OPERATORS} operators")


def input_scale(graph: Graph, file: str) -> NDArray[np.float64]:
    """Computes what the operators before the stem make of an image of bytes.

    Real values are computed in float64: quantised tensors by their scale, without the rounding of their grid.
    A converter may move a factor into the first convolution's weights. Zero padding commutes with a factor,
    so `factor * (bytes / 127.5 - 1)` is accepted, and the factor belongs to the imported weights.

    Returns:
        f64[C] the factor of each channel; 1 where the file makes [-1, 1] of bytes, or takes [-1, 1] itself.

    Raises:
        LayerMismatch: Something else than a multiple of `bytes / 127.5 - 1`, at the same place, reaches the
            stem.
    """
    stem, operators = first_convolution(graph, file)
    start, shape = graph.tensors[graph.inputs[0]], graph.tensors[stem.inputs[0]].shape
    if len(shape) != 4 or shape[0] != 1 or np.prod(start.shape, dtype=int) != np.prod(shape, dtype=int):
        why = f"an input {list(start.shape)} reaches the first layer as {list(shape)}"
        raise LayerMismatch(file, "input", why)
    arithmetic = _ARITHMETIC.keys() & {operator.name for operator in operators}
    if start.dtype.startswith("float") and not arithmetic:
        return np.ones(shape[-1])
    bytes_ = np.random.default_rng(0).integers(0, 256, shape).astype(np.float64)
    bytes_[0, 0, 0], bytes_[0, -1, -1] = 0, 255  # the ends of the range, in every channel
    found = bytes_.reshape(start.shape)
    if start.quantization is not None and not (operators and operators[0].name == "CAST"):
        # A cast takes the stored integers, every other operator their real values.
        stored = found - (128 if start.dtype == "int8" else 0)
        found = (stored - start.quantization.zero_points[0]) * np.float64(start.quantization.scales[0])
    for operator in operators:
        found = _computed(graph, operator, found, file)
    return _factor(bytes_ / 127.5 - 1, found.reshape(shape), file)


def _factor(expected: NDArray[np.float64], found: NDArray[np.float64], file: str) -> NDArray[np.float64]:
    """f64[C]: `found` as a multiple of `expected`, both f64[1, H, W, C]; 1 exactly where it is one."""
    if not np.isfinite(found).all():
        raise LayerMismatch(file, "input", "bytes become numbers that are not finite")
    if np.abs(found - expected).max() <= TOLERANCE:
        return np.ones(found.shape[-1])
    factor = (found * expected).sum((0, 1, 2)) / (expected**2).sum((0, 1, 2))
    size = np.abs(factor)
    if not ((size > 0) & (np.abs(found - factor * expected).max((0, 1, 2)) <= TOLERANCE * size)).all():
        low, high = found[0, 0, 0].round(3), found[0, -1, -1].round(3)
        why = f"bytes 0 and 255 become {low} and {high}, and the network expects -1 and 1 at the same place"
        raise LayerMismatch(file, "input", why)
    return np.asarray(factor, np.float64)


def _computed(
    graph: Graph, operator: Operator, values: NDArray[np.float64], file: str
) -> NDArray[np.float64]:
    """One operator on real values."""
    shape = graph.tensors[operator.outputs[0]].shape
    if operator.name in _ARITHMETIC:
        constants = [graph.resolve_constant(tensor) for tensor in operator.inputs]
        if len(constants) != 2 or sum(constant is not None for constant in constants) != 1:
            raise LayerMismatch(file, "input", f"the operator {operator.name} has no constant operand")
        if operator.options.get("activation", "NONE") != "NONE":
            raise LayerMismatch(file, "input", f"the operator {operator.name} has an activation")
        operands = [
            values if constant is None else constant.astype(np.float64) for constant in constants
        ]
        try:
            with np.errstate(all="ignore"):  # the result is checked for NaN and infinity
                values = np.asarray(_ARITHMETIC[operator.name](*operands), np.float64)
        except ValueError as error:
            raise LayerMismatch(
                file, "input", f"the operands of {operator.name} do not fit each other"
            ) from error
    if values.size != np.prod(shape, dtype=int):
        raise LayerMismatch(
            file, "input", f"{operator.name} gives {list(shape)}, but {values.size} values reach it"
        )
    return values.reshape(shape)
