"""Every rule on a graph that is broken on purpose, and none on one that is good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatpose.tflite.inspect import inspect_tflite
from heatpose.tflite.lint import Finding, find_all
from heatpose.tflite.reader import Graph, Quantization, read_graph


def _rules(findings: Any) -> set[str]:
    return {finding.rule for finding in findings}


def test_findings_name_the_operators(small_models: dict[str, Path]) -> None:
    found = inspect_tflite(small_models["awkward_int8"]).findings
    named = {(finding.rule, str(finding.operator).split(" #")[0]) for finding in found}
    floats = {("float_operator", name) for name in ("DEQUANTIZE", "SIN", "QUANTIZE")}
    assert named == floats | {("pad_operator", "PAD"), ("transpose_operator", "TRANSPOSE")}
    for artefact in ("int8_pc", "int8_pt", "int8_out"):
        assert inspect_tflite(small_models[artefact]).findings == ()
    assert _rules(inspect_tflite(small_models["float32"]).findings) == {
        "raw_bytes_input",
        "float_operator",
    }


def _with_quantization(
    graph: Graph, index: int, change: Callable[[Quantization], Quantization]
) -> Graph:
    """The graph with one tensor's quantisation changed."""
    tensors = list(graph.tensors)
    quantization = tensors[index].quantization
    assert quantization is not None
    tensors[index] = replace(tensors[index], quantization=change(quantization))
    return replace(graph, tensors=tuple(tensors))


def _scaled(factor: float) -> Callable[[Quantization], Quantization]:
    return lambda q: replace(q, scales=(q.scales * np.float32(factor)).astype(np.float32))


def _shifted(zero_point: int) -> Callable[[Quantization], Quantization]:
    return lambda q: replace(q, zero_points=np.full_like(q.zero_points, zero_point))


def _one_scale(quantization: Quantization) -> Quantization:
    return replace(
        quantization, scales=quantization.scales[:1], zero_points=quantization.zero_points[:1]
    )


def _first(graph: Graph, name: str) -> Any:
    return next(o for o in graph.operators if o.name == name)


@pytest.mark.parametrize(
    ("tensor", "change", "found"),
    [
        ("weight", _shifted(3), {("error", "weight_zero_point")}),
        ("weight", _scaled(0), {("error", "degenerate_range"), ("error", "bias_scale")}),
        ("weight", lambda q: replace(q, axis=3), {("error", "weight_axis")}),
        ("weight", _one_scale, {("warning", "weight_granularity_mixed"), ("error", "bias_scale")}),
        ("bias", _scaled(1.5), {("error", "bias_scale")}),
        ("activation", _scaled(np.nan), {("error", "degenerate_range"), ("error", "bias_scale")}),
        ("activation", _shifted(300), {("error", "degenerate_range")}),
        ("activation", _scaled(-1), {("error", "degenerate_range"), ("error", "bias_scale")}),
        ("input", _scaled(2), {("warning", "raw_bytes_input")}),
        ("input", _shifted(0), {("warning", "raw_bytes_input")}),
        ("input", _shifted(128), set()),
        ("sigmoid", _scaled(0.5), {("warning", "output_saturation")}),
    ],
)
def test_broken_quantisation_is_found(
    small_models: dict[str, Path],
    tensor: str,
    change: Callable[[Quantization], Quantization],
    found: set[Any],
) -> None:
    graph = read_graph(small_models["int8_pc"])
    depthwise = _first(graph, "DEPTHWISE_CONV_2D")
    stem = _first(graph, "CONV_2D")
    index = {
        "weight": stem.inputs[1],
        "bias": stem.inputs[2],
        "activation": depthwise.inputs[0],
        "input": graph.inputs[0],
        "sigmoid": _first(graph, "LOGISTIC").outputs[0],
    }[tensor]
    assert find_all(graph) == []
    assert {
        (f.severity, f.rule) for f in find_all(_with_quantization(graph, index, change))
    } == found


def test_missing_scale_and_custom_operator_are_found(small_models: dict[str, Path]) -> None:
    graph = read_graph(small_models["int8_pc"])
    output = _first(graph, "ADD").outputs[0]
    tensors = [replace(t, quantization=None) if t.index == output else t for t in graph.tensors]
    operators = [
        replace(o, name="FlexErf") if o.name == "RESIZE_BILINEAR" else o for o in graph.operators
    ]
    found = find_all(replace(graph, tensors=tuple(tensors), operators=tuple(operators)))
    assert _rules(found) == {"degenerate_range", "custom_operator"}
    assert any("int8 without a scale" in finding.message for finding in found)
    assert any(str(finding.operator).startswith("FlexErf #") for finding in found)


def test_a_raw_byte_is_explained(small_models: dict[str, Path]) -> None:
    graph = read_graph(small_models["int8_pc"])
    (finding,) = find_all(
        _with_quantization(graph, graph.inputs[0], lambda q: _shifted(100)(_scaled(127.5 / 50)(q)))
    )
    assert isinstance(finding, Finding)
    assert "a raw byte 0 means -2 and 255 means 3.1" in finding.message
