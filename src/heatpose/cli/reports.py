"""`heatpose report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    bundles: Annotated[list[Path], typer.Argument(help="Folders of bundles; the others are compared with the first.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Of the page; the names of the bundles by default.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the evaluation set's pictures, where they have moved since the export.")] = None,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Show predictions on pictures, which become part of the page.")] = True,
) -> None:
    """Write one page about a bundle, or one that compares several: scores, costs on boards, plots, predictions."""
    from heatpose.report import write_report

    path = write_report(bundles, out, title=title, images=images, pictures=pictures)
    typer.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB) opens in any browser, without a network.")
