"""What a page is made of: sections of tables, plots, images and sentences.

As plain values for the template.
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
"""What a damaged or foreign `metrics.json` or `manifest.json` ends in."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: As shown.
        order: What the column is sorted by; None is last.
        mark: CSS class: "", "good", "bad", "quiet", "code".
        hint: Shown when pointed at.
    """

    text: str
    order: float | str | None = None
    mark: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Row:
    """Cells, and the CSS class of the row ("" or "published")."""

    cells: Sequence[Cell]
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table that is sorted by a click on a heading; wide ones scroll in their box.

    Attributes:
        columns: Headings.
        rows: As many cells each.
        caption: A sentence above.
        numbers: Columns from this one on hold numbers, which are set to the right.
        name: Of the element, for links and tests.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    numbers: int = 1
    name: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot: `spec` has plotly's `data` and `layout`, without colours of the page.

    Which the script adds.

    Attributes:
        name: Of the element.
        heading: Above it.
        spec: Plain values.
        caption: A sentence below.
        height: Pixels.
        wide: Takes the whole width.
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
    """Plots side by side where there is room."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Tile:
    """A number that a reader wants first."""

    label: str
    value: str
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Tiles:
    """The first numbers."""

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
    """Sentences that are unfolded by a click."""

    kind: ClassVar[str] = "notes"
    heading: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Commands:
    """Lines to type."""

    kind: ClassVar[str] = "commands"
    heading: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Joint:
    """A keypoint in pixels of the drawing, with what is told when it is pointed at."""

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
class CachedImage:
    """One person: the image once, label and prediction on it.

    Attributes:
        name: Of the element.
        data: The image as a `data:` address.
        width: Pixels.
        height: Pixels.
        line: Width of limbs in pixels.
        drawings: Label, prediction.
        score: "12.3 %".
        caption: What else is known.
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
    images: Sequence[CachedImage]


Block = Table | Figures | Tiles | Note | Notes | Commands | Gallery


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: For links.
        heading: Title.
        lead: What the section shows, in a sentence or two.
        blocks: What is in it; a section without any says so.
    """

    key: str
    heading: str
    lead: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def missing(text: str) -> Note:
    """Says that something is not there, and why."""
    return Note(text, "missing")


def guarded(what: str, make: Callable[[], Sequence[Block]]) -> list[Block]:
    """What `make` gives; a sentence where the bundle's files do not say what they should.

    Args:
        what: Beginning of the sentence: "The scores of 'name'".
        make: Reads plain values that came from a file.
    """
    try:
        return list(make())
    except UNREADABLE as error:
        return [_unreadable(what, error)]


def guarded_section(key: str, heading: str, make: Callable[[], Section]) -> Section:
    """A section; one with a sentence alone where the files do not say what they should."""
    try:
        return make()
    except UNREADABLE as error:
        return Section(key, heading, "", [_unreadable("What a bundle says about this", error)])


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
