"""One line of the doctor's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """What was looked at.

    Attributes:
        name: Of the thing.
        status: "fail": something that was asked for cannot work. "warn": a part is missing or
            doubtful.
        found: What is there.
        remedy: What to do about it, one sentence; empty where it is ok.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check_table(checks: Sequence[Check]) -> Table:
    """What `heatpose doctor` prints: a line per check."""
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(title="heatpose doctor", title_justify="left")
    for heading in ("", "check", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(
            f"[{colours[check.status]}]{check.status}[/]",
            escape(check.name),
            escape(check.found),
            escape(check.remedy),
        )
    return table
