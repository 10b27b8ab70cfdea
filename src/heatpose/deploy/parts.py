"""Plain values of a YAML as typed objects, with a sentence for whatever does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from heatpose.errors import HeatposeError

_HYDRA = ("_target_", "_convert_", "_partial_", "_recursive_")
_Part = TypeVar("_Part")


def part(kind: type[_Part], value: Any, where: str) -> _Part:
    """An entry of the YAML as a typed object; objects pass.

    Raises:
        HeatposeError: It is no mapping, has unknown keys, or lacks one.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise HeatposeError(
            f"The target's entry '{where}' is {value!r}, not a mapping; conf/target/stm32n6.yaml"
            " shows the form."
        )
    given = {str(key): content for key, content in value.items() if key not in _HYDRA}
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(given) - known):
        raise HeatposeError(
            f"The target's entry '{where}' has unknown keys {unknown}; known are"
            f" {', '.join(sorted(known))}."
        )
    if wrong := [
        f"{key}: {content!r}"
        for key, content in given.items()
        if not _fits(content, get_type_hints(kind)[key])
    ]:
        raise HeatposeError(
            f"The target's entry '{where}' has values of the wrong type ({', '.join(wrong)});"
            " conf/target/stm32n6.yaml shows the form."
        )
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise HeatposeError(
            f"The target's entry '{where}' is not complete or of the wrong type ({error});"
            " conf/target/stm32n6.yaml shows the form."
        ) from error


def _fits(value: Any, hint: Any) -> bool:
    """Plain numbers, texts and mappings of texts are checked here.

    Nested entries by their own classes.
    """
    choices = get_args(hint) if get_args(hint) and type(None) in get_args(hint) else (hint,)
    scalars = {choice for choice in choices if choice in (str, int, float, bool, NoneType)}
    if len(scalars) < len(choices):
        texts = Mapping[str, str]
        return not (
            texts in choices
            and not (
                isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values())
            )
        )
    if float in scalars and type(value) is int:
        return True
    return type(value) in scalars


def version_of(text: str) -> tuple[int, ...]:
    """A version as numbers: "2.2" becomes (2, 2)."""
    try:
        return tuple(int(number) for number in str(text).split("."))
    except ValueError as error:
        raise HeatposeError(
            f"'{text}' is no version; write it like \"2.2\", with quotes."
        ) from error
