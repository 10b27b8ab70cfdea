"""`heatpose models`, `heatpose half` and `heatpose release`: the released networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatpose.cli.options import JsonOut
from heatpose.utils.files import require_writable_files, write_json_output

if TYPE_CHECKING:
    from rich.table import Table

Checkpoint = Annotated[Path, typer.Argument(help="A Heatpose checkpoint (.ckpt).")]


def models(json_out: JsonOut = None) -> None:
    """List the released networks; all commands accept their names instead of a model file."""
    from heatpose.bundles.released import DEFAULT, released
    from heatpose.utils.progress import show

    require_writable_files(json_out)
    entries = [network.to_json() for network in released().values()]
    if entries:
        show(_table(entries))
        for line in (*_scored(entries), *_terms(entries)):
            typer.echo(line)
        if any(entry["name"] == DEFAULT for entry in entries):
            typer.echo(f"Without a model, `heatpose predict` uses {DEFAULT}.")
        typer.echo("A name is given like a model's path: heatpose deploy NAME --target stm32n6.")
    else:
        typer.echo("This version has no released networks.")
    write_json_output(json_out, entries)


def half(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="The checkpoint to write (.ckpt).")],
) -> None:
    """Write a checkpoint's network with float16 weights, to be exported and released."""
    from heatpose.export.release import write_half

    require_writable_files(out)
    write_half(checkpoint, out)
    typer.echo(f"{out} ({out.stat().st_size / 2**20:.2f} MiB): export it with checkpoint={out}.")


def release(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle (exports/NAME).")],
    checkpoint: Annotated[
        Path, typer.Argument(help="The checkpoint that it was exported from (heatpose half).")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write: exports/released/NAME.")],
    package: Annotated[
        bool | None,
        typer.Option(help="Include this network in the wheel; by default if its input is 192."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Origin and licence of the initial weights; else as the export has it."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Origin and licence of the training data; else as the export has it."),
    ] = None,
) -> None:
    """Write the folder of a released network from a bundle: int8 files and float16 weights."""
    from heatpose.export.release import write_release

    terms = {key: text for key, text in (("weights", weights), ("data", data)) if text}
    folder = write_release(bundle, checkpoint, out, package, terms)
    size = sum(path.stat().st_size for path in folder.iterdir())
    typer.echo(f"{folder} ({size / 2**20:.1f} MiB) is released as '{folder.name}'.")


def _table(entries: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(title="released networks", title_justify="left")
    for heading in ("name", "keypoints", "input"):
        table.add_column(heading, no_wrap=True)
    for heading in ("float", "int8_pc", "int8_pt"):
        table.add_column(f"OKS %\n{heading}", justify="right")
    for heading in ("int8_pc", "int8_pt", "weights"):
        table.add_column(f"MiB\n{heading}", justify="right")
    for entry in entries:
        oks = (entry["oks"][artefact] for artefact in ("float", "int8_pc", "int8_pt"))
        sizes = (entry["bytes"].get(artefact) for artefact in ("int8_pc", "int8_pt", "checkpoint"))
        table.add_row(
            entry["name"],
            str(entry["keypoints"]),
            str(entry["resolution"]),
            *("-" if value is None else f"{value:.2f}" for value in oks),
            *("-" if size is None else f"{size / 2**20:.2f}" for size in sizes),
        )
    return table


def _scored(entries: list[dict[str, Any]]) -> list[str]:
    """A line for each evaluation set, with the networks that were scored on it."""
    return _grouped(entries, lambda entry: f"scored on {entry['scored_on'] or 'nothing'}")


def _terms(entries: list[dict[str, Any]]) -> list[str]:
    """A line for each licence and origin of weights and data, with the networks that have it."""

    def line(entry: dict[str, Any]) -> str:
        terms = entry["terms"] or {"weights": "not recorded", "data": "not recorded"}
        licence = f"licence {terms['spdx']}; " if terms.get("spdx") else ""
        return f"{licence}weights: {terms['weights']}; data: {terms['data']}"

    return _grouped(entries, line)


def _grouped(entries: list[dict[str, Any]], line: Callable[[dict[str, Any]], str]) -> list[str]:
    names: dict[str, list[str]] = {}
    for entry in entries:
        names.setdefault(line(entry), []).append(entry["name"])
    return [f"{', '.join(of)}: {text}" for text, of in names.items()]
