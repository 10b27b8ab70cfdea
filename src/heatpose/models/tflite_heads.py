"""Which convolutions of a TFLite graph are which head of a MoveNet.

The heads have the same shapes, so they are told apart by what the graph does with them (`movenet.md`'s decode, in any converter's words): the
centre and the heatmaps go through a sigmoid and are searched for their highest cell; the regression moves the weights of the heatmaps'
search; the offset is read last and moves no search.
"""

from __future__ import annotations

from collections.abc import Iterator

from heatpose.export.graph import Graph, Operator

FORMATS = {"QUANTIZE", "DEQUANTIZE", "CAST"}
"""Operators that change the number format only."""
LAYOUTS = {"RESHAPE", "TRANSPOSE"}
Chain = tuple[Operator, Operator, Operator]
"""Depthwise, hidden and output convolution of a head."""

_ROLES = {(True, 2): "centre", (False, 1): "regression", (True, 1): "heatmap", (False, 0): "offset"}
"""(goes through a sigmoid, number of searches that depend on it) -> head."""


def consumers(graph: Graph, tensor: int, through: set[str] = FORMATS) -> Iterator[Operator]:
    """Operators that use a tensor, looking through those named in `through`."""
    for operator in graph.consumers(tensor):
        if operator.name in through:
            yield from consumers(graph, operator.outputs[0], through)
        else:
            yield operator


def find_heads(graph: Graph, features: int) -> dict[str, Chain]:
    """The heads that start at the pyramid's last tensor.

    Args:
        graph: Of a TFLite file.
        features: Index of the tensor that every head reads.

    Returns:
        By name, as `MoveNet.heads`. A single head is the heatmap's. Without a decode behind them, of several heads only the centre and the
        heatmaps can be told; heads of unknown meaning are left out.
    """
    chains = list(_chains(graph, features))
    if len(chains) == 1:
        return {"heatmap": chains[0]}
    named = [(_role(graph, chain), chain) for chain in chains]
    names = [name for name, _ in named]
    return {name: chain for name, chain in named if name and names.count(name) == 1}


def _chains(graph: Graph, features: int) -> Iterator[Chain]:
    """Depthwise, 1x1 and 1x1 convolution, where no convolution follows. Equal layers of several heads may be one operator."""
    for depthwise in _convolutions(graph, features, "DEPTHWISE_CONV_2D"):
        for hidden in _convolutions(graph, depthwise.outputs[0]):
            for output in _convolutions(graph, hidden.outputs[0]):
                if not list(_convolutions(graph, output.outputs[0])):
                    yield depthwise, hidden, output


def _convolutions(graph: Graph, tensor: int, kind: str = "CONV_2D") -> Iterator[Operator]:
    return (operator for operator in consumers(graph, tensor) if operator.name == kind)


def _role(graph: Graph, chain: Chain) -> str | None:
    output = chain[-1].outputs[0]
    sigmoid = any(operator.name == "LOGISTIC" for operator in consumers(graph, output, FORMATS | LAYOUTS))
    searches = _searches(graph, output)
    if sigmoid and searches == 0:
        return "centre" if graph.tensors[output].shape[-1] == 1 else "heatmap"
    return _ROLES.get((sigmoid, searches)) if searches or any(o.name == "ARG_MAX" for o in graph.operators) else None


def _searches(graph: Graph, tensor: int) -> int:
    """How many ARG_MAX operators depend on a tensor."""
    reached: set[int] = set()
    waiting = [tensor]
    while waiting:
        for operator in graph.consumers(waiting.pop()):
            if operator.index not in reached:
                reached.add(operator.index)
                waiting += operator.outputs
    return sum(graph.operators[index].name == "ARG_MAX" for index in reached)
