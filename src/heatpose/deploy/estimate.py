"""RAM, flash and time on a board before any tool is installed.

With an interval, from coefficients that were fitted on ST's published tables.

`coefficients.json` holds the coefficients, the rows that they were fitted on, what they say about
each row when it is left out, and the range of those rows; `benchmarks/fit_estimator.py` writes it.
An estimate is a sum of features times coefficients (docs/stm32.md tells why a sum).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

from heatpose.deploy.coverage import (
    SPOKEN,
    granularity,
    outside,
    refused,
    unconfirmed,
    unknown,
    unpublished,
)
from heatpose.deploy.features import Features, features_of
from heatpose.deploy.memory import taken
from heatpose.deploy.targets import Target
from heatpose.deploy.upsampling import as_bilinear
from heatpose.errors import HeatposeError
from heatpose.tflite.graph import Graph

KIB = 1024
COEFFICIENTS = "coefficients.json"
_OUTSIDE = 0.25
"""Half width of the interval of an extrapolated time.

No published row says how large it must be.
"""


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
        ram_kib: RAM taken in the board's memories, external ones included; None where not
            estimated.
        flash_kib: Weights and the compiler's program.
        peak_kib: Activations at their peak, however they are placed; a compiler takes more.
        saved_ms: What the same network with bilinear upsampling would take more; None for one that
            has it, and where resizes are in no published row.
        outside: Sentences: where the model is outside what the coefficients were fitted on.
        notes: Sentences: what else to know.
        warnings: Sentences: activations outside the chip, and their price.
        features: What was counted.
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
        """Names, units and numbers, in the order of the tables."""
        return [
            ("RAM taken", "KiB", self.ram_kib),
            ("activations at their peak", "KiB", self.peak_kib),
            ("flash for weights and their program", "KiB", self.flash_kib),
            ("one inference", "ms", self.ms),
        ]

    @property
    def extrapolates(self) -> bool:
        """Whether the model is outside what the coefficients were fitted on."""
        return bool(self.outside)

    def to_json(self) -> dict[str, Any]:
        """Plain values under the same names."""
        return {
            **asdict(self),
            "outside": list(self.outside),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "extrapolates": self.extrapolates,
        }


@cache
def profiles() -> Mapping[str, Mapping[str, Any]]:
    """The fitted profiles by name, as `coefficients.json` has them."""
    content = json.loads(
        (resources.files("heatpose.deploy") / COEFFICIENTS).read_text(encoding="utf-8")
    )
    found: dict[str, dict[str, Any]] = content["profiles"]
    return found


def estimate(graph: Graph, target: Target, profile: str | None = None) -> Estimate:
    """Estimates a model.

    Args:
        graph: Of a TFLite file, or `graph_of_network` of a network.
        target: The board.
        profile: Which coefficients; the target's own where None, or the ones for the file's
            granularity beside them.

    Raises:
        HeatposeError: There is no such profile, or none for the target.
    """
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
    if reasons:  # a number would be a guess
        time, memory, chosen = [*reasons, *time], [*reasons, *memory], {**chosen, **_NOTHING}
    ram, warnings = _ram(graph, target, chosen)
    return Estimate(
        target=target.name,
        profile=name,
        based_on=chosen["based_on"],
        ms=_time(chosen, counts, bool(time)),
        ram_kib=ram,
        flash_kib=_size(chosen, features, "flash_kib", bool(memory)),
        peak_kib=_size(chosen, features, "peak_kib", bool(memory)),
        saved_ms=None if reasons else _saved(chosen, graph, counts),
        outside=tuple(dict.fromkeys([*time, *memory])),
        warnings=tuple(warnings),
        notes=(*notes, *(() if reasons else _resizing(chosen, features)), *chosen["notes"]),
        features=features,
    )


_NOTHING = {"ms": None, "ram_kib": None, "peak_kib": None, "flash_kib": None}
PRICE = "one user's network took 451 ms that way, and 45 ms with all of them on the chip"


def _ram(
    graph: Graph, target: Target, profile: Mapping[str, Any]
) -> tuple[Interval | None, list[str]]:
    """RAM taken in the board's memories, and what lies outside the chip."""
    fitted = profile["ram_kib"]
    if fitted is None or target.npu is None:
        return None, []
    found, error = taken(graph, target.npu), fitted["interval_percent"] / 100
    total = found.on_chip + found.external + found.left_over
    warnings = []
    if found.left_over:
        warnings.append(
            f"{found.left_over:.0f} KiB of activations fit into no memory of the board."
        )
    if found.external:
        text = f"{found.external:.0f} KiB of activations are expected in external RAM: {PRICE}."
        warnings.append(text)
    return Interval(total, total * (1 - error), total * (1 + error)), warnings


def _profile_for(graph: Graph, target: Target, named: str | None) -> tuple[str, list[str]]:
    """The profile to take, and what to say about the choice."""
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
            f"The file's weights are {SPOKEN[str(found)]}: profile {other} instead of {name}."
        ]
    return name, []


def _sum(coefficients: Mapping[str, float], features: Features) -> float:
    return sum(value * features.of(name) for name, value in coefficients.items())


def _time(profile: Mapping[str, Any], counts: Sequence[Features], outside: bool) -> Interval | None:
    """The interval spans every set of coefficients that explains the rows.

    Unconfirmed operators on either side, and the largest error of a row left out.
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
    if outside:
        error = max(error, _OUTSIDE)
    return Interval(values[0], min(values) * (1 - error), max(values) * (1 + error))


def _explanations(fitted: Mapping[str, Any]) -> list[Mapping[str, float]]:
    return [fitted["coefficients"], *fitted.get("alternatives", [])]


def _saved(profile: Mapping[str, Any], graph: Graph, counts: Sequence[Features]) -> Interval | None:
    """Differences between two sums.

    What is wrong with both of them falls out, so that the interval is that of the explanations
    alone.
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


def _resizing(profile: Mapping[str, Any], features: Features) -> Iterator[str]:
    """What the processor's resizes are of the time."""
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
    """Outside the rows that a size was fitted on, the interval is wider."""
    fitted = profile.get(what)
    if fitted is None:
        return None
    value = _sum(fitted["coefficients"], features)
    error = fitted["interval_percent"] / 100
    error = max(error, _OUTSIDE) if outside else error
    return Interval(value, value * (1 - error), value * (1 + error))
