"""Hydra's errors of a configuration that cannot be composed, as sentences with the nearest key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from heatpose.entries.overrides import current_choice, current_key
from heatpose.errors import first_line, foreign_sentence

SHOW = "--cfg job shows them all"
NEAR = 0.62
"""Likeness from 0 to 1 below which no other key is named."""


def composing_sentence(
    error: Exception, name: str, overrides: Sequence[str], folders: Sequence[Path]
) -> str:
    """Why Hydra could not compose a configuration, and what to write instead.

    Args:
        error: As Hydra raised it.
        name: Of the configuration, "train" or "export".
        overrides: Of the command line.
        folders: Of the configuration: its own, and the one of `--config-dir`.
    """
    said = first_line(error).rstrip(".")
    named = re.search(r"'([^']+)'", said)
    key = named[1] if named else ""
    if group := re.search(r"Could not find '([^']+)/([^'/]+)'", said):
        return _unknown_choice(group[1], group[2], folders)
    if "already at" in said or said.startswith("Multiple values for"):
        key = key if "already at" in said else said.split()[3].rstrip(".")
        return (
            f"{key} is in the configuration already; leave out the +: {_written(key, overrides)}."
        )
    if said.startswith(("Could not override", "Could not delete")):
        return _unknown_key(key, name, overrides, folders)
    if "primary config" in said:
        return f"There is no configuration '{key}'; leave out --config-name."
    if cause := foreign_sentence(error):
        return cause
    return f"The configuration cannot be composed ({said}); correct the settings, {SHOW}."


def _written(key: str, overrides: Sequence[str]) -> str:
    """What the command line has for a key, without the "+"."""
    given = next((o for o in overrides if o.lstrip("+~").partition("=")[0] == key), f"{key}=VALUE")
    return given.lstrip("+")


def choices(group: str, folders: Sequence[Path]) -> list[str]:
    """The files of a group of the configuration, by name."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _unknown_choice(group: str, choice: str, folders: Sequence[Path]) -> str:
    if current := current_choice(f"{group}={choice}"):
        return f"{group}={choice} was replaced; use {current}."
    known = choices(group, folders)
    near = difflib.get_close_matches(choice, known, 1)
    meant = f"did you mean {group}={near[0]}? There are" if near else "choose one of"
    return (
        f"{group}={choice} is unknown; {meant} {', '.join(known)}."
        if known
        else f"{group}={choice} is unknown."
    )


def _unknown_key(key: str, name: str, overrides: Sequence[str], folders: Sequence[Path]) -> str:
    if (current := current_key(key)) != key:
        written = _written(key, overrides).replace(key, current, 1)
        return f"{key} was renamed; write {written}."
    if elsewhere := _other_choice(key, folders):
        written = f"{elsewhere} {_written(key, overrides)}"
        return f"There is no {key} here; it belongs to {elsewhere}, so write {written}."
    near, written = nearest(key, known_keys(name, overrides, folders)), _written(key, overrides)
    return f"There is no setting {key}; " + (
        f"did you mean {written.replace(key, near, 1)}?" if near else f"{SHOW}."
    )


def _other_choice(key: str, folders: Sequence[Path]) -> str:
    """The one choice of the key's group that has the key, "data=coco_person"; else ""."""
    group, _, rest = key.partition(".")
    having = [
        choice for choice in choices(group, folders) if rest and _has(group, choice, rest, folders)
    ]
    return f"{group}={having[0]}" if len(having) == 1 else ""


def _has(group: str, choice: str, rest: str, folders: Sequence[Path]) -> bool:
    path = next(
        folder / group / f"{choice}.yaml"
        for folder in folders
        if (folder / group / f"{choice}.yaml").is_file()
    )
    content = OmegaConf.load(path)
    missing = object()
    parent, _, last = rest.rpartition(".")
    node = OmegaConf.select(content, parent, default=missing) if parent else content
    return isinstance(node, DictConfig) and last in node


def known_keys(name: str, overrides: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Keys and groups: with the command line's choices, by default where these are wrong."""
    groups = [path.name for folder in folders for path in folder.iterdir() if path.is_dir()]
    chosen = [o for o in overrides if o.partition("=")[0] in groups and "," not in o]
    search = (
        [f"hydra.searchpath=[{','.join(f'file://{path.absolute()}' for path in folders[1:])}]"]
        if folders[1:]
        else []
    )
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folders[0]), version_base="1.3"):
        try:
            config = compose(name, [*chosen, *search])
        except Exception:  # the choice itself may be what is wrong
            config = compose(name)
    return [*_keys(config, ""), *groups]


def _keys(node: DictConfig, prefix: str) -> Iterator[str]:
    for name, child in node.items_ex(resolve=False):
        key = f"{prefix}{name!s}"
        if not str(name).startswith("_"):
            yield key
        if isinstance(child, DictConfig):
            yield from _keys(child, f"{key}.")


def nearest(key: str, known: Sequence[str]) -> str:
    """The known key that is most like another, above all in its last part; "" where none is."""

    def likeness(other: str) -> float:
        last, others = key.rpartition(".")[2], other.rpartition(".")[2]
        return (_ratio(key, other) + 2 * _ratio(last, others)) / 3

    best = max(known, key=likeness, default="")
    return best if best and likeness(best) >= NEAR else ""


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
