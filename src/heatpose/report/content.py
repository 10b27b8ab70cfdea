"""Content of a page as plain values for the template: sections, tables, plots, images, notes.

Plots are plotly specifications; the script adds the colours of text, grid and background.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

UNREADABLE = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
)
"""Exceptions while reading a damaged or foreign `metrics.json` or `manifest.json`."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: Displayed text.
        order: Sort key of the column; None is last.
        mark: CSS class: "", "good", "bad", "quiet", "code".
        hint: Tooltip.
    """

    text: str
    order: float | str | None = None
    mark: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Row:
    """A row: cells, and its CSS class ("", "published" or "total")."""

    cells: Sequence[Cell]
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table, sortable by a click on a heading.

    Attributes:
        columns: Headings.
        rows: Rows with as many cells.
        caption: Sentence above the table.
        numbers: First column with numbers, which are right-aligned.
        name: Element id, for links and tests.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    numbers: int = 1
    name: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        name: Element id.
        heading: Heading above the plot.
        spec: Plotly's `data` and `layout`, plain values without the page's colours.
        caption: Sentence below the plot.
        height: Height in pixels.
        wide: Whether it spans the whole width.
    """

    kind: ClassVar[str] = "figure"
    name: str
    heading: str
    spec: dict[str, Any]
    caption: str = ""
    height: int = 340
    wide: bool = False


@dataclass(frozen=True)
class Figures:
    """Plots, side by side if the page is wide enough."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Tile:
    """A key number."""

    label: str
    value: str
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Tiles:
    """Key numbers of a bundle."""

    kind: ClassVar[str] = "tiles"
    heading: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Note:
    """A sentence; `mark` is "" or "missing"."""

    kind: ClassVar[str] = "note"
    text: str
    mark: str = ""


@dataclass(frozen=True)
class Notes:
    """Sentences in a collapsible block."""

    kind: ClassVar[str] = "notes"
    heading: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Commands:
    """Shell commands."""

    kind: ClassVar[str] = "commands"
    heading: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Joint:
    """A keypoint in pixels of the drawing, with tooltip."""

    x: float
    y: float
    colour: str
    hint: str


@dataclass(frozen=True)
class Limb:
    """A line between two keypoints."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str


@dataclass(frozen=True)
class Drawing:
    """A skeleton on an image."""

    name: str
    limbs: Sequence[Limb]
    joints: Sequence[Joint]


@dataclass(frozen=True)
class GalleryImage:
    """An instance with label and prediction.

    Attributes:
        name: Element id.
        data: Image as a `data:` URL.
        width: Width in pixels.
        height: Height in pixels.
        line: Width of limbs in pixels.
        drawings: Label, prediction.
        score: For instance "12.3 %".
        caption: Further text.
    """

    name: str
    data: str
    width: int
    height: int
    line: float
    drawings: Sequence[Drawing]
    score: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Images, worst first."""

    kind: ClassVar[str] = "gallery"
    heading: str
    images: Sequence[GalleryImage]


Block = Table | Figures | Tiles | Note | Notes | Commands | Gallery


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        key: Element id, for links.
        heading: Title.
        lead: Introduction, one or two sentences.
        blocks: Content; may be empty.
    """

    key: str
    heading: str
    lead: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def missing(text: str) -> Note:
    """A note on something missing."""
    return Note(text, "missing")


def guarded(what: str, make: Callable[[], Sequence[Block]]) -> list[Block]:
    """Calls `make`; returns a note if the bundle's files are damaged.

    Args:
        what: Subject of the note, for instance "The scores of 'name'".
        make: Creates blocks from plain values of a file.
    """
    try:
        return list(make())
    except UNREADABLE as error:
        return [_unreadable(what, error)]


def guarded_section(key: str, heading: str, make: Callable[[], Section]) -> Section:
    """Calls `make`; returns a section with a note if the bundle's files are damaged."""
    try:
        return make()
    except UNREADABLE as error:
        return Section(key, heading, "", [_unreadable("The bundle's data for this section", error)])


def _unreadable(what: str, error: BaseException) -> Note:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return missing(f"{what} cannot be read ({reason}); export the bundle again.")


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
PUBLISHED = "#8a8f98"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
Trace = dict[str, Any]


def plain(text: object) -> str:
    """Escapes a name for plotly, whose texts may contain tags."""
    return html.escape(str(text), quote=False)


def short(text: str, longest: int = 26) -> str:
    """Shortens a long name to its end, where names of sweep runs differ, for axis labels."""
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


def colour(position: int) -> str:
    """Colour of the bundle at a position."""
    return COLOURS[position % len(COLOURS)]


def figure(
    data: Sequence[Trace], *, x: str = "", y: str = "", legend: bool = True, **layout: Any
) -> dict[str, Any]:
    """A plot with titled axes.

    Args:
        data: Plotly traces.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        legend: Show a legend if there are several traces.
        layout: Further layout entries; `xaxis` and `yaxis` are merged with the titles.
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
    """Plotly error bars from `low` to `high`."""
    above = [h - v for v, h in zip(values, high, strict=True)]
    below = [v - w for v, w in zip(values, low, strict=True)]
    return {"type": "data", "array": above, "arrayminus": below, "thickness": 1.2, "width": 4}


def even(values: Sequence[float]) -> dict[str, Any]:
    """Symmetric plotly error bars."""
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
