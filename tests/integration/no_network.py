"""A hook that ends a process with status 70 where it connects to another machine or asks for one's
address (`test_fresh_processes.py`).
"""

from __future__ import annotations

import os
import sys
from typing import Any

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook (PEP 578): sees every socket of Python's before it does anything."""
    asked: Any = None
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        asked = arguments[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        asked = arguments
    # paths of local sockets are no tuples
    if (
        isinstance(asked, tuple)
        and asked
        and asked[0] is not None
        and not str(asked[0]).startswith(LOOPBACK)
    ):
        print(f"{event}: {asked}", file=sys.stderr, flush=True)
        os._exit(70)
