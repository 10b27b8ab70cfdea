"""`heatpose verify`: whether a bundle is still what was exported."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from heatpose.cli.options import JsonOut
from heatpose.errors import HeatposeError
from heatpose.utils.files import write_json_output


def verify(
    bundle: Annotated[
        Path,
        typer.Argument(
            help="Folder of a bundle (exports/NAME), or the name of a released network."
        ),
    ],
    json_out: JsonOut = None,
) -> None:
    """Compare a bundle's files with the hashes that its manifest records."""
    from heatpose.bundles.released import resolve_bundle
    from heatpose.bundles.verify import verify_bundle

    bundle = resolve_bundle(bundle)
    found = verify_bundle(bundle)
    for sentence in found.findings:
        typer.echo(sentence)
    write_json_output(json_out, found.to_json())
    if found.findings:
        raise HeatposeError(
            f"'{bundle}' is not what was exported ({len(found.findings)} findings above); export it"
            " again, or get it from its source again."
        )
    typer.echo(f"'{bundle}' is whole: {found.files} files have the sha256 that was recorded.")


def report(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            help=(
                "Folders of bundles, or names of released networks; the others are compared with"
                " the first."
            )
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[
        str | None, typer.Option(help="Of the page; the names of the bundles by default.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the evaluation set's images, where they have moved since the export."
        ),
    ] = None,
    show_images: Annotated[
        bool,
        typer.Option(
            "--gallery/--no-gallery",
            help="Show predictions on images, which become part of the page.",
        ),
    ] = True,
) -> None:
    """Write one page about a bundle, or one that compares several.

    Scores, costs on boards, plots, predictions.
    """
    from heatpose.bundles.released import resolve_bundle
    from heatpose.report import write_report

    bundles = [resolve_bundle(bundle) for bundle in bundles]
    path = write_report(bundles, out, title=title, images=images, show_images=show_images)
    typer.echo(
        f"{path} ({path.stat().st_size / 1e6:.1f} MB) opens in any browser, without a network."
    )


class Form(StrEnum):
    """Which int8 file."""

    int8_pc = "int8_pc"
    int8_pt = "int8_pt"


def debug_quant(
    bundle: Annotated[Path, typer.Argument(help="A bundle with the float file and the int8 file.")],
    sources: Annotated[
        list[Path], typer.Argument(help="Images and folders of images to compare the files on.")
    ],
    form: Annotated[Form, typer.Option(help="The int8 file.")] = Form.int8_pc,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; debug_<form> in the bundle by default.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many images.", min=1)] = 200,
) -> None:
    """Explain where an int8 file drifts from its float file: keypoints, images, layers."""
    from rich.console import Console

    from heatpose.quantize.debug import debug_bundle

    folder = debug_bundle(bundle, sources, str(form), out, limit, Console())
    typer.echo(f"{folder} has drift.csv, layers.csv, layers.html and worst.jpg.")
