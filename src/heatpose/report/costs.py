"""Section on accuracy versus cost: time, RAM and flash on each board."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from heatpose.evaluation.published import Published
from heatpose.report.bundle import PUBLISHED, QUANTITIES, Bundle, OnBoard, Taken, published_rows
from heatpose.report.content import PUBLISHED as GREY
from heatpose.report.content import (
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

UNITS = {"ms": "one inference, ms", "ram_kib": "RAM, KiB", "flash_kib": "flash, KiB"}
Point = tuple[int, Bundle, Taken, float, float]
"""(position of the bundle, bundle, cost, OKS, standard error of OKS)."""


def costs(bundles: Sequence[Bundle], boards: Boards) -> Section:
    """Section with a plot for each board and known quantity."""
    targets = sorted(
        {(entry.target, entry.board) for bundle in bundles for entry in boards[bundle.label]},
        key=_rank,
    )
    blocks = list[Block]()
    for target, board in targets:
        blocks += guarded(f"The costs on {board}", partial(_board, bundles, boards, target, board))
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
        " estimates with their interval; the dotted line joins the Pareto-optimal files of this"
        " report. Grey points were published by others, for the same keypoints at all resolutions."
    )
    unfolded = [Notes("About these numbers", notes)] if notes else []
    return Section(
        "costs",
        "Accuracy against cost",
        lead,
        [*([Figures(figures)] if figures else []), *message, *unfolded],
    )


def _rank(target: tuple[str, str]) -> tuple[int, str]:
    """Sort key of the plots; custom boards come last."""
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
                f"{board}: {' and '.join(absent)} are not known; none were published for networks"
                " of this kind, and there is no build."
            )
        )
    if names := list(dict.fromkeys(b.label for _, b, e in entries if _score(e) is None)):
        blocks.append(
            missing(f"{board}: {', '.join(names)} cannot be plotted, because it was not scored.")
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
                "name": "Pareto front",
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
