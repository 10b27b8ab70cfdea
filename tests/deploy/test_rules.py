"""A file held against the targets' rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heatpose.deploy.rules import check_target
from heatpose.deploy.targets import Budget, Rules, Target, load_target
from heatpose.tflite.graph import Graph, Operator, Tensor
from heatpose.tflite.reader import read_graph

N6, MP2, MP1 = (load_target(name) for name in ("stm32n6", "stm32mp2", "stm32mp1"))


def _rules(graph: Graph, target: Target) -> list[tuple[str, str]]:
    return [(finding.severity, finding.rule) for finding in check_target(graph, target)]


def test_the_right_files_have_no_error(tflite_files: dict[str, Path]) -> None:
    found = check_target(read_graph(tflite_files["int8_out"]), N6)
    assert [(f.severity, f.rule, str(f.operator).split()[0]) for f in found] == [
        ("warning", "target_software_operator", "RESIZE_BILINEAR")
    ]
    assert "3,072 elements" in found[0].message
    assert (
        _rules(read_graph(tflite_files["int8_pt"]), MP2)
        == _rules(read_graph(tflite_files["int8_pc"]), MP1)
        == []
    )


def test_a_float_output_on_the_n6(tflite_files: dict[str, Path]) -> None:
    own = replace(N6, output_dtype=None)
    found = _rules(read_graph(tflite_files["int8_pc"]), own)
    # resize and dequantise
    assert ("info", "target_float_output") in found and found.count(
        ("warning", "target_software_operator")
    ) == 2
    turned = _rules(read_graph(tflite_files["int8_pc"]), N6)  # the tool leaves the DEQUANTIZE out
    assert ("info", "target_float_output") not in turned and turned.count(
        ("warning", "target_software_operator")
    ) == 1


def test_stored_weights_of_a_float16_file_are_not_operators() -> None:
    graph = _graph((1, 8, 8, 4), "DEQUANTIZE")
    stored = replace(graph.tensors[0], data=np.zeros((1, 8, 8, 4), np.float16), dtype="float16")
    unpacked = replace(graph, tensors=(stored, graph.tensors[1]), outputs=())
    assert ("warning", "target_software_operator") in _rules(graph, replace(N6, output_dtype=None))
    assert ("warning", "target_software_operator") not in _rules(
        unpacked, replace(N6, output_dtype=None)
    )


@pytest.mark.parametrize(
    ("artefact", "target", "words"),
    [("int8_pc", MP2, "GPU"), ("int8_pt", N6, "lose accuracy"), ("int8_pt", MP1, "third slower")],
)
def test_the_other_granularity(
    tflite_files: dict[str, Path], artefact: str, target: Target, words: str
) -> None:
    found = check_target(read_graph(tflite_files[artefact]), target)
    assert (
        found[0].rule == "target_granularity"
        and found[0].severity == "warning"
        and words in found[0].message
    )


def test_a_float_file(tflite_files: dict[str, Path]) -> None:
    found = _rules(read_graph(tflite_files["float32"]), N6)
    assert ("error", "target_granularity") in found and ("warning", "target_input_dtype") in found


def test_budgets(tflite_files: dict[str, Path]) -> None:
    small = replace(N6, budget=Budget(ram_kib=4, flash_kib=0.5))
    assert {("error", "target_ram"), ("error", "target_flash")} <= set(
        _rules(read_graph(tflite_files["int8_out"]), small)
    )


def _graph(
    shape: tuple[int, ...],
    name: str,
    weight: tuple[int, ...] | None = None,
    dtype: str = "int8",
    **options: object,
) -> Graph:
    """One operator from and to a tensor of one shape."""
    tensors = [
        Tensor(0, "in", shape, dtype, None, None),
        Tensor(1, "out", shape, dtype, None, None),
    ]
    inputs = (0,)
    if weight is not None:
        tensors.append(Tensor(2, "weight", weight, "int8", None, np.zeros(weight, np.int8)))
        inputs = (0, 2)  # type: ignore[assignment]
    return Graph(tuple(tensors), (Operator(0, name, inputs, (1,), options),), (0,), (1,), "", 3)


@pytest.mark.parametrize(
    ("kernel", "stride", "decomposed"),
    [
        ((3, 6), (1, 1), False),
        ((3, 7), (1, 1), True),
        ((3, 12), (2, 2), False),
        ((5, 3), (2, 2), True),
        ((1, 1), (1, 1), False),
    ],
)
def test_kernel_sizes(kernel: tuple[int, int], stride: tuple[int, int], decomposed: bool) -> None:
    graph = _graph((1, 32, 32, 8), "CONV_2D", (8, *kernel, 8), stride=stride)
    assert (("info", "target_kernel_size") in _rules(graph, N6)) == decomposed
    assert ("info", "target_kernel_size") not in _rules(graph, MP2)


def test_shapes_and_pools() -> None:
    assert ("error", "target_rank") in _rules(_graph((1, 2, 2, 2, 2, 2), "ADD"), N6)
    assert ("error", "target_rank") not in _rules(_graph((1, 2, 2, 2, 2, 2), "ADD"), MP2)
    assert ("error", "target_dimension") in _rules(_graph((1, 70000), "ADD"), MP2)
    assert ("error", "target_dynamic_shape") in _rules(_graph((1, -1, 32, 3), "ADD"), N6)
    assert ("error", "target_batch") in _rules(_graph((4, 32, 32, 3), "ADD"), N6)
    assert ("info", "target_pool_window") in _rules(
        _graph((1, 32, 32, 8), "AVERAGE_POOL_2D", filter=(7, 7)), N6
    )
    assert ("info", "target_pool_window") not in _rules(
        _graph((1, 32, 32, 8), "AVERAGE_POOL_2D", filter=(3, 3)), N6
    )
    assert ("info", "target_alignment") in _rules(_graph((1, 5, 5, 3), "ADD"), N6)


def test_hybrid_and_unsupported_operators() -> None:
    assert ("error", "target_hybrid_operator") in _rules(
        _graph((1, 8, 8, 4), "CONV_2D", (4, 1, 1, 4), "float32"), N6
    )
    target = replace(N6, rules=Rules(unsupported={"ADD": "is not built for it"}))
    assert ("error", "target_unsupported_operator") in _rules(_graph((1, 8, 8, 4), "ADD"), target)
