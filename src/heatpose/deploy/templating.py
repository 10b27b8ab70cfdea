"""Text files of the deployment package, out of the templates in `templates/`.

To add one: 1. write `templates/NAME.j2`; 2. `render("NAME", ...)` where the folder is filled
(`folder.py`). A value that the template names and nobody gives is an error.
"""

from __future__ import annotations

import shlex
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(name: str, **values: Any) -> str:
    """A text file.

    Args:
        name: Of the template, without `.j2`.
        values: What it names.
    """
    return _environment().get_template(f"{name}.j2").render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("heatpose.deploy", "templates"),
        autoescape=False,  # shell scripts, C and Markdown, no HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"sh": shlex.quote, "ps": _powershell, "hex": lambda n: f"0x{n:08X}"}
    return environment


def _powershell(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
