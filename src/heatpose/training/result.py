"""The result of a run: `runs/<run>/result.json`, read to resume a sweep, and search objectives."""

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
"""Names allowed in `objectives`. All but the first refer to the first board."""
PLACES = ("runs", "exports", "hydra", "logger", "resume", "objectives")
"""Entries that do not affect the files of a run."""


@dataclass(frozen=True)
class BoardNumbers:
    """Numbers of a run for one board; None if unknown.

    Attributes:
        artefact: The file that the board runs.
        oks: Of that file, in percent.
        ms: Estimated time of an inference, in milliseconds.
        ram_kib: Estimated RAM, in KiB.
        flash_kib: Estimated flash for weights, in KiB.
        extrapolates: Whether the estimate is outside the range of its fit.
    """

    artefact: str
    oks: float | None = None
    ms: float | None = None
    ram_kib: float | None = None
    flash_kib: float | None = None
    extrapolates: bool = False


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    Attributes:
        status: "failed" includes runs whose export failed an acceptance check.
        reason: Message of a failure.
        oks: Of the float network, in percent; None if it was not scored.
        files: Artefact -> OKS in percent, of the exported files.
        boards: Name of a board -> its numbers; the first is the target of the run.
        bundle: Folder of the export.
        seconds: Duration of the last invocation.
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
        """The inverse of `dataclasses.asdict`; ignores unknown entries.

        Raises:
            TypeError: An entry is missing or of another type.
        """
        known = {name: content[name] for name in RunResult.__dataclass_fields__ if name in content}
        boards = {
            name: BoardNumbers(**numbers) for name, numbers in dict(known.get("boards", {})).items()
        }
        return RunResult(**{**known, "boards": boards})

    def objective(self, name: str) -> float:
        """The value of an objective by its name in `OBJECTIVES`; NaN if missing or the run failed.

        Raises:
            HeatposeError: The name is unknown.
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
        """The values for Hydra: one number, or a tuple for several names."""
        values = tuple(self.objective(name) for name in names)
        return values[0] if len(values) == 1 else values


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, interpolations resolved."""
    result = OmegaConf.to_container(config, resolve=True)
    assert isinstance(result, dict)
    return {str(key): value for key, value in result.items()}


def fingerprint(config: DictConfig) -> str:
    """SHA-256 of everything that determines the result of a run.

    The configuration without `PLACES`, and the weights of its initialisation and its teacher.
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
    """Writes the result into the folder of the run, with the SHA-256 of the bundle's manifest."""
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
    """The result of a finished run with the same configuration and unchanged bundle, else None."""
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
