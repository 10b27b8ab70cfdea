"""What a page is made of: sections of tables, plots, images and sentences.

As plain values for the template.
"""

from __future__ import annotations

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
