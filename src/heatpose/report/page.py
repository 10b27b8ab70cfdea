"""The page: sections put into the template, with styles, script and plotly inside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from heatpose.report.bundle import Bundle, on_boards
from heatpose.report.content import Figures, Section, guarded_section
from heatpose.report.costs import costs
from heatpose.report.curves import curves, operators, reproduction
from heatpose.report.gallery import gallery
from heatpose.report.scores import drift, instances, losses
from heatpose.report.summary import summary

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


TEMPLATES = "templates"


def sections_of(
    bundles: Sequence[Bundle], images: Path | None = None, show_images: bool = True
) -> Iterator[Section]:
    """Every section, in the order of the page.

    Args:
        bundles: At least one.
        images: Folder of the evaluation set's images, where they have moved.
        show_images: Shows predictions on them.
    """
    boards = {bundle.label: on_boards(bundle) for bundle in bundles}
    parts: Sequence[tuple[str, str, Callable[[], Section]]] = (
        ("summary", "Summary", lambda: summary(bundles, boards)),
        ("costs", "Accuracy against cost", lambda: costs(bundles, boards)),
        ("losses", "What quantisation costs", lambda: losses(bundles)),
        ("people", "Keypoints and people", lambda: instances(bundles)),
        ("drift", "Drift of int8", lambda: drift(bundles)),
        ("curves", "Learning curves", lambda: curves(bundles)),
        ("gallery", "Predictions", lambda: gallery(bundles, images, show_images)),
        ("operators", "Operators", lambda: operators(bundles)),
        ("reproduce", "Made again", lambda: reproduction(bundles)),
    )
    yield from (guarded_section(key, heading, make) for key, heading, make in parts)


def render(
    bundles: Sequence[Bundle],
    *,
    title: str | None = None,
    images: Path | None = None,
    show_images: bool = True,
) -> str:
    """The page as one text.

    Args:
        bundles: At least one.
        title: Of the page; made of the bundles' names where None.
        images: As `sections_of`.
        show_images: As `sections_of`.
    """
    sections = list(sections_of(bundles, images, show_images))
    figures = {
        figure.name: figure.spec
        for section in sections
        for block in section.blocks
        if isinstance(block, Figures)
        for figure in block.figures
    }
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title or _title(bundles),
            bundles=bundles,
            sections=sections,
            figures=figures,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            style=_text("report.css"),
            script=_text("report.js"),
            plotly=_plotly(),
        )
    )


def _title(bundles: Sequence[Bundle]) -> str:
    if len(bundles) <= 3:
        return ", ".join(bundle.label for bundle in bundles)
    return f"{len(bundles)} networks"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("heatpose.report", TEMPLATES)
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": _code, "moment": _moment, "breakable": _breakable}
    return environment


def _code(text: str) -> Markup:
    """A sentence, escaped; what stands between backticks is set as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _breakable(text: str) -> Markup:
    """A name, escaped, which may go on in the next line after its underscores."""
    from markupsafe import Markup, escape

    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def _moment(text: object) -> str:
    """An ISO time as a person writes it; another text as it is."""
    try:
        return datetime.fromisoformat(str(text)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return str(text)


def _text(name: str) -> str:
    """A style sheet or script of the package, which goes into the page as it is."""
    return (resources.files("heatpose.report") / TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """plotly.js, MIT, as the package plotly brings it."""
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text
