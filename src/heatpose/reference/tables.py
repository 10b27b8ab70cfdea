"""A comparison with published rows as Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heatpose.reference import Published
from heatpose.reference.comparison import Comparison, Pair

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = ("file", "published OKS %", "this OKS %", "published as", "trained on", "source")
DIFFERENCE = "difference"
BOARD_HEADINGS = ("published as", "trained on", "source", "file", "N6 RAM KiB", "N6 flash KiB", "N6 ms", "MP257 ms", "MP157 ms", "MP135 ms")


def score_table(comparison: Comparison) -> list[tuple[str, ...]]:
    """Headings, then one row for each pair; the differences are a column where the numbers compare."""
    lines: list[tuple[str, ...]] = [HEADINGS, *(_score_cells(pair) for pair in comparison.pairs)]
    if not comparison.comparable:
        return lines
    differences = [DIFFERENCE, *("-" if pair.difference is None else f"{pair.difference:+.2f}" for pair in comparison.pairs)]
    return [(*line[:3], difference, *line[3:]) for line, difference in zip(lines, differences, strict=True)]


def _score_cells(pair: Pair) -> tuple[str, ...]:
    row = pair.row
    this = "not scored" if pair.oks is None else f"{pair.oks:.2f} ± {pair.standard_error:.2f}"
    return row.quantization, f"{row.oks_percent:.2f}", this, row.variant, row.training_data, row.source


def board_cells(row: Published) -> tuple[str, ...]:
    """What was measured on boards with a published file, one cell for each of `BOARD_HEADINGS`."""
    figures = (row.n6_ram_kib, row.n6_flash_kib, row.n6_ms, row.mp257_ms, row.mp157_ms, row.mp135_ms)
    return row.variant, row.training_data, row.source, row.quantization, *("-" if value is None else f"{value:g}" for value in figures)


def markdown(comparison: Comparison) -> str:
    """A section for a model card."""
    lines = ["## Published for this kind of file", ""]
    if comparison.pairs:
        lines += [*_markdown_table(score_table(comparison)), ""]
    lines += [comparison.note]
    if comparison.pairs:
        boards = _markdown_table([BOARD_HEADINGS, *(board_cells(pair.row) for pair in comparison.pairs)])
        lines += ["", "What ST measured with the published files on its boards; not with the files here:", "", *boards]
    return "\n".join(lines)


def _markdown_table(lines: Sequence[Sequence[str]]) -> list[str]:
    headings, *rows = lines
    return [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)]


def terminal_table(comparison: Comparison) -> Table | None:
    """For rich; None where nothing was published. The note belongs below it."""
    # Imported here: a model card needs none of it.
    from rich.table import Table

    if not comparison.pairs:
        return None
    table = Table(title="Published for this kind of file", title_justify="left")
    headings, *lines = score_table(comparison)
    for heading in headings:
        figures = "OKS" in heading or heading == DIFFERENCE
        table.add_column(heading, justify="right" if figures else "left", no_wrap=figures, overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table
