"""ST's application for a board, and which of its releases builds with which ST Edge AI Core.

`network.c` has an `#error` for every other runtime than the one of its own compiler, so that
versions go in pairs. A target's YAML has the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from heatpose.errors import HeatposeError


@dataclass(frozen=True)
class Application:
    """An application of ST's.

    Attributes:
        name: Of its public repository.
        folder: Of the board below `Application/` and `Model/`.
        pairs: Start of the application's version -> start of the Core version that it builds with.
        boot: How the board's switches choose between development mode and flash.
        display: Where the skeleton is seen, and what `make` takes for it.
    """

    name: str
    folder: str
    pairs: Mapping[str, str]
    boot: str = ""
    display: str = ""

    def core_for(self, version: str) -> str:
        """Start of the Core version that a release of the application builds with.

        Raises:
            HeatposeError: The release is in no pair.
        """
        for release, core in self.pairs.items():
            if starts(version, release):
                return core
        raise HeatposeError(
            f"{self.name} {version} is not in the table of pairs ({self.pairs_text()}); check out "
            "one of these releases, or add the pair to `application.pairs` of the target's YAML."
        )

    def releases_for(self, core: str) -> list[str]:
        """Releases that build with a Core version; empty where none does."""
        return [release for release, wanted in self.pairs.items() if starts(core, wanted)]

    def pairs_text(self) -> str:
        """All pairs in one line."""
        return ", ".join(f"{release} with Core {core}" for release, core in self.pairs.items())

    def mismatch(self, core: str, version: str | None = None) -> str | None:
        """What is wrong with a Core version, as a sentence with the remedy; None for nothing.

        Args:
            core: Version of ST Edge AI Core, "4.0.1" or "4.0.1-20581".
            version: Release of the application; None where any will do.

        Raises:
            HeatposeError: The release is in no pair.
        """
        plain = core.split("-", maxsplit=1)[0]
        if version is not None:
            wanted = self.core_for(version)
            if starts(plain, wanted):
                return None
            return (
                f"{self.name} {version} builds with ST Edge AI Core {wanted}, not with {plain} "
                "('Possible mismatch in ll_aton library used'); install that one and name it with "
                "--tool, or check out a release that goes with yours "
                f"({', '.join(self.releases_for(plain)) or 'there is none'})."
            )
        if self.releases_for(plain):
            return None
        return (
            f"No release of {self.name} builds with ST Edge AI Core {plain} "
            f"({self.pairs_text()}); install one of these, or replace the application's "
            "Middlewares/stedgeai-lib as its README says."
        )


def starts(version: str, prefix: str) -> bool:
    """Whether a version begins with the numbers of another: 4.0.1 with 4.0, not with 4.0.0."""
    return version.split(".")[: len(prefix.split("."))] == prefix.split(".")


def release_of(named: str) -> str:
    """A release, "2.3.1", or the newest in the release notes of a checkout.

    Raises:
        HeatposeError: It is neither.
    """
    if re.fullmatch(r"v?\d+(\.\d+)+", named):
        return named.removeprefix("v")
    notes = Path(named) / "Release_Notes.md"
    found = None
    if notes.is_file():
        text = notes.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^### [vV](\d+\.\d+\.\d+)", text, re.MULTILINE)
    if found is None:
        raise HeatposeError(
            f"'{named}' is neither a release like 2.3.1 nor a checkout with Release_Notes.md; "
            "give one of them to --app."
        )
    return found[1]
