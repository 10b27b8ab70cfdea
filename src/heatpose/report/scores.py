"""Sections on accuracy: quantisation loss, keypoints, instance sizes, drift, agreement."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from heatpose.report.bundle import ARTEFACT_TITLES, Artefact, Bundle
from heatpose.report.content import Cell, Row, Values, number, passed, reading
from heatpose.report.plots import (
    CATEGORIES,
    Spec,
    Trace,
    colour,
    error,
    even,
    figure,
    marker,
    plain,
    scatter,
    short,
)
from heatpose.report.summary import interval, limit_of

SETS = {"evaluation": "evaluation", "holdout": "held-out training"}


def losses(bundles: Sequence[Bundle]) -> Values:
    """The OKS drop of each file against the float network, and the acceptance checks."""
    several = len(bundles) > 1
    traces, missing = list[Trace](), list[str]()
    for position, bundle in enumerate(bundles):
        entries = [
            a for a in bundle.artefacts if a.kind != "torch" and a.entry.get("drop") is not None
        ]
        if entries:
            traces.append(_loss_trace(bundle, entries, position, several))
    if traces:
        traces += _limits(bundles)
    else:
        missing.append("Nothing was scored, so the loss is not known.")
    names = list(dict.fromkeys(y for trace in traces for y in trace["y"]))
    ticks = {
        "tickmode": "array",
        "tickvals": names,
        "ticktext": [plain(short(html.unescape(name))) for name in names],
    }
    spec = figure(traces, x="OKS lost, points", yaxis=CATEGORIES | ticks, legend=several)
    checks = [
        (bundle.label, [_check(check) for check in bundle.manifest["gates"]])
        for bundle in bundles
        if bundle.manifest.get("gates")
    ]
    return {"loss": spec, "lines": len(names), "checks": checks, "missing": missing}


def _loss_trace(bundle: Bundle, entries: Sequence[Artefact], position: int, several: bool) -> Trace:
    values, low, high = (
        [float(a.entry[key]) for a in entries] for key in ("drop", "drop_low", "drop_high")
    )
    return scatter(
        bundle.label,
        values,
        [_line_name(bundle, a.kind, several) for a in entries],
        "%{y}<br>%{text}",
        error_x=error(values, low, high),
        marker={
            **marker(position, size=11),
            "symbol": ["x" if a.rejected else "circle" for a in entries],
        },
        text=[
            f"{v:.2f} {interval(a.entry)} points{', rejected' if a.rejected else ''}"
            for v, a in zip(values, entries, strict=True)
        ],
    )


def _line_name(bundle: Bundle, kind: str, several: bool) -> str:
    return plain(f"{bundle.label}: {kind}" if several else ARTEFACT_TITLES.get(kind, kind))


def _limits(bundles: Sequence[Bundle]) -> list[Trace]:
    found = [
        (limit, _line_name(b, kind, len(bundles) > 1))
        for b in bundles
        for kind in ARTEFACT_TITLES
        if (limit := limit_of(b, kind)) is not None
    ]
    if not found:
        return []
    stroke = {"symbol": "line-ns-open", "size": 22, "color": "#d1495b", "line": {"width": 2.5}}
    x, y = zip(*found, strict=True)
    return [scatter("limit", x, y, "limit %{x}", marker=stroke)]


def _check(check: Mapping[str, Any]) -> Row:
    sentence = Cell(str(check["sentence"]), mark="long")
    return [
        Cell(str(check["artefact"])),
        Cell(str(check["name"])),
        passed(check["passed"]),
        sentence,
    ]


def shown(bundles: Sequence[Bundle]) -> Iterator[tuple[str, Artefact, int, int]]:
    """Yields name, model, colour index and symbol index for plots.

    For one bundle the network and its int8 files, for several the representative of each.
    """
    if len(bundles) == 1:
        scored = [a for a in bundles[0].artefacts if a.report is not None]
        chosen = [a for a in scored if a.kind in ("torch", "int8_pc", "int8_pt")] or scored
        yield from ((artefact.title, artefact, i, i) for i, artefact in enumerate(chosen))
        return
    for i, bundle in enumerate(bundles):
        if bundle.deployed is not None and bundle.deployed.report is not None:
            yield f"{bundle.label} ({bundle.deployed.kind})", bundle.deployed, i, i // 10


def people(bundles: Sequence[Bundle]) -> Values:
    """OKS by keypoint and by instance size."""
    chosen = [
        (title, artefact.report, look, symbol)
        for title, artefact, look, symbol in shown(bundles)
        if artefact.report is not None
    ]
    if not chosen:
        return {"keypoints": None, "missing": ["Nothing was scored."]}
    names = list(
        dict.fromkeys(plain(key) for _, report, *_ in chosen for key in report["oks_per_keypoint"])
    )
    order = CATEGORIES | {"categoryorder": "array", "categoryarray": names}
    keypoints = [
        _keypoint_trace(title, report["oks_per_keypoint"], look, symbol)
        for title, report, look, symbol in chosen
    ]
    sizes = [
        _size_trace(title, report["oks_per_size"], look, symbol)
        for title, report, look, symbol in chosen
        if report.get("oks_per_size")
    ]
    missing = (
        "How small and large people score is not known: the bundle was exported by an older"
        " version."
    )
    x = "person's side / image's side"
    return {
        "keypoints": figure(keypoints, x="OKS %", yaxis=order),
        "names": len(names),
        "sizes": figure(sizes, x=x, y="OKS %", xaxis={"type": "category"}) if sizes else None,
        "missing": [] if sizes else [missing],
    }


def _keypoint_trace(
    title: str, scores: Mapping[str, float | None], look: int, symbol: int
) -> Trace:
    known = {plain(key): value for key, value in scores.items() if value is not None}
    hover = f"{plain(title)}<br>%{{y}}: %{{x:.1f}} %"
    return scatter(title, known.values(), known, hover, marker=marker(look, symbol))


def _size_trace(title: str, groups: Sequence[Mapping[str, Any]], look: int, symbol: int) -> Trace:
    known = [group for group in groups if group["people"]]
    return scatter(
        title,
        [size_name(group) for group in known],
        [group["oks"] for group in known],
        f"{plain(title)}<br>%{{x}}: %{{y:.1f}} % (%{{text}})",
        "lines+markers",
        error_y=even([group["oks_standard_error"] for group in known]),
        line={"width": 1.2, "color": colour(look)},
        marker=marker(look, symbol),
        text=[f"{group['people']} people" for group in known],
    )


def size_name(group: Mapping[str, Any]) -> str:
    """Name of a group of `metrics.score_by_size`: "under 1/8", "1/8 to 1/4", "from 1/2"."""
    low, high = (
        None if value in (0, None) else str(Fraction(value).limit_denominator(64))
        for value in (group["from"], group["to"])
    )
    return f"{low} to {high}" if low and high else f"under {high}" if high else f"from {low}"


def drift(bundles: Sequence[Bundle]) -> Values:
    """The drift of each keypoint in the int8 files, and their agreement with the float network."""
    figures, missing = list[dict[str, Any]](), list[str]()
    for bundle in bundles:
        moved = {
            kind: found
            for kind in ("int8_pc", "int8_pt")
            if (found := _drift_of(bundle, kind)) is not None
        }
        for kind, numbers in list(moved.items())[: 2 if len(bundles) <= 2 else 1]:
            quantiles = " / ".join(f"{numbers[key]:.2f}" for key in ("p50", "p95", "p99"))
            figures.append(
                {
                    "name": f"drift_{len(figures)}",
                    "heading": ARTEFACT_TITLES[kind]
                    if len(bundles) == 1
                    else f"{bundle.label}: {kind}",
                    "spec": _drift_spec(numbers["per_keypoint"]),
                    "caption": f"All keypoints: {quantiles} px; {numbers['moved']:.1f} % have"
                    " another highest cell.",
                    "height": 130 + 22 * len(numbers["per_keypoint"]),
                }
            )
        if not moved:
            missing.append(f"'{bundle.label}' has no int8 file whose drift was measured.")
    agreement: Mapping[tuple[str, ...], list[Row]] = {}
    with reading("The agreement with the float network", missing):
        agreement = _agreement(bundles, missing)
    return {"figures": figures, "agreement": agreement, "missing": missing}


def _drift_of(bundle: Bundle, kind: str) -> Mapping[str, Any] | None:
    artefact = bundle.artefact(kind)
    found = None if artefact is None else artefact.entry.get("drift")
    if found is None:  # metrics.json of older versions: read from the acceptance check
        checks = (
            check
            for check in bundle.manifest.get("gates") or []
            if check.get("artefact") == kind and check.get("name") == "parity"
        )
        found = next((check.get("numbers") for check in checks), None)
    return found if isinstance(found, Mapping) and found.get("per_keypoint") else None


def _drift_spec(per_keypoint: Mapping[str, Mapping[str, float]]) -> Spec:
    names = [plain(name) for name in per_keypoint]
    traces = [
        scatter(
            quantile,
            [float(entry[quantile]) for entry in per_keypoint.values()],
            names,
            f"%{{y}}<br>{quantile} %{{x:.2f}} px",
            marker=marker(i, i),
        )
        for i, quantile in enumerate(("p50", "p95", "p99"))
    ]
    return figure(traces, x="input pixels", yaxis=CATEGORIES)


def _agreement(bundles: Sequence[Bundle], missing: list[str]) -> dict[tuple[str, ...], list[Row]]:
    """Names of keypoints -> rows of a table, whose last columns are these keypoints."""
    tables: dict[tuple[str, ...], list[Row]] = {}
    for bundle in bundles:
        found = [
            (artefact.kind, SETS[images], entry)
            for artefact in bundle.artefacts
            for images, entry in (artefact.entry.get("agreement") or {}).items()
            if images in SETS and entry is not None
        ]
        if not found:
            missing.append(
                f"The agreement of '{bundle.label}' with its float network is not known; export"
                " it again with an int8 file and evaluation images."
            )
        for kind, images, entry in found:
            scores = entry["oks_per_keypoint"]
            row = [
                Cell(bundle.label),
                Cell(kind),
                Cell(f"{entry['images']} {images}", entry["images"]),
                number(entry["oks"]),
                Cell(f"[{entry['oks_low']:.2f}, {entry['oks_high']:.2f}]", entry["oks_low"]),
                *(number(value, 1) for value in scores.values()),
            ]
            tables.setdefault(tuple(scores), []).append(row)
    return tables
