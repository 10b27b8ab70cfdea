"""Tables for the terminal, by rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    pass


def show(table: Table) -> None:
    """Prints to standard output; where it is no terminal, wide enough that no figure is cut."""
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def inspection_tables(facts: Mapping[str, Any]) -> list[Table]:
    """What `heatpose inspect` prints: the facts, then the findings if there are any."""
    table = Table(title="model file", show_header=False)
    for key in (
        "sha256",
        "bytes",
        "granularity",
        "full_integer",
        "weights_bytes",
        "macs",
        "peak_activation_bytes",
    ):
        value = facts.get(key)
        table.add_row(
            key,
            f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value),
        )
    for side in ("inputs", "outputs"):
        for port in facts[side]:
            scale = (
                ""
                if port["scale"] is None
                else f", scale {port['scale']:.6g}, zero point {port['zero_point']}"
            )
            table.add_row(side[:-1], f"{port['name']} {port['dtype']} {list(port['shape'])}{scale}")
    for row in _stated(facts):
        table.add_row(*row)
    table.add_row(
        "operators", ", ".join(f"{name} {count}" for name, count in facts["operators"].items())
    )
    return [table, *_findings(facts["findings"])]


def _stated(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the file or its bundle states about itself, and what an evaluation would assume."""
    rows = [("stated by", str(facts["stated_by"]))] if "stated_by" in facts else []
    if skeleton := facts.get("skeleton"):
        rows.append(("skeleton", f"{skeleton['name']}: {', '.join(skeleton['keypoints'])}"))
    if how := facts.get("preprocessing"):
        values = f"byte / {how['divisor']:g} - {how['shift']:g}"
        rows.append(("input", f"RGB, {values}, {how['sampling']} sampling"))
    for kind in ("assumed", "computed"):
        rows += [(kind, f"{name} {value}") for name, value in facts.get(kind, {}).items()]
    return [(name, escape(value)) for name, value in rows]


def _findings(findings: Sequence[Mapping[str, Any]]) -> list[Table]:
    if not findings:
        return []
    table = Table(title="findings")
    for heading in ("severity", "rule", "operator", "message"):
        table.add_column(heading)
    for finding in findings:
        table.add_row(
            *(
                str(finding[key] if finding[key] is not None else "")
                for key in ("severity", "rule", "operator", "message")
            )
        )
    return [table]
