"""Sweeps (`train.py -m ...`): every member has a name of its own, and one that fails does not stop the others."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from heatpose.errors import told_in_one_sentence
from heatpose.places import require_writable

LONGEST = 80
"""Characters that a member's name adds at most; file systems allow 255 for a name, and the model files add theirs."""
_failed: list[str] = []


def in_sweep() -> bool:
    """True inside a member of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def member_suffix() -> str:
    """What tells this member of a sweep from the others, "_resolution-224_model.width-0.5"; "" outside sweeps."""
    swept = HydraConfig.get().job.override_dirname if in_sweep() else ""
    return f"_{safe_name(swept)}" if swept else ""


def safe_name(text: str) -> str:
    """A text as part of one folder's name: different texts give different names.

    What a name should not have (a path's slashes, quotes, commas) becomes "-"; then, and where the text is long, a piece of its hash follows.
    """
    plain = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)
    if plain == text and len(text) <= LONGEST:
        return text
    return f"{plain[: LONGEST - 9].strip('-.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


# For `run: ${name}${member_suffix:}` in conf/train.yaml. Registered on import, because launchers build members in processes of their own.
OmegaConf.register_new_resolver("member_suffix", member_suffix, replace=True)


class Members(Callback):
    """Hydra's callback (conf/train.yaml): members are named after what is swept alone, and their failures are told at the end."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuses a folder of runs that cannot be written, before Hydra's own records meet it with a traceback."""
        with told_in_one_sentence():
            require_writable(Path(str(config.runs)))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Leaves out of the members' `hydra.job.override_dirname` what is the same for all of them."""
        _failed.clear()
        self.on_run_start(config)
        overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        same = {override.key_or_group for override in overrides if not override.is_sweep_override()}
        if "name" not in same:
            same |= {"name", "experiment"}  # either gives the run its name already
        with open_dict(config):
            quoted = ",".join(f"'{key}'" for key in sorted(same))
            config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{quoted}]")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit status 1 where a member failed."""
        if _failed:
            print(f"error: {len(_failed)} of the sweep's runs failed, for the reasons above: {', '.join(_failed)}.", file=sys.stderr)
            sys.exit(1)


def run_entry(task: Callable[[DictConfig], float | None], config: DictConfig) -> float | None:
    """Runs an entry's task; a user's mistake becomes a sentence on stderr and exit status 1.

    In a sweep the other members run nevertheless: the sentence is printed and the result is NaN, which samplers take as a failed trial.
    """
    try:
        with told_in_one_sentence():
            return task(config)
    except SystemExit:
        if not in_sweep():
            raise
        _failed.append(str(config.run))
        return float("nan")


def run_folder(config: DictConfig) -> Path:
    """`runs/<run>`: where the checkpoints, logs and records of this run are."""
    return Path(config.runs) / str(config.run)
