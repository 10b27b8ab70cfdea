"""Result of an export and its output on the terminal: steps while they run, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatpose.evaluation.evaluate import EvalReport, paired_difference
from heatpose.evaluation.published import Comparison, terminal_table
from heatpose.export.validate import ValidationResult

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        artefact: "torch", "onnx", "float32", "int8_pc" or "int8_pt".
        file: Its name; empty for the network in memory.
        oks: Mean OKS in percent; None where nothing is scored, as the next four.
        oks_standard_error: In points.
        drop: OKS lost against the torch network on the same images, in points; None for the network
            itself.
        drop_low: Lower end of its 95 % bootstrap interval.
        drop_high: Upper end.
        bytes: Of the file; None for the network.
        milliseconds: Of one image on this machine.
        status: "reference", "passed", "passed, not scored" or "REJECTED".
    """

    artefact: str
    file: str
    oks: float | None
    oks_standard_error: float | None
    drop: float | None
    drop_low: float | None
    drop_high: float | None
    bytes: int | None
    milliseconds: float
    status: str


@dataclass(frozen=True)
class BundleResult:
    """A finished bundle.

    Attributes:
        folder: Where it is.
        rows: The network, then every file.
        checks: Every acceptance check (`CheckResult.to_json`).
        seconds: Time of each step.
        published: Published results for this kind of network beside the measured ones.
    """

    folder: Path
    rows: tuple[Row, ...] = ()
    checks: tuple[dict[str, Any], ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    published: Comparison | None = None

    @property
    def passed(self) -> bool:
        """Whether all acceptance checks passed."""
        return all(check["passed"] for check in self.checks)


def rows_of(validations: Sequence[ValidationResult]) -> list[Row]:
    """The table's rows; the first is the network's, which the others are compared with."""
    reference = validations[0].report
    return [_row(validation, reference) for validation in validations]


def _row(validation: ValidationResult, reference: EvalReport | None) -> Row:
    report, path = validation.report, validation.path
    drop = None
    if report is not None and reference is not None and report is not reference:
        drop = paired_difference(reference, report)
    return Row(
        artefact=validation.artefact,
        file=path.name if path else "",
        oks=report.oks if report else None,
        oks_standard_error=report.oks_standard_error if report else None,
        drop=drop.mean if drop else None,
        drop_low=drop.low if drop else None,
        drop_high=drop.high if drop else None,
        bytes=path.stat().st_size if path else None,
        milliseconds=validation.milliseconds,
        status=_status(validation),
    )


def _status(validation: ValidationResult) -> str:
    if validation.path is None:
        return "reference"
    if not validation.passed:
        return "REJECTED"
    return "passed" if validation.report is not None else "passed, not scored"


def print_table(result: BundleResult, console: Console | None = None) -> None:
    """Prints the table of an export, the published results, and every failed check."""
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    table = Table(title=str(result.folder), title_justify="left")
    for heading in ("artefact", "OKS %", "drop [95 %]", "KiB", "PC ms", "status"):
        table.add_column(heading, justify="left" if heading in ("artefact", "status") else "right")
    for row in result.rows:
        table.add_row(*cells(row), style="red" if row.status == "REJECTED" else None)
    if not console.is_terminal:  # rich assumes 80 columns then, and would cut figures
        console.width = max(console.width, 140)
    console.print(table)
    if result.published is not None:
        _print_published(result.published, console)
    for check in result.checks:
        if not check["passed"]:
            text = f"REJECTED {check['artefact']} by the {check['name']} check: {check['sentence']}"
            console.print(text, style="bold red", highlight=False, markup=False, soft_wrap=True)


def _print_published(published: Comparison, console: Console) -> None:
    table = terminal_table(published)
    if table is not None:
        console.print(table)
    console.print(published.note, highlight=False, markup=False)


def cells(row: Row) -> tuple[str, str, str, str, str, str]:
    """A row as text: artefact, OKS, drop, size, time, status."""
    score = "-" if row.oks is None else f"{row.oks:.2f} ± {row.oks_standard_error:.2f}"
    drop = "-" if row.drop is None else f"{row.drop:.2f} [{row.drop_low:.2f}, {row.drop_high:.2f}]"
    size = "-" if row.bytes is None else f"{row.bytes / 1024:.0f}"
    return row.artefact, score, drop, size, f"{row.milliseconds:.1f}", row.status


@dataclass
class Steps:
    """Shows the steps of an export on a console and records their times.

    A terminal gets a spinner; any other output gets a line when a step begins, and one for each of
    its parts, so that a log shows what is running.
    """

    console: Console | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, key: str, text: str, spinner: bool = True) -> Iterator[Any]:
        """Runs a step; yields the spinner's `update`, which changes its text.

        Args:
            key: Name in `seconds`.
            text: Its description.
            spinner: False where the step shows its own progress.
        """
        from rich.console import Console
        from rich.markup import escape

        console = self.console or Console()
        start = time.perf_counter()
        if not console.is_terminal:

            def line(part: str) -> None:
                console.print(f"… {part}", highlight=False, markup=False, soft_wrap=True)
                console.file.flush()

            line(text)
            yield line
        elif spinner:
            with console.status(text) as status:
                yield status.update
        else:
            yield lambda _: None
        self.seconds[key] = time.perf_counter() - start
        console.print(
            f"[green]✓[/] {escape(text)} [dim]{self.seconds[key]:.1f} s[/]", highlight=False
        )

    def note(self, text: str) -> None:
        """Prints a sentence between the steps."""
        from rich.console import Console

        (self.console or Console()).print(
            text, style="yellow", highlight=False, markup=False, soft_wrap=True
        )
