"""Renders the page: sections, style sheet, script and plotly in one template."""

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
    """Yields all sections in the order of the page.

    Args:
        bundles: At least one bundle.
        images: Folder of the evaluation set's images, if they have moved.
        show_images: Whether to show predictions on them.
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
        ("reproduce", "Reproduction", lambda: reproduction(bundles)),
    )
    yield from (guarded_section(key, heading, make) for key, heading, make in parts)


def render(
    bundles: Sequence[Bundle],
    *,
    title: str | None = None,
    images: Path | None = None,
    show_images: bool = True,
) -> str:
    """Renders the page to HTML.

    Args:
        bundles: At least one bundle.
        title: Title of the page; None for the names of the bundles.
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
    """Escapes a sentence and formats text in backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _breakable(text: str) -> Markup:
    """Escapes a name and allows line breaks after underscores."""
    from markupsafe import Markup, escape

    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def _moment(text: object) -> str:
    """Formats an ISO time; other texts are returned unchanged."""
    try:
        return datetime.fromisoformat(str(text)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return str(text)


def _text(name: str) -> str:
    """Reads a style sheet or script of the package."""
    return (resources.files("heatpose.report") / TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """plotly.js (MIT) from the package plotly."""
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text
