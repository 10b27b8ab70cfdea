"""RAM, flash and time on a board before any tool is installed, with an interval, from coefficients that were fitted on ST's published tables.

`coefficients.json` holds the coefficients, the rows that they were fitted on, what they say about each row when it is left out, and the range of those
rows; `benchmarks/fit_estimator.py` writes it. An estimate is a sum of features times coefficients (docs/stm32.md tells why a sum).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

from heatpose.deploy.features import RESIZES, Features, features_of
from heatpose.deploy.targets import Target
from heatpose.deploy.upsampling import as_bilinear
from heatpose.errors import HeatposeError
from heatpose.export.graph import Graph
from heatpose.export.measures import weights

KIB = 1024
NOT_EXPORTED = "not exported yet"
"""Description of a graph that stands for a network: its granularity will be the target's."""
COEFFICIENTS = "coefficients.json"
_SLACK = 0.05
"""A feature may be this far outside the fitted rows' range before an estimate is called an extrapolation."""
_OUTSIDE = 0.25
"""Half width of the interval of an extrapolated time. No published row says how large it must be."""


@dataclass(frozen=True)
class Interval:
    """A number and between what it is expected to lie."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 1 if self.value < 100 else 0
        return f"{self.value:.{digits}f} [{self.low:.{digits}f} .. {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Estimate:
    """What a model is expected to take.

    Attributes:
        target: Name of the target.
        profile: Which coefficients.
        based_on: Board and tool of the rows they were fitted on.
        ms: One inference; None where nothing was published.
        ram_kib: RAM for activations, inputs and outputs.
        flash_kib: Weights.
        saved_ms: What the same network with bilinear upsampling would take more; None for one that has it, and where resizes are in no published row.
        outside: Sentences: where the model is outside what the coefficients were fitted on.
        notes: Sentences: what else to know.
        features: What was counted.
    """

    target: str
    profile: str
    based_on: str
    ms: Interval | None
    ram_kib: Interval | None
    flash_kib: Interval | None
    saved_ms: Interval | None
    outside: tuple[str, ...]
    notes: tuple[str, ...]
    features: Features

    @property
    def extrapolates(self) -> bool:
        """Whether the model is outside what the coefficients were fitted on."""
        return bool(self.outside)

    def to_json(self) -> dict[str, Any]:
        """Plain values under the same names."""
        return {**asdict(self), "outside": list(self.outside), "notes": list(self.notes), "extrapolates": self.extrapolates}


@cache
def profiles() -> Mapping[str, Mapping[str, Any]]:
    """The fitted profiles by name, as `coefficients.json` has them."""
    content = json.loads((resources.files("heatpose.deploy") / COEFFICIENTS).read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = content["profiles"]
    return found


def estimate(graph: Graph, target: Target, profile: str | None = None) -> Estimate:
    """Estimates a model.

    Args:
        graph: Of a TFLite file, or `graph_of_network` of a network.
        target: The board.
        profile: Which coefficients; the target's own where None, or the ones for the file's granularity beside them.

    Raises:
        HeatposeError: There is no such profile, or none for the target.
    """
    name, notes = _profile_for(graph, target, profile)
    chosen, features, unconfirmed = profiles()[name], features_of(graph), target.rules.unconfirmed
    counts = (features, features_of(graph, hardware=unconfirmed))
    time, memory = _outside(chosen, features, "ms"), _outside(chosen, features, "memory")
    if new := sorted({operator.name for operator in graph.operators} - set(chosen.get("operators", [operator.name for operator in graph.operators]))):
        time.append(f"No published network of the profile has {', '.join(new)}; the time of these operators is not known.")
    time += [_unconfirmed(name) for name in unconfirmed if any(operator.name == name for operator in graph.operators)]
    if not any(tensor.quantization is not None for tensor in graph.tensors):
        time, memory = [*time, _FLOAT], [*memory, _FLOAT]
    return Estimate(
        target.name, name, chosen["based_on"], _time(chosen, counts, bool(time)), _size(chosen, features, "ram_kib", bool(memory)),
        _size(chosen, features, "flash_kib", bool(memory)), _saved(chosen, graph, counts), tuple(dict.fromkeys([*time, *memory])),
        (*notes, *_resizing(chosen, features), *chosen["notes"]), features,
    )  # fmt: skip


_FLOAT = "The file is not quantised; the published rows are of int8 networks."


def _profile_for(graph: Graph, target: Target, named: str | None) -> tuple[str, list[str]]:
    """The profile to take, and what to say about the choice."""
    name = named or target.estimator
    if name is None or name not in profiles():
        what = f"Target '{target.name}' has no estimator" if name is None else f"Estimator profile '{name}' is unknown"
        raise HeatposeError(f"{what}; choose one of {', '.join(profiles())} with --profile, or set `estimator` in the target's YAML.")
    other, granularity = profiles()[name].get("other_granularity"), _granularity(graph)
    if named is None and other and granularity not in (None, profiles()[name]["granularity"]):
        return other, [f"The file's weights are {_SPOKEN[str(granularity)]}: profile {other} instead of {name}."]
    return name, []


_SPOKEN = {"int8_pc": "per channel", "int8_pt": "per tensor"}


def _granularity(graph: Graph) -> str | None:
    """The file's form; None for float files and for networks that are not exported yet."""
    scales = [weight.quantization.scales.size for _, weight in weights(graph) if weight.quantization is not None]
    if not scales or graph.description == NOT_EXPORTED:
        return None
    return "int8_pc" if max(scales) > 1 else "int8_pt"


def _sum(coefficients: Mapping[str, float], features: Features) -> float:
    return sum(value * features.of(name) for name, value in coefficients.items())


def _time(profile: Mapping[str, Any], counts: Sequence[Features], outside: bool) -> Interval | None:
    """The interval spans every set of coefficients that explains the rows, unconfirmed operators on either side, and the largest error of a row left out."""
    fitted = profile.get("ms")
    if fitted is None:
        return None
    values = [_sum(coefficients, features) for features in counts for coefficients in _explanations(fitted)]
    error = fitted.get("interval_percent", fitted["left_out_max_percent"]) / 100
    if outside:
        error = max(error, _OUTSIDE)
    return Interval(values[0], min(values) * (1 - error), max(values) * (1 + error))


def _explanations(fitted: Mapping[str, Any]) -> list[Mapping[str, float]]:
    return [fitted["coefficients"], *fitted.get("alternatives", [])]


def _saved(profile: Mapping[str, Any], graph: Graph, counts: Sequence[Features]) -> Interval | None:
    """Differences between two sums: what is wrong with both of them falls out, so that the interval is that of the explanations alone."""
    bilinear = as_bilinear(graph)
    if bilinear is None or "resized" not in profile["ms"]["coefficients"]:
        return None
    before = features_of(bilinear)
    saved = [_sum(coefficients, before) - _sum(coefficients, after) for after in counts for coefficients in _explanations(profile["ms"])]
    return Interval(saved[0], min(saved), max(saved))


def _resizing(profile: Mapping[str, Any], features: Features) -> Iterator[str]:
    """What the processor's resizes are of the time."""
    if features.resized and "resized" in profile["ms"]["coefficients"]:
        value, *others = (coefficients["resized"] * features.resized for coefficients in _explanations(profile["ms"]))
        span = f" (up to {max(others):.1f}, see below)" if others else ""
        yield f"Of this, {value:.1f} ms{span} are resizes on the processor; docs/stm32.md has variants of the graph without them."


def _unconfirmed(operator: str) -> str:
    taken = "the value takes it for the processor's, the low end for hardware" if operator in RESIZES else (
        "the interval takes it for hardware; on the processor it would take longer than that"
    )
    return f"Whether {operator} runs in hardware is not known: {taken}."


def _size(profile: Mapping[str, Any], features: Features, what: str, outside: bool) -> Interval | None:
    """Outside the rows that a size was fitted on, the interval is what all rows of the profile span, of other networks too."""
    fitted = profile.get(what)
    if fitted is None:
        return None
    value = _sum(fitted["coefficients"], features)
    error = fitted["interval_percent"] / 100
    low, high = value * (1 - error), value * (1 + error)
    if outside:
        base = features.of(fitted["span_of"]) / KIB
        low, high = min(low, base * fitted["span"][0]), max(high, base * fitted["span"][1])
    return Interval(value, low, high)


def _outside(profile: Mapping[str, Any], features: Features, kind: str) -> list[str]:
    """Which features leave the range of the rows: `ms` and `memory` were fitted on different ones."""
    ranges: Mapping[str, Sequence[float]] = profile["ranges"].get(kind, {})
    found = []
    for name, (low, high) in ranges.items():
        value = features.of(name)
        if not low * (1 - _SLACK) <= value <= high * (1 + _SLACK):
            found.append(f"{_WORDS[name]} ({value:,.0f}) outside the published networks' {low:,.0f} to {high:,.0f} ({_KINDS[kind]}).")
    return found


_KINDS = {"ms": "time", "memory": "RAM and flash"}
_WORDS = {
    "weights": "Bytes of weights", "traffic": "Bytes of activation traffic", "macs": "Multiply-accumulates", "resized": "Resized elements",
    "softmax": "Elements of softmaxes", "largest": "Bytes of the largest activation", "peak": "Bytes of activations alive at once",
    "macs_power_of_two": "Multiply-accumulates", "macs_other": "Multiply-accumulates",
}  # fmt: skip
