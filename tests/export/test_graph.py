"""Real values of constants, and walking from operator to operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.tflite.graph import ABSENT
from heatpose.tflite.reader import read_graph


def _kernels(path: Path) -> dict[tuple[str, tuple[int, ...]], NDArray[np.float32]]:
    """Real convolution kernels by operator and shape.

    Which the small pose-like graph has each once.
    """
    graph = read_graph(path)
    kernels: dict[tuple[str, tuple[int, ...]], NDArray[np.float32]] = {}
    for operator in graph.operators:
        if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            real = graph.resolve_constant(operator.inputs[1])
            assert real is not None
            assert real.dtype == np.float32
            kernels.setdefault((operator.name, real.shape), real)
    return kernels


@pytest.mark.parametrize(
    ("artefact", "steps"), [("float16", 2**11), ("int8_pc", 2 * 127), ("int8_pt", 2 * 127)]
)
def test_dequantised_weights_are_the_float_ones_to_half_a_step(
    small_models: dict[str, Path], artefact: str, steps: int
) -> None:
    exact, stored = _kernels(small_models["float32"]), _kernels(small_models[artefact])
    assert exact.keys() == stored.keys()
    for (name, shape), kernel in exact.items():
        axis = (0, 1, 2) if name == "DEPTHWISE_CONV_2D" else (1, 2, 3)
        largest = np.abs(kernel).max(axis if artefact == "int8_pc" else None, keepdims=True)
        error = np.abs(stored[name, shape] - kernel) / largest
        assert 0 < error.max() <= 1.01 / steps


def test_dequantised_is_scale_times_difference_channel_by_channel(
    small_models: dict[str, Path],
) -> None:
    graph = read_graph(small_models["int8_pc"])
    tensors = [
        t
        for t in graph.tensors
        if t.data is not None and t.quantization and t.quantization.scales.size > 1
    ]
    assert {t.quantization.axis for t in tensors if t.quantization} == {0, 3}
    for tensor in tensors:
        assert tensor.data is not None
        assert tensor.quantization is not None
        axis, quantization = tensor.quantization.axis, tensor.quantization
        for channel, real in enumerate(np.moveaxis(tensor.dequantized(), axis, 0)):
            stored = np.moveaxis(tensor.data, axis, 0)[channel].astype(np.float64)
            wanted = (stored - quantization.zero_points[channel]) * quantization.scales[channel]
            np.testing.assert_allclose(real, wanted, rtol=1e-7)


def test_activations_have_no_values(small_models: dict[str, Path]) -> None:
    graph = read_graph(small_models["int8_pc"])
    assert graph.resolve_constant(graph.inputs[0]) is None
    assert graph.resolve_constant(ABSENT) is None
    with pytest.raises(HeatposeError, match="not a constant"):
        graph.tensors[graph.inputs[0]].dequantized()


def test_walking(small_models: dict[str, Path]) -> None:
    graph = read_graph(small_models["float32"])
    (add,) = (o for o in graph.operators if o.name == "ADD")
    assert {producer.name for i in add.inputs if (producer := graph.producer(i))} == {
        "CONV_2D",
        "RESIZE_BILINEAR",
    }
    assert [o.index for o in graph.consumers(add.outputs[0])] == [add.index + 1]
    stem = graph.consumers(graph.inputs[0])[0]
    assert {o.name for o in graph.consumers(stem.outputs[0])} == {"CONV_2D", "DEPTHWISE_CONV_2D"}
    assert graph.producer(graph.inputs[0]) is None
    assert graph.consumers(graph.outputs[0]) == []
