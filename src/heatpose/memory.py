"""Freed memory stays with the process, so that the next training step need not ask the system for the same pages again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of glibc's malloc.h (mallopt(3))
_LIMIT = 2**31 - 1  # bytes; the largest that mallopt takes


def keep_freed_memory() -> bool:
    """Tells glibc to keep up to 2 GiB of freed memory, large tensors too, for this process.

    By default every tensor above 32 MiB is mapped when it is made and unmapped when it is freed, and the system clears each page anew: in training on
    a processor that took up to two fifths of the time (`benchmarks/training_step.py`). The peak of memory stays what it was; it is only not given back
    between steps.

    Returns:
        Whether the C library took it; False where it is another one (macOS, Windows, musl), and nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; or Windows, whose loader wants a name
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LIMIT)) and bool(mallopt(_TRIM_THRESHOLD, _LIMIT))
