"""Checks the configuration against the signatures of its `_target_`s before anything slow begins.

An unknown setting or a value of the wrong type is an error with the key. Ranges are checked by the
objects themselves.
"""

from __future__ import annotations

import difflib
import inspect
import pydoc
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from heatpose.entries.command_line import current_key
from heatpose.errors import HeatposeError, first_line

OBJECTS = (
    "skeleton",
    "preprocessing",
    "data.source",
    "data.module",
    "model",
    "init",
    "loss",
    "distill",
    "augment.geometric",
    "augment.photometric",
    "augment.occlusion",
    "optimizer",
    "scheduler",
    "trainer",
    "callbacks",
    "logger",
    "quant",
    "target",
)
"""Entries of the configuration that are groups of settings, or null."""
MANY = 15
"""Maximum number of names in an error message."""
_OWN = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
_LISTS = (list, tuple, Sequence)
_PLAIN: dict[Any, tuple[tuple[type, ...], str]] = {
    types.NoneType: ((types.NoneType,), "null"),
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str, int, float), "a text"),
    Path: ((str,), "a path"),
    **dict.fromkeys(_LISTS, ((ListConfig,), "a list")),
    **dict.fromkeys((dict, Mapping), ((DictConfig,), "a group of settings")),
}
"""Type of an argument -> accepted types of the configuration, and a description for messages."""


@contextmanager
def made_of(key: str) -> Iterator[None]:
    """Converts TypeError and ValueError of an object's construction to an error with its key.

    Raises:
        HeatposeError: The constructor rejects a value.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        reason = first_line(error).rstrip(".")
        raise HeatposeError(
            f"The settings of {key} are invalid ({reason}); correct {key}.KEY=VALUE."
        ) from error


def check_arguments(config: DictConfig, types_of: DictConfig) -> None:
    """Checks a configuration against the signatures of its `_target_`s.

    Args:
        config: Composed configuration.
        types_of: `conf/train.yaml`, which defines the types of the top-level entries.

    Raises:
        HeatposeError: A value has the wrong type, or a setting is unknown.
    """
    _refuse_old_keys(config, "")
    for name, default in types_of.items_ex(resolve=False):
        if name in config and isinstance(default, bool | int | ListConfig):
            _check_value(
                str(name), config[name], list if isinstance(default, ListConfig) else type(default)
            )
    for key in OBJECTS:
        node = OmegaConf.select(config, key)
        if node is not None and not isinstance(node, DictConfig):
            _refuse_group(key, node)
    for name, node in (config.get("callbacks") or {}).items():
        if node is not None and not isinstance(node, DictConfig):
            _refuse_group(f"callbacks.{name}", node)
    for key, node in _objects(config, ""):
        _check_object(key, node)


def _refuse_old_keys(node: DictConfig, prefix: str) -> None:
    """Keys of earlier versions in files of the user's, and those added with "+"."""
    for name, child in node.items_ex(resolve=False):
        key = f"{prefix}{name!s}"
        if (current := current_key(key)) != key:
            raise HeatposeError(f"{key} was renamed; write {current}.")
        if isinstance(child, DictConfig) and not child._is_none():
            _refuse_old_keys(child, f"{key}.")


def _refuse_group(key: str, value: Any) -> None:
    raise HeatposeError(
        f"{key}={_text(value)} is not a group of settings; write {key}=null to omit it."
    )


def _objects(node: DictConfig, key: str) -> Iterator[tuple[str, DictConfig]]:
    """(key, node) of every node with a `_target_`."""
    if "_target_" in node:
        yield key, node
    for name, child in node.items_ex(resolve=False):
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _objects(child, f"{key}.{name!s}" if key else str(name))


def _check_object(key: str, node: DictConfig) -> None:
    target = str(node["_target_"])
    made: Any = pydoc.locate(target)
    if not callable(made):
        raise HeatposeError(
            f"{key}._target_={target} cannot be found; correct the name of the class or function."
        )
    parameters = _parameters(made)
    if parameters is None:
        return
    names, hints, own = list(parameters), _hints(made), target.startswith("heatpose.")
    plain = OmegaConf.to_container(node, resolve=False)
    assert isinstance(plain, dict)
    for name in [str(name) for name in node if name not in _OWN]:
        if name not in parameters:
            if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                continue
            near = difflib.get_close_matches(name, names, 1)
            known = ", ".join(names) if len(names) <= MANY else "in its documentation"
            meant = f"did you mean {key}.{near[0]}?" if near else f"its settings are {known}."
            raise HeatposeError(f"{key}.{name} is not a setting of {target}; {meant}")
        if own or (
            node[name] is not None and "Literal" not in str(hints.get(name))
        ):  # choices are checked by the object
            _check_value(
                _source_of(plain[name]) or f"{key}.{name}", node[name], hints.get(name, Any)
            )


def _parameters(made: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """Keyword parameters; None if the signature is unknown."""
    try:
        found = inspect.signature(made).parameters
    except (TypeError, ValueError):
        return None
    return {name: p for name, p in found.items() if p.kind is not p.VAR_POSITIONAL}


def _hints(made: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except Exception:  # a name imported under TYPE_CHECKING
        return {}


def _source_of(plain: Any) -> str:
    """The key that a value interpolates; "" if it is not an interpolation of one key."""
    found = re.fullmatch(r"\$\{([\w.]+)\}", plain) if isinstance(plain, str) else None
    return found[1] if found else ""


def _check_value(key: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        one = (
            _is_list(hint) and value is not None and not isinstance(value, ListConfig | DictConfig)
        )
        shown = f"; write {key}=[{_text(value)}]" if one else ""
        raise HeatposeError(
            f"{key}={_text(value)} is invalid: it must be {_described(hint)}{shown}."
        )


def _is_list(hint: Any) -> bool:
    kind = typing.get_origin(hint) or hint
    return any(map(_is_list, typing.get_args(hint))) if _is_union(kind) else kind in _LISTS


def _is_union(kind: Any) -> bool:
    return kind in (typing.Union, types.UnionType)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is valid for a type; True for unknown types."""
    kind = typing.get_origin(hint) or hint
    if _is_union(kind):
        return any(_fits(value, each) for each in typing.get_args(hint))
    if kind is typing.Literal:
        return value in typing.get_args(hint)
    if kind in _PLAIN:
        return isinstance(value, _PLAIN[kind][0]) and (kind is bool or not isinstance(value, bool))
    own = inspect.isclass(kind) and kind.__module__.startswith(
        "heatpose."
    )  # such an object has a `_target_`
    return not own or not isinstance(value, bool | int | float | ListConfig)


def _described(hint: Any) -> str:
    """Description of a type for messages."""
    kind = typing.get_origin(hint) or hint
    if _is_union(kind):
        return " or ".join(dict.fromkeys(map(_described, typing.get_args(hint))))
    if kind is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    return _PLAIN[kind][1] if kind in _PLAIN else "a group of settings"


def _text(value: Any) -> str:
    """A value in command line syntax."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
