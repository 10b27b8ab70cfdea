"""The commands of the pages can be parsed, and the files that they print are the real ones."""

from __future__ import annotations

import re
from pathlib import Path

import documented
import hydra
import pytest
import typer
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from omegaconf import DictConfig, OmegaConf

from heatpose.cli import app
from heatpose.evaluation.published import rows

REPOSITORY = Path(__file__).parents[1]
PAGES = documented.PAGES


def _composed(entry: str, arguments: list[str]) -> DictConfig:
    """As the entry composes; of a sweep, its first member."""
    extra = []
    if "--config-dir" in arguments:
        at = arguments.index("--config-dir")
        extra = [f"hydra.searchpath=[file://{REPOSITORY / arguments[at + 1]}]"]
        arguments = arguments[:at] + arguments[at + 2 :]
    first = []
    for override in OverridesParser.create().parse_overrides([a for a in arguments if a != "-m"]):
        sweep = override.value() if override.is_sweep_override() else None
        if isinstance(sweep, IntervalSweep):
            value = str(sweep.start)
        else:
            value = (
                next(iter(override.sweep_string_iterator()))
                if sweep
                else override.get_value_element_as_str()
            )
        first.append(f"{override.get_key_element()}={value}")
    with hydra.initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return hydra.compose(entry, [*first, *extra])


@pytest.mark.parametrize("entry", ["train", "export"])
def test_the_entries_understand_every_command_of_the_pages(entry: str) -> None:
    commands = documented.commands(entry)
    assert len(commands) >= 2
    for command in commands:
        config = _composed(entry, list(command.arguments))
        # every key that is set exists; what Hydra alone resolves stays as it is written
        plain = OmegaConf.to_container(config)
        assert isinstance(plain, dict) and plain["name"], f"{command.page}: {command}"


def test_heatpose_understands_every_command_of_the_pages() -> None:
    known = typer.main.get_command(app)
    commands = documented.commands("heatpose")
    assert len(commands) >= 5
    for written in commands:
        name, *arguments = written.arguments
        command = getattr(known, "commands").get(name)  # noqa: B009  (click's group, as typer makes it)
        assert command is not None, f"{written.page}: heatpose {name}"
        if "--help" not in arguments:
            command.make_context(name, list(arguments))


def test_printed_settings_are_those_of_the_files() -> None:
    """A yaml block that begins with a path is that file, without its comments."""
    shown = 0
    for page in PAGES:
        for text in documented.blocks(page, "yaml"):
            title = re.match(r"# ([\w/]+\.yaml)\n", text)
            if title is not None:
                assert yaml.safe_load(text) == yaml.safe_load(
                    (REPOSITORY / title[1]).read_text(encoding="utf-8")
                ), title[1]
                shown += 1
    assert shown >= 2


def test_the_list_of_experiments_is_complete() -> None:
    page = (REPOSITORY / "docs/experiments.md").read_text(encoding="utf-8")
    first_cells = "".join(
        line.split("|")[1] for line in page.splitlines() if line.startswith("| `")
    )
    assert set(re.findall(r"`(\w+)`", first_cells)) == {
        path.stem for path in (REPOSITORY / "conf/experiment").glob("*.yaml")
    }


def test_every_published_variant_has_an_experiment() -> None:
    page = (REPOSITORY / "docs/experiments.md").read_text(encoding="utf-8")
    last_cells = "".join(line.split("|")[5] for line in page.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", last_cells)) == {row.variant for row in rows()}
