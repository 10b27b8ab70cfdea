"""`heatpose verify`: whether a bundle is still what was exported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatpose.cli.options import JsonOut
from heatpose.cli.output import write_json
from heatpose.errors import HeatposeError


def verify(bundle: Annotated[Path, typer.Argument(help="Folder of a bundle (exports/NAME).")], json_out: JsonOut = None) -> None:
    """Compare a bundle's files with the hashes that its manifest records."""
    from heatpose.export.verify import verify_bundle

    found = verify_bundle(bundle)
    for sentence in found.findings:
        typer.echo(sentence)
    write_json(json_out, found.to_json())
    if found.findings:
        raise HeatposeError(f"'{bundle}' is not what was exported ({len(found.findings)} findings above); export it again, or get it from its source again.")
    typer.echo(f"'{bundle}' is whole: {found.files} files have the sha256 that was recorded.")
