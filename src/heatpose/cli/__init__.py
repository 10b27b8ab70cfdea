"""The `heatpose` command. Heavy modules are imported inside each command, so that --help is quick.

Exit status: 0 success, 1 a failed acceptance check or invalid input (one sentence on stderr), 2
wrong usage. To add a command: 1. write a function in a module of this package; 2. add it to
`COMMANDS`. `ENTRIES` pass their arguments to Hydra; `RELEASING` get a panel of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from heatpose.cli.boards import deploy, estimate, inspect
from heatpose.cli.images import data, label, predict
from heatpose.cli.released import half, models, release
from heatpose.cli.runs import PASSED_ON, debug_quant, doctor, export, report, train, verify
from heatpose.cli.scoring import compare, evaluate
from heatpose.errors import exit_on_user_error

COMMANDS = (
    evaluate,
    compare,
    predict,
    data,
    label,
    estimate,
    deploy,
    models,
    inspect,
    debug_quant,
    report,
    verify,
    doctor,
)
ENTRIES = (train, export)
RELEASING = (half, release)

app = typer.Typer(
    help="Person pose for microcontrollers: train, score, export, deploy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for entry in ENTRIES:
    app.command(context_settings=PASSED_ON)(entry)
for command in COMMANDS:
    app.command()(command)
for releasing in RELEASING:
    app.command(rich_help_panel="Commands to release a network")(releasing)


OLD_OPTIONS = {
    ("debug-quant", "--form"): "--artefact",
    ("report", "--pictures"): "--gallery",
    ("report", "--no-pictures"): "--no-gallery",
}
"""Command and option of earlier versions -> the option of now."""


def main() -> None:
    """Entry point of the `heatpose` command."""
    refuse_old_options(sys.argv[1:])
    with exit_on_user_error():
        app()


def refuse_old_options(arguments: Sequence[str]) -> None:
    """Ends the process with the new name of an option of an earlier version, with status 2.

    Args:
        arguments: The command line, without the program.
    """
    for (name, old), new in OLD_OPTIONS.items():
        if arguments[:1] == [name] and old in (part.partition("=")[0] for part in arguments):
            print(f"error: {old} was renamed; write {new}.", file=sys.stderr)
            sys.exit(2)
