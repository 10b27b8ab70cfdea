"""The entry points configured by Hydra: `train` and `export`, as scripts and as commands.

Heavy packages are imported when a task runs: composing a configuration and reporting its errors
does not need torch.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatpose.errors import HeatposeError, InterruptedRun, exit_on_user_error
from heatpose.utils.files import conf_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

FULL_ERRORS = "HYDRA_FULL_ERROR"
"""Environment variable; 1 makes Hydra raise its errors instead of printing them."""
Entry = Callable[["DictConfig"], Any]


def run(entry: Entry, name: str) -> None:
    """Composes the configuration from the command line and runs an entry with it.

    Errors of the command line or configuration exit with one sentence: status 2 for unknown
    options, 1 otherwise.

    Args:
        entry: Task, called by Hydra with the configuration.
        name: Name of the configuration, "train" or "export".
    """
    # Imported here: `heatpose --help` needs none of it.
    import hydra

    from heatpose.entries.command_line import options_of, quoted, refuse_old_resolvers

    with exit_on_user_error():
        options = options_of(sys.argv[1:])
        folders = [conf_folder(), *([Path(options.config_dir)] if options.config_dir else [])]
        if not folders[-1].is_dir():
            raise HeatposeError(
                f"--config-dir names '{folders[-1]}', which is not a folder; correct it."
            )
        groups = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
        sys.argv[1:] = quoted(
            sys.argv[1:], groups, sweep=options.multirun or "hydra.mode=MULTIRUN" in sys.argv
        )
        refuse_empty_groups(sys.argv[1:])
        refuse_old_resolvers(sys.argv[1:])
        composed = hydra.main(config_path=str(folders[0]), config_name=name, version_base="1.3")(
            entry
        )
        try:
            with _errors_handed_over():
                composed()
        except KeyboardInterrupt as stopped:
            raise InterruptedRun("Interrupted; run the same command again.") from stopped
        except Exception as error:
            if not _is_hydras(error):
                raise
            if os.environ.get(FULL_ERRORS) == "1":  # set by the user
                traceback.print_exception(error)
                sys.exit(1)
            # Imported here: only needed for errors.
            from heatpose.entries.command_line import composing_sentence

            raise HeatposeError(composing_sentence(error, name, sys.argv[1:], folders)) from error


@contextmanager
def _errors_handed_over() -> Iterator[None]:
    before = os.environ.get(FULL_ERRORS)
    os.environ[FULL_ERRORS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FULL_ERRORS]
        else:
            os.environ[FULL_ERRORS] = before


def _is_hydras(error: Exception) -> bool:
    from hydra.errors import HydraException

    return isinstance(error, HydraException)


def refuse_empty_groups(arguments: Sequence[str]) -> None:
    """Rejects empty config groups, for which Hydra prints only a traceback.

    Args:
        arguments: Command line, without the program.

    Raises:
        HeatposeError: `GROUP=`, `GROUP=null`, or `~GROUP` for a required group.
    """
    for argument in arguments:
        given = re.fullmatch(r"([a-z_]+)=(?:null|None)?", argument)
        left = re.fullmatch(r"~([a-z_]+)", argument)
        name = given or (left if left and left[1] not in OPTIONAL else None)
        if name and (conf_folder() / name[1]).is_dir():
            choices = ", ".join(
                sorted(path.stem for path in (conf_folder() / name[1]).glob("*.yaml"))
            )
            raise HeatposeError(
                f"{argument} chooses nothing; leave it out, or choose one of {choices}."
            )


OPTIONAL = ("target", "recipe", "experiment", "debug", "sweep")
"""Optional config groups."""
