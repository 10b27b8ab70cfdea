"""What a training prints, in Lightning's own order of calls."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from rich.console import Console

from heatpose.training.progress import CURVE, TrainingProgress, size_of, write_curve
from heatpose.utils import progress as lines


def trained(
    tiny_run: Any, epochs: int, terminal: bool, **settings: Any
) -> tuple[str, TrainingProgress]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    progress = TrainingProgress(console=console, **settings)
    tiny_run.trainer(epochs, progress).fit(tiny_run.module(), datamodule=tiny_run.data())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), progress


def test_a_log_gets_a_line_for_each_epoch(tiny_run: Any, tmp_path: Path) -> None:
    out, progress = trained(tiny_run, 2, terminal=False)
    done = [line for line in out.splitlines() if " done" in line]
    assert [line.split(",")[0] for line in done] == ["epoch 1/2 done", "epoch 2/2 done"]
    scores = [oks for _, _, oks in progress.curve]
    best, epoch = max((oks, number + 1) for number, oks in enumerate(scores))
    assert f"held-out OKS {scores[-1]:.1f} %, best {best:.1f} (epoch {epoch})" in done[-1]
    assert re.search(r"\d+ images/s", done[0]) and re.search(r"\d+:\d\d left", done[0])
    assert f"loss {progress.curve[0][1]:.3f}" in done[0]


def test_a_summary_comes_first(tiny_run: Any) -> None:
    out, _ = trained(tiny_run, 1, terminal=False)
    parameters = sum(p.numel() for p in tiny_run.module().parameters()) / 1e6
    assert out.startswith(f"Training {parameters:.2f} million parameters on CPU")
    assert "in 32-true: one epoch of" in out.splitlines()[0]


def test_a_log_gets_lines_within_an_epoch(tiny_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FIRST_LINE_S", 0.0)
    monkeypatch.setattr(lines, "LINE_S", 0.0)
    out, _ = trained(tiny_run, 1, terminal=False)
    assert "step 1/" in out


def test_a_slow_first_step_is_not_in_the_time_left(
    tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which the first step takes 100 s and each other one 1 s."""
    now = 0.0

    class Clock(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            nonlocal now
            now += 1 if trainer.global_step else 100

    monkeypatch.setattr(lines, "FIRST_LINE_S", 0.0)
    monkeypatch.setattr(lines, "LINE_S", 0.0)
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("heatpose.training.progress.time", clock)
    console = Console(file=io.StringIO(), width=200)
    trainer = tiny_run.trainer(2, Clock(), TrainingProgress(console=console))
    trainer.fit(tiny_run.module(), datamodule=tiny_run.data())
    assert isinstance(console.file, io.StringIO)
    printed = re.findall(r"step (\d)/6, .*?(\d+:\d\d) left", console.file.getvalue())
    left = {"2": "0:04", "3": "0:03", "4": "0:02", "5": "0:01", "6": "0:00"}
    assert printed == [(step, left[step]) for step in ("2", "3", "3", "4", "5", "6", "6")]


def test_a_terminal_gets_one_line_with_a_bar(tiny_run: Any) -> None:
    out, progress = trained(tiny_run, 2, terminal=True)
    assert "epoch 2/2" in out and "images/s" in out and "━" in out
    assert progress.bar is None


def test_the_curve_is_kept_over_an_interruption_and_drawn(tmp_path: Path) -> None:
    first, second = TrainingProgress(), TrainingProgress()
    first.curve = [(1, 5.0, math.nan), (2, 4.0, 60.0)]
    second.load_state_dict(first.state_dict())
    assert second.curve[1] == (2, 4.0, 60.0) and math.isnan(second.curve[0][2])
    write_curve(tmp_path / CURVE, second.curve)
    page = (tmp_path / CURVE).read_text(encoding="utf-8")
    assert "held-out OKS" in page
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
    assert [path.name for path in tmp_path.iterdir()] == [CURVE]


def test_a_run_has_its_curve_in_its_folder(tiny_run: Any) -> None:
    out, _ = trained(tiny_run, 2, terminal=False)
    named = re.search(r"The learning curve is in '(.*)'", out)
    assert named and Path(named[1]).is_file()


def test_disabled_it_is_silent(tiny_run: Any) -> None:
    out, progress = "", TrainingProgress(console=Console(file=io.StringIO()))
    progress.disable()
    tiny_run.trainer(2, progress).fit(tiny_run.module(), datamodule=tiny_run.data())
    assert isinstance(progress.console.file, io.StringIO)
    out = progress.console.file.getvalue()
    assert out == "" and len(progress.curve) == 2


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        ({"index": torch.zeros(7), "image": torch.zeros(7, 3)}, 7),
        (torch.zeros(5, 2), 5),
        ([1] * 4, 4),
        ([torch.zeros(6, 3, 2, 2), torch.zeros(6, 5)], 6),
    ],
)
def test_images_of_a_batch(batch: Any, size: int) -> None:
    assert size_of(batch) == size
