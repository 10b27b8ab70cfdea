"""What a bundle's files take on boards.

As a build or a board said (`<target>/result.json`), else as estimated; and what was published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from heatpose.deploy.estimate import Interval, estimate
from heatpose.deploy.package import ESTIMATE, RESULT
from heatpose.deploy.targets import Target, built_in, load_target
from heatpose.deploy.tool_result import read_result
from heatpose.errors import HeatposeError
from heatpose.evaluation.published import Published, has_published_keypoints, published
from heatpose.report.bundle import Artefact, Bundle
from heatpose.report.content import PUBLISHED as GREY
from heatpose.report.content import (
    UNREADABLE,
    Block,
    Figure,
    Figures,
    Note,
    Notes,
    Section,
    Trace,
    colour,
    error,
    even,
    figure,
    guarded,
    missing,
    pareto_front,
    plain,
)
from heatpose.report.summary import Boards
from heatpose.tflite.reader import read_graph
from heatpose.utils.files import sha256

QUANTITIES = {"ms": "ms", "ram_kib": "RAM KiB", "flash_kib": "flash KiB"}
PUBLISHED = {
    ("stm32n6", "ms"): "n6_ms",
    ("stm32n6", "ram_kib"): "n6_ram_kib",
    ("stm32n6", "flash_kib"): "n6_flash_kib",
    ("stm32mp2", "ms"): "mp257_ms",
    ("stm32mp1", "ms"): "mp157_ms",
}
"""Target and quantity -> field of a published row."""
_RESULTS = {"ms": "ms", "ram_kib": "ram_internal_kib", "flash_kib": "flash_kib"}


@dataclass(frozen=True)
class Taken:
    """One number.

    Attributes:
        interval: The number, and between what it is expected; low and high are equal to it where it
            was built or measured.
        source: "estimated", "built" or "measured".
        message: Where it comes from, a sentence.
    """

    interval: Interval
    source: str
    message: str

    def __str__(self) -> str:
        digits = 1 if self.interval.value < 100 else 0
        return f"{'~' if self.source == 'estimated' else ''}{self.interval.value:,.{digits}f}"


@dataclass(frozen=True)
class OnBoard:
    """What one file takes on one board.

    Attributes:
        target: Name of the target.
        board: Its board.
        artefact: The file.
        figures: "ms", "ram_kib", "flash_kib" -> number, for those that are known.
        notes: Sentences.
    """

    target: str
    board: str
    artefact: Artefact
    figures: Mapping[str, Taken]
    notes: tuple[str, ...] = ()


def on_boards(bundle: Bundle) -> list[OnBoard]:
    """What the bundle's files take on every built-in target.

    And on those that it was handed over to.
    """
    found = [_on_board(bundle, load_target(name)) for name in built_in()]
    others = (
        folder
        for folder in sorted(bundle.folder.glob("*/"))
        if folder.name not in built_in() and (folder / ESTIMATE).is_file()
    )
    return [
        entry
        for entry in (*found, *(_handed_over(bundle, folder) for folder in others))
        if entry is not None
    ]


def _on_board(bundle: Bundle, target: Target) -> OnBoard | None:
    artefact = bundle.artefact(target.artefact)
    if artefact is None or artefact.path is None or target.estimator is None:
        return None
    try:
        expected = estimate(read_graph(artefact.path), target)
    except HeatposeError as error:
        return OnBoard(target.name, target.board, artefact, {}, (str(error),))
    message = f"Estimated from {expected.based_on}" + (
        ", outside what the estimate was fitted on" if expected.extrapolates else ""
    )
    figures = {
        name: Taken(value, "estimated", message)
        for name in QUANTITIES
        if (value := getattr(expected, name)) is not None
    }
    return _with_result(
        bundle.folder / target.name,
        OnBoard(target.name, target.board, artefact, figures, (*expected.outside, *expected.notes)),
    )


def _handed_over(bundle: Bundle, folder: Path) -> OnBoard | None:
    """A board of one's own: what its deployment package says."""
    record, content = (
        read_result(folder / "deploy.json") or {},
        read_result(folder / ESTIMATE) or {},
    )
    artefact = next(
        (
            a
            for a in bundle.artefacts
            if a.path is not None and sha256(a.path) == record.get("model_sha256")
        ),
        None,
    )
    if artefact is None:
        return None
    try:
        expected = content.get("estimate") or {}
        message = f"Estimated from {expected.get('based_on')}"
        figures = {
            name: Taken(Interval(**expected[name]), "estimated", message)
            for name in QUANTITIES
            if expected.get(name)
        }
    except UNREADABLE:
        figures = {}
    return _with_result(
        folder, OnBoard(folder.name, str(record.get("board", folder.name)), artefact, figures)
    )


def _with_result(folder: Path, expected: OnBoard) -> OnBoard:
    """What a build or a board said takes the place of what was expected.

    If it is about this file.
    """
    result = read_result(folder / RESULT)
    if result is None or expected.artefact.path is None:
        return expected
    if result.get("model_sha256") not in (None, sha256(expected.artefact.path)):
        notes = (
            *expected.notes,
            (
                f"{folder.name}/{RESULT} is about another file and is left out; run heatpose deploy"
                " again."
            ),
        )
        return OnBoard(expected.target, expected.board, expected.artefact, expected.figures, notes)
    figures = {**expected.figures, **_said(result)}
    failure = result.get("failure")
    failed = (
        (f"The last build failed: {failure['sentence']}",)
        if isinstance(failure, Mapping) and failure.get("sentence")
        else ()
    )
    return OnBoard(
        expected.target, expected.board, expected.artefact, figures, (*expected.notes, *failed)
    )


def _said(result: Mapping[str, Any]) -> dict[str, Taken]:
    tool = str(result.get("tool_version") or "").split(" ")[0]
    found = {}
    for name, key in _RESULTS.items():
        value = result.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            source = "measured" if name == "ms" else "built"
            message = (
                f"Measured on {result.get('device') or 'a board'}"
                if name == "ms"
                else f"Built by ST Edge AI Core {tool}".rstrip()
            )
            found[name] = Taken(Interval(value, value, value), source, message)
    return found


def published_rows(bundle: Bundle) -> tuple[Published, ...]:
    """Rows of networks with the bundle's keypoints and output form, at every resolution."""
    if bundle.skeleton is None or not has_published_keypoints(bundle.skeleton):
        return ()
    return published(
        keypoints=len(bundle.skeleton), output="keypoints" if bundle.decoded else "heatmaps"
    )


UNITS = {"ms": "one inference, ms", "ram_kib": "RAM, KiB", "flash_kib": "flash, KiB"}
Point = tuple[int, Bundle, Taken, float, float]
"""Position of the bundle, bundle, cost, OKS, its standard error."""


def costs(bundles: Sequence[Bundle], boards: Boards) -> Section:
    """A plot for each board and quantity that is known."""
    targets = sorted(
        {(entry.target, entry.board) for bundle in bundles for entry in boards[bundle.label]},
        key=_rank,
    )
    blocks = list[Block]()
    for target, board in targets:
        blocks += guarded(
            f"What files take on {board}", partial(_board, bundles, boards, target, board)
        )
    figures = [figure for block in blocks if isinstance(block, Figures) for figure in block.figures]
    message: list[Block] = [block for block in blocks if isinstance(block, Note)]
    notes = list(
        dict.fromkeys(
            f"{entry.board}: {note}"
            for bundle in bundles
            for entry in boards[bundle.label]
            for note in entry.notes
        )
    )
    if not targets:
        message.append(
            missing(
                "No board's cost is known: there is no int8 file whose RAM, flash and time could be"
                " estimated."
            )
        )
    lead = (
        "Up and to the left is better. Filled points were built or measured, open ones are"
        " estimates with their interval; the dotted line joins the files that no other of this"
        " report beats. Grey points were published by others, for the same keypoints at every"
        " resolution."
    )
    unfolded = [Notes("About these numbers", notes)] if notes else []
    return Section(
        "costs",
        "Accuracy against cost",
        lead,
        [*([Figures(figures)] if figures else []), *message, *unfolded],
    )


def _rank(target: tuple[str, str]) -> tuple[int, str]:
    """The order of the plots: the board with an NPU for per-channel files first.

    Boards of one's own last.
    """
    order = ("stm32n6", "stm32mp2", "stm32mp1")
    return (order.index(target[0]) if target[0] in order else len(order), target[0])


def _board(bundles: Sequence[Bundle], boards: Boards, target: str, board: str) -> list[Block]:
    entries = [
        (i, bundle, entry)
        for i, bundle in enumerate(bundles)
        for entry in boards[bundle.label]
        if entry.target == target
    ]
    rows = {row: None for bundle in bundles for row in published_rows(bundle)}
    figures, absent = [], []
    for quantity, title in UNITS.items():
        points = [
            (i, b, taken, *score)
            for i, b, e in entries
            if (taken := e.figures.get(quantity)) is not None and (score := _score(e)) is not None
        ]
        if points:
            form = entries[0][2].artefact.form
            spec = _plot(
                points,
                [row for row in rows if row.quantization == form],
                PUBLISHED.get((target, quantity)),
                title,
            )
            figures.append(
                Figure(
                    f"pareto_{target}_{quantity}",
                    f"{board}: {QUANTITIES[quantity]}",
                    spec,
                    _message(points),
                    340,
                )
            )
        elif not any(quantity in e.figures for *_, e in entries):
            absent.append(QUANTITIES[quantity].removesuffix(" KiB"))
    blocks: list[Block] = [Figures(figures)] if figures else []
    if absent:
        blocks.append(
            missing(
                f"{board}: {' and '.join(absent)} are not known; nobody has published any for"
                " networks of this kind, and no build has said."
            )
        )
    if names := list(dict.fromkeys(b.label for _, b, e in entries if _score(e) is None)):
        blocks.append(
            missing(f"{board}: {', '.join(names)} cannot be placed, for the file was not scored.")
        )
    return blocks


def _score(entry: OnBoard) -> tuple[float, float] | None:
    report = entry.artefact.report
    return None if report is None else (float(report["oks"]), float(report["oks_standard_error"]))


def _message(points: Sequence[Point]) -> str:
    return "; ".join(dict.fromkeys(f"{taken.message}" for _, _, taken, _, _ in points)) + "."


def _plot(
    points: Sequence[Point], rows: Sequence[Published], field: str | None, title: str
) -> dict[str, object]:
    known = [
        (float(value), row)
        for row in rows
        if field is not None and (value := getattr(row, field)) is not None
    ]
    traces = [_published_trace(known, title)] if known else []
    front = pareto_front([(taken.interval.value, oks) for _, _, taken, oks, _ in points])
    if len(front) > 1:
        line = {"dash": "dot", "width": 1.5, "color": colour(0)}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "not beaten",
                "x": [p[0] for p in front],
                "y": [p[1] for p in front],
                "line": line,
                "hoverinfo": "skip",
            }
        )
    traces += [_trace(point, title) for point in points]
    return figure(traces, x=title, y="OKS %", legend=len(points) <= 6)


def _published_trace(known: Sequence[tuple[float, Published]], title: str) -> Trace:
    text = [
        f"{plain(row.variant)} {row.resolution}<br>trained on {row.training_data},"
        f" {row.source}<br>{_tool(row)}"
        for _, row in known
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "published",
        "x": [x for x, _ in known],
        "y": [row.oks_percent for _, row in known],
        "text": text,
        "marker": {"size": 9, "symbol": "diamond", "color": GREY},
        "hovertemplate": f"%{{text}}<br>{title}: %{{x}}<br>OKS %{{y:.2f}} %<extra></extra>",
    }


def _tool(row: Published) -> str:
    return (
        f"ST Edge AI Core {row.n6_stedgeai_core}"
        if row.n6_stedgeai_core
        else f"X-LINUX-AI {row.x_linux_ai}"
    )


def _trace(point: Point, title: str) -> Trace:
    position, bundle, taken, oks, standard_error = point
    between = taken.interval
    marker = {
        "size": 12,
        "symbol": "circle-open" if taken.source == "estimated" else "circle",
        "color": colour(position),
        "line": {"width": 2.5},
    }
    span = f" [{between.low:.1f} .. {between.high:.1f}]" if taken.source == "estimated" else ""
    message = (
        f"{plain(bundle.label)}<br>{title}: {between.value:.1f}{span}, {taken.source}<br>OKS"
        f" {oks:.2f} ± {standard_error:.2f} %"
    )
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(bundle.label),
        "x": [between.value],
        "y": [oks],
        "marker": marker,
        "error_x": error([between.value], [between.low], [between.high]),
        "error_y": even([standard_error]),
        "text": [message],
        "hovertemplate": "%{text}<extra></extra>",
    }
