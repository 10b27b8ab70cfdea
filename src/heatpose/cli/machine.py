"""`heatpose doctor`: is this machine ready."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatpose.cli.options import JsonOut
from heatpose.errors import HeatposeError
from heatpose.utils.files import write_json_output

if TYPE_CHECKING:
    from heatpose.doctor.trial import Step


def doctor(
    data: Annotated[
        Path | None,
        typer.Option(help="Look at this data set as well: the folder that data.root names."),
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Train, score and export a tiny network, and measure.")
    ] = False,
    json_out: JsonOut = None,
) -> None:
    """Check versions, devices, disks, tools and data, and say what to do about each problem."""
    from heatpose.doctor import examine, to_json
    from heatpose.doctor.check import check_table
    from heatpose.doctor.trial import try_machine
    from heatpose.utils.console import show

    checks = examine(data)
    show(check_table(checks))
    steps = try_machine(_tell) if run else []
    write_json_output(json_out, to_json(checks, steps))
    everything = [*checks, *steps]
    failed = [check.name for check in everything if check.status == "fail"]
    if failed:
        raise HeatposeError(
            f"{len(failed)} of {len(everything)} checks failed ({', '.join(failed)});"
            " what to do stands beside them."
        )


def _tell(step: Step) -> None:
    """One line for a step that has ended, and what to do where it failed."""
    typer.echo(f"{step.status:4}  {step.seconds:6.1f} s  {step.name}: {step.found}")
    if step.remedy:
        typer.echo(f"      {step.remedy}")
