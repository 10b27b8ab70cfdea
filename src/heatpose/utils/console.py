"""Terminal output by rich: tables and progress bars.

A module of its own, so that commands without a table or progress bar do not import rich.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table


def show(table: Table) -> None:
    """Prints a table to standard output, 160 columns wide where that is not a terminal."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def progress_bar(unit: str) -> Progress:
    """A progress bar on standard error.

    Args:
        unit: "bytes" (shown with a transfer rate), or the name of the counted items.
    """
    from rich import progress as bars
    from rich.console import Console

    items = (bars.MofNCompleteColumn(), bars.TextColumn(unit))
    counts = (bars.DownloadColumn(), bars.TransferSpeedColumn()) if unit == "bytes" else items
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        *counts,
        bars.TimeRemainingColumn(),
    )
    return bars.Progress(*columns, console=Console(stderr=True))
