"""Summary of a sweep: a table, `sweep.csv` and `report.html` in the sweep's folder.

Sweep runs may run in other processes and on other machines. Each writes
`<sweep>/members/<number>.json` when it begins and when it ends; the launching process reads them.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from heatpose.bundles.bundle import Bundle
from heatpose.errors import HeatposeError
from heatpose.training.result import RunResult, read
from heatpose.utils.files import atomic_write, write_json
from heatpose.utils.process import is_first_process

FOLDER, TABLE, REPORT = "members", "sweep.csv", "report.html"
SEARCH = "search.log"
"""Optuna's journal of a search (`heatpose.sweeps.optuna`)."""
NO_RESULT = "It ended without a result: its process was killed or crashed."


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        run: Name of the run.
        overrides: Key -> value of the overrides that are not common to all runs.
        result: Result of the run.
    """

    run: str
    overrides: Mapping[str, str]
    result: RunResult

    def write(self, sweep: Path, number: int) -> None:
        """Writes it as the sweep run of that number; only in the process of rank 0."""
        if is_first_process():
            folder = sweep / FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / f"{number:05d}.json", asdict(self))


def begin(sweep: Path) -> None:
    """Removes the list of runs of an earlier call of the same sweep; a search keeps it.

    The runs keep their own results.
    """
    if is_first_process() and not (sweep / SEARCH).is_file():
        shutil.rmtree(sweep / FOLDER, ignore_errors=True)


def sweep_runs(sweep: Path) -> list[SweepRun]:
    """Runs in the order of the sweep, the last one of each name; unfinished ones are failed."""
    found: dict[str, SweepRun] = {}
    for path in sorted((sweep / FOLDER).glob("*.json")):
        content = read(path)
        result = RunResult.from_json(content.get("result", {}))
        if result.status == "running":
            result = replace(result, status="failed", reason=NO_RESULT)
        sweep_run = SweepRun(str(content.get("run")), dict(content.get("overrides", {})), result)
        found.pop(sweep_run.run, None)
        found[sweep_run.run] = sweep_run
    return list(found.values())


def summarise(sweep: Path, name: str) -> list[SweepRun]:
    """Prints the table of a sweep and writes `sweep.csv` and the report on its bundles.

    Args:
        sweep: Folder of the sweep.
        name: Name for the report's title.

    Returns:
        Failed runs.
    """
    found = sweep_runs(sweep)
    if not found or not is_first_process():
        return []
    _print(found, sweep)
    write_csv(found, sweep / TABLE)
    written = [TABLE]
    bundles = list(
        dict.fromkeys(
            Path(m.result.bundle)
            for m in found
            if m.result.bundle and Bundle.is_bundle(Path(m.result.bundle))
        )
    )
    if bundles and _report(bundles, sweep / REPORT, f"Sweep {name}"):
        written.append(REPORT)
    print(
        f"{' and '.join(written)} are in '{sweep}'."
        if len(written) > 1
        else f"{TABLE} is in '{sweep}'."
    )
    return [sweep_run for sweep_run in found if sweep_run.result.status == "failed"]


def _report(bundles: Sequence[Path], path: Path, title: str) -> bool:
    """Writes the report; a failure is only a warning."""
    try:
        # Imported here, because its packages take seconds.
        from heatpose.report import write_report

        write_report(bundles, path, title=title)
    except (HeatposeError, ImportError) as error:
        print(f"warning: no {REPORT}: {error}")
        return False
    return True


def differing(found: Sequence[SweepRun]) -> list[str]:
    """Keys of overrides that differ between runs."""
    keys = list(dict.fromkeys(key for sweep_run in found for key in sweep_run.overrides))
    return [
        key
        for key in keys
        if len(found) == 1 or len({sweep_run.overrides.get(key) for sweep_run in found}) > 1
    ]


def _columns(found: Sequence[SweepRun]) -> tuple[list[str], list[str], list[str]]:
    """Overrides, artefacts and boards of at least one run."""
    files = [
        name
        for name in ("float32", "int8_pc", "int8_pt")
        if any(name in sweep_run.result.files for sweep_run in found)
    ]
    return (
        differing(found),
        files,
        list(dict.fromkeys(board for sweep_run in found for board in sweep_run.result.boards)),
    )


def write_csv(found: Sequence[SweepRun], path: Path) -> None:
    """Writes a row per run: name, overrides, OKS in percent, estimates per board, status.

    Unknown cells are empty.
    """
    keys, files, boards = _columns(found)
    numbers = ("artefact", "oks", "ms", "ram_kib", "flash_kib", "extrapolates")
    heads = [
        "run",
        *keys,
        "oks",
        *(f"{name}_oks" for name in files),
        *(f"{board}_{n}" for board in boards for n in numbers),
    ]
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*heads, "status", "reason", "seconds", "bundle"])
        for sweep_run in found:
            result = sweep_run.result
            estimated = (
                getattr(result.boards[board], n) if board in result.boards else None
                for board in boards
                for n in numbers
            )
            given, scores = (
                (sweep_run.overrides.get(key) for key in keys),
                (result.files.get(name) for name in files),
            )
            end = (result.status, result.reason, round(result.seconds, 1), result.bundle)
            table.writerow(
                [
                    "" if cell is None else cell
                    for cell in (sweep_run.run, *given, result.oks, *scores, *estimated, *end)
                ]
            )


def _print(found: Sequence[SweepRun], sweep: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    keys, files, boards = _columns(found)
    int8 = [name for name in files if name != "float32"]
    table = Table()
    for key in keys or ["run"]:
        table.add_column(key)
    for heading in (
        "OKS %",
        *(f"{name} %" for name in int8),
        *(f"{board}\n{n}" for board in boards for n in ("ms", "RAM KiB", "flash KiB")),
    ):
        table.add_column(heading, justify="right")
    table.add_column("status")
    for sweep_run in found:
        given = [sweep_run.overrides.get(key, "") for key in keys] or [sweep_run.run]
        cells = [*given, *_numbers(sweep_run.result, int8, boards), sweep_run.result.status]
        table.add_row(*cells, style="red" if sweep_run.result.status == "failed" else None)
    console = Console()
    if not console.is_terminal:  # rich's default of 80 columns would truncate numbers
        console.width = 200
    # not as the table's title, which rich wraps at the table's width
    console.print(f"\n{sweep}", highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    console.print(_caption(found), highlight=False, markup=False, soft_wrap=True)


def _numbers(result: RunResult, int8: Sequence[str], boards: Sequence[str]) -> Iterator[str]:
    yield _text(result.oks, 2)
    yield from (_text(result.files.get(name), 2) for name in int8)
    for board in boards:
        numbers: Any = result.boards.get(board)
        star = "*" if numbers is not None and numbers.extrapolates else ""
        for name, digits in (("ms", 1), ("ram_kib", 0), ("flash_kib", 0)):
            text = _text(getattr(numbers, name, None), digits)
            yield text if text == "-" else text + star


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _caption(found: Sequence[SweepRun]) -> str:
    starred = any(
        numbers.extrapolates for sweep_run in found for numbers in sweep_run.result.boards.values()
    )
    remark = "; * extrapolated" if starred else ""
    return (
        f"Estimates are for the board's int8 artefact{remark}; `heatpose estimate` prints their"
        " intervals."
    )
