"""Stages in threads give what plain loops give, and end when they are left."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from heatpose.predict.pipeline import ahead, in_parallel

WAIT_S = 20.0


def test_ahead_computes_before_it_is_asked() -> None:
    third = threading.Event()

    def numbers() -> Iterator[int]:
        for n in range(9):
            if n == 3:
                third.set()
            yield n

    stream = ahead(numbers(), depth=3)
    assert next(stream) == 0 and third.wait(WAIT_S)  # nobody has asked for 1, 2 and 3
    assert list(stream) == list(range(1, 9))


def test_ahead_goes_no_further_than_its_depth() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    stream = ahead(numbers(), depth=2)
    assert next(stream) == 0
    stream.close()
    assert len(made) <= 4


def test_parallel_keeps_the_order_and_uses_several_threads() -> None:
    both = threading.Barrier(2, timeout=WAIT_S)  # passed only by two threads at once

    def double(n: int) -> int:
        if n < 2:
            both.wait()
        return 2 * n

    assert list(in_parallel(double, range(50), workers=2)) == [2 * n for n in range(50)]


def _fails(n: int) -> int:
    if n == 3:
        raise ValueError("three")
    return n


def test_errors_arrive() -> None:
    for stream in (ahead(_fails(n) for n in range(9)), in_parallel(_fails, range(9))):
        with pytest.raises(ValueError, match="three"):
            list(stream)


def test_leaving_early_ends_the_stages_before() -> None:
    ended = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    before = threading.active_count()
    stream = in_parallel(_fails, ahead(numbers()), workers=2)
    assert next(stream) == 1
    stream.close()
    assert ended.is_set() and threading.active_count() == before
