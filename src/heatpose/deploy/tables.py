"""Terminal tables of estimates and results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from heatpose.deploy.estimate import Estimate, Interval
from heatpose.deploy.package import LOG, PRODUCTS, RESULT, DeploymentPackage, has_app_config
from heatpose.deploy.targets import Target
from heatpose.deploy.tool_result import ToolResult
from heatpose.tflite.lint import Finding

KIB = 1024


def estimate_table(expected: Estimate, target: Target) -> Table:
    """Table of RAM, flash and time with intervals and budgets."""
    table = Table(title=f"estimate for {target.board}", title_justify="left")
    for heading in ("quantity", "expected", "interval", "budget"):
        table.add_column(heading, justify="left" if heading == "quantity" else "right")
    limits = {
        "ram_kib": target.budget.ram_kib,
        "flash_kib": target.budget.flash_kib,
        "ms": target.budget.ms,
    }
    by_name = dict(
        zip(("ram_kib", "peak_kib", "flash_kib", "ms"), expected.quantities(), strict=True)
    )
    for key, (name, unit, interval) in by_name.items():
        limit, none = limits.get(key), "not estimated" if expected.outside else "not published"
        table.add_row(
            f"{name}, {unit}", *_cells(interval, none), "-" if limit is None else f"{limit:g}"
        )
    if expected.saved_ms is not None:
        table.add_row("saved against bilinear upsampling, ms", *_cells(expected.saved_ms), "-")
    return table


def estimate_lines(expected: Estimate) -> list[str]:
    """Lines below the table: source, extrapolation, warnings and notes."""
    source = (
        f"Profile {expected.profile}, fitted on published rows of {expected.based_on}; the interval"
        " is the largest error on a published row that was not fitted"
    )
    source += ", wider where it extrapolates." if expected.extrapolates else "."
    outside = (f"Extrapolation: {text}" for text in expected.outside)
    message = [
        text.removeprefix("Extrapolation: ") if "Not estimated" in text else text
        for text in outside
    ]
    return [source, *message, *(f"warning: {text}" for text in expected.warnings), *expected.notes]


def _cells(interval: Interval | None, none: str = "not published") -> tuple[str, str]:
    if interval is None:
        return none, "-"
    value, _, span = str(interval).partition(" ")
    return value, span


def result_table(result: ToolResult) -> Table:
    """Table of a result of ST Edge AI Core."""
    facts = result.facts
    table = Table(
        title=f"{result.target}: {result.status}", show_header=False, title_justify="left"
    )
    sizes = (
        ("RAM on chip", facts.ram_internal),
        ("RAM external", facts.ram_external),
        ("flash, weights", facts.flash),
        ("flash, runtime", facts.runtime_flash),
        ("RAM, runtime", facts.runtime_ram),
    )
    for name, count in sizes:
        if count is not None:
            table.add_row(name, f"{count / KIB:,.2f} KiB")
    if facts.macc is not None:
        table.add_row("multiply-accumulates", f"{facts.macc:,}")
    if facts.epochs_hw is not None:
        table.add_row(
            "epochs",
            f"{facts.epochs_hw} hardware, {facts.epochs_sw} software, {facts.epochs_hybrid} both",
        )
    if facts.software:
        table.add_row(
            "in software",
            ", ".join(f"{entry.operator} ({entry.epoch})" for entry in facts.software),
        )
    if facts.ms is not None:
        table.add_row("one inference", f"{facts.ms:.3f} ms on {facts.device or 'a board'}")
    if facts.cosine is not None or facts.rmse is not None:
        figures = (
            f"{name} {value:.6g}"
            for name, value in (("cosine", facts.cosine), ("rmse", facts.rmse))
            if value is not None
        )
        table.add_row("against the tool's reference", ", ".join(figures))
    for name, text in (("tool", facts.tool_version), ("NPU compiler", facts.compiler_version)):
        if text is not None:
            table.add_row(name, text)
    return table


def result_lines(result: ToolResult, folder: Path) -> list[str]:
    """Lines below the table: exceeded budgets, warnings, written files."""
    made = f" and {PRODUCTS}/" if result.products else ""
    return [
        *result.over_budget,
        *(f"warning: {text}" for text in result.warnings),
        f"In {folder}: {RESULT}, {LOG}{made}.",
    ]


def package_lines(
    package: DeploymentPackage, command: str | None, findings: Sequence[Finding]
) -> list[str]:
    """Lines of a run without `--run`: folder, assumptions, findings and the exact command."""
    state = "is ready"
    if any(finding.severity == "error" for finding in findings):
        state = "is written, but the board cannot run this file (see the errors)"
    lines = [f"{package.folder} {state}: {package.model_name} for {package.target.board}."]
    lines += [f"Assumed: {text}" for text in package.model.assumed]
    if package.target.application and not has_app_config(package.target, package.model):
        kind = "decoded poses" if package.model.decoded else "float heatmaps"
        lines.append(
            f"warning: {package.target.application.name} decodes int8 heatmaps only, and this file"
            f" gives {kind}: app_config_block.h, into_application.py and the self-test are left"
            " out; `heatpose export` with quant.output=int8 writes a file with heatmaps."
        )
    if package.target.application is not None and command is not None:
        lines.append(
            "Compatible versions:"
            f" {package.target.application.name} {package.target.application.pairs_text()}."
        )
    lines += [
        f"{finding.severity}: {finding.message}"
        for finding in findings
        if finding.severity != "info"
    ]
    if command is None:
        return [
            *lines,
            "No conversion is needed; README.md in the folder describes the installation.",
        ]
    return [*lines, f"In that folder (or ./run.sh, or --run): {command}"]
