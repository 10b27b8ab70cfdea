"""Device and precision of a training; settings that Lightning refuses become one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException

from heatpose.errors import HeatposeError
from heatpose.utils.process import is_first_process

Device = Literal["cuda", "mps", "cpu"]
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
_SHORT = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""Lightning's older names, which many configurations still have."""
CPUINFO = Path("/proc/cpuinfo")
_SAFE = "trainer.accelerator=auto trainer.devices=1 trainer.num_nodes=1 trainer.strategy=auto"
_HYDRA_ADVICE = ", set env var HYDRA_FULL_ERROR=1 to see chained exception."


def device_type(accelerator: str) -> Device:
    """The kind of device that `trainer.accelerator` stands for on this machine.

    Raises:
        HeatposeError: It names a kind of GPU that torch cannot use here.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    if accelerator in ("gpu", "cuda", "mps"):
        raise HeatposeError(
            f"trainer.accelerator={accelerator} needs a GPU that torch can use, and there is none"
            " (heatpose doctor shows why); use trainer.accelerator=auto or trainer.accelerator=cpu."
        )
    return "cpu"


def cpu_has_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512_BF16).

    Args:
        cpuinfo: In the form of Linux's /proc/cpuinfo; without such a file the answer is no.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    fields = (line.partition(":") for line in lines)
    features = [flags.split() for name, _, flags in fields if name.strip() == "flags"]
    return any("avx512_bf16" in flags for flags in features)


def best_precision(accelerator: str = "auto", cpuinfo: Path = CPUINFO) -> str:
    """The precision that suits the device.

    bfloat16 mixed precision where the device computes it in hardware, else float16 mixed precision
    on a CUDA GPU and float32 elsewhere.

    Args:
        accelerator: Of the trainer.
        cpuinfo: As for `cpu_has_bf16`.
    """
    device = device_type(accelerator)
    if device == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if bf16 else "16-mixed"
    return "bf16-mixed" if device == "cpu" and cpu_has_bf16(cpuinfo) else "32-true"


def usable_precision(wanted: object, accelerator: str, cpuinfo: Path = CPUINFO) -> str:
    """The precision to train with.

    Args:
        wanted: `trainer.precision`. "auto" becomes the device's best. So does "16-mixed" on a
            processor, which a line on standard output tells.
        accelerator: Of the trainer.
        cpuinfo: As for `cpu_has_bf16`.

    Returns:
        "32-true", "bf16-mixed" or "16-mixed".

    Raises:
        HeatposeError: The precision is unknown, or one of those that would round weights and
            coordinates as well.
    """
    precision = _SHORT.get(str(wanted), str(wanted))
    if precision not in PRECISIONS:
        raise HeatposeError(
            f"trainer.precision={wanted} cannot be trained with, because weights and coordinates"
            f" must stay float32; choose one of {', '.join(PRECISIONS)}."
        )
    if precision == "16-mixed" and device_type(accelerator) == "cpu":
        precision = best_precision(accelerator, cpuinfo)
        if is_first_process():
            print(f"trainer.precision=16-mixed needs a GPU; {precision} is used on the processor.")
    return best_precision(accelerator, cpuinfo) if precision == "auto" else precision


@contextmanager
def refused_in_one_sentence() -> Iterator[None]:
    """Around building and running a trainer: errors of its settings as `HeatposeError`.

    These are the settings that Lightning refuses, and a full memory of the GPU. Errors that other
    code raises pass.

    Raises:
        HeatposeError: As said.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise HeatposeError(
            "The memory of the GPU is full; use a smaller data.batch_size, resolution or"
            " model.width, or end the other programs on it (nvidia-smi lists them)."
        ) from error
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else None
        ours = isinstance(error, HeatposeError) or isinstance(cause, HeatposeError)
        if ours or not (isinstance(error, InstantiationException) or _from_lightning(error)):
            raise
        whole = " ".join(str(error).replace(_HYDRA_ADVICE, "").split())
        reason = whole.split(". ")[0].rstrip(".!")  # what follows is Lightning's advice
        raise HeatposeError(
            f"The trainer cannot run with these settings: {reason}; correct what is named, or"
            f" go back to {_SAFE}."
        ) from error


def _from_lightning(error: Exception) -> bool:
    """Whether it is one of Lightning's own refusals: of its own kind, or raised in its code."""
    if isinstance(error, MisconfigurationException):
        return True
    if not isinstance(error, ValueError | TypeError | RuntimeError | ImportError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.startswith(("lightning.", "lightning_fabric.", "lightning_utilities."))


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
