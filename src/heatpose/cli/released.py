"""`heatpose models`, `heatpose half` and `heatpose release`: the released networks."""

from __future__ import annotations

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
    from heatpose.bundles.released import released
    from heatpose.utils.progress import show

    require_writable_files(json_out)
    entries = [network.to_json() for network in released().values()]
    if entries:
        show(_table(entries))
        for line in _terms(entries):
            typer.echo(line)
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
    table.add_column("scored on", no_wrap=True)
    for heading in ("int8_pc", "int8_pt", "checkpoint"):
        table.add_column(f"MiB\n{heading}", justify="right")
    table.add_column("licence")
    for entry in entries:
        oks = (entry["oks"][artefact] for artefact in ("float", "int8_pc", "int8_pt"))
        sizes = (entry["bytes"].get(artefact) for artefact in ("int8_pc", "int8_pt", "checkpoint"))
        table.add_row(
            entry["name"],
            str(entry["keypoints"]),
            str(entry["resolution"]),
            *("-" if value is None else f"{value:.2f}" for value in oks),
            entry["scored_on"] or "not scored",
            *("-" if size is None else f"{size / 2**20:.2f}" for size in sizes),
            (entry["terms"] or {}).get("spdx") or "see below",
        )
    return table


def _terms(entries: list[dict[str, Any]]) -> list[str]:
    """A line for each origin of weights and data, with the networks that have it."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        terms = entry["terms"]
        line = (
            "not recorded"
            if terms is None
            else f"weights: {terms['weights']}; data: {terms['data']}"
        )
        names.setdefault(line, []).append(entry["name"])
    return [f"{', '.join(of)}: {line}" for line, of in names.items()]
