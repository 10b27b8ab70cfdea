"""Shared functions of the benchmarks: interleaved repetitions, medians, memory of the process."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType


class Peak:
    """Peak memory while it is open, watched from a thread (Linux).

    Attributes:
        own_mb: Memory of the process's own.
        mapped_mb: Pages of files that are mapped, the cache's among them: the kernel takes them
            back when it needs room.
    """

    def __init__(self, every: float = 0.05) -> None:
        self.own_mb = self.mapped_mb = 0.0
        self._every, self._stop = every, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
            found = {
                words[0]: float(words[1]) / 1e3
                for words in lines
                if words and words[0].startswith("Rss")
            }
            self.own_mb, self.mapped_mb = (
                max(self.own_mb, found["RssAnon:"]),
                max(self.mapped_mb, found["RssFile:"]),
            )
            if self._stop.wait(self._every):
                return


def interleaved(
    parts: Mapping[str, Callable[[int], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Runs every part once per round, in turn.

    So that whatever else the machine does meets all of them; seconds of each. Round 0 is not
    counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, part in parts.items():
            start = clock()
            part(number)
            if number:
                seconds[name].append(clock() - start)
    return seconds


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
