"""What the estimator's rows cover.

Where a model is outside, and where a number would be a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from heatpose.deploy.features import RESIZES, Features
from heatpose.deploy.targets import Target
from heatpose.tflite.graph import Graph
from heatpose.tflite.stats import weights

NOT_EXPORTED = "not exported yet"
"""Description of a graph that stands for a network: its granularity will be the target's."""
_SLACK = 0.05
"""Share of the fitted range by which a feature may lie outside before it is an extrapolation."""
_FOREIGN = 0.1
"""Share of written elements by unpublished operators from which a network is of another family."""
_FLOAT = (
    "Not estimated: not int8; the file is not quantised, and the published rows are of int8"
    " networks."
)


SPOKEN = {"int8_pc": "per channel", "int8_pt": "per tensor"}


def granularity(graph: Graph) -> str | None:
    """The file's form; None for float files and for networks that are not exported yet."""
    scales = [
        weight.quantization.scales.size
        for _, weight in weights(graph)
        if weight.quantization is not None
    ]
    if not scales or graph.description == NOT_EXPORTED:
        return None
    return "int8_pc" if max(scales) > 1 else "int8_pt"


def unknown(target: Target, profile: Mapping[str, Any]) -> list[str]:
    """Operators of which neither the board's rules nor the profile's rows tell where they run."""
    published = profile.get("operators", ())
    return [name for name in target.rules.unconfirmed if name not in published]


def unpublished(graph: Graph, profile: Mapping[str, Any]) -> tuple[list[str], float]:
    """Operators that no row has, and which share of all elements they write."""
    known = profile.get("operators")
    if known is None:
        return [], 0.0
    written = [
        (operator.name, sum(math.prod(graph.tensors[i].shape) for i in operator.outputs))
        for operator in graph.operators
    ]
    new = [(name, count) for name, count in written if name not in known]
    total = sum(count for _, count in written) or 1
    return sorted({name for name, _ in new}), sum(count for _, count in new) / total


def refused(graph: Graph, profile: Mapping[str, Any], share: float, target: Target) -> list[str]:
    """Why no number is given: not int8, weights of the other granularity, another family."""
    if not any(tensor.quantization is not None for tensor in graph.tensors):
        return [_FLOAT]
    found, wanted = granularity(graph), profile["granularity"]
    if found not in (None, wanted) and target.npu is not None:
        other = target.rules.other_granularity
        return [
            f"Not estimated: the weights are {SPOKEN[str(found)]}, and the published rows of "
            f"this board {SPOKEN[wanted]}" + (f" ({other})." if other else ".")
        ]
    own = target.rules.unconfirmed
    if share > _FOREIGN and not all(name in own for name in unpublished(graph, profile)[0]):
        return [
            f"Not estimated: operators of no published network write {share:.0%} of all elements."
        ]
    return []


def unconfirmed(operator: str) -> str:
    """A sentence about an operator of which nobody has said where it runs."""
    taken = (
        "the value takes it for the processor's, the low end for hardware"
        if operator in RESIZES
        else ("the interval takes it for hardware; on the processor it would take longer than that")
    )
    return f"Whether {operator} runs in hardware is not known: {taken}."


def outside(profile: Mapping[str, Any], features: Features, kind: str) -> list[str]:
    """Which features leave the range of the rows.

    `ms` and `memory` were fitted on different ones.
    """
    ranges: Mapping[str, Sequence[float]] = profile["ranges"].get(kind, {})
    found = []
    for name, (low, high) in ranges.items():
        value = features.of(name)
        if not low * (1 - _SLACK) <= value <= high * (1 + _SLACK):
            found.append(
                f"{_WORDS[name]} ({value:,.0f}) outside the published networks' {low:,.0f} to"
                f" {high:,.0f} ({_KINDS[kind]})."
            )
    return found


_KINDS = {"ms": "time", "memory": "RAM and flash"}
_WORDS = {
    "weights": "Bytes of weights",
    "traffic": "Bytes of activation traffic",
    "macs": "Multiply-accumulates",
    "resized": "Resized elements",
    "softmax": "Elements of softmaxes",
    "largest": "Bytes of the largest activation",
    "peak": "Bytes of activations alive at once",
    "macs_power_of_two": "Multiply-accumulates",
    "macs_other": "Multiply-accumulates",
}
