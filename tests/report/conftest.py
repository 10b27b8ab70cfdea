"""Bundles for reports: the exported one, copies of it that may be changed.

And pages taken apart.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.exporting import Case

VOID = {"meta", "link", "br", "wbr", "img", "input", "hr"}


@dataclass
class Element:
    """One element of a page."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Element] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        """Every element of that tag below this one."""
        found = [self] if self.tag == tag else []
        return found + [inner for child in self.children for inner in child.all(tag)]

    @property
    def text(self) -> str:
        """What is written in it and below."""
        return " ".join(" ".join([*self.texts, *(child.text for child in self.children)]).split())


class Page(HTMLParser):
    """A page as a tree, by the standard library's parser."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]
        self.by_id: dict[str, Element] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if (name := element.attributes.get("id")) is not None:
            assert name not in self.by_id, f"two elements are called {name}"
            self.by_id[name] = element
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"{self.open[-1].tag} is closed by {tag}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].texts.append(data)

    @property
    def figures(self) -> dict[str, Any]:
        """The plots by name, as plotly gets them."""
        return {
            str(div.attributes["id"]): json.loads(div.attributes["data-spec"] or "")
            for div in self.root.all("div")
            if div.attributes.get("class") == "canvas"
        }

    def table(self, name: str) -> list[list[str]]:
        """The cells of a table's body."""
        return [
            [cell.text for cell in row.all("td")]
            for row in self.by_id[name].all("tbody")[0].all("tr")
        ]

    @property
    def said(self) -> str:
        """Every sentence about what is missing."""
        return " ".join(
            p.text for p in self.root.all("p") if "missing" in (p.attributes.get("class") or "")
        )


def read_page(path: Path) -> Page:
    """A page of a file."""
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.open) == 1, f"{page.open[-1].tag} is not closed"
    return page


@dataclass(frozen=True)
class Copy:
    """A bundle of one's own."""

    folder: Path

    def read(self, name: str) -> dict[str, Any]:
        """A json of the bundle."""
        content: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return content

    def change(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Edits a json of the bundle."""
        content = self.read(name)
        change(content)
        (self.folder / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="session")
def exported(case: Case) -> Copy:
    """The bundle; it is looked at only."""
    return Copy(case.result.folder)


@pytest.fixture
def copied(case: Case, tmp_path: Path) -> Copy:
    """A copy that may be changed."""
    return Copy(Path(shutil.copytree(case.result.folder, tmp_path / "exports" / "tiny")))


@pytest.fixture
def lean(copied: Copy) -> Copy:
    """A copy without its model files, for what is said in its json alone.

    Reading models is most of a report's time.
    """
    for path in (*copied.folder.glob("*.tflite"), *copied.folder.glob("*.onnx")):
        path.unlink()
    return copied
