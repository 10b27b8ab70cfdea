"""The command line before Hydra's parser: paths as they are, and wrong usage in one sentence.

Also the names that keys, choices and resolvers of the configuration had in earlier versions.

Hydra reads values by a grammar in which `=`, `(`, `,` and more have a meaning, and which has no
letters with accents. Where the meaning is clear all the same, the value is quoted here: a single
value of a key that names a file, a folder or a run.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Collection, Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from heatpose.errors import HeatposeError, first_line

PATHS = (
    "checkpoint",
    "path",
    "root",
    "eval_root",
    "runs",
    "exports",
    "name",
    "folder",
    "save_dir",
    "cache",
)
"""Last parts of keys whose value is one text: a file, a folder, a name."""
OLD_KEYS = {
    "quant.recovery": "ptq",
    "quant.tuning": "qat",
    "quant.settling": "upsampling_tuning",
    "quant.auto.share": "holdout",
    "quant.auto.views": "samples",
    "quant.ptq.*.bury_dead": "fold_constant_channels",
    "quant.ptq.*.centre": "absorb_bias",
    "quant.ptq.*.balance": "equalize",
    "quant.ptq.*.tail": "clip_quantile",
    "callbacks.pictures": "prediction_grid",
    "callbacks.prediction_grid.people": "instances",
    "data.module.people": "instances",
}
"""Keys of earlier versions -> the name that their last part has now; * is any one part."""
OLD_CHOICES = (
    (r"experiment=movenet_lightning_192", "experiment=movenet_lightning"),
    (r"experiment=movenet_thunder_256", "experiment=movenet_thunder"),
    (r"experiment=(st_movenet_1[37]kpt|movenet_lightning_heatmaps)_192", r"experiment=\1"),
    (
        r"experiment=(st_movenet_1[37]kpt|movenet_lightning_heatmaps)_(224|256)",
        r"experiment=\1 resolution=\2",
    ),
    (
        r"experiment=(st_movenet_13kpt)_192_w(\d)(\d\d)",
        r"experiment=\1 recipe=scratch model.width=\2.\3",
    ),
    (r"(recipe=ladder_\w+|loss=one_hot_\w+)", r"--config-dir benchmarks/conf \1"),
    (r"loss=oks_kernel", "loss=spatial_cross_entropy loss.spread=1.0"),
    (r"distill=teacher", "distill.path=TEACHER"),
)
"""Choices of earlier versions, and the command line that does the same now."""
OLD_RESOLVERS = {"member_suffix": "sweep_suffix"}
EXAMPLE = "write KEY=VALUE, such as trainer.max_epochs=3"
_OVERRIDE = re.compile(r"(?P<key>\+{0,2}[\w.$/@:-]+)=(?P<value>.*)", re.DOTALL)


def options_of(arguments: Sequence[str]) -> Namespace:
    """Hydra's options of a command line; wrong ones end the process with one sentence and status 2.

    Args:
        arguments: The command line, without the program.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        known = "settings are KEY=VALUE, such as trainer.max_epochs=3, and --help lists them"
        print(f"error: {message[0].upper()}{message[1:]}; {known}.", file=sys.stderr)
        sys.exit(2)

    parser.error = refuse  # type: ignore[method-assign]
    options = parser.parse_intermixed_args(
        list(arguments)
    )  # Hydra's own parser stumbles over an option between settings
    chosen = [
        name
        for name in ("run", "multirun", "cfg", "info", "shell_completion")
        if getattr(options, name)
    ]
    if len(chosen) > 1:
        refuse(f"only one of --{' and --'.join(chosen)} is possible")
    if options.resolve and not options.cfg and not options.help:
        refuse("--resolve needs --cfg job")
    return options


def quoted(
    arguments: Sequence[str], groups: Collection[str] = (), sweep: bool = False
) -> list[str]:
    """The command line, options first, with the paths quoted that Hydra's grammar does not take.

    Args:
        arguments: The command line, without the program.
        groups: Of the configuration: their choices are neither lists nor texts.
        sweep: Whether a comma separates several values.

    Raises:
        HeatposeError: An argument is not KEY=VALUE, is outside the grammar, or has several values
            outside a sweep.
    """
    one_value = {
        name
        for action in get_args_parser()._actions
        if action.nargs is None
        for name in action.option_strings
    }
    options, overrides, before = [], [], ""
    for argument in arguments:
        of_option = before in one_value or (before in ("--info", "-i") and "=" not in argument)
        if argument.startswith("-") or of_option:
            options.append(argument)
        else:
            overrides.append(_quoted(argument, groups, sweep))
        before = "" if of_option else argument
    return [*options, *overrides]


def _quoted(argument: str, groups: Collection[str], sweep: bool) -> str:
    found = _OVERRIDE.fullmatch(argument)
    parsed, reason = _parsed(argument)
    several = parsed is not None and parsed.is_sweep_override()
    if found and _is_path(found["key"]):
        if not found["value"]:
            raise HeatposeError(f"{argument} has no value; write {argument}VALUE, or leave it out.")
        if not (sweep and (several or "," in found["value"])) and not _is_text(parsed):
            return f"{found['key']}={quote(_from_home(found['value']))}"
    if parsed is None or not (found or argument.startswith("~")):
        raise HeatposeError(_refusal(argument, reason, sweep))
    if several and not sweep and found:
        raise HeatposeError(
            f"{argument} has several values; {_choice(found['key'], found['value'], groups)}."
        )
    return argument


def _choice(key: str, value: str, groups: Collection[str]) -> str:
    """What may be meant by several values where one is expected."""
    sweep = "add -m to run each of them"
    if key in groups or "(" in value:
        return f"{sweep}, or give one of them"
    as_list, as_text = shell(f"{key}=[{value}]"), shell(f"{key}={quote(value)}")
    return f"{sweep}, or write {as_list} for a list or {as_text} for a text"


def current_key(key: str) -> str:
    """A key of an earlier version as it is named now; any other key as it is."""
    parts = key.split(".")
    for old, name in OLD_KEYS.items():
        pattern = old.split(".")
        last = len(pattern) - 1
        if len(parts) > last and all(
            one in ("*", other) for one, other in zip(pattern, parts, strict=False)
        ):
            parts[last] = name
    return ".".join(parts)


def current_choice(choice: str) -> str:
    """What replaces a choice of an earlier version, "GROUP=NAME"; "" for any other."""
    for old, new in OLD_CHOICES:
        if found := re.fullmatch(old, choice):
            return found.expand(new)
    return ""


def refuse_old_resolvers(arguments: Sequence[str]) -> None:
    """Refuses `${NAME:}` of a resolver that was renamed.

    Args:
        arguments: The command line, without the program.

    Raises:
        HeatposeError: The sentence has the new name.
    """
    for argument in arguments:
        for old, new in OLD_RESOLVERS.items():
            if f"${{{old}:" in argument:
                raise HeatposeError(
                    f"${{{old}:}} was renamed; write {shell(argument.replace(old, new))}."
                )


def _is_path(key: str) -> bool:
    first, _, last = key.lstrip("+").rpartition(".")
    return last in PATHS and not (last == "name" and first)


def _is_text(parsed: Override | None) -> bool:
    """Whether Hydra takes it for one text or number; brackets and commas make lists and choices."""
    return (
        parsed is not None
        and not parsed.is_sweep_override()
        and not isinstance(parsed.value(), list | dict)
    )


def _from_home(value: str) -> str:
    """`~/x` as shells have it that do not look behind "="."""
    return os.path.expanduser(value) if value.startswith("~/") else value


def _parsed(argument: str) -> tuple[Override | None, str]:
    """As Hydra understands it; else None and why not."""
    try:
        return OverridesParser.create().parse_override(argument), ""
    except HydraException as error:
        return None, first_line(error)


def quote(value: str) -> str:
    """A text in the quotes of Hydra's grammar; double ones, because the shell's are single."""
    return QuotedString(value, Quote.double).with_quotes()


def shell(argument: str) -> str:
    """An argument as it is typed in a shell."""
    return shlex.quote(argument)


def _refusal(argument: str, reason: str, sweep: bool) -> str:
    found = _OVERRIDE.fullmatch(argument)
    if found is None:
        return f"'{argument}' is not a setting; {EXAMPLE}."
    values = found["value"].split(",") if sweep else [found["value"]]
    texts = [quote(value) if _parsed(f"x={value}")[0] is None else value for value in values]
    shown = f"{found['key']}={','.join(texts)}"
    why = "" if "LexerNoViable" in reason else f" ({reason.partition(' expecting')[0].rstrip('.')})"
    if _parsed(shown)[0] is None:
        return f"'{argument}' is not a setting that Hydra understands{why}; {EXAMPLE}."
    return (
        f"{argument} is outside Hydra's grammar{why}; where the text itself is meant, "
        f"write {shell(shown)} in the shell."
    )
