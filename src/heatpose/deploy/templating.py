"""Renders the text files of the deployment package from `templates/`.

To add a file: 1. write `templates/NAME.j2`; 2. call `render("NAME", ...)` in `package.py`. An
undefined variable of a template is an error. A module of its own, because `package`, `stedgeai` and
`c_sources` all import it.
"""

from __future__ import annotations

import shlex
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(name: str, **values: Any) -> str:
    """Renders a template.

    Args:
        name: Name of the template, without `.j2`.
        values: Variables of the template.
    """
    return _environment().get_template(f"{name}.j2").render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("heatpose.deploy", "templates"),
        autoescape=False,  # shell scripts, C and Markdown, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"sh": shlex.quote, "ps": _powershell, "hex": lambda n: f"0x{n:08X}"}
    return environment


def _powershell(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
