"""Pages that are made from the project itself when the site is built.

Settings out of conf/, commands out of the command line, modules out of src/.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
import yaml
from hydra.utils import get_object

LONGEST_VALUE = 90
"""Characters; longer values are seen in the file, which is then shown."""
SPECIAL = ("_target_", "_partial_", "_convert_")
GROUPS = {
    "data": "Labels, images and loaders.",
    "skeleton": "The keypoints of the network.",
    "model": "The network.",
    "init": "Initial weights.",
    "loss": "The training loss.",
    "augment": "Data augmentation.",
    "optimizer": "The optimiser.",
    "scheduler": "The learning rate schedule.",
    "trainer": "Lightning's trainer.",
    "callbacks": "Checkpoints, weight averaging, early stopping, prediction images.",
    "logger": "Logging of curves.",
    "quant": "Exported files, quantisation, limits of the acceptance checks.",
    "target": "The board of a run.",
    "recipe": "Initial weights, learning rate and epochs together.",
    "distill": "Knowledge distillation.",
    "experiment": "Complete runs by name.",
    "hydra": "Launchers and sweepers of Hydra.",
    "debug": "Short runs for debugging.",
    "sweep": "Searches over several runs.",
}
INTERNAL = ("board", "cli", "entries")
"""Parts of the package with a page of their own, or without importers."""


def _beside(name: str) -> ModuleType:
    """A module of this folder, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rooms = _beside("rooms")


def write_pages(repository: Path, made: Path) -> None:
    """Writes every generated page anew, those that have not changed with their old times.

    So that Sphinx does not read them again.
    """
    pages = {
        f"configuration/{name}.md": text
        for name, text in configuration(repository / "conf").items()
    }
    pages |= {f"api/{name}.md": text for name, text in api(repository / "src").items()}
    pages["commands.md"] = commands()
    for old in made.rglob("*.md"):
        if old.relative_to(made).as_posix() not in pages:
            old.unlink()
    for name, text in pages.items():
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    drawn = rooms.svg(rooms.layers(repository / "pyproject.toml"))
    (made / "rooms.svg").write_text(drawn, encoding="utf-8")
    shutil.copyfile(repository / "notebooks/heatpose.ipynb", made / "heatpose.ipynb")


# Configuration.


@dataclass(frozen=True)
class Setting:
    """One entry of a YAML file: where it is, what it is by default, and what the comments say."""

    key: str
    value: str
    comment: str
    target: str = ""


def configuration(conf: Path) -> dict[str, str]:
    """Page of each group, and the page of them all."""
    groups = sorted(
        folder.name for folder in conf.iterdir() if folder.is_dir() and list(folder.rglob("*.yaml"))
    )
    pages = {group: _group_page(conf / group) for group in groups}
    listed = "\n".join(
        f"| [{group}]({group}.md) | {', '.join(f'`{file}`' for file in _options(conf / group))} "
        f"| {GROUPS.get(group, '')} |"
        for group in groups
    )
    train, export = (
        _file_section(conf / f"{entry}.yaml", entry, level=2) for entry in ("train", "export")
    )
    pages["index"] = (
        "# Configuration\n\nEvery setting, its default and its meaning, generated from "
        "the files in `conf/`. "
        "A group's choice is "
        "set as `group=option`, a setting as `key=value`; "
        "`heatpose train --cfg job experiment=quickstart` prints the composed configuration.\n\n"
        f"## Groups\n\n| group | options | what |\n|---|---|---|\n{listed}\n\n{train}\n{export}\n"
        "```{toctree}\n:hidden:\n\n" + "\n".join(groups) + "\n```\n"
    )
    return pages


def _options(group: Path) -> list[str]:
    return sorted(
        path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml")
    )


def _group_page(group: Path) -> str:
    sections = [
        _file_section(
            group / f"{option}.yaml", f"{group.name}={option}", level=2, prefix=group.name
        )
        for option in _options(group)
    ]
    return f"# {group.name}\n\n{GROUPS.get(group.name, '')}\n\n" + "\n".join(sections)


def _file_section(path: Path, title: str, level: int, prefix: str = "") -> str:
    """A file: its first comment and a table of its settings.

    And the file itself where the table cannot show everything.
    """
    text = path.read_text(encoding="utf-8")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    package = "" if "# @package _global_" in text else prefix
    settings = (
        list(_settings(node, text.splitlines(), package))
        if isinstance(node, yaml.MappingNode)
        else []
    )
    rows = [
        f"| `{s.key}` | {_code(s.value)} | {_cell(s.comment or _documented(s))} |"
        for s in settings
        if s.key.rpartition(".")[2] not in SPECIAL
    ]
    table = "| setting | default | what |\n|---|---|---|\n" + "\n".join(rows) + "\n" if rows else ""
    made_of = [s.value for s in settings if s.key == f"{package}._target_".removeprefix(".")]
    built = f"Builds {_reference(made_of[0])}.\n\n" if made_of else ""
    long = any(len(s.value) > LONGEST_VALUE for s in settings) or "defaults:" in text
    file = f"```{{code-block}} yaml\n{text.rstrip()}\n```\n" if long else ""
    return f"{'#' * level} {title}\n\n{_head(text)}\n\n{built}{table}\n{file}"


def _head(text: str) -> str:
    """The comment that a file begins with; commands in it as code."""
    lines = [line.removeprefix("#").strip() for line in _while_comment(text.splitlines())]
    message = [line for line in lines if not line.startswith("@package")]
    return " ".join(_inline_command(line) for line in message)


def _inline_command(line: str) -> str:
    command = re.match(r"((?:uv run|tensorboard|python)[^:]*)(: .*)?$", line)
    return f"`{command[1].strip()}`{command[2] or '.'}" if command else _escaped(line)


def _while_comment(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line


def _settings(
    node: yaml.MappingNode, lines: list[str], prefix: str, target: str = ""
) -> Iterator[Setting]:
    own = {key.value: value for key, value in node.value}
    target = own["_target_"].value if "_target_" in own else target
    for key, value in node.value:
        name = f"{prefix}.{key.value}" if prefix else key.value
        if key.value == "defaults" and not target:
            continue
        comment = _comment(lines, key.start_mark.line, value)
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            if comment:
                yield Setting(name, "", comment)
            yield from _settings(
                value,
                lines,
                name,
                ""
                if "_target_" in dict(_pairs(value))
                else f"{target}:{key.value}"
                if target
                else "",
            )
        else:
            yield Setting(name, _source(value, lines), comment, target)


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    return ((key.value, value) for key, value in node.value)


def _comment(lines: list[str], line: int, value: yaml.Node) -> str:
    """The remark behind a setting, and the lines of remarks directly above it."""
    last = (
        line
        if isinstance(value, yaml.MappingNode) and not value.flow_style
        else min(value.end_mark.line, len(lines) - 1)
    )
    found = re.search(r"\s#\s?(.*)$", lines[line]) or re.search(
        r"\s#\s?(.*)$", lines[last] if last == line else ""
    )
    above: list[str] = []
    while line > 0 and lines[line - 1].startswith(" ") and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        above.insert(0, lines[line].lstrip(" #"))
    return " ".join([*above, *([found[1].strip()] if found else [])])


def _source(value: yaml.Node, lines: list[str]) -> str:
    """The value as it is written, in one line."""
    start, end = value.start_mark, value.end_mark
    rows = lines[start.line : end.line + 1] if end.line < len(lines) else lines[start.line :]
    if not rows:
        return ""
    if end.line < len(lines):
        rows[-1] = rows[-1][: end.column]
    rows[0] = rows[0][start.column :]
    return " ".join(re.sub(r"\s#\s.*$", "", row).strip() for row in rows).strip()


def _documented(setting: Setting) -> str:
    """The docstring of an argument of the built object.

    Only of this project's own.
    """
    target, name = setting.target, setting.key.rpartition(".")[2]
    if not target.startswith("heatpose."):
        return ""
    thing = get_object(target.partition(":")[0])
    texts = [inspect.getdoc(thing) or "", inspect.getdoc(getattr(thing, "__init__", None)) or ""]
    found = (
        re.search(rf"^ +{re.escape(name)}(?: \([^)]*\))?: (.*(?:\n {{8,}}.*)*)", text, re.M)
        for text in texts
    )
    return next((" ".join(match[1].split()) for match in found if match), "")


def _reference(target: str) -> str:
    if not target.startswith("heatpose."):
        return f"`{target}`"
    return f"{{py:obj}}`{target}`"


def _code(value: str) -> str:
    if len(value) > LONGEST_VALUE:
        return "below"
    return f"`{value}`".replace("|", "\\|") if value else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _escaped(text: str) -> str:
    return re.sub(r"([*_<{])", r"\\\1", text)


# Commands.


def commands() -> str:
    """Every command with its arguments and options."""
    from heatpose.cli import app

    group = typer.main.get_command(app)
    sections = [_command(name, command) for name, command in getattr(group, "commands").items()]  # noqa: B009
    return (
        "# Commands\n\nGenerated from the command line. Exit status: 0 success, "
        "1 a failed acceptance check or bad input (one sentence on stderr), 2 wrong usage. In a "
        "checkout each is `uv run heatpose ...`; `uv run train.py` and `uv run export.py` are "
        "`heatpose train` and `heatpose export`.\n\n" + "\n".join(sections)
    )


def _command(name: str, command: Any) -> str:
    rows = []
    for parameter in command.params:
        if parameter.name == "help":
            continue
        required = "required" if parameter.required else _default(parameter)
        kind = (
            parameter.opts[-1]
            if parameter.param_type_name == "option"
            else (parameter.metavar or parameter.name).upper()
        )
        rows.append(f"| `{kind}` | {required} | {_cell(getattr(parameter, 'help', None) or '')} |")
    table = "| argument | default | what |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    return f"## heatpose {name}\n\n{(command.help or '').strip()}\n\n{table}"


def _default(parameter: Any) -> str:
    value = parameter.default
    if value in (None, False, ()) or callable(value):
        return ""
    return f"`{getattr(value, 'value', value)}`"


# Modules.


def api(src: Path) -> dict[str, str]:
    """Page of each subpackage with its public modules, one of the modules beside them.

    And the page of them all.
    """
    package = src / "heatpose"
    folders = sorted(
        f for f in package.iterdir() if (f / "__init__.py").is_file() and f.name not in INTERNAL
    )
    pages = {f"heatpose.{folder.name}": _package_page(folder, src) for folder in folders}
    alone = [
        _module(path, src) for path in sorted(package.glob("*.py")) if not path.stem.startswith("_")
    ]
    pages["heatpose"] = (
        "# heatpose\n\n" + _first_paragraph(package / "__init__.py") + "\n\n" + "\n".join(alone)
    )
    listed = "\n".join(
        f"- [](heatpose.{folder.name}.md): {_first_paragraph(folder / '__init__.py')}"
        for folder in folders
    )
    pages["index"] = (
        "# Modules\n\nThe package as a library. "
        "What begins with an underscore may change at any time. "
        "Nothing heavy is loaded before it is used, and "
        "TensorFlow only by the process that converts.\n\n"
        f"- [](heatpose.md): the modules beside the packages.\n{listed}\n\n"
        "```{toctree}\n:hidden:\n\n" + "\n".join(name for name in sorted(pages)) + "\n```\n"
    )
    return pages


def _first_paragraph(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return _escaped(" ".join(text.split("\n\n", maxsplit=1)[0].split()))


def _package_page(folder: Path, src: Path) -> str:
    modules = sorted(
        p
        for p in folder.rglob("*.py")
        if not p.stem.startswith("_") and not set(INTERNAL) & set(p.relative_to(folder).parts)
    )
    inside = "\n".join(_module(path, src) for path in modules)
    about = f"```{{eval-rst}}\n.. automodule:: heatpose.{folder.name}\n```\n"
    return f"# heatpose.{folder.name}\n\n{about}\n{inside}"


def _module(path: Path, src: Path) -> str:
    name = ".".join(path.relative_to(src).with_suffix("").parts)
    return f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"
