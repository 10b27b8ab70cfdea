"""Licences of the packages that heatpose needs, out of what is installed.

`uv run python docs/_ext/licences.py` writes them into THIRD_PARTY_NOTICES.md.
"""

from __future__ import annotations

import os
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
NOTICES = REPOSITORY / "THIRD_PARTY_NOTICES.md"
BEGIN, END = "<!-- packages: made by docs/_ext/licences.py -->\n", "<!-- end of packages -->\n"
REQUIRED = "required"
SHORT = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "BSD License": "BSD",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


def needed() -> dict[str, str]:
    """Installed packages, normalised name -> "required" or the first extra that brings it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, str] = {}
    for part, lines in {
        REQUIRED: project["dependencies"],
        **project.get("optional-dependencies", {}),
    }.items():
        for line in lines:
            _follow(Requirement(line), part, found)
    found.pop("heatpose", None)
    return found


def _follow(requirement: Requirement, part: str, found: dict[str, str]) -> None:
    """Adds a requirement and all that it requires here; what is not installed is left out."""
    name = canonicalize_name(requirement.name)
    known = name in found
    if known and not requirement.extras:
        return
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    found.setdefault(name, part)
    for inner in map(Requirement, lines):
        environments = [{"extra": extra} for extra in (requirement.extras or {""})]
        if inner.marker is None or any(
            inner.marker.evaluate(environment) for environment in environments
        ):
            _follow(inner, part, found)


def licence(name: str) -> str:
    """As the package states it: an SPDX expression, else its classifiers.

    Else the first line of its licence.
    """
    facts: Any = metadata.metadata(
        name
    )  # `get`, because [] raises where the package importlib_metadata has been imported
    if expression := facts.get("License-Expression"):
        return str(expression)
    classified = [
        line.rpartition(" :: ")[2]
        for line in facts.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    named = [SHORT.get(text, text) for text in classified if text != "OSI Approved"]
    first = next(iter((facts.get("License") or "").strip().splitlines()), "")
    return ", ".join(named) or SHORT.get(first, first) or _of_file(name) or "not stated"


def _of_file(name: str) -> str:
    """The first line of a licence file that says something."""
    files = [
        file
        for file in metadata.files(name) or []
        if re.match(r"(LICEN[CS]E|COPYING)", file.name, re.I)
    ]
    lines = [line.strip() for file in files[:1] for line in file.read_text().splitlines()]
    return next((line[:60] for line in lines if re.search(r"licen[cs]e", line, re.I)), "")


def table() -> str:
    """All packages, those that are required first."""
    rows = sorted(needed().items(), key=lambda row: (row[1] != REQUIRED, row[1], row[0]))
    lines = [f"| {name} | {licence(name).replace('|', '/')} | {part} |" for name, part in rows]
    return (
        "\n".join(
            [
                "| package | licence, as the package states it | needed for |",
                "|---|---|---|",
                *lines,
            ]
        )
        + "\n"
    )


def main() -> None:
    """Replaces the table of the notices."""
    before, _, rest = NOTICES.read_text(encoding="utf-8").partition(BEGIN)
    part = NOTICES.with_name(NOTICES.name + ".part")
    part.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    os.replace(part, NOTICES)


if __name__ == "__main__":
    main()
