"""What is not the network in everyday commands, each as a ratio from one run on this machine.

    python benchmarks/everyday.py [--int8 INT8.tflite] [--reference GOOGLE_INT8.tflite]
        [--train COCO] [--teacher MODEL] [--rounds 3] [--parts epoch loader ...] [--json OUT]

--int8 is a pose model; by default the released network, if there is one. --reference is the file
whose latency it is compared with. COCO is a folder in COCO's layout (as `data.root`); without it,
people are rendered. --teacher gives maps of each training image; by default the network itself.
Without a file that a part needs, the part is left out.

    epoch     images/s of a whole epoch of `train.py experiment=st_movenet_13kpt` (random weights)
              with teacher, averaged weights, validation and checkpoints, over bare optimiser steps
              of the same network on batches that lie in memory; and the share of its parts
    loader    batches/s of the data engine with a warm cache, over the usual loader, which decodes
              and warps sample by sample; JPEGs of 640 x 480 and of 384 x 288
    evaluate  images/s of `evaluate` over bare `interpreter.invoke`, JPEGs of 640 x 480
    latency   the int8 file's time on one thread over the reference's
    help      wall time of `heatpose --help`, the best of five
    predict   shares of decoding, resizing, network, reading the pose, drawing and writing of an
              image of 640 x 480, one after the other in one thread

Parts of a ratio take turns; ratios are medians of the rounds, of which the first is not counted.
"wall" is the time that a user waits, "cpu" the processor time of all threads (of one, for latency
and predict), on which other programs of the machine have less influence.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from data_engine import COCO_SIDES, SMALL_SIDES, loader_rows, pictures_of
from measuring import help_seconds, interleaved, median_ratio, training_config
from numpy.typing import NDArray
from omegaconf import open_dict
from rich.console import Console
from rich.table import Table

from heatpose.bundles.released import default_model
from heatpose.data.batches import TrainingBatch
from heatpose.entries import build
from heatpose.errors import HeatposeError
from heatpose.evaluation.evaluate import evaluate, skeleton_of
from heatpose.models.checkpoint import save_checkpoint
from heatpose.predict.estimator import Estimator
from heatpose.predict.files import save_image
from heatpose.predict.options import Drawing
from heatpose.runners.tflite_runner import TFLiteRunner
from heatpose.training.fit import fit
from heatpose.training.module import PoseModule
from heatpose.utils.image_files import decode_image
from heatpose.utils.process import keep_freed_memory

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def now() -> NDArray[np.float64]:
    """f64[2]: both of `CLOCKS`."""
    return np.array([clock() for clock in CLOCKS.values()])


@dataclass(frozen=True)
class Row:
    """One number: a ratio without unit, or a value with one; and the bar it is held against."""

    measure: str
    value: float
    unit: str = ""
    wanted: str = ""


class BareSteps:
    """Optimiser steps on batches in memory: forward, loss on labels, backward, clip, update.

    Args:
        module: A network of its own; its labels' loss alone counts.
        batches: Of the training loader, before the augmentation of colours.
        precision: Context of the forward pass.
    """

    def __init__(
        self, module: PoseModule, batches: list[TrainingBatch], precision: Callable[[], Any]
    ) -> None:
        self.module, self.precision = module, precision
        self.batches = [module.on_after_batch_transfer(batch, 0) for batch in batches]  # type: ignore[arg-type]
        self.optimizer = module.make_optimizer(module.network.parameters())  # type: ignore[arg-type]
        self.images = sum(len(batch["image"]) for batch in self.batches)

    def seconds(self) -> NDArray[np.float64]:
        """Seconds of all batches, by both of `CLOCKS`."""
        start = now()
        for batch in self.batches:
            self.optimizer.zero_grad()
            with self.precision():
                loss = self.module._loss("train", self.module(batch["image"]), batch)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.module.network.parameters(), 1.0)
            self.optimizer.step()
        return now() - start


class Epochs(lightning.Callback):
    """Runs the bare steps before each epoch, and takes the seconds of the epoch and its parts.

    What belongs to no part is what follows the validation: checkpoints, callbacks.
    """

    def __init__(self, bare: BareSteps) -> None:
        self.bare = bare
        self.bare_seconds: list[NDArray[np.float64]] = []
        self.seconds: list[dict[str, NDArray[np.float64]]] = []
        self.marks: list[NDArray[np.float64]] = []

    def _end(self) -> None:
        if self.marks:
            start, validation, after = self.marks
            end = now()
            self.seconds.append(
                {
                    "epoch": end - start,
                    "training": validation - start,
                    "validation": after - validation,
                    "checkpoints, rest": end - after,
                }
            )

    def on_train_epoch_start(self, *unused: Any) -> None:
        self._end()
        self.bare_seconds.append(self.bare.seconds())
        self.marks = [now()]

    def on_validation_start(self, *unused: Any) -> None:
        self.marks.append(now())

    def on_validation_end(self, *unused: Any) -> None:
        self.marks.append(now())

    def on_train_end(self, *unused: Any) -> None:
        self._end()


def epoch_rows(given: argparse.Namespace) -> list[Row]:
    """A run of --rounds epochs and one before them, as the entry `train` makes it."""
    folder = Path(given.folder)
    config = training_config(given.train, folder, given.images)
    build.setup_libraries(config)
    keep_freed_memory()
    skeleton, preprocessing, source = build.build_inputs(config)
    source.prepare()

    def made() -> PoseModule:
        network = build.build_network(config, skeleton)
        return build.build_module(config, network, skeleton, preprocessing, source)

    module, bare = made(), made()
    teacher = given.teacher or folder / "teacher.ckpt"
    if given.teacher is None:
        save_checkpoint(teacher, module.network, skeleton, preprocessing)
    with open_dict(config):
        config.distill.path = str(teacher)
        config.trainer.max_epochs = given.rounds + 1
    data = build.build_data(config, source, skeleton, preprocessing)
    module.distillation = build.build_distillation(config, data, skeleton)
    trainer = build.build_trainer(config, folder / "runs" / "everyday")
    loader = iter(data.train_dataloader())
    batches = [batch for batch, _ in zip(loader, range(given.steps), strict=False)]
    epochs = Epochs(BareSteps(bare, batches, trainer.precision_plugin.forward_context))
    trainer.callbacks.append(epochs)  # type: ignore[attr-defined]  # a list in Lightning
    fit(module, data, trainer, None)
    images = int(trainer.num_training_batches) * int(config.data.batch_size)
    rates = np.array([images / seconds["epoch"] for seconds in epochs.seconds[1:]])
    bare_rates = epochs.bare.images / np.array(epochs.bare_seconds[1:])
    parts = {
        part: np.array([seconds[part] / seconds["epoch"] for seconds in epochs.seconds[1:]])
        for part in ("training", "validation", "checkpoints, rest")
    }
    rows = []
    for at, clock in enumerate(CLOCKS):
        name = f"epoch of {images} images, {trainer.precision}, {clock}"
        ratio, rate, bare_rate = (
            float(np.median(of[:, at])) for of in (rates / bare_rates, rates, bare_rates)
        )
        rows += [
            Row(f"{name}, over bare steps", ratio, "", ">= 0.9"),
            Row(name, rate, "images/s"),
            Row(f"bare steps, {trainer.precision}, {clock}", bare_rate, "images/s"),
        ]
        rows += [
            Row(f"share of an epoch, {clock}: {part}", 100 * float(np.median(of[:, at])), "%")
            for part, of in parts.items()
        ]
    return rows


def loaders(given: argparse.Namespace) -> list[Row]:
    """`data_engine.loader_rows` for both sizes."""
    folder, rows = Path(given.folder), []
    for sides in (COCO_SIDES, SMALL_SIDES):
        people = pictures_of(folder, sides, given.pictures)
        rows += loader_rows(f"{sides[0]} x {sides[1]}", people, folder / "cache", given.rounds)
    return [Row(f"{r['measure']}, {r['clock']}", r["ratio"], "", r["wanted"]) for r in rows]


def evaluate_rows(given: argparse.Namespace) -> list[Row]:
    """The function behind `heatpose evaluate`, scores included, against its interpreter."""
    runner = TFLiteRunner(given.int8, threads=given.threads)
    skeleton = skeleton_of(runner)
    people = pictures_of(Path(given.folder), COCO_SIDES, given.pictures, skeleton)
    interpreter = runner._interpreter

    def bare(number: int) -> None:
        for _ in people:
            interpreter.invoke()

    parts: dict[str, Callable[[int], object]] = {
        "evaluate": lambda number: evaluate(runner, people, skeleton, progress=False),
        "invoke": bare,
    }
    rows = []
    for clock, read in CLOCKS.items():
        seconds = interleaved(parts, given.rounds, read)
        name = f"evaluate over invoke, {runner.kernels}, {clock}"
        rows.append(Row(name, median_ratio(seconds["invoke"], seconds["evaluate"]), "", ">= 0.8"))
        rows += [
            Row(f"{name}, {clock}", len(people) / statistics.median(of), "images/s")
            for name, of in seconds.items()
        ]
    return rows


def latency_rows(given: argparse.Namespace) -> list[Row]:
    """One thread, its processor time, blocks of 20 calls in turn."""
    files = {"int8": given.int8, "reference": given.reference}
    runners = {name: TFLiteRunner(path, threads=1) for name, path in files.items()}

    def block(runner: TFLiteRunner) -> Callable[[int], None]:
        def calls(number: int) -> None:
            for _ in range(20):
                runner._interpreter.invoke()

        return calls

    parts = {name: block(runner) for name, runner in runners.items()}
    seconds = interleaved(parts, 5 * given.rounds, time.thread_time)
    return [
        Row(
            "latency over the reference's, one thread",
            median_ratio(seconds["int8"], seconds["reference"]),
            "",
            "<= 0.75",
        ),
        *(
            Row(f"latency of {runners[name].name}", 1000 * statistics.median(of) / 20, "ms")
            for name, of in seconds.items()
        ),
    ]


def predict_rows(given: argparse.Namespace) -> list[Row]:
    """The steps of `heatpose predict` on images, by this thread's processor time."""
    runner = TFLiteRunner(given.int8, threads=1)
    estimator = Estimator.of(runner, skeleton_of(runner))
    drawing = Drawing([estimator], 0.0)  # all keypoints: no person costs more
    paths = [
        person.image_path for person in pictures_of(Path(given.folder), COCO_SIDES, given.pictures)
    ]
    target = Path(given.folder) / "predicted.jpg"
    seconds: dict[str, list[float]] = {}

    def timed(part: str, work: Callable[..., Any], *arguments: Any) -> Any:
        start = time.thread_time()
        result = work(*arguments)
        seconds.setdefault(part, []).append(time.thread_time() - start)
        return result

    for number, path in enumerate((paths[0], *paths)):
        if number == 1:  # the first one loads what is loaded once
            seconds.clear()
        image = timed("decode", decode_image, path).pixels
        resized = timed("resize", estimator.resize, image)
        pending = timed("network", estimator.run, resized)
        pose = timed("pose", pending)
        drawn = timed("draw", drawing.image, image, [pose])
        timed("write", save_image, target, drawn)
    medians = {part: statistics.median(of) for part, of in seconds.items()}
    total = sum(medians.values())
    return [
        *(Row(f"predict: {part}", 100 * value / total, "%") for part, value in medians.items()),
        Row("predict: an image in one thread", 1000 * total, "ms"),
    ]


def help_rows(given: argparse.Namespace) -> list[Row]:
    return [Row("heatpose --help, best of five", help_seconds(), "s", "< 0.7")]


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "help": help_rows,
    "latency": latency_rows,
    "predict": predict_rows,
    "evaluate": evaluate_rows,
    "loader": loaders,
    "epoch": epoch_rows,
}
NEEDS = {"latency": ("int8", "reference"), "predict": ("int8",), "evaluate": ("int8",)}


def missing(part: str, given: argparse.Namespace) -> list[str]:
    """Options that a part needs and that were not given."""
    return [f"--{name}" for name in NEEDS.get(part, ()) if getattr(given, name) is None]


def shown(rows: list[Row]) -> Table:
    table = Table(title=f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for heading in ("measure", "value", "wanted"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for row in rows:
        table.add_row(row.measure, f"{row.value:.2f} {row.unit}".strip(), row.wanted)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--int8", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--train", help="training data in COCO's layout")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--threads", type=int, help="of the interpreter; default: all cores")
    parser.add_argument("--steps", type=int, default=8, help="bare steps before each epoch")
    parser.add_argument("--images", type=int, default=1200, help="rendered training images")
    parser.add_argument("--pictures", type=int, default=192, help="JPEGs of the other parts")
    parser.add_argument("--folder", help="for images, caches, runs; a temporary one")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.int8 is None:
        with contextlib.suppress(HeatposeError):  # none is released
            given.int8 = default_model()[1]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        given.folder = str(Path(given.folder or temporary).resolve())
        Path(given.folder).mkdir(parents=True, exist_ok=True)
        for part in given.parts:
            if options := missing(part, given):
                print(f"{part} is left out: it needs {' and '.join(options)}.", flush=True)
                continue
            found = PARTS[part](given)
            print(*(f"{row.measure}: {row.value:.3g} {row.unit}" for row in found), sep="\n")
            rows += found
    Console().print(shown(rows))
    if given.json is not None:
        text = json.dumps([asdict(row) for row in rows], indent=1)
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
