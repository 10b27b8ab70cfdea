"""What a TFLite graph takes and what its output means, read off the operators at both ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.export.graph import Graph, Tensor
from heatpose.preprocessing import Preprocessing
from heatpose.runners.images import normalised
from heatpose.runners.outputs import RANGE_SLACK
from heatpose.runners.problems import no_pose_model

ARITHMETIC = {"ADD", "SUB", "MUL", "DIV"}
SAME_VALUES = {"CAST", "QUANTIZE", "DEQUANTIZE", "RESHAPE", "TRANSPOSE", "PAD", "PADV2"}
"""Operators that change format or place but not the values."""
SAME_RANGE = SAME_VALUES | {"RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"}
INPUT_DTYPES = ("uint8", "int8", "int32", "int64", "float32")


@dataclass(frozen=True)
class InputForm:
    """The one input.

    Attributes:
        index: Its tensor.
        size: Side S.
        dtype: One of `INPUT_DTYPES`.
        raw: Float values are raw bytes 0..255, which the graph itself normalises.
    """

    index: int
    size: int
    dtype: str
    raw: bool

    def fill(self, image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[Any]:
        """u8[S, S, 3] raw bytes -> (1, S, S, 3) in the input's dtype.

        Integer inputs take the bytes as they are, int8 less 128: their quantisation holds the normalisation.
        """
        batch = image[None]
        if self.dtype == "int8":
            return (batch.astype(np.int16) - 128).astype(np.int8)
        if self.dtype == "float32" and not self.raw:
            return normalised(batch, preprocessing)
        return batch.astype(self.dtype)


def input_form(path: Path, graph: Graph) -> InputForm:
    """Reads the graph's input.

    Raises:
        HeatposeError: It is not one square RGB image of a side that is a multiple of 32.
    """
    tensors = [graph.tensors[i] for i in graph.inputs]
    if len(tensors) != 1 or not _is_image(tensors[0]):
        listed = ", ".join(f"{tensor.dtype} {tensor.shape}" for tensor in tensors) or "nothing"
        wanted = f"one RGB image (1, S, S, 3) with S a multiple of 32, as one of {', '.join(INPUT_DTYPES)}"
        raise no_pose_model(path, f"its input is {listed}, not {wanted}")
    tensor = tensors[0]
    return InputForm(tensor.index, tensor.shape[1], tensor.dtype, normalises_inside(graph))


def _is_image(tensor: Tensor) -> bool:
    if len(tensor.shape) != 4 or tensor.dtype not in INPUT_DTYPES:
        return False
    batch, rows, columns, channels = tensor.shape
    return batch == 1 and channels == 3 and rows == columns and rows > 0 and rows % 32 == 0


def normalises_inside(graph: Graph) -> bool:
    """The first operator that computes on the graph's first input is arithmetic rather than a convolution."""
    tensor = graph.inputs[0]
    while True:
        readers = graph.consumers(tensor)
        if any(reader.name in ARITHMETIC for reader in readers):
            return True
        carriers = [reader for reader in readers if reader.name in SAME_VALUES]
        if not carriers:
            return False
        tensor = carriers[0].outputs[0]


def gives_probabilities(graph: Graph, output: int) -> bool | None:
    """Whether the values of an output tensor are probabilities.

    Returns:
        True where they come out of a sigmoid or softmax, or where their quantisation reaches no further than
        [0, 1]; None where only the values can tell.
    """
    tensors, operator = _way_back(graph, output)
    in_range = operator in ("LOGISTIC", "SOFTMAX") or any(_unit_range(tensor) for tensor in tensors)
    return True if in_range else None


def gives_classes(graph: Graph, output: int) -> bool:
    """An output tensor comes out of a softmax: as (1, N) that is a choice of class, not a pose."""
    return _way_back(graph, output)[1] == "SOFTMAX"


def _way_back(graph: Graph, output: int) -> tuple[list[Tensor], str]:
    """The tensors that hold an output's values in other formats, and the name of what computed them."""
    tensors = [graph.tensors[output]]
    producer = graph.producer(output)
    while producer is not None and producer.name in SAME_RANGE and producer.inputs:
        tensors.append(graph.tensors[producer.inputs[0]])
        producer = graph.producer(producer.inputs[0])
    return tensors, "" if producer is None else producer.name


def _unit_range(tensor: Tensor) -> bool:
    """Everything that the tensor's quantisation can say lies in [0, 1]."""
    if tensor.quantization is None or tensor.dtype not in ("uint8", "int8", "int16"):
        return False
    limits = np.iinfo(tensor.dtype)
    ends = np.array([limits.min, limits.max])[:, None] - tensor.quantization.zero_points
    real = ends * tensor.quantization.scales
    return bool(real.min() >= -RANGE_SLACK and real.max() <= 1 + RANGE_SLACK)
