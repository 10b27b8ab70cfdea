"""`heatpose debug-quant`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Form(StrEnum):
    """Which int8 file."""

    int8_pc = "int8_pc"
    int8_pt = "int8_pt"


def debug_quant(
    bundle: Annotated[Path, typer.Argument(help="A bundle with the float file and the int8 file.")],
    sources: Annotated[list[Path], typer.Argument(help="Pictures and folders of pictures to compare the files on.")],
    form: Annotated[Form, typer.Option(help="The int8 file.")] = Form.int8_pc,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; debug_<form> in the bundle by default.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many pictures.", min=1)] = 200,
) -> None:
    """Explain where an int8 file drifts from its float file: keypoints, pictures, layers."""
    from rich.console import Console

    from heatpose.debug.write import debug_bundle

    folder = debug_bundle(bundle, sources, str(form), out, limit, Console())
    typer.echo(f"{folder} has drift.csv, layers.csv, layers.html and worst.jpg.")
