"""Estimates of RAM, flash and time on a board, with intervals, without ST's tools.

An estimate is a sum of features times coefficients fitted on ST's published tables (docs/stm32.md).
`coefficients.json` holds the coefficients, the fitted rows, their leave-one-out errors and the
ranges of the features; `benchmarks/fit_estimator.py` writes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from heatpose.deploy.features import (
    RESIZES,
    Features,
    allocate,
    as_bilinear,
    as_compiled,
    features_of,
)
from heatpose.deploy.targets import Target
from heatpose.errors import HeatposeError
from heatpose.tflite.graph import Graph, weights

if TYPE_CHECKING:
    from torch import nn


NOT_EXPORTED = "not exported yet"
"""Description of the graph of a network before export, whose granularity will be the target's."""
_SLACK = 0.05
"""Relative distance from the fitted range above which a feature is an extrapolation."""
_FOREIGN = 0.1
"""Share of elements written by unpublished operators above which no estimate is given."""
_FLOAT = (
    "Not estimated: not int8; the file is not quantised, and the published rows are of int8"
    " networks."
)


GRANULARITY_NAMES = {"int8_pc": "per channel", "int8_pt": "per tensor"}


def granularity(graph: Graph) -> str | None:
    """Artefact name by weight granularity; None for float files and networks before export."""
    scales = [
        weight.quantization.scales.size
        for _, weight in weights(graph)
        if weight.quantization is not None
    ]
    if not scales or graph.description == NOT_EXPORTED:
        return None
    return "int8_pc" if max(scales) > 1 else "int8_pt"


def unknown(target: Target, profile: Mapping[str, Any]) -> list[str]:
    """Operators for which neither the target's rules nor the profile determine where they run."""
    published = profile.get("operators", ())
    return [name for name in target.rules.unconfirmed if name not in published]


def unpublished(graph: Graph, profile: Mapping[str, Any]) -> tuple[list[str], float]:
    """Operators missing in the profile's rows, and their share in [0, 1] of written elements."""
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
    """Sentences on why no estimate is possible: float, other granularity, unknown operators."""
    if not any(tensor.quantization is not None for tensor in graph.tensors):
        return [_FLOAT]
    found, wanted = granularity(graph), profile["granularity"]
    if found not in (None, wanted) and target.npu is not None:
        other = target.rules.other_granularity
        return [
            f"Not estimated: the weights are {GRANULARITY_NAMES[str(found)]}, and the published"
            f" rows of this board {GRANULARITY_NAMES[wanted]}" + (f" ({other})." if other else ".")
        ]
    own = target.rules.unconfirmed
    if share > _FOREIGN and not all(name in own for name in unpublished(graph, profile)[0]):
        return [
            f"Not estimated: operators of no published network write {share:.0%} of all elements."
        ]
    return []


def unconfirmed(operator: str) -> str:
    """A sentence about an operator for which it is unknown where it runs."""
    assumed = (
        "the value assumes the processor, the low end hardware"
        if operator in RESIZES
        else "the interval assumes hardware; on the processor it takes longer"
    )
    return f"Whether {operator} runs in hardware is not known: {assumed}."


def outside(profile: Mapping[str, Any], features: Features, kind: str) -> list[str]:
    """Sentences on features outside the range of the fitted rows.

    Args:
        profile: Estimator profile.
        features: Features of the model.
        kind: "ms" or "memory", which were fitted on different rows.
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


KIB = 1024
COEFFICIENTS = "coefficients.json"
_OUTSIDE = 0.25
"""Relative half width of the interval of an extrapolation, chosen without data."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its lower and upper bound, in ms or KiB."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 1 if self.value < 100 else 0
        return f"{self.value:.{digits}f} [{self.low:.{digits}f} .. {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Estimate:
    """Expected resources of a model on a board.

    Attributes:
        target: Name of the target.
        profile: Name of the coefficients.
        based_on: Board and tool of the fitted rows.
        ms: Time of one inference, milliseconds; None without published times.
        ram_kib: RAM in the board's memories, external ones included; None if not estimated.
        flash_kib: Weights and the compiler's program.
        peak_kib: Peak of the live activations, a lower bound of any allocation.
        saved_ms: Time saved against the same network with bilinear upsampling; None if the network
            has that, or without published resizes.
        outside: Sentences on extrapolation.
        notes: Further sentences.
        warnings: Sentences on off-chip activations.
        features: Features of the model.
    """

    target: str
    profile: str
    based_on: str
    ms: Interval | None
    ram_kib: Interval | None
    flash_kib: Interval | None
    peak_kib: Interval | None
    saved_ms: Interval | None
    outside: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    features: Features

    def quantities(self) -> list[tuple[str, str, Interval | None]]:
        """(name, unit, estimate) in the order of the tables."""
        return [
            ("RAM taken", "KiB", self.ram_kib),
            ("activations at their peak", "KiB", self.peak_kib),
            ("flash for weights and their program", "KiB", self.flash_kib),
            ("one inference", "ms", self.ms),
        ]

    @property
    def extrapolates(self) -> bool:
        """Whether the model is outside the range of the fitted rows."""
        return bool(self.outside)

    def to_json(self) -> dict[str, Any]:
        """Attributes as plain values."""
        return {
            **asdict(self),
            "outside": list(self.outside),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "extrapolates": self.extrapolates,
        }


@cache
def profiles() -> Mapping[str, Mapping[str, Any]]:
    """Name -> profile, from `coefficients.json`."""
    content = json.loads(
        (resources.files("heatpose.deploy") / COEFFICIENTS).read_text(encoding="utf-8")
    )
    found: dict[str, dict[str, Any]] = content["profiles"]
    return found


def estimate(graph: Graph, target: Target, profile: str | None = None) -> Estimate:
    """Estimates RAM, flash and time of a model.

    Args:
        graph: Graph of a TFLite file, or of a network (`graph_of_network`).
        target: Board.
        profile: Name of the coefficients; None for the target's, or those for the file's
            granularity.

    Raises:
        HeatposeError: The profile is unknown, or the target has none.
    """
    graph = as_compiled(graph)
    name, notes = _profile_for(graph, target, profile)
    chosen, features, open_ones = (
        profiles()[name],
        features_of(graph),
        unknown(target, profiles()[name]),
    )
    counts = (features, features_of(graph, hardware=open_ones))
    time, memory = outside(chosen, features, "ms"), outside(chosen, features, "memory")
    new, share = unpublished(graph, chosen)
    if new:
        time.append(
            f"No published network of the profile has {', '.join(new)}; "
            "the time of these operators is not known."
        )
    present = {operator.name for operator in graph.operators}
    time += [unconfirmed(operator) for operator in open_ones if operator in present]
    reasons = refused(graph, chosen, share, target)
    if reasons:
        time, memory, chosen = [*reasons, *time], [*reasons, *memory], {**chosen, **_NOTHING}
    ram, warnings = _ram(graph, target, chosen)
    return Estimate(
        target=target.name,
        profile=name,
        based_on=chosen["based_on"],
        ms=_time(chosen, counts, bool(time), target.name),
        ram_kib=ram,
        flash_kib=_size(chosen, features, "flash_kib", bool(memory)),
        peak_kib=_size(chosen, features, "peak_kib", bool(memory)),
        saved_ms=None if reasons else _saved(chosen, graph, counts),
        outside=tuple(dict.fromkeys([*time, *memory])),
        warnings=tuple(warnings),
        notes=(
            *notes,
            *(() if reasons else (*_resizing(chosen, features), *_of_board(chosen, target))),
            *chosen["notes"],
        ),
        features=features,
    )


_NOTHING = {"ms": None, "ram_kib": None, "peak_kib": None, "flash_kib": None}
PRICE = "one published network took 451 ms that way, and 45 ms with all of them on the chip"


def _ram(
    graph: Graph, target: Target, profile: Mapping[str, Any]
) -> tuple[Interval | None, list[str]]:
    """RAM in the board's memories, and warnings about off-chip activations."""
    fitted = profile["ram_kib"]
    if fitted is None or target.npu is None:
        return None, []
    found, error = allocate(graph, target.npu), fitted["interval_percent"] / 100
    total = found.on_chip + found.external + found.left_over
    warnings = []
    if found.left_over:
        warnings.append(
            f"{found.left_over:.0f} KiB of activations do not fit into the board's memories."
        )
    if found.external:
        text = f"{found.external:.0f} KiB of activations are expected in external RAM: {PRICE}."
        warnings.append(text)
    return Interval(total, total * (1 - error), total * (1 + error)), warnings


def _profile_for(graph: Graph, target: Target, named: str | None) -> tuple[str, list[str]]:
    """Name of the profile, and notes about the choice."""
    name = named or target.estimator
    if name is None or name not in profiles():
        what = (
            f"Target '{target.name}' has no estimator"
            if name is None
            else f"Estimator profile '{name}' is unknown"
        )
        raise HeatposeError(
            f"{what}; choose one of {', '.join(profiles())} with --profile, or set `estimator` in"
            " the target's YAML."
        )
    other, found = profiles()[name].get("other_granularity"), granularity(graph)
    if named is None and other and found not in (None, profiles()[name]["granularity"]):
        return other, [
            f"The file's weights are {GRANULARITY_NAMES[str(found)]}: profile {other} instead of"
            f" {name}."
        ]
    return name, []


def _sum(coefficients: Mapping[str, float], features: Features) -> float:
    return sum(value * features.of(name) for name, value in coefficients.items())


def _time(
    profile: Mapping[str, Any], counts: Sequence[Features], outside: bool, target: str
) -> Interval | None:
    """Time; the interval covers all fitted coefficients, and the errors of all published rows.

    `counts` has the features with unconfirmed operators on the CPU and in hardware.
    """
    fitted = profile["ms"]
    if fitted is None:
        return None
    values = [
        _sum(coefficients, features)
        for features in counts
        for coefficients in _explanations(fitted)
    ]
    error = fitted.get("interval_percent", fitted["left_out_max_percent"]) / 100
    error = max(error, fitted.get("boards_percent", {}).get(target, 0.0) / 100)
    if outside:
        error = max(error, _OUTSIDE)
    return Interval(values[0], min(values) * (1 - error), max(values) * (1 + error))


def _explanations(fitted: Mapping[str, Any]) -> list[Mapping[str, float]]:
    return [fitted["coefficients"], *fitted.get("alternatives", [])]


def _saved(profile: Mapping[str, Any], graph: Graph, counts: Sequence[Features]) -> Interval | None:
    """Time saved against bilinear upsampling, as a difference of two sums.

    Common errors cancel, so the interval covers only the alternative coefficients.
    """
    bilinear = as_bilinear(graph)
    if bilinear is None or "resized" not in profile["ms"]["coefficients"]:
        return None
    before = features_of(bilinear)
    saved = [
        _sum(coefficients, before) - _sum(coefficients, after)
        for after in counts
        for coefficients in _explanations(profile["ms"])
    ]
    return Interval(saved[0], min(saved), max(saved))


def _of_board(profile: Mapping[str, Any], target: Target) -> Iterator[str]:
    """A note on a published time of this board that widens its interval."""
    fitted = profile["ms"] or {}
    if error := fitted.get("boards_percent", {}).get(target.name):
        yield (
            f"A published time of the {target.board} is {error:.0f} % from its estimate, for a"
            " reason that is not known (docs/stm32.md); the interval contains it."
        )


def _resizing(profile: Mapping[str, Any], features: Features) -> Iterator[str]:
    """A note on the share of CPU resizes in the time."""
    if features.resized and "resized" in profile["ms"]["coefficients"]:
        value, *others = (
            coefficients["resized"] * features.resized
            for coefficients in _explanations(profile["ms"])
        )
        span = f" (up to {max(others):.1f}, see below)" if others else ""
        yield (
            f"Of this, {value:.1f} ms{span} are resizes on the processor; docs/stm32.md has"
            " variants of the graph without them."
        )


def _size(
    profile: Mapping[str, Any], features: Features, what: str, outside: bool
) -> Interval | None:
    """A size in KiB; the interval is wider for extrapolations."""
    fitted = profile.get(what)
    if fitted is None:
        return None
    value = _sum(fitted["coefficients"], features)
    error = fitted["interval_percent"] / 100
    error = max(error, _OUTSIDE) if outside else error
    return Interval(value, value * (1 - error), value * (1 + error))


def network_estimate(network: nn.Module, size: int, target: Target) -> Estimate:
    """Estimates the int8 file of a network before export; `size` is the input's side in pixels."""
    from heatpose.deploy.network_graph import graph_of_network

    return estimate(
        graph_of_network(
            network,
            size,
            output="int8" if (target.output_dtype or target.export.output) == "int8" else "float32",
        ),
        target,
    )


def check_budget(expected: Estimate, target: Target) -> list[str]:
    """Compares an estimate with the target's budget.

    Returns:
        Sentences on quantities whose interval contains the budget, and warnings of the estimate.

    Raises:
        HeatposeError: A quantity exceeds the budget even at its lower bound.
    """
    limits = (
        ("RAM", "KiB", expected.ram_kib, target.budget.ram_kib),
        ("Flash", "KiB", expected.flash_kib, target.budget.flash_kib),
        ("Time", "ms", expected.ms, target.budget.ms),
    )
    certain: list[str] = []
    possible: list[str] = []
    for what, unit, interval, limit in limits:
        if interval is None or limit is None or interval.high <= limit:
            continue
        numbers = f"{interval} {unit} expected, the budget is {limit:g} {unit}"
        (certain if interval.low > limit else possible).append(f"{what}: {numbers}.")
    if certain:
        certain += [text[0].upper() + text[1:] for text in expected.warnings]
        remedy = (
            "choose a smaller resolution or width, or raise the budget in the target's YAML;"
            " target=null trains without this check"
        )
        raise HeatposeError(
            f"The network does not fit {target.name}: {' '.join(certain)} To continue, {remedy}."
        )
    return possible + list(expected.warnings)


def print_estimate(network: nn.Module, size: int, target: Target) -> None:
    """Prints the estimate of a network on a board, and warnings about its budget.

    Raises:
        HeatposeError: As `check_budget`.
    """
    expected = network_estimate(network, size, target)
    warnings = check_budget(expected, target)
    parts = [
        f"{name} {interval} {unit}"
        for name, interval, unit in (
            ("RAM", expected.ram_kib, "KiB"),
            ("flash", expected.flash_kib, "KiB"),
            ("one inference", expected.ms, "ms"),
        )
        if interval is not None
    ]
    beyond = " (extrapolated, see `heatpose estimate`)" if expected.extrapolates else ""
    print(f"Expected on {target.board}: {', '.join(parts)}{beyond}.")
    for warning in warnings:
        print(f"warning: this may not fit: {warning}")
