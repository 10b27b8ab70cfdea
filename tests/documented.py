"""Every command of the pages: its parts, and where in the tests it is run.

Loaded by its path (conftest.py), because the importing mode is `importlib`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
BLOCK = re.compile(r"^[ ]*```(?P<kind>\w+)\n(?P<text>.*?)^[ ]*```$", re.M | re.S)
INDENTED = re.compile(
    r"^    ((?:uv run (?:--extra \w+ )*)?(?:heatpose|train\.py|export\.py) .*)$", re.M
)
"""A command beside a table of results."""


@dataclass(frozen=True)
class Documented:
    """One command.

    Attributes:
        page: Its page.
        program: "heatpose", "train", "export", or the first word of anything else.
        arguments: Of the program.
    """

    page: str
    program: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([self.program, *self.arguments])


def blocks(page: Path, kind: str) -> Iterator[str]:
    """Texts of the blocks of one kind."""
    return (
        found["text"]
        for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
        if found["kind"] == kind
    )


def commands(*programs: str) -> list[Documented]:
    """The commands of all pages in the order in which they stand there.

    Of some programs or of all of them.
    """
    found = [_command(page.name, line) for page in PAGES for line in _lines(page)]
    return [command for command in found if not programs or command.program in programs]


def _lines(page: Path) -> Iterator[str]:
    shown = [*blocks(page, "bash"), *INDENTED.findall(page.read_text(encoding="utf-8"))]
    for line in "\n".join(shown).replace("\\\n", " ").splitlines():
        yield from (
            part
            for part in line.split(" && ")
            if part.strip() and not part.lstrip().startswith("#")
        )


def _command(page: str, line: str) -> Documented:
    words = shlex.split(line, comments=True)
    if words[:2] == ["uv", "run"]:
        program = 2
        while words[program] == "--extra":  # and the extra's name
            program += 2
        if words[program] in ("heatpose", "train.py", "export.py"):
            words = words[program:]
    if words[0] == "heatpose" and words[1] in ("train", "export"):
        words = words[1:]
    return Documented(page, words[0].removesuffix(".py"), tuple(words[1:]))
