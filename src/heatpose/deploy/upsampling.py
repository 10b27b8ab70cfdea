"""The bilinear graph that a graph with another way of upsampling stands for.

So that what the other way saves can be estimated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from heatpose.tflite.graph import Graph, Operator

_IMAGE = {"TRANSPOSE_CONV": 2, "RESIZE_NEAREST_NEIGHBOR": 0}
"""Operator -> the position of the smaller map among its inputs."""


def as_bilinear(graph: Graph) -> Graph | None:
    """The same graph with a RESIZE_BILINEAR in place of each TRANSPOSE_CONV.

    And of each nearest resize with the depthwise convolution behind it.

    Only where a map's sides are doubled and its channels kept (`models.upsample`); None where there
    is no such place.
    """
    replaced: dict[int, Operator] = {}
    left_out: set[int] = set()
    for first, last in _places(graph):
        replaced[first.index] = Operator(
            first.index, "RESIZE_BILINEAR", (first.inputs[_IMAGE[first.name]],), last.outputs, {}
        )
        left_out |= {last.index} - {first.index}
    if not replaced:
        return None
    kept = (
        replaced.get(operator.index, operator)
        for operator in graph.operators
        if operator.index not in left_out
    )
    return replace(
        graph, operators=tuple(replace(operator, index=i) for i, operator in enumerate(kept))
    )


def _places(graph: Graph) -> Iterator[tuple[Operator, Operator]]:
    """First and last operator of every upsampling."""
    for operator in graph.operators:
        if operator.name not in _IMAGE:
            continue
        image, result = (
            graph.tensors[i].shape
            for i in (operator.inputs[_IMAGE[operator.name]], operator.outputs[0])
        )
        if len(image) != 4 or result != (image[0], 2 * image[1], 2 * image[2], image[3]):
            continue
        if operator.name == "TRANSPOSE_CONV":
            yield operator, operator
        else:
            readers = graph.consumers(operator.outputs[0])
            if [reader.name for reader in readers] == ["DEPTHWISE_CONV_2D"]:
                yield operator, readers[0]
