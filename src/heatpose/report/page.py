"""The page: sections rendered by their templates, and styles, script and plotly embedded."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from heatpose.report.bundle import Bundle, on_boards
from heatpose.report.content import Values, reading
from heatpose.report.costs import costs
from heatpose.report.curves import curves, thresholds
from heatpose.report.gallery import gallery
from heatpose.report.scores import drift, losses, people
from heatpose.report.summary import operators, reproduction, summary

TEMPLATES = "templates"


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
        images: Folder of the evaluation set's images, if they have moved.
        show_images: Include predictions on them.
    """
    boards = {bundle.label: on_boards(bundle) for bundle in bundles}
    sections = (
        _section("summary", "Summary", lambda: summary(bundles, boards)),
        _section("costs", "Accuracy against cost", lambda: costs(bundles, boards)),
        _section("losses", "What quantisation costs", lambda: losses(bundles)),
        _section("people", "Keypoints and people", lambda: people(bundles)),
        _section("threshold", "Score threshold", lambda: thresholds(bundles)),
        _section("drift", "Drift of int8", lambda: drift(bundles)),
        _section("curves", "Learning curves", lambda: curves(bundles)),
        _section("gallery", "Predictions", lambda: gallery(bundles, images, show_images)),
        _section("operators", "Operators", lambda: operators(bundles)),
        _section("reproduce", "Reproduction", lambda: reproduction(bundles)),
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title or _title(bundles),
            bundles=bundles,
            sections=sections,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            style=_text("report.css"),
            script=_text("report.js"),
            plotly=_plotly(),
        )
    )


def _section(key: str, heading: str, values: Callable[[], Values]) -> dict[str, Any]:
    """Renders `sections/<key>.html.j2`; only a sentence if the bundles' files are damaged."""
    missing: list[str] = []
    body = ""
    with reading("The bundle's data for this section", missing):
        body = _environment().get_template(f"sections/{key}.html.j2").render(values())
    return {"key": key, "heading": heading, "body": Markup(body), "missing": missing}


def _title(bundles: Sequence[Bundle]) -> str:
    if len(bundles) <= 3:
        return ", ".join(bundle.label for bundle in bundles)
    return f"{len(bundles)} networks"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("heatpose.report", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": _code, "moment": _moment, "breakable": _breakable}
    return environment


def _code(text: str) -> Markup:
    """Escapes a sentence and formats text in backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _breakable(text: str) -> Markup:
    """Escapes a name and allows line breaks after underscores."""
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
