"""Settings of the documentation site: `uv run sphinx-build -W --keep-going docs docs/_build/html`.

Nothing is fetched from anywhere.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx

HERE = Path(__file__).parent
MADE = HERE / "_generated"

project = "Heatpose"
author = "the Heatpose developers"
project_copyright = "the Heatpose developers, Apache-2.0"
version = release = importlib.metadata.version("heatpose")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "_ext", "**.ipynb_checkpoints"]
html_theme = "furo"
html_title = f"Heatpose {release}"
html_static_path: list[str] = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
pygments_style = "tango"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
suppress_warnings = [
    "ref.python"
]  # two modules may have a class of one name; annotations name it without the module

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = [
    "tensorflow",
    "onnx2tf",
]  # nothing imports them at its top; if something did, the site would not wait for it
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
copybutton_exclude = ".linenos, .gp, .go"


def load(name: str) -> ModuleType:
    """A module beside this file."""
    spec = importlib.util.spec_from_file_location(name, HERE / "_ext" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def setup(app: Sphinx) -> None:
    """Writes the generated pages before the sources are collected."""
    app.connect("builder-inited", lambda _: load("generate").write_pages(HERE.parent, MADE))
    app.connect("source-read", read_source)
    app.connect(
        "autodoc-process-docstring", load("docstrings").plain_text_to_rst, priority=400
    )  # before napoleon


def read_source(app: Sphinx, name: str, source: list[str]) -> None:
    """Makes links of the pages that a text names.

    And completes the lists of contents of the first page.
    """
    source[0] = re.sub(
        r"`docs/(\w+)\.md`",
        lambda found: f"[](/{found[1]}.md)" if (HERE / f"{found[1]}.md").is_file() else found[0],
        source[0],
    )
    if name == "index":
        source[0] = contents(source[0], sorted(page.stem for page in HERE.glob("*.md")))


def contents(text: str, pages: list[str]) -> str:
    """The first page: "name*" in a list becomes the pages that begin so.

    A lone "*" those that nobody named, and empty lists go.
    """
    listed = set(re.findall(r"^(\w+)$", text, re.M)) | {"index"}
    for pattern in re.findall(r"^(\w+)\*$", text, re.M):
        found = [page for page in pages if page.startswith(pattern) and page not in listed]
        listed |= set(found)
        text = text.replace(f"\n{pattern}*\n", "".join(f"\n{page}" for page in found) + "\n")
    text = re.sub(
        r"^\*$", "\n".join(page for page in pages if page not in listed), text, flags=re.M
    )
    return re.sub(r"```\{toctree\}\n(:.*\n)*\n+```\n", "", text)
