"""`heatpose doctor`: is this machine ready."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatpose.cli.options import JsonOut
from heatpose.cli.output import write_json
from heatpose.errors import HeatposeError


def doctor(
    data: Annotated[Path | None, typer.Option(help="Look at this data set as well: the folder that data.root names.")] = None,
    json_out: JsonOut = None,
) -> None:
    """Check versions, devices, disks, tools and data, and say what to do about each problem."""
    from heatpose.doctor import examine, to_json
    from heatpose.present import check_table, show

    checks = examine(data)
    show(check_table(checks))
    write_json(json_out, to_json(checks))
    failed = [check.name for check in checks if check.status == "fail"]
    if failed:
        raise HeatposeError(f"{len(failed)} of {len(checks)} checks failed ({', '.join(failed)}); the table says what to do.")
