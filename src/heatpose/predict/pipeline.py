"""Iterators computed in threads: decoding, drawing and writing run in parallel to the network.

The stages call libraries that release the GIL (Pillow, OpenCV, LiteRT, onnxruntime, torch).
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
"""Threads of a parallel stage; more would mainly hold more images in memory."""


def ahead(items: Iterable[T], depth: int = 4) -> Generator[T, None, None]:
    """Computes an iterable in a thread, at most `depth` items in advance.

    Exceptions of the iterable are raised here. Closing the iterator stops the thread.
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
    """`map` with threads: results in order, at most two items per thread in progress."""
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
    """Cancels waiting items on exit; the pool's own exit would wait for them."""
    try:
        yield
    finally:
        for future in waiting:
            future.cancel()


def _close(iterator: object) -> None:
    """Closes the previous stage and its threads."""
    close = getattr(iterator, "close", None)
    if close is not None:
        close()
