"""The `heatpose` command. Heavy modules are imported inside each command, so that `--help` answers at once.

Exit status: 0 success, 1 a failed gate or bad input (one sentence on stderr), 2 wrong usage. A command is a function of one of the modules beside this
one; a new one is added to `COMMANDS`.
"""

from __future__ import annotations

import typer

from heatpose.cli.boards import deploy, estimate, inspect
from heatpose.cli.machine import doctor
from heatpose.cli.pictures import data, predict
from heatpose.cli.reports import report
from heatpose.cli.scoring import compare, evaluate
from heatpose.errors import told_in_one_sentence

COMMANDS = (evaluate, compare, inspect, predict, data, estimate, deploy, doctor, report)

app = typer.Typer(help="Person pose for microcontrollers: score, inspect, draw, deploy.", no_args_is_help=True, pretty_exceptions_enable=False)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Entry point of the `heatpose` command."""
    with told_in_one_sentence():
        app()
