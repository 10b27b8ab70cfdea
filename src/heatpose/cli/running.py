"""`heatpose train` and `heatpose export`.

The two entries that are configured by Hydra, for an installed package as for a checkout.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help=(
            "As train.py and export.py take them: KEY=VALUE and Hydra's options, such as"
            " experiment=quickstart, -m, --cfg job."
        )
    ),
]
PASSED_ON = {"ignore_unknown_options": True, "help_option_names": []}
"""Settings of these commands: every option, --help as well, is Hydra's."""


def train(overrides: Overrides = None) -> None:
    """Train, score and export a network as configured, for example experiment=quickstart."""
    from heatpose.entries.train import main

    _with_arguments(main, "train", overrides)


def export(overrides: Overrides = None) -> None:
    """Export a checkpoint, or imported weights, as a proven bundle."""
    from heatpose.entries.export import main

    _with_arguments(main, "export", overrides)


def _with_arguments(main: Callable[[], None], name: str, overrides: list[str] | None) -> None:
    """Hydra reads the arguments of the process, which end here anyway."""
    sys.argv = [f"heatpose {name}", *(overrides or [])]
    main()
