"""The package's docstrings are plain text in Google's layout with `code` in single quotes.

Sphinx reads them as reStructuredText.
"""

from __future__ import annotations

import re
from typing import Any

CODE = re.compile(r"(``?)(.+?)\1", re.S)
COLUMNS = re.compile(r"^\S+(?: \S+)*?\s{2,}\S")
"""A line like "fold.py         batch norm into the convolutions"."""


def plain_text_to_rst(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Sphinx's autodoc-process-docstring; changes `lines` in place."""
    paragraphs = re.split(r"\n[ \t]*\n", "\n".join(lines))
    lines[:] = "\n\n".join(map(_paragraph, paragraphs)).splitlines()
    lines.append("")


def _paragraph(text: str) -> str:
    rows = text.splitlines()
    if (
        len(rows) > 1
        and all(COLUMNS.match(row) or row.startswith("  ") for row in rows)
        and COLUMNS.match(rows[0])
    ):
        return "\n".join(["::", "", *(f"   {row}" for row in rows)])
    pieces, end = [], 0
    for code in CODE.finditer(text):
        pieces += [
            _escaped(text[end : code.start()]),
            _literal(code[2], text[code.end() : code.end() + 1]),
        ]
        end = code.end()
    return "".join([*pieces, _escaped(text[end:])])


def _literal(code: str, after: str) -> str:
    """Code in double quotes; what follows it directly, as in `Person`s, needs a separator."""
    return f"``{' '.join(code.split())}``" + ("\\ " if after.isalnum() else "")


def _escaped(text: str) -> str:
    """Characters that mean something in reStructuredText and nothing here."""
    return re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", text)
