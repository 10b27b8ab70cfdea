"""Training speed of a device in images per second; `trial.py` runs each call in a process.

    python -m heatpose.doctor.speed steps IMAGES OUT 1       steps on one batch in memory
    python -m heatpose.doctor.speed training IMAGES OUT N    the configured training, N at once

IMAGES is the folder of the rendered images. A line of JSON is appended to OUT for each measurement,
so that those before a crash are kept.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from lightning import Callback
from omegaconf import DictConfig

from heatpose.doctor.trial import source_overrides
from heatpose.entries import build
from heatpose.errors import HeatposeError, first_line
from heatpose.training.devices import best_precision, device_type
from heatpose.utils.files import conf_folder

WAIT_S = 300
"""Timeout in seconds for the other processes of a measurement to be ready."""


@dataclass(frozen=True)
class Size:
    """Size of a measurement.

    Attributes:
        width: Width multiplier of the network.
        resolution: Input side in pixels.
        batch: Images per step.
        warm_up: Steps before the measurement, which allocate buffers and select kernels.
        chunk: Steps between two device synchronisations.
        seconds: Minimum duration.
    """

    width: float
    resolution: int
    batch: int
    warm_up: int
    chunk: int
    seconds: float


SIZES = {
    "cuda": Size(1.0, 192, 32, 20, 10, 5.0),
    "mps": Size(1.0, 192, 32, 10, 5, 5.0),
    "cpu": Size(0.35, 96, 8, 2, 1, 2.0),
}


@dataclass(frozen=True)
class Speed:
    """One measurement.

    Attributes:
        name: Name of the measurement.
        images_per_second: Rate; None after a failure.
        first_step_s: Seconds of the first step, including compilation.
        peak_mib: Peak GPU memory of tensors, MiB; None on a CPU.
        error: Cause of failure.
    """

    name: str
    images_per_second: float | None = None
    first_step_s: float | None = None
    peak_mib: float | None = None
    error: str = ""


def composed(images: Path, out: Path, size: Size, *overrides: str) -> DictConfig:
    """Composes the quick start's configuration for a measurement.

    Args:
        images: Folder of the rendered images.
        out: Result file of this process; its run is written beside it.
        size: Size of the measurement.
        overrides: Additional overrides.
    """
    fixed = [
        *source_overrides(images),
        "model_name=speed",
        "logger=csv",
        f"runs={out.with_suffix('')}",
        f"data.cache={images.parent}/cache",
        f"resolution={size.resolution}",
        f"model.width={size.width}",
        f"data.batch_size={size.batch}",
    ]
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return hydra.compose("train", [*fixed, *overrides])


def wait_for_device(device: str) -> None:
    """Synchronises with the device."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def peak_mib(device: str) -> float | None:
    """Peak memory of the process's tensors on a CUDA device, in MiB; None on other devices."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None


def measure_steps(config: DictConfig, device: str, precision: str, compiled: bool) -> Speed:
    """Measures optimiser steps on one batch in the device's memory."""
    config.compile = compiled
    skeleton, preprocessing, source = build.build_inputs(config)
    network = build.build_network(config, skeleton)
    module = build.build_module(config, network, skeleton, preprocessing, source).to(device)
    data = build.build_data(config, source, skeleton, preprocessing)
    data.setup()
    batch: Any = {
        name: value.to(device) for name, value in next(iter(data.train_dataloader())).items()
    }
    batch = module.on_after_batch_transfer(batch, 0)
    scaled = precision == "16-mixed"
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=not scaled)
    scaler = torch.amp.GradScaler(device, enabled=scaled)
    dtype = torch.float16 if scaled else torch.bfloat16

    def step() -> None:
        optimizer.zero_grad()
        mixed = precision != "32-true"
        with torch.autocast(device, dtype, cache_enabled=False) if mixed else nullcontext():
            output: Any = module(batch["image"])
            terms = module.loss.terms(output, batch["points"], batch["labelled"], batch["box"])
            loss = torch.stack([*terms.values()]).sum()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    size, name = SIZES[device], f"steps, {precision}{', compiled' if compiled else ''}"
    return _timed(name, step, size, device)


def _timed(name: str, step: Callable[[], None], size: Size, device: str) -> Speed:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    step()
    wait_for_device(device)
    first = time.perf_counter() - start
    for _ in range(size.warm_up):
        step()
    wait_for_device(device)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < size.seconds:
        for _ in range(size.chunk):
            step()
        wait_for_device(device)
        count += size.chunk
    return Speed(name, count * size.batch / elapsed, first, peak_mib(device))


class Clock(Callback):
    """Measures the speed of a training after a warm-up and stops it.

    Args:
        size: Size of the measurement.
        device: Device of the training.
        ready: Called once after the warm-up; blocks until the measurement may begin.
    """

    def __init__(self, size: Size, device: str, ready: Callable[[], None]) -> None:
        self.size, self.device, self.ready = size, device, ready
        self.steps, self.begin, self.elapsed, self.first = 0, 0.0, 0.0, 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts the clock of the first step."""
        self.begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Reads the clock after the first step, the warm-up and each chunk of steps."""
        self.steps += 1
        counted = self.steps - 1 - self.size.warm_up
        if self.steps > 1 and (counted < 0 or counted % self.size.chunk):
            return
        wait_for_device(self.device)
        if self.steps == 1:
            self.first = time.perf_counter() - self.begin
        if counted <= 0:
            if counted == 0:
                self.ready()
            self.begin = time.perf_counter()
            return
        self.elapsed = time.perf_counter() - self.begin
        if self.elapsed >= self.size.seconds:
            trainer.should_stop = True

    @property
    def images_per_second(self) -> float:
        """Rate of the steps after the warm-up."""
        return (self.steps - 1 - self.size.warm_up) * self.size.batch / self.elapsed


def measure_training(config: DictConfig, device: str, out: Path, processes: int) -> Speed:
    """Measures the configured training with data loading, in parallel to `processes` - 1 others."""
    build.setup_libraries(config)
    skeleton, preprocessing, source = build.build_inputs(config)
    network = build.build_network(config, skeleton)
    module = build.build_module(config, network, skeleton, preprocessing, source)
    data = build.build_data(config, source, skeleton, preprocessing)
    trainer = build.build_trainer(config, out.with_suffix(""))
    clock = Clock(SIZES[device], device, lambda: _meet(out, processes))
    trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    beside = "" if processes == 1 else f", one of {processes} at once"
    name = f"training, {trainer.precision}{beside}"
    return Speed(name, clock.images_per_second, clock.first, peak_mib(device))


def _meet(out: Path, processes: int) -> None:
    """Waits until all processes of the measurement are ready.

    Raises:
        HeatposeError: Another process did not become ready.
    """
    out.with_suffix(".ready").touch()
    limit = time.monotonic() + WAIT_S
    while len(list(out.parent.glob(f"*_together_{processes}_*.ready"))) < processes > 1:
        if time.monotonic() > limit:
            raise HeatposeError("Another process of the measurement did not start; see its log.")
        time.sleep(0.05)


def _add(out: Path, speed: Speed) -> None:
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(speed)) + "\n")


def steps(images: Path, out: Path) -> None:
    """Measures steps in float32, in mixed precision, and with `torch.compile` on a GPU."""
    device = device_type("auto")
    size, best = SIZES[device], best_precision()
    ways = [("32-true", False)] + [(best, False)] * (best != "32-true")
    for precision, compiled in [*ways, *([(best, True)] if device == "cuda" else [])]:
        config = composed(images, out, size, "data.workers=0")
        try:
            _add(out, measure_steps(config, device, precision, compiled))
        except Exception as error:  # compilers fail in many ways; the other results are kept
            name = f"steps, {precision}{', compiled' if compiled else ''}"
            _add(out, Speed(name, error=f"{type(error).__name__}: {first_line(error)}"))


def training(images: Path, out: Path, processes: int) -> None:
    """Measures the quick start's training, without checkpoints and validation."""
    device = device_type("auto")
    if device == "cpu" and processes > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    off = ["checkpoint", "last", "early_stopping", "learning_rate", "progress", "prediction_grid"]
    config = composed(
        images,
        out,
        SIZES[device],
        "+trainer.limit_val_batches=0",
        "trainer.max_epochs=100000",
        "+trainer.enable_checkpointing=false",
        "+trainer.enable_progress_bar=false",
        *[f"callbacks.{name}=null" for name in off],
    )
    _add(out, measure_training(config, device, out, processes))


def main() -> None:
    """Runs the measurement given on the command line."""
    what, images, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what == "steps":
        steps(images, out)
    else:
        training(images, out, int(sys.argv[4]))


if __name__ == "__main__":
    main()
