"""The notices name what is needed, and nothing of it would bind a product to publish its source."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import load_module

REPOSITORY = Path(__file__).parents[2]
OTHERWISE = {
    "docutils": (
        "public domain, only an Emacs mode that comes with it is GPL; the site alone needs it"
    )
}
"""Packages with the letters in their licence and why they are no matter."""


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    return load_module(REPOSITORY / "docs/_ext/licences.py")


def test_no_package_is_gpl(licences: ModuleType) -> None:
    needed = licences.needed()
    found = {name: licences.licence(name) for name in needed}
    assert {"torch", "numpy", "hydra-core"} <= {
        name for name, part in needed.items() if part == "required"
    }
    strong = {
        name
        for name, text in found.items()
        if re.search(r"(?<!L)(?<!Lesser )(A?GPL|General Public License)", text)
    }
    assert strong <= set(OTHERWISE), "a licence that the project must not depend on"
    assert not [name for name in strong if needed[name] == "required"]


def test_licences_are_read_as_they_are_stated(licences: ModuleType) -> None:
    """Three ways in which packages state one, read off their pages.

    Also where this package, which others bring, has taken the finding over.
    """
    importlib.import_module("importlib_metadata")
    assert licences.licence("rich") == "MIT"
    assert licences.licence("lightning") == "Apache-2.0"
    assert licences.licence("certifi") == "MPL-2.0"


def test_the_notices_name_every_package_that_is_asked_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    asked = {canonicalize_name(Requirement(line).name) for line in lines} - {"heatpose"}
    named = set(
        re.findall(
            r"^\| ([\w.-]+) \|",
            (REPOSITORY / "THIRD_PARTY_NOTICES.md").read_text(encoding="utf-8"),
            re.M,
        )
    )
    assert asked <= named, "write the notices anew: uv run python docs/_ext/licences.py"
