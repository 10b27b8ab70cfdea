"""Section on accuracy against cost: time, RAM and flash on each board."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from heatpose.evaluation.published import Published
from heatpose.report.bundle import PUBLISHED, QUANTITIES, Bundle, OnBoard, Taken, published_rows
from heatpose.report.content import Values, reading
from heatpose.report.plots import (
    GREY,
    Spec,
    Trace,
    colour,
    error,
    even,
    figure,
    pareto_front,
    plain,
    scatter,
)
from heatpose.report.summary import Boards

UNITS = {"ms": "one inference, ms", "ram_kib": "RAM, KiB", "flash_kib": "flash, KiB"}
Entry = tuple[int, Bundle, OnBoard]
Point = tuple[int, Bundle, Taken, float, float]
"""(position of the bundle, bundle, cost, OKS, standard error of OKS)."""


def costs(bundles: Sequence[Bundle], boards: Boards) -> Values:
    """A plot for each board and known quantity."""
    entries = [(i, b, entry) for i, b in enumerate(bundles) for entry in boards[b.label]]
    targets = sorted({(entry.target, entry.board) for *_, entry in entries}, key=_rank)
    rows = list(dict.fromkeys(row for bundle in bundles for row in published_rows(bundle)))
    figures, missing = list[dict[str, Any]](), list[str]()
    for target, board in targets:
        of_target = [entry for entry in entries if entry[2].target == target]
        with reading(f"The costs on {board}", missing):
            figures += _plots(of_target, rows, target, board)
            missing += _absent(of_target, board)
    if not targets:
        missing.append(
            "No board's cost is known: there is no int8 file whose RAM, flash and time could be"
            " estimated."
        )
    about = list(dict.fromkeys(f"{e.board}: {note}" for *_, e in entries for note in e.notes))
    return {"figures": figures, "missing": missing, "about": about}


def _rank(target: tuple[str, str]) -> tuple[int, str]:
    """Sort key of the plots; custom boards come last."""
    order = ("stm32n6", "stm32mp2", "stm32mp1")
    return (order.index(target[0]) if target[0] in order else len(order), target[0])


def _plots(
    entries: Sequence[Entry], rows: Sequence[Published], target: str, board: str
) -> Iterator[dict[str, Any]]:
    kind = entries[0][2].artefact.kind
    known = [row for row in rows if row.quantization == kind]
    for quantity, title in UNITS.items():
        points = [
            (i, b, taken, *score)
            for i, b, e in entries
            if (taken := e.figures.get(quantity)) is not None and (score := _score(e)) is not None
        ]
        if points:
            yield {
                "name": f"pareto_{target}_{quantity}",
                "heading": f"{board}: {QUANTITIES[quantity]}",
                "spec": _plot(points, known, PUBLISHED.get((target, quantity)), title),
                "caption": "; ".join(dict.fromkeys(p[2].message for p in points)) + ".",
            }


def _absent(entries: Sequence[Entry], board: str) -> Iterator[str]:
    """Sentences on quantities that are not known, and on files without a score."""
    absent = [
        title.removesuffix(" KiB")
        for quantity, title in QUANTITIES.items()
        if not any(quantity in e.figures for *_, e in entries)
    ]
    if absent:
        yield (
            f"{board}: {' and '.join(absent)} are not known; none were published for networks of"
            " this kind, and there is no build."
        )
    if names := list(dict.fromkeys(b.label for _, b, e in entries if _score(e) is None)):
        yield f"{board}: {', '.join(names)} cannot be plotted, because it was not scored."


def _score(entry: OnBoard) -> tuple[float, float] | None:
    report = entry.artefact.report
    return None if report is None else (float(report["oks"]), float(report["oks_standard_error"]))


def _plot(
    points: Sequence[Point], rows: Sequence[Published], field: str | None, title: str
) -> Spec:
    known = [
        (float(value), row)
        for row in rows
        if field is not None and (value := getattr(row, field)) is not None
    ]
    traces = [_published_trace(known, title)] if known else []
    front = pareto_front([(taken.interval.value, oks) for _, _, taken, oks, _ in points])
    if len(front) > 1:
        line = {"dash": "dot", "width": 1.5, "color": colour(0)}
        x, y = zip(*front, strict=True)
        traces.append(scatter("Pareto front", x, y, mode="lines", line=line))
    traces += [_trace(point, title) for point in points]
    return figure(traces, x=title, y="OKS %", legend=len(points) <= 6)


def _published_trace(known: Sequence[tuple[float, Published]], title: str) -> Trace:
    text = [
        f"{plain(row.variant)} {row.resolution}<br>trained on {row.training_data},"
        f" {row.source}<br>{_tool(row)}"
        for _, row in known
    ]
    return scatter(
        "published",
        [x for x, _ in known],
        [row.oks_percent for _, row in known],
        f"%{{text}}<br>{title}: %{{x}}<br>OKS %{{y:.2f}} %",
        text=text,
        marker={"size": 9, "symbol": "diamond", "color": GREY},
    )


def _tool(row: Published) -> str:
    return (
        f"ST Edge AI Core {row.n6_stedgeai_core}"
        if row.n6_stedgeai_core
        else f"X-LINUX-AI {row.x_linux_ai}"
    )


def _trace(point: Point, title: str) -> Trace:
    position, bundle, taken, oks, standard_error = point
    between, open_ = taken.interval, taken.source == "estimated"
    span = f" [{between.low:.1f} .. {between.high:.1f}]" if open_ else ""
    message = (
        f"{plain(bundle.label)}<br>{title}: {between.value:.1f}{span}, {taken.source}<br>OKS"
        f" {oks:.2f} ± {standard_error:.2f} %"
    )
    return scatter(
        bundle.label,
        [between.value],
        [oks],
        "%{text}",
        text=[message],
        marker={
            "size": 12,
            "symbol": "circle-open" if open_ else "circle",
            "color": colour(position),
            "line": {"width": 2.5},
        },
        error_x=error([between.value], [between.low], [between.high]),
        error_y=even([standard_error]),
    )
