"""Plots as plotly's plain values.

Colours of the page (text, grid, background) are the script's; those of the data are readable on
both pages.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
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
"""One per bundle, then again from the start; told apart on light and dark pages."""
PUBLISHED = "#8a8f98"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
Trace = dict[str, Any]


def plain(text: object) -> str:
    """A name as plotly shows it.

    Its texts may hold tags, so that those of a name are written out.
    """
    return html.escape(str(text), quote=False)


def short(text: str, longest: int = 26) -> str:
    """The end of a long name, which is what tells members of a sweep apart.

    For the labels of an axis.
    """
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


def colour(position: int) -> str:
    """Of the bundle at that position."""
    return COLOURS[position % len(COLOURS)]


def figure(
    data: Sequence[Trace], *, x: str = "", y: str = "", legend: bool = True, **layout: Any
) -> dict[str, Any]:
    """A plot with titled axes.

    Args:
        data: Plotly's traces.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        legend: Above the plot, where there is more than one trace.
        layout: Further entries; `xaxis` and `yaxis` are laid over the titles.
    """
    axes = {
        "xaxis": {
            "title": {"text": x},
            "automargin": True,
            "zeroline": False,
            **layout.pop("xaxis", {}),
        },
        "yaxis": {
            "title": {"text": y},
            "automargin": True,
            "zeroline": False,
            **layout.pop("yaxis", {}),
        },
    }
    above = {
        "orientation": "h",
        "yanchor": "bottom",
        "y": 1.0,
        "xanchor": "left",
        "x": 0,
        "font": {"size": 11},
    }
    settings = {
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "showlegend": legend and len(data) > 1,
        "legend": above,
        "font": {"size": 12},
        "hoverlabel": {"align": "left"},
        **axes,
        **layout,
    }
    return {"data": list(data), "layout": settings}


def error(values: Sequence[float], low: Sequence[float], high: Sequence[float]) -> dict[str, Any]:
    """Bars from `low` to `high` around values."""
    above = [h - v for v, h in zip(values, high, strict=True)]
    below = [v - w for v, w in zip(values, low, strict=True)]
    return {"type": "data", "array": above, "arrayminus": below, "thickness": 1.2, "width": 4}


def even(values: Sequence[float]) -> dict[str, Any]:
    """Bars of the same length on both sides."""
    return {"type": "data", "array": list(values), "thickness": 1.2, "width": 4}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats: none costs as little or less and scores more.

    Args:
        points: (cost, score).

    Returns:
        By rising cost, and so by rising score.
    """
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front
