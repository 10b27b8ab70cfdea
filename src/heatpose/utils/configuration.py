"""Where the configuration files are."""

from __future__ import annotations

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
