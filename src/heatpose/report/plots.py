"""Specifications of plotly plots as plain values.

The page's script adds the colours of text, grid and background.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

COLOURS = (
    "#3b82c4",
    "#e07b39",
    "#2fa37c",
    "#b565c9",
    "#c2a13a",
    "#d1577f",
    "#5a9fa8",
    "#8f7ad6",
    "#7d9b3c",
    "#a0745a",
)
"""Colours of the bundles, repeated if there are more; distinguishable on light and dark pages."""
GREY = "#8a8f98"
"""Colour of published results."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
CATEGORIES = {"autorange": "reversed", "type": "category"}
"""A vertical axis with names, the first on top."""
Trace = dict[str, Any]
Spec = dict[str, Any]


def plain(text: object) -> str:
    """Escapes a name for plotly, whose texts may contain tags."""
    return html.escape(str(text), quote=False)


def short(text: str, longest: int = 26) -> str:
    """Shortens a long name to its end, where names of sweep runs differ, for axis labels."""
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


def colour(position: int) -> str:
    """Colour of the bundle at a position."""
    return COLOURS[position % len(COLOURS)]


def marker(look: int, symbol: int = 0, size: int = 9) -> dict[str, Any]:
    """Markers in the colour and symbol at two positions, `size` in pixels."""
    return {"size": size, "color": colour(look), "symbol": SYMBOLS[symbol % len(SYMBOLS)]}


def scatter(
    name: str,
    x: Iterable[Any],
    y: Iterable[Any],
    hover: str = "",
    mode: str = "markers",
    **more: Any,
) -> Trace:
    """A scatter trace.

    Args:
        name: Name in the legend, escaped here.
        x: Horizontal values.
        y: Vertical values.
        hover: Template of the tooltip; none if empty.
        mode: "markers", "lines" or "lines+markers".
        more: Further entries of the trace.
    """
    tooltip = {"hovertemplate": f"{hover}<extra></extra>"} if hover else {"hoverinfo": "skip"}
    values = {"name": plain(name), "x": list(x), "y": list(y)}
    return {"type": "scatter", "mode": mode, **values, **tooltip, **more}


def figure(
    data: Sequence[Trace], *, x: str = "", y: str = "", legend: bool = True, **layout: Any
) -> Spec:
    """A plot with titled axes.

    Args:
        data: Traces.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        legend: Show a legend if there are several traces.
        layout: Further layout entries; `xaxis` and `yaxis` are merged with the titles.
    """
    for name, title in (("xaxis", x), ("yaxis", y)):
        axis = {"title": {"text": title}, "automargin": True, "zeroline": False}
        layout[name] = axis | layout.get(name, {})
    above = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "left", "x": 0}
    settings = {
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "showlegend": legend and len(data) > 1,
        "legend": {**above, "font": {"size": 11}},
        "font": {"size": 12},
        "hoverlabel": {"align": "left"},
    }
    return {"data": list(data), "layout": settings | layout}


def error(values: Sequence[float], low: Sequence[float], high: Sequence[float]) -> dict[str, Any]:
    """Error bars from `low` to `high`."""
    below = [v - w for v, w in zip(values, low, strict=True)]
    return {**even([h - v for v, h in zip(values, high, strict=True)]), "arrayminus": below}


def even(values: Sequence[float]) -> dict[str, Any]:
    """Symmetric error bars."""
    return {"type": "data", "array": list(values), "thickness": 1.2, "width": 4}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Pareto-optimal points: no other has a higher score at the same or a lower cost.

    Args:
        points: (cost, score).

    Returns:
        Sorted by cost, and therefore by score.
    """
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front
