"""Several processes that train one network.

How the others are started, and what is left when they are done.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from heatpose.errors import (
    HeatposeError,
)

_FROM_LIGHTNING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
_STARTED_BY_OTHERS = ("LOCAL_RANK", "RANK", "SLURM_PROCID")


@contextmanager
def several_processes(*trained: str) -> Iterator[None]:
    """For a training: Lightning starts the other processes with this one's command line.

    And leaves its settings in the environment.

    In a sweep that command line would start the whole sweep again; the others get what makes this
    member. Afterwards the process group is gone and the environment as it was, so that a further
    training in this process can start processes of its own.

    Args:
        *trained: Overrides that a sweep has decided, such as the run's name.

    Raises:
        HeatposeError: Lightning could not start this program again: it is a worker of another one,
            such as joblib's.
    """
    argv, environment = sys.argv, {name: os.environ.get(name) for name in _FROM_LIGHTNING}
    if not any(name in os.environ for name in _STARTED_BY_OTHERS):
        _require_own_program()
    sys.argv = [
        *program(argv[0]),
        *(sweep_run_arguments(argv[1:], trained) if in_sweep() else argv[1:]),
    ]
    try:
        yield
    finally:
        _leave_group()
        sys.argv = argv
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def program(called: str) -> list[str]:
    """What was called, as a file that Python can run: train.py, or the file behind "heatpose".

    The console script itself need not be on the path, and is not Python on Windows.
    """
    name, *command = called.split()
    if name != "heatpose" or not command or Path(called).is_file():
        return [called]
    return [str(Path(__file__).parents[1] / "cli" / "__main__.py"), *command]


def sweep_run_arguments(arguments: Sequence[str], trained: Sequence[str]) -> list[str]:
    """The command line that makes one member of a sweep.

    The call's options, the member's overrides, what the sweep has decided.
    """
    options = [
        a
        for a in arguments
        if a not in ("-m", "--multirun") and (a.startswith("-") or "=" not in a)
    ]
    return [*options, *HydraConfig.get().overrides.task, *trained]


def _require_own_program() -> None:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and not spec.name.startswith("heatpose"):
        raise HeatposeError(
            "A member in a process of its own cannot start more for further devices; use"
            " trainer.devices=1, or hydra/launcher=basic or slurm."
        )


def _leave_group() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def in_sweep() -> bool:
    """True inside a member of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
