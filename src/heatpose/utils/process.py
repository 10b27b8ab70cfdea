"""Processes: tools run without a terminal (closed stdin, timeout, captured log).

Memory and imports of this one.
"""

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
"""To whatever the program asks first (a fresh ST Edge AI Core asks about usage statistics).

Then the input is closed.
"""
MOST_OUTPUT, MOST_LOG = 8_000_000, 64_000_000
"""Bytes of output that are kept to be looked at, the last ones, and that go into the log.

The first ones; a program in a loop may write any number.
"""
Progress = Callable[[str, int | None], None]
"""Called with the last line of output and, where the program shows one, its percentage."""


@dataclass(frozen=True)
class Ended:
    """A program that has ended.

    Attributes:
        status: Exit status, negative for a signal; None where the time limit ended it.
        seconds: It took.
        text: All it wrote to both outputs, undecodable bytes replaced.
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
    """Runs a program and everything it starts, and waits for it.

    Args:
        command: Program and arguments.
        folder: Where it runs.
        time_limit_s: It and its children are ended after so many seconds.
        log: File that its raw output is appended to.
        progress: Called for each line.

    Raises:
        HeatposeError: It does not start.
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
    except OSError:  # it has ended already, or reads nothing
        return


def _read(child: subprocess.Popen[bytes], chunks: queue.Queue[bytes]) -> None:
    """Passes output on; an empty chunk is its end."""
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
    """All output until its end, and whether that came in time.

    A process that outlives the program may hold the output open.
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
    """Exit status; a program may close its output and go on."""
    try:
        return child.wait(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends the program's whole group, whatever is left of it."""
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
    """Tells glibc to keep up to 2 GiB of freed memory, large tensors too, for this process.

    By default every tensor above 32 MiB is mapped when it is made and unmapped when it is freed,
    and the system clears each page anew: in training on a processor that took up to two fifths of
    the time (`benchmarks/training_step.py`). The peak of memory stays what it was; it is only not
    given back between steps.

    Returns:
        Whether the C library took it; False where it is another one (macOS, Windows, musl), and
        nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    # no such function; or Windows, whose loader wants a name
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LIMIT)) and bool(mallopt(_TRIM_THRESHOLD, _LIMIT))


def without_tensorflow() -> None:
    """TensorBoard's writer and reader load TensorFlow (seconds.

    And a page of noise) unless this module of its TensorFlow-free build is there.
    """
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))


def is_first_process() -> bool:
    """True in the process that writes files.

    Several may train one network, and all but the first have a rank in their environment.

    The names are those that Lightning's launcher, torchrun and SLURM set; SLURM's counts only where
    it started the tasks.
    """
    ranks = [
        os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    ]
    return all(not rank.isdigit() or int(rank) == 0 for rank in ranks)
