"""A target's budget before the first epoch: what a network will take is known from its shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatpose.deploy.estimate import Estimate, estimate
from heatpose.deploy.targets import Target
from heatpose.errors import HeatposeError

if TYPE_CHECKING:
    from torch import nn


def network_estimate(network: nn.Module, size: int, target: Target) -> Estimate:
    """What a network's int8 file is expected to take on a board, at an input of `size` pixels."""
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
    """Holds an estimate against a budget.

    Returns:
        Sentences about what may exceed it: its interval reaches past the budget.

    Raises:
        HeatposeError: Something exceeds the budget even at the low end of its interval.
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
            f"The network will not fit {target.name}: {' '.join(certain)} To go on, {remedy}."
        )
    return possible + list(expected.warnings)


def tell_expected(network: nn.Module, size: int, target: Target) -> None:
    """Prints what a network is expected to take on a board, and what may exceed its budget.

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
    beyond = " (an extrapolation: `heatpose estimate` says why)" if expected.extrapolates else ""
    print(f"Expected on {target.board}: {', '.join(parts)}{beyond}.")
    for warning in warnings:
        print(f"warning: this may not fit: {warning}")
