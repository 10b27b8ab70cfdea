"""Sections on accuracy: quantisation loss, keypoints, instance sizes, drift."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

from heatpose.report.agreement import agreement_blocks
from heatpose.report.bundle import FORMS, Artefact, Bundle
from heatpose.report.content import (
    SYMBOLS,
    Block,
    Cell,
    Figure,
    Figures,
    Row,
    Section,
    Table,
    Trace,
    colour,
    error,
    even,
    figure,
    guarded,
    missing,
    plain,
    short,
)
from heatpose.report.summary import interval, limit_of


def losses(bundles: Sequence[Bundle]) -> Section:
    """Section with the OKS drop of each file against the float network."""
    traces, blocks = list[Trace](), list[Block]()
    for position, bundle in enumerate(bundles):
        entries = [
            a for a in bundle.artefacts if a.form != "torch" and a.entry.get("drop") is not None
        ]
        if entries:
            traces.append(_loss_trace(bundle, entries, position, several=len(bundles) > 1))
    if traces:
        traces += _limits(bundles)
        names = list(dict.fromkeys(y for trace in traces for y in trace["y"]))
        ticks = {
            "tickmode": "array",
            "tickvals": names,
            "ticktext": [plain(short(html.unescape(name))) for name in names],
        }
        spec = figure(
            traces,
            x="OKS lost, points",
            yaxis={"autorange": "reversed", "type": "category", **ticks},
            legend=len(bundles) > 1,
        )
        message = "Bars: 95 % interval. Red strokes: limits of the acceptance check."
        blocks.append(
            Figures(
                [
                    Figure(
                        "loss",
                        "OKS lost against the float network",
                        spec,
                        message,
                        90 + 40 * len(names),
                        True,
                    )
                ]
            )
        )
    else:
        blocks.append(missing("Nothing was scored, so the loss is not known."))
    blocks += [
        _checks(bundle, i) for i, bundle in enumerate(bundles) if bundle.manifest.get("gates")
    ]
    return Section(
        "losses",
        "What quantisation costs",
        "Each file against its float network, on the same images.",
        blocks,
    )


def _loss_trace(
    bundle: Bundle, entries: Sequence[Artefact], position: int, *, several: bool
) -> Trace:
    values = [float(a.entry["drop"]) for a in entries]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(bundle.label),
        "x": values,
        "y": [_line_name(bundle, a.form, several) for a in entries],
        "error_x": error(
            values,
            [float(a.entry["drop_low"]) for a in entries],
            [float(a.entry["drop_high"]) for a in entries],
        ),
        "marker": {
            "size": 11,
            "color": colour(position),
            "symbol": ["x" if a.rejected else "circle" for a in entries],
        },
        "text": [
            f"{v:.2f} {interval(a.entry)} points{', rejected' if a.rejected else ''}"
            for v, a in zip(values, entries, strict=True)
        ],
        "hovertemplate": "%{y}<br>%{text}<extra></extra>",
    }


def _line_name(bundle: Bundle, form: str, several: bool) -> str:
    return plain(f"{bundle.label}: {form}" if several else FORMS.get(form, form))


def _limits(bundles: Sequence[Bundle]) -> list[Trace]:
    found = [
        (limit, _line_name(b, form, len(bundles) > 1))
        for b in bundles
        for form in FORMS
        if (limit := limit_of(b, form)) is not None
    ]
    if not found:
        return []
    marker = {"symbol": "line-ns-open", "size": 22, "color": "#d1495b", "line": {"width": 2.5}}
    x, y = ([entry[i] for entry in found] for i in (0, 1))
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "limit",
            "x": x,
            "y": y,
            "marker": marker,
            "hovertemplate": "limit %{x}<extra></extra>",
        }
    ]


def _checks(bundle: Bundle, position: int) -> Table:
    rows = []
    for check in bundle.manifest["gates"]:
        status = (
            Cell("passed", "passed", "good") if check["passed"] else Cell("failed", "failed", "bad")
        )
        rows.append(
            Row(
                [
                    Cell(str(check["artefact"])),
                    Cell(str(check["name"])),
                    status,
                    Cell(str(check["sentence"]), mark="long"),
                ]
            )
        )
    return Table(
        ("file", "check", "status", "reason"),
        rows,
        f"Acceptance checks of {bundle.label}",
        9,
        f"gates_{position}",
    )


def shown(bundles: Sequence[Bundle]) -> Iterator[tuple[str, Artefact, int, int]]:
    """Yields name, model, colour index and symbol index for plots.

    For one bundle the network and its int8 files, for several the representative of each.
    """
    if len(bundles) == 1:
        scored = [a for a in bundles[0].artefacts if a.report is not None]
        chosen = [a for a in scored if a.form in ("torch", "int8_pc", "int8_pt")] or scored
        yield from ((artefact.title, artefact, i, i) for i, artefact in enumerate(chosen))
        return
    for i, bundle in enumerate(bundles):
        if bundle.deployed is not None and bundle.deployed.report is not None:
            yield f"{bundle.label} ({bundle.deployed.form})", bundle.deployed, i, i // 10


def instances(bundles: Sequence[Bundle]) -> Section:
    """Section with OKS by keypoint and by instance size."""
    chosen = [
        (name, artefact.report, look, symbol)
        for name, artefact, look, symbol in shown(bundles)
        if artefact.report is not None
    ]
    lead = (
        "OKS by keypoint and by size of the person in the image. A keypoint is scored over the"
        " people where it is labelled."
    )
    if not chosen:
        return Section("people", "Keypoints and people", lead, [missing("Nothing was scored.")])
    names = list(
        dict.fromkeys(key for _, report, *_ in chosen for key in report["oks_per_keypoint"])
    )
    each = [
        _keypoint_trace(name, report["oks_per_keypoint"], look, symbol)
        for name, report, look, symbol in chosen
    ]
    spec = figure(
        each,
        x="OKS %",
        yaxis={
            "autorange": "reversed",
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [plain(n) for n in names],
        },
    )
    figures = [
        Figure(
            "keypoints", "OKS of each keypoint", spec, height=130 + 22 * len(names) + 18 * len(each)
        )
    ]
    sized = [
        _size_trace(name, report["oks_per_size"], look, symbol)
        for name, report, look, symbol in chosen
        if report.get("oks_per_size")
    ]
    blocks: list[Block] = []
    if sized:
        caption = (
            "Side of the person's box as a share of the image's side, sqrt(box area / image"
            " area); bars: standard error."
        )
        spec = figure(
            sized, x="person's side / image's side", y="OKS %", xaxis={"type": "category"}
        )
        figures.append(Figure("sizes", "OKS of small and large people", spec, caption, 430))
    else:
        blocks.append(
            missing(
                "How small and large people score is not known: the bundle was exported by an older"
                " version."
            )
        )
    return Section("people", "Keypoints and people", lead, [Figures(figures), *blocks])


def _keypoint_trace(name: str, scores: Mapping[str, float | None], look: int, symbol: int) -> Trace:
    known = {key: value for key, value in scores.items() if value is not None}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "x": list(known.values()),
        "y": [plain(key) for key in known],
        "marker": {"size": 9, "color": colour(look), "symbol": SYMBOLS[symbol % len(SYMBOLS)]},
        "hovertemplate": f"{plain(name)}<br>%{{y}}: %{{x:.1f}} %<extra></extra>",
    }


def _size_trace(name: str, groups: Sequence[Mapping[str, Any]], look: int, symbol: int) -> Trace:
    known = [group for group in groups if group["people"]]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(name),
        "x": [size_name(group) for group in known],
        "y": [group["oks"] for group in known],
        "error_y": even([group["oks_standard_error"] for group in known]),
        "line": {"width": 1.2, "color": colour(look)},
        "marker": {"size": 9, "color": colour(look), "symbol": SYMBOLS[symbol % len(SYMBOLS)]},
        "text": [f"{group['people']} people" for group in known],
        "hovertemplate": f"{plain(name)}<br>%{{x}}: %{{y:.1f}} % (%{{text}})<extra></extra>",
    }


def size_name(group: Mapping[str, Any]) -> str:
    """Name of a group of `metrics.score_by_size`: "under 1/8", "1/8 to 1/4", "from 1/2"."""
    low, high = (
        None if value in (0, None) else str(Fraction(value).limit_denominator(64))
        for value in (group["from"], group["to"])
    )
    return f"{low} to {high}" if low and high else f"under {high}" if high else f"from {low}"


def drift(bundles: Sequence[Bundle]) -> Section:
    """Section with the drift of each keypoint in the int8 files."""
    figures, blocks = list[Figure](), list[Block]()
    for bundle in bundles:
        moved = {
            form: found
            for form in ("int8_pc", "int8_pt")
            if (found := _drift_of(bundle, form)) is not None
        }
        for form, numbers in list(moved.items())[: 2 if len(bundles) <= 2 else 1]:
            heading = FORMS[form] if len(bundles) == 1 else f"{bundle.label}: {form}"
            quantiles = " / ".join(f"{numbers[key]:.2f}" for key in ("p50", "p95", "p99"))
            caption = (
                f"All keypoints: {quantiles} px; {numbers['moved']:.1f} % have another highest"
                " cell."
            )
            figures.append(
                Figure(
                    f"drift_{len(figures)}",
                    heading,
                    _drift_spec(numbers["per_keypoint"]),
                    caption,
                    130 + 22 * len(numbers["per_keypoint"]),
                )
            )
        if not moved:
            blocks.append(missing(f"'{bundle.label}' has no int8 file whose drift was measured."))
    lead = (
        "Distance between the float network's keypoints and an int8 file's, in input pixels, over"
        " the calibration images: median, 95 % and 99 % quantile."
    )
    blocks += guarded("The agreement with the float network", partial(agreement_blocks, bundles))
    return Section(
        "drift", "Drift of int8", lead, [*([Figures(figures)] if figures else []), *blocks]
    )


def _drift_of(bundle: Bundle, form: str) -> Mapping[str, Any] | None:
    artefact = bundle.artefact(form)
    found = None if artefact is None else artefact.entry.get("drift")
    if found is None:  # metrics.json of older versions: read from the acceptance check
        checks = (
            check
            for check in bundle.manifest.get("gates") or []
            if check.get("artefact") == form and check.get("name") == "parity"
        )
        found = next((check.get("numbers") for check in checks), None)
    return found if isinstance(found, Mapping) and found.get("per_keypoint") else None


def _drift_spec(per_keypoint: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    names = [plain(name) for name in per_keypoint]
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": quantile,
            "x": [float(entry[quantile]) for entry in per_keypoint.values()],
            "y": names,
            "marker": {"size": 9, "color": colour(i), "symbol": SYMBOLS[i]},
            "hovertemplate": f"%{{y}}<br>{quantile} %{{x:.2f}} px<extra></extra>",
        }
        for i, quantile in enumerate(("p50", "p95", "p99"))
    ]
    return figure(traces, x="input pixels", yaxis={"autorange": "reversed", "type": "category"})
