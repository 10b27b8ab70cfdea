"""The two entries that compose a configuration: `train` (train.py, `heatpose train`) and `export` (export.py, `heatpose export`).

Their modules import nothing heavy until a task runs, because composing a configuration and telling its errors need none of the seconds that torch takes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from heatpose.errors import HeatposeError

_PACKAGE = Path(__file__).parents[1]
CONF_FOLDERS = (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf")
"""Of an installed package, and of a checkout."""


def conf_folder() -> Path:
    """Folder of the configuration.

    Raises:
        HeatposeError: There is none: the package was taken apart.
    """
    for folder in CONF_FOLDERS:
        if (folder / "train.yaml").is_file():
            return folder
    raise HeatposeError(f"The configuration is not in '{CONF_FOLDERS[0]}'; install heatpose again.")


def refuse_empty_groups(arguments: Sequence[str]) -> None:
    """Ends with one sentence where a group of settings is given nothing, for which Hydra has a traceback only.

    Args:
        arguments: The command line, without the program.
    """
    for argument in arguments:
        name = re.fullmatch(r"([a-z_]+)=(?:null|None)?", argument)
        if name and (conf_folder() / name[1]).is_dir():
            choices = ", ".join(sorted(path.stem for path in (conf_folder() / name[1]).glob("*.yaml")))
            print(f"error: {argument} chooses nothing; leave it out, or choose one of {choices}.", file=sys.stderr)
            sys.exit(1)
