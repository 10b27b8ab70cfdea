"""The command line before Hydra's parser, and Hydra's errors as sentences with the nearest key.

In Hydra's grammar `=`, `(`, `,` and others are special, and accented letters are not allowed.
Single values of keys for files, folders and run names are therefore quoted here.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from heatpose.errors import HeatposeError, first_line, foreign_sentence

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
"""Last parts of keys whose value is a file, a folder or a name."""
EXAMPLE = "write KEY=VALUE, such as trainer.max_epochs=3"
_OVERRIDE = re.compile(r"(?P<key>\+{0,2}[\w.$/@:-]+)=(?P<value>.*)", re.DOTALL)
OLD_KEYS = {
    "quant.forms": "artefacts",
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
"""Resolvers of earlier versions -> their name now."""


def options_of(arguments: Sequence[str]) -> Namespace:
    """Parses Hydra's options; invalid ones exit with one sentence and status 2.

    Args:
        arguments: Command line, without the program.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        known = "settings are KEY=VALUE, such as trainer.max_epochs=3, and --help lists them"
        print(f"error: {message[0].upper()}{message[1:]}; {known}.", file=sys.stderr)
        sys.exit(2)

    parser.error = refuse  # type: ignore[method-assign]
    options = parser.parse_intermixed_args(
        list(arguments)
    )  # Hydra's own parser fails on an option between overrides
    chosen = [
        name
        for name in ("run", "multirun", "cfg", "info", "shell_completion")
        if getattr(options, name)
    ]
    if len(chosen) > 1:
        refuse(f"only one of --{' and --'.join(chosen)} is allowed")
    if options.resolve and not options.cfg and not options.help:
        refuse("--resolve needs --cfg job")
    return options


def quoted(
    arguments: Sequence[str], groups: Collection[str] = (), sweep: bool = False
) -> list[str]:
    """Reorders the command line (options first) and quotes paths outside Hydra's grammar.

    Args:
        arguments: Command line, without the program.
        groups: Names of config groups, whose values are neither lists nor texts.
        sweep: Whether commas separate several values.

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
    """Remedies for several values where one is expected."""
    sweep = "add -m to run each of them"
    if key in groups or "(" in value:
        return f"{sweep}, or give one of them"
    as_list, as_text = shell(f"{key}=[{value}]"), shell(f"{key}={quote(value)}")
    return f"{sweep}, or write {as_list} for a list or {as_text} for a text"


def _is_path(key: str) -> bool:
    first, _, last = key.lstrip("+").rpartition(".")
    return last in PATHS and not (last == "name" and first)


def _is_text(parsed: Override | None) -> bool:
    """Whether Hydra parses it as one text or number, not as a list or choice."""
    return (
        parsed is not None
        and not parsed.is_sweep_override()
        and not isinstance(parsed.value(), list | dict)
    )


def _from_home(value: str) -> str:
    """Expands `~/x`, which some shells do not expand after "="."""
    return os.path.expanduser(value) if value.startswith("~/") else value


def _parsed(argument: str) -> tuple[Override | None, str]:
    """Hydra's parsed override, or None and the error message."""
    try:
        return OverridesParser.create().parse_override(argument), ""
    except HydraException as error:
        return None, first_line(error)


def quote(value: str) -> str:
    """Quotes a text for Hydra's grammar, with double quotes because the shell's are single."""
    return QuotedString(value, Quote.double).with_quotes()


def shell(argument: str) -> str:
    """An argument quoted for the shell."""
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
        return f"'{argument}' cannot be parsed by Hydra{why}; {EXAMPLE}."
    return (
        f"{argument} is outside Hydra's grammar{why}; for the literal text, "
        f"write {shell(shown)} in the shell."
    )


SHOW = "--cfg job shows them all"
NEAR = 0.62
"""Similarity from 0 to 1 below which no other key is suggested."""


def composing_sentence(
    error: Exception, name: str, overrides: Sequence[str], folders: Sequence[Path]
) -> str:
    """The sentence, with a remedy, for an error of Hydra's composition.

    Args:
        error: Hydra's exception.
        name: Name of the configuration, "train" or "export".
        overrides: Overrides of the command line.
        folders: Configuration folders: built-in, and `--config-dir`.
    """
    reason = first_line(error).rstrip(".")
    named = re.search(r"'([^']+)'", reason)
    key = named[1] if named else ""
    if group := re.search(r"Could not find '([^']+)/([^'/]+)'", reason):
        return _unknown_choice(group[1], group[2], folders)
    if "already at" in reason or reason.startswith("Multiple values for"):
        key = key if "already at" in reason else reason.split()[3].rstrip(".")
        written = _as_written(key, overrides)
        return f"{key} is in the configuration already; leave out the +: {written}."
    if reason.startswith(("Could not override", "Could not delete")):
        return _unknown_key(key, name, overrides, folders)
    if "primary config" in reason:
        return f"There is no configuration '{key}'; leave out --config-name."
    if cause := foreign_sentence(error):
        return cause
    return f"The configuration cannot be composed ({reason}); correct the settings, {SHOW}."


def _as_written(key: str, overrides: Sequence[str]) -> str:
    """The command line's override of a key, without "+"."""
    given = next((o for o in overrides if o.lstrip("+~").partition("=")[0] == key), f"{key}=VALUE")
    return given.lstrip("+")


def choices(group: str, folders: Sequence[Path]) -> list[str]:
    """Choices of a config group."""
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
        written = _as_written(key, overrides).replace(key, current, 1)
        return f"{key} was renamed; write {written}."
    if elsewhere := _other_choice(key, folders):
        written = f"{elsewhere} {_as_written(key, overrides)}"
        return f"There is no {key} here; it belongs to {elsewhere}, so write {written}."
    near, written = nearest(key, known_keys(name, overrides, folders)), _as_written(key, overrides)
    return f"There is no setting {key}; " + (
        f"did you mean {written.replace(key, near, 1)}?" if near else f"{SHOW}."
    )


def _other_choice(key: str, folders: Sequence[Path]) -> str:
    """The only choice of the key's group that has the key ("data=coco_person"); else ""."""
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
    """Keys and groups with the command line's choices, or the default ones if those are wrong."""
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
        except Exception:  # the choice itself may be wrong
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
    """The most similar known key, weighted by its last part; "" if none is similar."""

    def likeness(other: str) -> float:
        last, others = key.rpartition(".")[2], other.rpartition(".")[2]
        return (_ratio(key, other) + 2 * _ratio(last, others)) / 3

    best = max(known, key=likeness, default="")
    return best if best and likeness(best) >= NEAR else ""


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


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
