"""Shared by the sections of a report: cells of tables, and notes on damaged files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

UNREADABLE = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
)
"""Exceptions while reading a damaged or foreign `metrics.json` or `manifest.json`."""
Values = dict[str, Any]
"""Variables of a section's template; `missing` has sentences on what is missing."""


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: Displayed text.
        order: Sort key of the column; None is last.
        mark: CSS class: "", "good", "bad", "quiet", "code", "hash", "long".
        hint: Tooltip.
    """

    text: str
    order: float | str | None = None
    mark: str = ""
    hint: str = ""


Row = list[Cell]
NOTHING = Cell("–", mark="quiet")


def number(value: float | None, digits: int = 2, hint: str = "") -> Cell:
    """A cell with a number; a dash for None."""
    return NOTHING if value is None else Cell(f"{value:,.{digits}f}", float(value), hint=hint)


def name(text: object, mark: str = "", hint: str = "") -> Cell:
    """A cell that is sorted by its text."""
    return Cell(str(text), str(text), mark, hint)


def passed(value: object, hint: str = "") -> Cell:
    """Status of an acceptance check or of a file."""
    return name("passed", "good") if value else name("failed", "bad", hint)


@contextmanager
def reading(what: str, missing: list[str]) -> Iterator[None]:
    """Adds a sentence to `missing` if the block finds the bundle's files damaged, and goes on.

    Args:
        what: Subject of the sentence, for instance "The scores of 'name'".
        missing: Sentences of the section.
    """
    try:
        yield
    except UNREADABLE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        missing.append(f"{what} cannot be read ({reason}); export the bundle again.")
