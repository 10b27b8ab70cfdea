"""ST's demo application for a board, and the ST Edge AI Core version each release builds with.

`network.c` stops with `#error` for any runtime but that of its own compiler, so versions must
match. The table is in the target's YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from heatpose.errors import HeatposeError


@dataclass(frozen=True)
class Application:
    """One of ST's demo applications.

    Attributes:
        name: Name of its public repository.
        folder: The board's folder below `Application/` and `Model/`.
        pairs: Prefix of the application's version -> prefix of the matching Core version.
        boot: Switch positions for development mode and flash boot.
        display: Where the skeleton is displayed, and the `make` option for it.
    """

    name: str
    folder: str
    pairs: Mapping[str, str]
    boot: str = ""
    display: str = ""

    def core_for(self, version: str) -> str:
        """Prefix of the Core version that a release of the application builds with.

        Raises:
            HeatposeError: The release is not in `pairs`.
        """
        for release, core in self.pairs.items():
            if starts(version, release):
                return core
        raise HeatposeError(
            f"{self.name} {version} is not in the table of pairs ({self.pairs_text()}); check out "
            "one of these releases, or add the pair to `application.pairs` of the target's YAML."
        )

    def releases_for(self, core: str) -> list[str]:
        """Releases that build with a Core version; may be empty."""
        return [release for release, wanted in self.pairs.items() if starts(core, wanted)]

    def pairs_text(self) -> str:
        """`pairs` in one line."""
        return ", ".join(f"{release} with Core {core}" for release, core in self.pairs.items())

    def mismatch(self, core: str, version: str | None = None) -> str | None:
        """Error sentence with remedy for a Core version that does not match; None if it does.

        Args:
            core: Version of ST Edge AI Core, "4.0.1" or "4.0.1-20581".
            version: Release of the application; None for any.

        Raises:
            HeatposeError: The release is not in `pairs`.
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
            "Middlewares/stedgeai-lib as described in its README."
        )


def starts(version: str, prefix: str) -> bool:
    """Whether a version begins with the components of another: 4.0.1 with 4.0, not with 4.0.0."""
    return version.split(".")[: len(prefix.split("."))] == prefix.split(".")


def release_of(named: str) -> str:
    """Release number from "2.3.1" or from the release notes of a checkout.

    Raises:
        HeatposeError: `named` is neither.
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
