"""What a run came to: `runs/<run>/result.json`, which a sweep reads to go on.

And the numbers that a search looks at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from heatpose.bundles.bundle import MANIFEST
from heatpose.errors import HeatposeError
from heatpose.utils.files import read_json_object, sha256, sha256_of_json, write_json

RESULT = "result.json"
Status = Literal["running", "finished", "failed"]
OBJECTIVES = ("oks", "int8_oks", "ms", "ram_kib", "flash_kib")
"""What `objectives` in the configuration may name.

All but the first are those of the first board.
"""
PLACES = ("runs", "exports", "hydra", "logger", "resume", "objectives")
"""Entries that change nothing in a run's files, whatever they are."""


@dataclass(frozen=True)
class BoardNumbers:
    """One board's side of a run; None where nothing is known.

    Attributes:
        artefact: Which file the board takes.
        oks: Of that file, in percent.
        ms: One inference, estimated, as the two below.
        ram_kib: RAM.
        flash_kib: Weights.
        extrapolates: Whether the estimate is outside what it was fitted on.
    """

    artefact: str
    oks: float | None = None
    ms: float | None = None
    ram_kib: float | None = None
    flash_kib: float | None = None
    extrapolates: bool = False


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        status: "failed" is also a run whose export was refused by a gate.
        reason: The sentence of a failure.
        oks: Of the float network, in percent; None where nothing was scored.
        files: Artefact -> OKS in percent, of the exported files.
        boards: Name of a board -> its numbers; the first is the one that the run is for.
        bundle: Folder of the export.
        seconds: That the run took, this time.
    """

    status: Status = "finished"
    reason: str = ""
    oks: float | None = None
    files: Mapping[str, float | None] = field(default_factory=dict)
    boards: Mapping[str, BoardNumbers] = field(default_factory=dict)
    bundle: str | None = None
    seconds: float = 0.0

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> RunResult:
        """The opposite of `dataclasses.asdict`; entries that it does not know are left out.

        Raises:
            TypeError: Something is missing or of another kind.
        """
        known = {name: content[name] for name in RunResult.__dataclass_fields__ if name in content}
        boards = {
            name: BoardNumbers(**numbers) for name, numbers in dict(known.get("boards", {})).items()
        }
        return RunResult(**{**known, "boards": boards})

    def objective(self, name: str) -> float:
        """A number by its name in `OBJECTIVES`; NaN where the run has none, or has failed.

        Raises:
            HeatposeError: There is no such number.
        """
        if name not in OBJECTIVES:
            raise HeatposeError(
                f"objectives names '{name}', which is unknown; choose among"
                f" {', '.join(OBJECTIVES)}."
            )
        board = next(iter(self.boards.values()), BoardNumbers(""))
        value = (
            self.oks if name == "oks" else board.oks if name == "int8_oks" else getattr(board, name)
        )
        return math.nan if value is None or self.status == "failed" else float(value)

    def objectives(self, names: Sequence[str]) -> float | tuple[float, ...]:
        """What the entry returns to Hydra: one number, or as many as there are names."""
        values = tuple(self.objective(name) for name in names)
        return values[0] if len(values) == 1 else values


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, interpolations resolved."""
    result = OmegaConf.to_container(config, resolve=True)
    assert isinstance(result, dict)
    return {str(key): value for key, value in result.items()}


def fingerprint(config: DictConfig) -> str:
    """sha256 of all that decides what a run comes to.

    The configuration without its places, and the weights that it begins with and learns from.
    """
    values = {key: value for key, value in plain(config).items() if key not in PLACES}
    named = [
        Path(str(path))
        for path in (
            values.get("checkpoint"),
            *((values.get(key) or {}).get("path") for key in ("init", "distill")),
        )
        if path
    ]
    weights = [sha256(path) for path in named if path.is_file()]
    return sha256_of_json([values, weights])


def keep(folder: Path, config: DictConfig, result: RunResult) -> None:
    """Writes a run's result into its folder, with the sha256 of its bundle's manifest.

    A later export takes the result's place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / RESULT,
        {
            "fingerprint": fingerprint(config),
            "manifest_sha256": _manifest(result),
            **asdict(result),
        },
    )


def finished(folder: Path, config: DictConfig) -> RunResult | None:
    """The result of an earlier run with the same configuration whose bundle is still what it was.

    None where there is none.
    """
    content = read(folder / RESULT)
    if content.get("fingerprint") != fingerprint(config):
        return None
    try:
        result = RunResult.from_json(content)
    except TypeError:
        return None
    return (
        result
        if result.status == "finished" and content.get("manifest_sha256") == _manifest(result)
        else None
    )


def _manifest(result: RunResult) -> str | None:
    path = Path(result.bundle) / MANIFEST if result.bundle else None
    return sha256(path) if path is not None and path.is_file() else None


def read(path: Path) -> dict[str, Any]:
    """A json file's content; empty where it cannot be read."""
    return read_json_object(path) or {}
