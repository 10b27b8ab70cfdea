"""One line of the doctor's answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """What was looked at.

    Attributes:
        name: Of the thing.
        status: "fail": something that was asked for cannot work. "warn": a part is missing or doubtful.
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
