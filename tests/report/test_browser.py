"""The page in a real browser: it draws, sorts, tells, fits a phone, and loads nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from heatpose.report import REPORT
from tests.report.conftest import Copy

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    found = next(
        (
            path
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (path := shutil.which(name))
        ),
        None,
    )
    if found is None:
        pytest.skip(
            "no chromium is installed (apt-get install chromium), so that no page can be opened"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, and what it did meanwhile."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def opened(browser: Any, exported: Copy) -> Opened:
    """The report of the exported bundle, drawn."""
    page = browser.new_page(
        viewport={"width": 1200, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    page.set_default_timeout(120_000)  # milliseconds; a busy machine compiles plotly slowly
    result = Opened(page)
    page.on(
        "console",
        lambda message: (
            result.complaints.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.on("pageerror", lambda error: result.complaints.append(str(error)))
    page.on("request", lambda request: result.requests.append(request.url))
    page.goto((exported.folder / REPORT).resolve().as_uri())
    page.wait_for_function(
        "() => document.querySelectorAll('.canvas.drawn').length ==="
        " document.querySelectorAll('.canvas').length"
    )
    return result


@pytest.fixture(autouse=True)
def desktop(opened: Opened) -> None:
    """Every test begins with a wide, light page."""
    opened.page.set_viewport_size({"width": 1200, "height": 900})
    opened.page.emulate_media(color_scheme="light")


def _colours(page: Any) -> dict[str, str]:
    return {
        "page": page.evaluate("getComputedStyle(document.body).backgroundColor"),
        "text": page.evaluate("getComputedStyle(document.body).color"),
        "card": page.evaluate(
            "getComputedStyle(document.querySelector('section')).backgroundColor"
        ),
        "axis": page.evaluate("document.querySelector('#keypoints .ytick text').style.fill"),
        "grid": page.evaluate("document.querySelector('#keypoints .xgrid').style.stroke"),
    }


def _lightness(colour: str) -> float:
    return sum(int(part) for part in colour[colour.index("(") + 1 :].rstrip(")").split(",")[:3]) / (
        3 * 255
    )


def test_every_plot_is_drawn_and_every_picture_decodes(opened: Opened) -> None:
    assert opened.page.locator(".canvas").count() >= 8
    assert opened.page.evaluate(
        "[...document.querySelectorAll('.canvas')].every((e) => e.querySelector('.main-svg"
        " .xaxislayer-above text'))"
    )
    sides = opened.page.evaluate(
        """Promise.all([...document.querySelectorAll('.person image')].map(async (e) => {
        const image = new Image(); image.src = e.getAttribute('href'); await image.decode();
        return image.naturalWidth === Number(e.getAttribute('width')); }))"""
    )
    assert len(sides) == 12 and all(sides)


def test_a_click_on_a_heading_sorts_and_another_turns_around(opened: Opened) -> None:
    page = opened.page
    heading = page.locator("#summary-table th", has_text="KiB").first

    def sizes() -> list[str]:
        return list(page.locator("#summary-table tbody tr td:nth-child(7)").all_inner_texts())

    heading.locator("button").click()
    up = sizes()
    heading.locator("button").click()
    down = sizes()
    numbers = [int(text.replace(",", "")) for text in up if text != "–"]
    assert len(numbers) == 4 and numbers == sorted(numbers)
    assert [int(text.replace(",", "")) for text in down if text != "–"] == numbers[::-1]
    assert up[-1] == down[-1] == "–"  # the torch network is no file: last either way
    assert heading.get_attribute("aria-sort") == "descending"


def test_pointing_at_a_value_tells_it(opened: Opened) -> None:
    page = opened.page
    page.locator("#keypoints").scroll_into_view_if_needed()
    box = page.locator("#keypoints .scatterlayer .point").first.bounding_box()
    assert page.locator("#keypoints .hoverlayer .hovertext").count() == 0
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.wait_for_selector("#keypoints .hoverlayer .hovertext")
    message = page.locator("#keypoints .hoverlayer").text_content()
    assert "head" in message and "%" in message


def test_a_phone_scrolls_down_only(opened: Opened) -> None:
    page = opened.page
    page.set_viewport_size(PHONE)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.canvas .main-svg')].every((e) =>"
        " e.getBoundingClientRect().width <= 390)"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    outside = page.evaluate(
        """[...document.querySelectorAll('h1, h2, h3, p, figure, nav a, .tile, .box, pre, svg.main-svg')]
        .filter((e) => e.getBoundingClientRect().right > 390.5).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    box = page.locator(".box").first
    # the table scrolls inside
    assert box.evaluate(
        "(e) => e.scrollWidth > e.clientWidth && getComputedStyle(e).overflowX === 'auto'"
    )


def test_dark_is_dark_also_in_the_plots(opened: Opened) -> None:
    page = opened.page
    light = _colours(page)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "(before) => document.querySelector('#keypoints .ytick text').style.fill !== before",
        arg=light["axis"],
    )
    dark = _colours(page)
    for name in ("page", "card", "grid"):
        assert _lightness(light[name]) > 0.75 and _lightness(dark[name]) < 0.35, name
    for name in ("text", "axis"):
        assert _lightness(light[name]) < 0.35 and _lightness(dark[name]) > 0.75, name


def test_a_picture_grows_by_a_click(opened: Opened) -> None:
    person = opened.page.locator(".person").first
    before = person.bounding_box()["height"]
    person.locator("figcaption").click()
    assert person.bounding_box()["height"] > 1.3 * before
    person.locator("figcaption").click()
    assert person.bounding_box()["height"] == before


def test_nothing_went_wrong_and_nothing_was_loaded(opened: Opened) -> None:
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == opened.requests[:1]
    assert opened.requests[0].startswith("file:")


def test_the_page_forbids_itself_to_load_anything(opened: Opened) -> None:
    refused = opened.page.evaluate(
        "fetch('https://example.org/').then(() => 'loaded', (error) => error.name)"
    )
    assert refused == "TypeError"
    assert any("Content Security Policy" in text for text in opened.complaints)
    opened.complaints.clear()
