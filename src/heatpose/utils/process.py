"""Runs tools non-interactively (closed stdin, timeout, captured log); settings of this process."""

from __future__ import annotations

import ctypes
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from heatpose.errors import HeatposeError

_PERCENT = re.compile(r"PASS:\s*(\d+)%")
_ANSWER = b"n\n"
"""Written to stdin before it is closed: a new ST Edge AI Core asks about usage statistics."""
MOST_OUTPUT, MOST_LOG = 8_000_000, 64_000_000
"""Limits in bytes: the last part of the output, kept in memory, and the first part, logged."""
Progress = Callable[[str, int | None], None]
"""Called with the last line of output and with the percentage of the tool's progress bar."""


@dataclass(frozen=True)
class Ended:
    """Result of a process.

    Attributes:
        status: Exit status, negative for a signal; None after the time limit.
        seconds: Duration.
        text: stdout and stderr, undecodable bytes replaced.
    """

    status: int | None
    seconds: float
    text: str


def run_process(
    command: Sequence[str],
    folder: Path,
    *,
    time_limit_s: float,
    log: Path | None = None,
    progress: Progress | None = None,
) -> Ended:
    """Runs a program in a new process group and waits for it.

    Args:
        command: Program and arguments.
        folder: Working directory.
        time_limit_s: Seconds after which the process group is killed.
        log: File to which the raw output is appended.
        progress: Called for each line of output.

    Raises:
        HeatposeError: The program cannot be started.
    """
    start = time.monotonic()
    try:
        child = subprocess.Popen(
            list(command),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=os.name == "posix",
        )
    except OSError as error:
        raise HeatposeError(
            f"'{command[0]}' cannot be started ({error.strerror}); give the path of an executable"
            " file."
        ) from error
    chunks: queue.Queue[bytes] = queue.Queue()
    reader = threading.Thread(target=_read, args=(child, chunks), daemon=True)
    reader.start()
    _answer(child)
    try:
        content, in_time = _collect(child, chunks, start + time_limit_s, log, progress)
        status = _status(child, start + time_limit_s) if in_time else None
    finally:
        _end(child)
    return Ended(status, time.monotonic() - start, content.decode("utf-8", errors="replace"))


def _answer(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(_ANSWER)
        child.stdin.close()
    except OSError:  # the program has ended or does not read stdin
        return


def _read(child: subprocess.Popen[bytes], chunks: queue.Queue[bytes]) -> None:
    """Puts output into the queue; an empty chunk marks the end."""
    assert child.stdout is not None
    while chunk := os.read(child.stdout.fileno(), 65536):
        chunks.put(chunk)
    chunks.put(b"")


def _collect(
    child: subprocess.Popen[bytes],
    chunks: queue.Queue[bytes],
    deadline: float,
    log: Path | None,
    progress: Progress | None,
) -> tuple[bytes, bool]:
    """Output until end of file, and whether the end came before the deadline.

    A child process that outlives the program may hold the output open.
    """
    content, shown, logged = bytearray(), 0, 0
    while (left := deadline - time.monotonic()) > 0:
        try:
            chunk = chunks.get(timeout=min(left, 1.0))
        except queue.Empty:
            if child.poll() is not None:
                return bytes(content), True
            continue
        if not chunk:
            return bytes(content), True
        content += chunk
        logged += len(chunk)
        if log is not None and logged <= MOST_LOG:
            with log.open("ab") as file:
                file.write(chunk)
        if progress is not None:
            shown = _show(content, shown, progress)
        if len(content) > 2 * MOST_OUTPUT:  # errors come last
            shown = max(0, shown - (len(content) - MOST_OUTPUT))
            del content[:-MOST_OUTPUT]
    return bytes(content), False


def _show(content: bytearray, shown: int, progress: Progress) -> int:
    """Reports the complete lines after position `shown`.

    A progress bar ends its lines with a carriage return.
    """
    end = max(content.rfind(b"\n"), content.rfind(b"\r")) + 1
    for line in re.split(r"[\r\n]+", content[shown:end].decode("utf-8", errors="replace")):
        percent = _PERCENT.search(line)
        if percent or line.strip():
            progress("" if percent else line.strip(), int(percent[1]) if percent else None)
    return max(end, shown)


def _status(child: subprocess.Popen[bytes], deadline: float) -> int | None:
    """Exit status; a program may close its output and continue."""
    try:
        return child.wait(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kills the process group."""
    try:
        if os.name == "posix":
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    except (ProcessLookupError, PermissionError):
        pass
    child.wait()


# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of glibc's malloc.h (mallopt(3))
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LIMIT = 2**31 - 1  # bytes; the largest that mallopt takes


def keep_freed_memory() -> bool:
    """Sets glibc's malloc to keep up to 2 GiB of freed memory for this process.

    By default every tensor above 32 MiB is mapped on allocation and unmapped when freed, and the
    kernel clears each page again: up to 40 % of the time of training on a CPU
    (`benchmarks/training_step.py`). Peak memory is unchanged; memory is not returned to the system
    between steps.

    Returns:
        Whether the C library accepted it; False without glibc (macOS, Windows, musl), where nothing
        changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    # no mallopt; or Windows, where CDLL needs a name
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LIMIT)) and bool(mallopt(_TRIM_THRESHOLD, _LIMIT))


def without_tensorflow() -> None:
    """Keeps TensorBoard's writer and reader from importing TensorFlow, which takes seconds.

    They check for `tensorboard.compat.notf`, a module of the TensorFlow-free build.
    """
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))


def in_sweep() -> bool:
    """True inside a sweep run."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def is_first_process() -> bool:
    """True in the process of rank 0, which writes files in distributed training.

    Reads the environment variables of Lightning's launcher, torchrun and SLURM (the latter only set
    where SLURM started the tasks).
    """
    ranks = [
        os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    ]
    return all(not rank.isdigit() or int(rank) == 0 for rank in ranks)
