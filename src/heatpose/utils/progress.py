"""Terminal output by rich: tables, and progress as a bar in a terminal or lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

T = TypeVar("T")

FIRST_LINE_S, LINE_S = 5.0, 20.0
"""Seconds before the first line of a log, and between lines."""


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, `2:05`, or with hours, `1:02:05`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class LogLines:
    """Decides when a log gets its next line, and writes it.

    Args:
        console: Where to.
        now: Seconds of a clock that only rises.
    """

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self.console, self.now = console, now
        self.start = now()
        self.next = self.start + FIRST_LINE_S

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.now() - self.start

    def due(self) -> bool:
        """Whether it is time for a line; true once for each interval."""
        if self.now() < self.next:
            return False
        self.next = self.now() + LINE_S
        return True

    def line(self, text: str) -> None:
        """Writes one line, at once also where the output is a file."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        self.console.file.flush()


@contextmanager
def progress(
    description: str,
    total: int,
    unit: str = "images",
    *,
    shown: bool = True,
    console: Console | None = None,
) -> Iterator[Callable[[int], None]]:
    """Shows how far a piece of work is.

    A terminal gets a bar that disappears at the end; any other output gets a line after 5 s, one
    every 20 s, each with the expected time left, and one at the end. Work of less than 5 s leaves
    no line.

    Args:
        description: Begins every line, such as "Rendering images".
        total: Number of items.
        unit: Plural name of an item.
        shown: False shows nothing.
        console: Where to; standard output by default.

    Yields:
        Function to be called with the number of further items that are done.
    """
    console = console or Console()
    if not shown:
        yield lambda count: None
    elif console.is_terminal:
        from rich import progress as bars
        from rich.markup import escape

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn(unit),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(escape(description), total=total)
            yield lambda count: bar.advance(task, count)
    else:
        yield from _lines(description, total, unit, LogLines(console))


def _lines(
    description: str, total: int, unit: str, log: LogLines
) -> Iterator[Callable[[int], None]]:
    done, printed = 0, False

    def advance(count: int) -> None:
        nonlocal done, printed
        done += count
        if done < total and log.due():
            left = log.elapsed / done * (total - done) if done else 0.0
            log.line(f"{description}: {done:,} of {total:,} {unit}, {clock(left)} left")
            printed = True

    yield advance
    if printed:
        log.line(f"{description}: {done:,} {unit} in {clock(log.elapsed)}")


def track(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    unit: str = "images",
    *,
    each: int = 1,
    shown: bool = True,
) -> Iterator[T]:
    """Passes items on and shows how many were used.

    Args:
        items: What is iterated over.
        description: As `progress`.
        total: Number of units in all; the length of `items` times `each` by default.
        unit: As `progress`.
        each: Units in an item, such as the images of a batch; the last may have fewer.
        shown: As `progress`.
    """
    if total is None:
        assert isinstance(items, Sized)
        total = each * len(items)
    done = 0
    with progress(description, total, unit, shown=shown) as advance:
        for item in items:
            yield item
            advance(min(each, total - done))
            done += min(each, total - done)


def show(table: Table) -> None:
    """Prints a table to standard output, 160 columns wide where that is not a terminal."""
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def progress_bar(unit: str) -> Progress:
    """A progress bar on standard error.

    Args:
        unit: "bytes" (shown with a transfer rate), or the name of the counted items.
    """
    from rich import progress as bars

    items = (bars.MofNCompleteColumn(), bars.TextColumn(unit))
    counts = (bars.DownloadColumn(), bars.TransferSpeedColumn()) if unit == "bytes" else items
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        *counts,
        bars.TimeRemainingColumn(),
    )
    return bars.Progress(*columns, console=Console(stderr=True))
