"""What a training prints: a summary, one line while it runs, and its curve at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from torch import Tensor

from heatpose.utils.files import atomic_write
from heatpose.utils.progress import LogLines, clock

CURVE = "learning_curve.html"
SCORE = "val/oks"


class TrainingProgress(ProgressBar):
    """One line on a training: epoch, images/s, time left, loss, validation OKS and the best so far.

    A terminal gets a bar with this line. Any other output gets the line after 5 s, every 20 s and
    after each epoch. Numbers on the device are read every few steps (`log_every_n_steps`), because
    reading them waits for the device.

    Args:
        keep_curve: Writes `learning_curve.html` into the run's folder at the end.
        console: Where to; standard output by default.
    """

    def __init__(self, keep_curve: bool = True, console: Console | None = None) -> None:
        super().__init__()
        self.keep_curve = keep_curve
        self.console = console or Console()
        self.curve: list[tuple[int, float, float]] = []  # epoch, loss, OKS
        self.bar: RichProgress | None = None
        self.log_lines: LogLines | None = None
        self.enabled = True
        self.rate = self.loss = self.before = math.nan
        self.timed_from: tuple[int, float] | None = None  # step, monotonic time in seconds

    def enable(self) -> None:
        """Shows progress (Lightning's switch)."""
        self.enabled = True

    def disable(self) -> None:
        """Shows nothing (Lightning's switch, used for every process but the first)."""
        self.enabled = False

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Begins to measure the time; a resumed run begins at its step."""
        self.timed_from = None
        self.before = time.monotonic()
        if not self.enabled:
            return
        self.log_lines = LogLines(self.console)
        self._print(summary(trainer, pl_module))
        if self.console.is_terminal:
            columns = (BarColumn(20), TextColumn("{task.description}"))
            self.bar = RichProgress(*columns, console=self.console)
            self.bar.add_task("", total=self._steps(trainer), completed=trainer.global_step)
            self.bar.start()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measures the speed and shows the line where it is due."""
        now = time.monotonic()
        # The first step starts the workers and prepares the kernels, so the time left is estimated
        # from the steps after it.
        if self.timed_from is None:
            self.timed_from = trainer.global_step, now
        speed = size_of(batch) * trainer.world_size / max(now - self.before, 1e-9)
        # A mean over the last ten or so steps, so that one slow step does not change it.
        self.rate = speed if math.isnan(self.rate) else 1 / (0.9 / self.rate + 0.1 / speed)
        self.before = now
        if not self.enabled:
            return
        if self.bar is not None:
            if trainer.global_step % self._every(trainer) == 0 or math.isnan(self.loss):
                self.loss = _number(trainer.progress_bar_metrics.get("train/loss_step"))
            text = self.line(trainer)
            self.bar.update(self.bar.task_ids[0], completed=trainer.global_step, description=text)
        elif self.log_lines is not None and self.log_lines.due():
            self.loss = _number(trainer.progress_bar_metrics.get("train/loss_step"))
            self.log_lines.line(self.line(trainer))

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Keeps the epoch's numbers, and writes the line into a log."""
        metrics = trainer.callback_metrics
        loss, oks = _number(metrics.get("train/loss_epoch")), _number(metrics.get(SCORE))
        self.curve.append((trainer.current_epoch + 1, loss, oks))
        self.before = time.monotonic()
        if self.enabled and self.bar is None and self.log_lines is not None:
            self.loss = loss
            self.log_lines.due()
            self.log_lines.line(self.line(trainer, whole_epoch=True))

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Ends the bar and draws the curve into the run's folder."""
        self._stop()
        if self.enabled and self.keep_curve and len(self.curve) > 1:
            path = Path(trainer.default_root_dir) / CURVE
            write_curve(path, self.curve)
            self._print(f"The learning curve is in '{path}'.")

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Ends the bar, so that the terminal is as before."""
        self._stop()

    def state_dict(self) -> dict[str, Any]:
        """The curve, for a run that is resumed."""
        return {"curve": [list(point) for point in self.curve]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the curve of the interrupted run."""
        self.curve = [(int(e), float(loss), float(oks)) for e, loss, oks in state_dict["curve"]]

    def line(self, trainer: lightning.Trainer, whole_epoch: bool = False) -> str:
        """The line, such as `epoch 3/8, 45 %, 51 images/s, 2:05 left, loss 5.46, OKS 69.5 ...`."""
        steps, done = self._steps(trainer), trainer.global_step
        parts = []
        if trainer.max_epochs is not None and trainer.max_epochs > 1:
            number = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            parts.append(f"{number} done" if whole_epoch else number)
        parts.append(f"step {done}/{steps}" if steps else f"step {done}")
        if not math.isnan(self.rate):
            parts.append(f"{self.rate:.0f} images/s")
        first, since = self.timed_from or (done, 0.0)
        if steps and done > first:
            left = (time.monotonic() - since) / (done - first) * (steps - done)
            parts.append(f"{clock(left)} left")
        if not math.isnan(self.loss):
            parts.append(f"loss {self.loss:.3f}")
        scored = [(oks, epoch) for epoch, _, oks in self.curve if not math.isnan(oks)]
        if scored:
            best, epoch = max(scored)
            parts.append(f"held-out OKS {scored[-1][0]:.1f} %, best {best:.1f} (epoch {epoch})")
        return ", ".join(parts)

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    @staticmethod
    def _steps(trainer: lightning.Trainer) -> int | None:
        steps = trainer.estimated_stepping_batches
        return int(steps) if math.isfinite(steps) and steps > 0 else None

    @staticmethod
    def _every(trainer: lightning.Trainer) -> int:
        return max(1, int(getattr(trainer, "log_every_n_steps", 10)))


def summary(trainer: lightning.Trainer, module: lightning.LightningModule) -> str:
    """One sentence before the first step: network, length, device and precision."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    device = trainer.strategy.root_device
    where = f"CPU ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
    if trainer.world_size > 1:
        where = f"{trainer.world_size} devices ({device.type})"
    epochs = "one epoch" if trainer.max_epochs == 1 else f"{trainer.max_epochs} epochs"
    text = (
        f"Training {parameters / 1e6:.2f} million parameters on {where} in {trainer.precision}: "
        f"{epochs} of {trainer.num_training_batches} steps"
    )
    resumed = f", resumed at step {trainer.global_step}" if trainer.global_step else ""
    return f"{text}{resumed}."


def size_of(batch: Any) -> int:
    """Number of images in a batch: the length of its first tensor, or of a list without one."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    values = batch.values() if isinstance(batch, dict) else batch
    if not isinstance(values, Iterable):
        return 1
    values = list(values)
    tensors = (len(value) for value in values if isinstance(value, Tensor) and value.ndim)
    return next(tensors, 1 if isinstance(batch, dict) else len(values))


def write_curve(path: Path, curve: Sequence[tuple[int, float, float]]) -> None:
    """Draws a learning curve as a page that opens without a network.

    Args:
        path: The HTML file.
        curve: Epoch (1, 2, ...), mean training loss and held-out OKS in percent; NaN for none.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    epochs, losses, scores = zip(*curve, strict=True)
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    figure.add_trace(go.Scatter(x=epochs, y=losses, name="training loss"))
    figure.add_trace(go.Scatter(x=epochs, y=scores, name="held-out OKS, %"), secondary_y=True)
    figure.update_layout(
        title="Learning curve",
        xaxis_title="epoch",
        yaxis_title="training loss",
        # own round ticks; without lines, which would cross those of the loss
        yaxis2={"title": "held-out OKS, %", "tickmode": "auto", "showgrid": False},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"},
    )
    with atomic_write(path) as part:
        figure.write_html(part, include_plotlyjs=True)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
