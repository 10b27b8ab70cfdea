"""What the site makes of the project.

Every setting with its default and remark, every command, every module; lists of contents; plain
docstrings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from heatpose.cli import COMMANDS, ENTRIES, RELEASING
from tests.conftest import load_module

REPOSITORY = Path(__file__).parents[1]
CONF = REPOSITORY / "conf"


def _load(path: str) -> ModuleType:
    return load_module(REPOSITORY / path, f"site_{Path(path).stem}")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return _load("docs/_ext/generate.py")


@pytest.fixture(scope="module")
def pages(generate: ModuleType) -> dict[str, str]:
    made: dict[str, str] = generate.configuration(CONF)
    return made


def _scalars(content: object, prefix: str) -> Iterator[tuple[str, object]]:
    """Settings of a file as PyYAML reads it.

    Lists and flow mappings whole where they are written so.
    """
    assert isinstance(content, dict)
    for key, value in content.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            yield from _scalars(value, name)
        elif not isinstance(value, list) and key not in ("_target_", "_partial_", "_convert_"):
            yield name, value


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_setting_has_its_default(pages: dict[str, str], path: Path) -> None:
    """PyYAML reads the file once more; mappings that are written in one line are one row."""
    text = path.read_text(encoding="utf-8")
    page = pages[path.parent.name]
    section = page.partition(f"\n## {path.parent.name}={path.stem}\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| (?:`(.*?)`|below|) \|", section, re.M))
    content = {
        key: value for key, value in (yaml.safe_load(text) or {}).items() if key != "defaults"
    }
    for name, value in _scalars(content, "" if "@package _global_" in text else path.parent.name):
        parents = [name.rsplit(".", cut)[0] for cut in range(1, name.count(".") + 1)]
        shown = rows.get(name)
        if shown:
            assert yaml.safe_load(shown) == value, name
        else:
            assert name in rows or any(parent in rows for parent in parents), name


def test_remarks_of_the_files_are_the_texts(pages: dict[str, str]) -> None:
    message = (
        "float32, or int8 without the last dequantisation; null: that of target=, else float32"
    )
    assert f"| `quant.output` | `null` | {message} |" in pages["quant"]
    assert "| `resolution` | `192` | side of the square input, a multiple of 32 |" in pages["index"]
    assert (
        "Post-training quantisation, per channel (STM32N6) and per tensor (STM32MP2)"
        in pages["quant"]
    )


def test_without_a_remark_the_docstring_tells(pages: dict[str, str]) -> None:
    message = "Number of training images that set the activation ranges."
    assert f"| `quant.calibration_images` | `128` | {message} |" in pages["quant"]


def test_every_command_is_there(generate: ModuleType) -> None:
    text = generate.commands()
    assert re.findall(r"^## heatpose ([\w-]+)$", text, re.M) == [
        command.__name__.replace("_", "-") for command in (*ENTRIES, *COMMANDS, *RELEASING)
    ]
    assert "| `--sampling` | `nearest` | nearest is the published protocol. |" in text


def test_every_public_module_is_there(generate: ModuleType) -> None:
    made = "\n".join(generate.api(REPOSITORY / "src").values())
    listed = set(re.findall(r"^\.\. automodule:: heatpose\.([\w.]+)$", made, re.M))
    files = (
        path.relative_to(REPOSITORY / "src/heatpose")
        for path in (REPOSITORY / "src/heatpose").rglob("*.py")
    )
    public = {
        ".".join(path.with_suffix("").parts) for path in files if not path.stem.startswith("_")
    }
    assert {
        name
        for name in public
        if name.split(".")[0] not in ("cli", "entries") and "board" not in name
    } <= listed


def test_unlisted_pages_are_in_the_contents() -> None:
    contents = _load("docs/conf.py").contents
    index = (
        "```{toctree}\n:caption: A\n\nfirst\n```\n\n```{toctree}\n:caption:"
        " B\n\ntrain*\n```\n\n```{toctree}\n:caption: C\n\nlast\n*\n```\n"
    )
    assert (
        contents(index, ["first", "last"])
        == "```{toctree}\n:caption: A\n\nfirst\n```\n\n\n```{toctree}\n:caption: C\n\nlast\n\n```\n"
    )
    full = contents(index, ["first", "last", "other", "train", "training_data"])
    assert "train\ntraining_data\n" in full and full.endswith("last\nother\n```\n")


def test_docstrings_are_text_and_not_markup() -> None:
    to_rst = _load("docs/_ext/docstrings.py").plain_text_to_rst

    def converted(text: str) -> str:
        lines = text.splitlines()
        to_rst(None, "", "", None, None, lines)
        return "\n".join(lines).strip()

    assert (
        converted("Writes `*.rejected.tflite`, 2 * x | y and name_.")
        == r"Writes ``*.rejected.tflite``, 2 \* x \| y and name\_."
    )
    assert converted("`Person`s of ``Already``.") == r"``Person``\ s of ``Already``."
    assert converted("a.py   first\nbb.py  second") == "::\n\n   a.py   first\n   bb.py  second"


def test_the_diagram_and_the_table_have_every_room(generate: ModuleType) -> None:
    rooms = generate.rooms.layers(REPOSITORY / "pyproject.toml")
    drawn = generate.rooms.svg(rooms)
    assert re.findall(r'font-size="14"[^>]*>(\w+)<', drawn) == rooms
    page = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    table = page.partition("| room | content |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == [
        room for room in rooms if room != "errors"
    ]
    assert set(generate.rooms.BANDS) <= set(rooms)
