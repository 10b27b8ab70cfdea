"""TODO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from heatpose.evaluation.evaluate import EvalReport, PairedDifference


def report_table(reports: Sequence[EvalReport]) -> Table:
    """One row per model."""
    first = reports[0]
    table = Table(
        title=(
            f"{first.images} images, {first.protocol['sampling']} sampling,"
            f" {first.protocol['decode']} decode"
        )
    )
    for heading in (
        "model",
        "keypoints",
        "OKS %",
        "standard error",
        "COCO AP %",
        "AP50 %",
        "images/s",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for r in reports:
        rate = r.images / max(r.seconds, 1e-9)
        table.add_row(
            r.model,
            str(r.keypoints),
            f"{r.oks:.2f}",
            f"{r.oks_standard_error:.2f}",
            f"{r.ap:.2f}",
            f"{r.ap50:.2f}",
            f"{rate:.0f}",
        )
    table.caption = (
        f"OKS: published single-person protocol ({first.protocol['kernels']}). COCO AP is another"
        " measure; the two do not compare."
    )
    return table


def comparison_table(
    reports: Sequence[EvalReport], differences: Sequence[PairedDifference]
) -> Table:
    """Like `report_table`, with the paired difference from the first model."""
    table = Table(
        title=(
            f"{reports[0].images} images; difference from {reports[0].model}, 95 % paired bootstrap"
            " interval"
        )
    )
    for heading in ("model", "OKS %", "standard error", "difference", "interval", "COCO AP %"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for i, r in enumerate(reports):
        change = (
            ("", "")
            if i == 0
            else (
                f"{differences[i - 1].mean:+.2f}",
                f"{differences[i - 1].low:+.2f} .. {differences[i - 1].high:+.2f}",
            )
        )
        table.add_row(
            r.model, f"{r.oks:.2f}", f"{r.oks_standard_error:.2f}", *change, f"{r.ap:.2f}"
        )
    return table
