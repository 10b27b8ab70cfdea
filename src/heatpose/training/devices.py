"""Device, precision and processes of a training; errors of Lightning as one sentence."""

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
from lightning.fabric.utilities.exceptions import MisconfigurationException

from heatpose.errors import HeatposeError
from heatpose.utils.process import in_sweep, is_first_process

Device = Literal["cuda", "mps", "cpu"]
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
_SHORT = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""Lightning's older names, which many configurations still use."""
CPUINFO = Path("/proc/cpuinfo")
_SAFE = "trainer.accelerator=auto trainer.devices=1 trainer.num_nodes=1 trainer.strategy=auto"
_HYDRA_ADVICE = ", set env var HYDRA_FULL_ERROR=1 to see chained exception."


def device_type(accelerator: str) -> Device:
    """Resolves `trainer.accelerator` to a kind of device of this machine.

    Raises:
        HeatposeError: It requires a GPU that torch cannot use here.
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
    """Whether the CPU multiplies bfloat16 in hardware (AVX512_BF16).

    Args:
        cpuinfo: In the format of Linux's /proc/cpuinfo; False without such a file.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    fields = (line.partition(":") for line in lines)
    features = [flags.split() for name, _, flags in fields if name.strip() == "flags"]
    return any("avx512_bf16" in flags for flags in features)


def best_precision(accelerator: str = "auto", cpuinfo: Path = CPUINFO) -> str:
    """The best precision of the device.

    bfloat16 mixed precision if the device computes it in hardware, else float16 mixed precision on
    a CUDA GPU and float32 elsewhere.

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
        wanted: `trainer.precision`. "auto" becomes the device's best, as does "16-mixed" on a CPU,
            which is printed.
        accelerator: Of the trainer.
        cpuinfo: As for `cpu_has_bf16`.

    Returns:
        "32-true", "bf16-mixed" or "16-mixed".

    Raises:
        HeatposeError: The precision is unknown, or would round weights and coordinates as well.
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
    """Converts errors of building and running a trainer to `HeatposeError`.

    Converted are settings that Lightning refuses, and a GPU out of memory. Errors of other code
    pass.

    Raises:
        HeatposeError: As described.
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
        reason = whole.split(". ")[0].rstrip(".!")  # Lightning's advice follows
        raise HeatposeError(
            f"The trainer cannot run with these settings: {reason}; correct what is named, or"
            f" go back to {_SAFE}."
        ) from error


def _from_lightning(error: Exception) -> bool:
    """Whether Lightning raised the error: by its type, or by the module that raised it."""
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
    """Prepares a training on several devices, whose processes Lightning starts.

    Lightning starts them with this process's command line and leaves its settings in the
    environment. In a sweep that command line would start the whole sweep again, so it is replaced
    by that of the sweep run. At the end the process group is destroyed and the environment
    restored, so that the next training in this process can start processes of its own.

    Args:
        *trained: Overrides that the sweep has determined, such as the run's name.

    Raises:
        HeatposeError: Lightning cannot start this program again, because it is a worker of another
            one, such as joblib.
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
    """The called program as a file that Python can run: train.py, or the file behind "heatpose".

    The console script itself may be missing from the path, and is not a Python file on Windows.
    """
    name, *command = called.split()
    if name != "heatpose" or not command or Path(called).is_file():
        return [called]
    return [str(Path(__file__).parents[1] / "cli" / "__main__.py"), *command]


def sweep_run_arguments(arguments: Sequence[str], trained: Sequence[str]) -> list[str]:
    """The command line of one sweep run: the call's options, overrides of run and sweep."""
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
            "A sweep run in a process of its own cannot start more for further devices; use"
            " trainer.devices=1, or hydra/launcher=basic or slurm."
        )


def _leave_group() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
