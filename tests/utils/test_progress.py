"""Progress in a log: lines at the right times, with the right numbers."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from heatpose.utils import progress as module
from heatpose.utils.progress import LogLines, clock, progress, track


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The clock of the lines, to be set by a test."""
    now = [100.0]
    original = LogLines.__init__

    def with_clock(self: LogLines, console: Console, clock: object = None) -> None:
        original(self, console, lambda: now[0])

    monkeypatch.setattr(module.LogLines, "__init__", with_clock)
    yield now


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("duration", "written"),
    [(0.2, "0:00"), (59.6, "1:00"), (125, "2:05"), (3725, "1:02:05"), (-3, "0:00")],
)
def test_durations(duration: float, written: str) -> None:
    assert clock(duration) == written


def test_a_log_gets_a_line_after_five_seconds_and_every_twenty(seconds: list[float]) -> None:
    out = console()
    with progress("Rendering", 2000, "images", console=out) as advance:
        for _ in range(20):
            seconds[0] += 2.0  # 40 s in all, 50 images a second
            advance(100)
    assert text(out).splitlines() == [
        "Rendering: 300 of 2,000 images, 0:34 left",
        "Rendering: 1,300 of 2,000 images, 0:14 left",
        "Rendering: 2,000 images in 0:40",
    ]


def test_short_work_leaves_a_log_alone(seconds: list[float]) -> None:
    out = console()
    with progress("Rendering", 3, console=out) as advance:
        for _ in range(3):
            seconds[0] += 1.0
            advance(1)
    assert text(out) == ""


def test_a_terminal_gets_a_bar() -> None:
    out = console(terminal=True)
    with progress("Rendering [bold]", 3, "frames", console=out) as advance:
        advance(3)
    assert "Rendering [bold]" in text(out) and "3/3" in text(out) and "frames" in text(out)


def test_nothing_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), "Rendering", shown=False)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_batches_count_as_their_images(
    seconds: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in track(range(4), "Scoring", 10, each=3):
        seconds[0] += 6.0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["Scoring: 3 of 10 images, 0:14 left", "Scoring: 10 images in 0:24"]


def test_an_error_passes() -> None:
    with pytest.raises(ValueError, match="inside"), progress("Rendering", 3, console=console()):
        raise ValueError("inside")
