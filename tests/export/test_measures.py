"""Sizes of graphs against hand arithmetic and a brute-force count."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from heatpose.tflite.graph import macs, peak_activation_bytes
from heatpose.tflite.inspect import inspect_tflite
from heatpose.tflite.reader import Graph, read_graph

SHARED = Path(os.environ.get("HEATPOSE_SHARED", Path(__file__).parents[2] / ".." / "shared"))
LIGHTNING = SHARED / "models" / "movenet_singlepose_lightning_int8_4.tflite"


def test_macs_by_hand(small_models: dict[str, Path]) -> None:
    stem, depthwise = 16 * 16 * 8 * 27, 8 * 8 * 8 * 9
    project, lateral, head = 8 * 8 * 12 * 8, 16 * 16 * 12 * 8, 16 * 16 * 5 * 12
    for artefact in ("float32", "float16", "int8_pc", "int8_pt"):
        assert (
            inspect_tflite(small_models[artefact]).macs
            == stem + depthwise + project + lateral + head
        )
    # 35 x 35 padded, valid: 17 x 17; transposed: 3 x 3 x 5 products for each of 17 x 17 x 6 inputs;
    # dense.
    assert (
        inspect_tflite(small_models["awkward"]).macs
        == 17 * 17 * 6 * 27 + 17 * 17 * 6 * 9 * 5 + 5 * 4
    )


def test_weight_bytes_by_hand(small_models: dict[str, Path]) -> None:
    kernels, channels = 27 * 8 + 9 * 8 + 8 * 12 * 2 + 12 * 5, 8 + 8 + 12 + 12 + 5
    resize = 2 * 4  # the size to resize to, int32
    # The two convolutions to 12 channels have no bias: they read the same int32 zeros.
    wanted = kernels + 4 * (channels - 12) + resize
    assert inspect_tflite(small_models["int8_pc"]).weights_bytes == wanted


def _peak_by_brute_force(graph: Graph) -> int:
    """Adds up, at every operator, each activation that exists already and is still needed."""
    peak = 0
    for now in range(len(graph.operators)):
        total = 0
        for tensor in graph.tensors:
            producer = graph.producer(tensor.index)
            if graph.constant(tensor.index) is not None or (
                producer is None and tensor.index not in graph.inputs
            ):
                continue
            first = producer.index if producer else 0
            last = max((o.index for o in graph.consumers(tensor.index)), default=first)
            last = len(graph.operators) if tensor.index in graph.outputs else last
            size = int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize
            total += size if first <= now <= last else 0
        peak = max(peak, total)
    return peak


def test_peak_activations(small_models: dict[str, Path]) -> None:
    for path in small_models.values():
        graph = read_graph(path)
        assert peak_activation_bytes(graph) == _peak_by_brute_force(graph)
    # The addition: two inputs and an output of 16 x 16 x 12, one byte each in int8 and four in
    # float.
    assert inspect_tflite(small_models["int8_pc"]).peak_activation_bytes == 3 * 16 * 16 * 12
    assert inspect_tflite(small_models["float32"]).peak_activation_bytes == 4 * 3 * 16 * 16 * 12


def _lightning_macs() -> int:
    """MobileNetV2 1.0 at 192, FPN and the four heads, from their published tables."""
    total, size, channels = 96 * 96 * 32 * 27, 96, 32
    for expand, width, repeat, stride in [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]:
        for block in range(repeat):
            inner = channels * expand
            total += size * size * channels * inner if expand > 1 else 0
            size //= stride if block == 0 else 1
            total += size * size * inner * (9 + width)
            channels = width
    total += 6 * 6 * 320 * 1280 + 6 * 6 * 1280 * 64
    for side, lateral, after in [(12, 64, 32), (24, 32, 24), (48, 24, 24)]:
        total += side * side * (lateral * lateral + lateral * 9 + lateral * after)
    return total + sum(48 * 48 * (24 * 9 + 24 * 96 + 96 * outputs) for outputs in (1, 17, 34, 34))


@pytest.mark.skipif(not LIGHTNING.is_file(), reason=f"{LIGHTNING} is not here; set HEATPOSE_SHARED")
def test_published_movenet() -> None:
    graph = read_graph(LIGHTNING)
    assert macs(graph) == _lightning_macs()
    # The second block's depthwise convolution: 96 x 96 x 96 in, 48 x 48 x 96 out.
    assert (
        peak_activation_bytes(graph) == _peak_by_brute_force(graph) == 96 * 96 * 96 + 48 * 48 * 96
    )
