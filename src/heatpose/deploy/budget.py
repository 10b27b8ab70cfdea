"""A target's budget before the first epoch: what a network will take is known from its shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatpose.deploy.estimate import Estimate, Interval, estimate
from heatpose.deploy.targets import Target
from heatpose.errors import HeatposeError

if TYPE_CHECKING:
    from torch import nn


def network_estimate(network: nn.Module, size: int, target: Target) -> Estimate:
    """What a network's int8 file is expected to take on a board, at an input of `size` pixels."""
    from heatpose.deploy.network_graph import graph_of_network

    return estimate(graph_of_network(network, size, output="int8" if target.output_dtype == "int8" else "float32"), target)


def check_budget(expected: Estimate, target: Target) -> list[str]:
    """Holds an estimate against a budget.

    Returns:
        Sentences about what may exceed it: its interval reaches past the budget.

    Raises:
        HeatposeError: Something exceeds the budget even at the low end of its interval.
    """
    limits = (("RAM", "KiB", expected.ram_kib, target.budget.ram_kib), ("Flash", "KiB", expected.flash_kib, target.budget.flash_kib),
              ("Time", "ms", expected.ms, target.budget.ms))  # fmt: skip
    certain: list[str] = []
    possible: list[str] = []
    for what, unit, interval, limit in limits:
        if interval is None or limit is None or interval.high <= limit:
            continue
        text = _sentence(what, unit, interval, limit)
        (certain if interval.low > limit else possible).append(text)
    if certain:
        remedy = "choose a smaller resolution or width, or raise the budget in the target's YAML; target=null trains without this check"
        raise HeatposeError(f"The network will not fit {target.name}: {' '.join(certain)} To go on, {remedy}.")
    return possible


def _sentence(what: str, unit: str, interval: Interval, limit: float) -> str:
    return f"{what} is expected at {interval} {unit}, the budget is {limit:g} {unit}."
