"""Iterators whose work is done in threads.

So that decoding, drawing and writing run beside the network.

What the stages call (Pillow, OpenCV, LiteRT, onnxruntime, torch) computes without Python's lock.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
WORKERS = min(4, os.cpu_count() or 1)
"""Threads of a stage that handles several items at once.

More would only hold more images in memory.
"""


def ahead(items: Iterable[T], depth: int = 4) -> Generator[T, None, None]:
    """The same items, computed in a thread of their own.

    At most `depth` of them before they are asked for.

    An error of the items is raised here. Whoever stops early stops the thread: close the iterator.
    """
    iterator, end = iter(items), object()
    waiting: deque[Future[object]] = deque()
    try:
        with ThreadPoolExecutor(1) as pool, _cancelling(waiting):
            waiting.extend(pool.submit(next, iterator, end) for _ in range(depth))
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, iterator, end))
                yield item  # type: ignore[misc]
    finally:
        _close(iterator)


def in_parallel(
    function: Callable[[T], R], items: Iterable[T], workers: int = WORKERS
) -> Generator[R, None, None]:
    """`map` with several threads: the results in order, two items per thread under way at most."""
    iterator = iter(items)
    waiting: deque[Future[R]] = deque()
    try:
        with ThreadPoolExecutor(workers) as pool, _cancelling(waiting):
            for item in iterator:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        _close(iterator)


@contextmanager
def _cancelling(waiting: Iterable[Future[R]]) -> Iterator[None]:
    """On the way out, drops what has not begun: the pool's own exit would wait for it."""
    try:
        yield
    finally:
        for future in waiting:
            future.cancel()


def _close(iterator: object) -> None:
    """Ends a stage before this one, and with it its threads."""
    close = getattr(iterator, "close", None)
    if close is not None:
        close()
