"""Summary section: key numbers, and a table of all files with published rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from heatpose.evaluation.metrics import bootstrap_interval
from heatpose.evaluation.published import OutputForm, Published, counterparts
from heatpose.report.bundle import FORMS, Artefact, Bundle, OnBoard, Taken
from heatpose.report.content import (
    Block,
    Cell,
    Note,
    Row,
    Section,
    Table,
    Tile,
    Tiles,
    guarded,
    missing,
)

Boards = Mapping[str, Sequence[OnBoard]]
"""Label of a bundle -> resources of its files on boards."""
TILED = 3
"""Maximum number of bundles with tiles."""
_BOARD_COLUMNS = (
    ("N6 ms", "stm32n6", "ms", "n6_ms"),
    ("N6 RAM KiB", "stm32n6", "ram_kib", "n6_ram_kib"),
    ("N6 flash KiB", "stm32n6", "flash_kib", "n6_flash_kib"),
    ("MP257 ms", "stm32mp2", "ms", "mp257_ms"),
    ("MP157 ms", "stm32mp1", "ms", "mp157_ms"),
)
_LEGEND = (
    "± is the standard error. “Lost” is against the float network on the same images, with the 95"
    " % interval of a paired bootstrap. COCO AP is another metric than OKS; the two are not"
    " comparable. ~ is an estimate; its tooltip has the source. PC ms: one image on the exporting"
    " machine. Click on a heading to sort."
)
NOTHING = Cell("–", mark="quiet")


def number(value: float | None, digits: int = 2, hint: str = "") -> Cell:
    """A cell with a number; a dash for None."""
    return NOTHING if value is None else Cell(f"{value:,.{digits}f}", float(value), hint=hint)


def summary(bundles: Sequence[Bundle], boards: Boards) -> Section:
    """Section with key numbers, and a table of all files with published rows."""
    blocks: list[Block] = [missing(text) for bundle in bundles for text in bundle.missing]
    if len(bundles) <= TILED:
        blocks += [
            block
            for bundle in bundles
            for block in guarded(
                f"The scores of '{bundle.label}'", partial(lambda b: [_tiles(b, boards)], bundle)
            )
        ]
    columns = (
        "network",
        "file",
        "status",
        "OKS %",
        "lost [95 %]",
        "COCO AP %",
        "KiB",
        "PC ms",
        *(entry[0] for entry in _BOARD_COLUMNS),
    )
    rows: list[Row] = []
    for bundle in bundles:
        for artefact in bundle.artefacts:
            made = guarded(
                f"{artefact.title} of '{bundle.label}'",
                partial(lambda b, a: [Table((), [_row(b, a, boards)])], bundle, artefact),
            )
            rows += [row for block in made if isinstance(block, Table) for row in block.rows]
            blocks += [block for block in made if isinstance(block, Note)]
    rows += [_published_row(row) for row in _published(bundles)]
    blocks.append(Table(columns, rows, numbers=3, name="summary-table"))
    notes = dict.fromkeys(note for bundle in bundles if (note := _published_note(bundle)))
    blocks += [Note(_LEGEND), *(Note(note) for note in notes)]
    if len(bundles) > 1:
        blocks += guarded("The scores of the images", lambda: _against_first(bundles))
    lead = (
        "Mean OKS of each file by the published single-person protocol. Grey rows were published by"
        " others."
    )
    return Section("summary", "Summary", lead, blocks)


def _tiles(bundle: Bundle, boards: Boards) -> Tiles:
    deployed = bundle.deployed
    tiles = [
        Tile(
            "input",
            f"{bundle.resolution} × {bundle.resolution}",
            f"{len(bundle.skeleton) if bundle.skeleton else '?'} keypoints",
        )
    ]
    if deployed is not None and deployed.report is not None:
        message = (
            f"± {deployed.report['oks_standard_error']:.2f}, {deployed.report['images']} images,"
            f" {FORMS[deployed.form]}"
        )
        tiles.insert(0, Tile("OKS", f"{deployed.oks:.2f} %", message))
        if deployed.form != "torch":
            tiles.append(_loss_tile(bundle, deployed))
    for entry in boards[bundle.label]:
        if entry.target == "stm32n6":
            names = {
                "ms": ("one inference", "ms"),
                "ram_kib": ("RAM", "KiB"),
                "flash_kib": ("flash", "KiB"),
            }
            tiles += [
                Tile(f"{entry.board}: {names[name][0]}", f"{taken} {names[name][1]}", _span(taken))
                for name, taken in entry.figures.items()
            ]
    return Tiles(bundle.label, tiles)


def _span(taken: Taken) -> str:
    between = taken.interval
    return (
        f"{between.low:.0f} to {between.high:.0f}, {taken.message[0].lower()}{taken.message[1:]}"
        if taken.source == "estimated"
        else taken.message
    )


def _loss_tile(bundle: Bundle, deployed: Artefact) -> Tile:
    drop, limit = float(deployed.entry["drop"]), limit_of(bundle, deployed.form)
    message = interval(deployed.entry) + ("" if limit is None else f", the limit is {limit:g}")
    return Tile(
        "lost to the float network",
        f"{drop:.2f} points",
        message,
        "" if limit is None else "good" if drop <= limit else "bad",
    )


def limit_of(bundle: Bundle, form: str) -> float | None:
    """Limit of the OKS drop in the acceptance check "accuracy", in points; None without check."""
    checks = (
        check
        for check in bundle.manifest.get("gates") or []
        if check["artefact"] == form and check["name"] == "accuracy"
    )
    limit = next((check["numbers"].get("limit") for check in checks), None)
    return None if limit is None else float(limit)


def interval(entry: Mapping[str, Any]) -> str:
    """Interval of a drop as text, for instance "[0.32, 1.48]"."""
    return f"[{entry['drop_low']:.2f}, {entry['drop_high']:.2f}]"


def _row(bundle: Bundle, artefact: Artefact, boards: Boards) -> Row:
    entry, report = artefact.entry, artefact.report
    score = (
        NOTHING
        if report is None
        else Cell(f"{report['oks']:.2f} ± {report['oks_standard_error']:.2f}", float(report["oks"]))
    )
    lost = NOTHING
    if artefact.form != "torch" and entry.get("drop") is not None:
        lost = Cell(f"{entry['drop']:.2f} {interval(entry)}", float(entry["drop"]))
    size = None if artefact.path is None else artefact.path.stat().st_size / 1024
    taken = {
        (on.target, name): value
        for on in boards[bundle.label]
        if on.artefact.form == artefact.form
        for name, value in on.figures.items()
    }
    on_board = [taken.get((target, quantity)) for _, target, quantity, _ in _BOARD_COLUMNS]
    return Row(
        [
            Cell(bundle.label, bundle.label),
            Cell(
                artefact.title,
                artefact.title,
                hint=artefact.path.name if artefact.path else "not a file",
            ),
            _status(artefact),
            score,
            lost,
            number(None if report is None else report["ap"]),
            number(size, 0),
            number(entry.get("milliseconds"), 1),
            *(
                (
                    NOTHING
                    if value is None
                    else Cell(str(value), value.interval.value, hint=value.message)
                )
                for value in on_board
            ),
        ]
    )


def _status(artefact: Artefact) -> Cell:
    if artefact.form == "torch":
        return Cell("reference", "reference", "quiet")
    if artefact.rejected:
        return Cell("rejected", "rejected", "bad", "failed an acceptance check: see below")
    return (
        Cell("passed", "passed", "good")
        if artefact.entry.get("passed")
        else Cell("not known", "", "quiet")
    )


def _published(bundles: Sequence[Bundle]) -> list[Published]:
    """Published rows for the kinds of the bundles, without duplicates."""
    found: dict[Published, None] = {}
    for bundle in bundles:
        if (
            bundle.skeleton is not None
            and bundle.resolution is not None
            and bundle.width is not None
        ):
            output: OutputForm = "keypoints" if bundle.decoded else "heatmaps"
            found |= dict.fromkeys(
                counterparts(bundle.skeleton, bundle.resolution, width=bundle.width, output=output)
            )
    return list(found)


def _published_row(row: Published) -> Row:
    message = (
        f"{row.variant}, {row.resolution} × {row.resolution}, trained on {row.training_data}; ST"
        f" Edge AI Core {row.n6_stedgeai_core or '–'}"
    )
    figures = [
        number(getattr(row, key), 1 if key.endswith("ms") else 0) for *_, key in _BOARD_COLUMNS
    ]
    cells = [
        Cell(f"{row.variant} {row.resolution} ({row.training_data})", row.variant, hint=message),
        Cell(FORMS[row.quantization], FORMS[row.quantization]),
        Cell(f"published ({row.source})", "published", "quiet"),
        number(row.oks_percent),
        NOTHING,
        NOTHING,
        NOTHING,
        NOTHING,
        *figures,
    ]
    return Row(cells, "published")


def _published_note(bundle: Bundle) -> str:
    published = bundle.metrics.get("published")
    return str(published.get("note") or "") if isinstance(published, Mapping) else ""


def image_scores(artefact: Artefact) -> dict[int, float]:
    """Image id -> OKS in percent; empty if not scored."""
    report = artefact.report
    return (
        {}
        if report is None
        else {int(entry["image_id"]): float(entry["oks"]) for entry in report["per_image"]}
    )


def _against_first(bundles: Sequence[Bundle]) -> list[Block]:
    """Paired differences from the first bundle, per artefact, on the same images."""
    first, rows, blocks = bundles[0], [], list[Block]()
    for other in bundles[1:]:
        for artefact in other.artefacts:
            own = first.artefact(artefact.form)
            if (
                own is None
                or own.report is None
                or artefact.report is None
                or artefact.form in ("onnx", "float32")
            ):
                continue
            a, b = image_scores(artefact), image_scores(own)
            if a.keys() != b.keys():
                blocks.append(
                    Note(
                        f"'{other.label}' and '{first.label}' were scored on different images:"
                        " their OKS are not comparable.",
                        "missing",
                    )
                )
                break
            difference = np.array([a[image] - b[image] for image in a])
            low, high = bootstrap_interval(difference)
            message = Cell(
                f"{difference.mean():+.2f} [{low:+.2f}, {high:+.2f}]",
                float(difference.mean()),
                "good" if low > 0 else "bad" if high < 0 else "",
            )
            rows.append(
                Row(
                    [
                        Cell(other.label, other.label),
                        Cell(artefact.title, artefact.title),
                        message,
                        number(len(difference), 0),
                    ]
                )
            )
    if rows:
        caption = (
            f"Difference from {first.label}, in points, on the same images, with the 95 %"
            " interval of a paired bootstrap; coloured where it excludes 0."
        )
        blocks.append(
            Table(
                ("network", "file", "difference [95 %]", "images"),
                rows,
                caption,
                2,
                "against_first",
            )
        )
    return blocks
