"""What a run of ST's tool came to, judged by the files it made, and `result.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heatpose.deploy.c_info import read_c_info
from heatpose.deploy.diagnosis import Diagnosis
from heatpose.deploy.facts import Facts, ReportError, merged
from heatpose.deploy.targets import Target
from heatpose.deploy.text_report import read_text_report
from heatpose.utils.files import write_json

KIB = 1024


@dataclass(frozen=True)
class Outcome:
    """A run.

    Attributes:
        target: Its name.
        status: "built", "validated" (and measured on a board), "failed" or "imported".
        facts: What the reports say.
        tool: Path, version and components of the tool, plain values; empty for an import.
        command: As typed.
        exit_status: Of the build; None where it was stopped or not run here.
        seconds: Of the build.
        products: Names of the files that were made.
        warnings: Sentences.
        over_budget: Sentences: what exceeds the target's budget.
        failure: Why it failed.
        model_sha256: Of the model that was built, where known.
    """

    target: str
    status: str
    facts: Facts = field(default_factory=Facts)
    tool: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    exit_status: int | None = None
    seconds: float | None = None
    products: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    over_budget: tuple[str, ...] = ()
    failure: Diagnosis | None = None
    model_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values: KiB are 1024 bytes, ms are milliseconds."""
        facts = self.facts
        return {
            "target": self.target,
            "status": self.status,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": facts.model,
            "model_sha256": self.model_sha256,
            "tool": dict(self.tool) or None,
            "tool_version": facts.tool_version,
            "compiler_version": facts.compiler_version,
            "command": self.command,
            "exit_status": self.exit_status,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "ram_internal_kib": _kib(facts.ram_internal),
            "ram_external_kib": _kib(facts.ram_external),
            "flash_kib": _kib(facts.flash),
            "runtime_flash_kib": _kib(facts.runtime_flash),
            "runtime_ram_kib": _kib(facts.runtime_ram),
            "macc": facts.macc,
            "epochs": {
                "hardware": facts.epochs_hw,
                "software": facts.epochs_sw,
                "hybrid": facts.epochs_hybrid,
            },
            "software_operators": (
                None
                if facts.software is None
                else [asdict(operator) for operator in facts.software]
            ),
            "ms": facts.ms,
            "device": facts.device,
            "rmse": facts.rmse,
            "cosine": facts.cosine,
            "pools": None if facts.pools is None else [asdict(pool) for pool in facts.pools],
            "products": list(self.products),
            "warnings": list(self.warnings),
            "over_budget": list(self.over_budget),
            "failure": None if self.failure is None else asdict(self.failure),
            "log": "stedgeai.log",
        }

    def write(self, path: Path) -> None:
        """Writes `result.json`, whole or not at all."""
        write_json(path, self.to_json())


def _kib(count: int | None) -> float | None:
    return None if count is None else round(count / KIB, 2)


def collect(files: Iterable[Path]) -> tuple[Facts, list[str]]:
    """Facts out of everything that a tool left: c_info files first, then text reports.

    A file that cannot be read is a warning.

    A validation replaces the build's c_info by one without sizes, so all of both kinds are read.
    """
    ordered = sorted(files)
    infos = [path for path in ordered if path.name.endswith((".json",)) and "c_info" in path.name]
    texts = [
        path for path in ordered if path.suffix in (".txt", ".log") and path.name != "LICENSE.txt"
    ]
    reports, warnings = [], []
    for path in infos:
        try:
            reports.append(read_c_info(path))
        except ReportError as error:
            message = str(error).replace(str(path), path.name)  # the folder may be a temporary one
            warnings.append(f"{message} The text report is taken instead.")
    for path in texts:
        try:
            reports.append(read_text_report(path))
        except ReportError:  # consoles and notes lie beside reports
            continue
    # Sizes of a build come before those of anything else.
    return merged(sorted(reports, key=lambda facts: not facts.declares_sizes())), warnings


def budget_excess(facts: Facts, target: Target) -> tuple[str, ...]:
    """What exceeds the target's budget, as sentences."""
    found = []
    ram, flash, budget = _kib(facts.ram_internal), _kib(facts.flash), target.budget
    if budget.ram_kib is not None and ram is not None and ram > budget.ram_kib:
        found.append(f"RAM is {ram:.0f} KiB, over the budget of {budget.ram_kib:.0f} KiB.")
    if facts.ram_external and budget.ram_kib is not None:
        found.append(
            f"{facts.ram_external / KIB:.0f} KiB of activations lie in external RAM, which is"
            " several times slower."
        )
    if budget.flash_kib is not None and flash is not None and flash > budget.flash_kib:
        found.append(f"Weights are {flash:.0f} KiB, over the budget of {budget.flash_kib:.0f} KiB.")
    if budget.ms is not None and facts.ms is not None and facts.ms > budget.ms:
        found.append(
            f"One inference takes {facts.ms:.1f} ms, over the budget of {budget.ms:.1f} ms."
        )
    return tuple(found)


def read_result(path: Path) -> dict[str, Any] | None:
    """A `result.json`; None where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
