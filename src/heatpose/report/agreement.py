"""How far the poses of int8 files agree with those of the float network, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heatpose.report.bundle import Bundle
from heatpose.report.content import Block, Cell, Row, Table, missing

SETS = {"evaluation": "evaluation", "holdout": "held-out training"}
CAPTION = (
    "Agreement: mean OKS of a file's poses with the float network's poses as the labels, every"
    " keypoint labelled, area from the labelled person's box. 100 for equal poses, whether they are"
    " right or wrong. The last columns are the keypoints."
)


def agreement_blocks(bundles: Sequence[Bundle]) -> list[Block]:
    """A table for each skeleton, since its keypoints are the columns."""
    tables: dict[tuple[str, ...], list[Row]] = {}
    blocks = list[Block]()
    for bundle in bundles:
        found = list(_entries(bundle))
        if not found:
            blocks.append(
                missing(
                    f"The agreement of '{bundle.label}' with its float network is not known; export"
                    " it again with an int8 file and evaluation images."
                )
            )
        for form, images, entry in found:
            scores = entry["oks_per_keypoint"]
            tables.setdefault(tuple(scores), []).append(
                _row(bundle.label, form, images, entry, scores)
            )
    for i, (names, rows) in enumerate(tables.items()):
        columns = ("network", "file", "images", "OKS %", "[95 %]", *names)
        blocks.append(Table(columns, rows, CAPTION, 3, f"agreement_{i}"))
    return blocks


def _entries(bundle: Bundle) -> list[tuple[str, str, Mapping[str, Any]]]:
    return [
        (artefact.form, f"{entry['images']} {SETS[name]}", entry)
        for artefact in bundle.artefacts
        for name, entry in (artefact.entry.get("agreement") or {}).items()
        if name in SETS and entry is not None
    ]


def _row(
    label: str, form: str, images: str, entry: Mapping[str, Any], scores: Mapping[str, float]
) -> Row:
    interval = f"[{entry['oks_low']:.2f}, {entry['oks_high']:.2f}]"
    return Row(
        [
            Cell(label),
            Cell(form),
            Cell(images, entry["images"]),
            Cell(f"{entry['oks']:.2f}", entry["oks"]),
            Cell(interval, entry["oks_low"]),
            *(Cell(f"{value:.1f}", value) for value in scores.values()),
        ]
    )
