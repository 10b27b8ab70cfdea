"""Scores and exports a tiny network repeatedly in one process.

Checks whether memory, open files and threads grow.

    python tests/faults/long_loop.py FOLDER --data COCO_FOLDER --rounds 300 --conversions 10

Each round scores the checkpoint and the int8 file on twelve images and writes a bundle with ONNX;
every (rounds / conversions)th also writes the TFLite files, converted in a separate process.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

MODEL = Path(__file__).parent / "files/tiny_64_int8_pt.tflite"


def measured() -> tuple[float, int, int]:
    """Memory of this process in MB, its open files, its threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * resource.getpagesize() / 1e6,
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
    )


class Work:
    """What a round does."""

    def __init__(self, folder: Path, data: Path) -> None:
        import torch

        from heatpose.data.coco import benchmark_instances, instances, read_labels
        from heatpose.data.formats.folder import find_split
        from heatpose.models.checkpoint import save_checkpoint
        from heatpose.models.movenet import MoveNet
        from heatpose.pose.preprocessing import Preprocessing
        from heatpose.pose.skeleton import ST_13

        train, val = find_split(data, "train"), find_split(data, "val")
        self.training = instances(read_labels(train.annotations), train.images, ST_13)[0][:8]
        self.evaluation = benchmark_instances(read_labels(val.annotations), val.images, ST_13)[0][
            :12
        ]
        torch.manual_seed(0)
        self.folder, self.skeleton, self.preprocessing = folder, ST_13, Preprocessing(64)
        self.network = MoveNet(
            13, 0.1, last_channels=16, pyramid=(8, 8, 8, 8), head_channels=8
        ).eval()
        self.checkpoint = folder / "tiny.ckpt"
        save_checkpoint(self.checkpoint, self.network, ST_13, self.preprocessing)

    def __call__(self, artefacts: tuple[Any, ...]) -> None:
        """Scores two files, exports one bundle."""
        from heatpose.evaluation.evaluate import evaluate
        from heatpose.export.job import ExportJob
        from heatpose.export.pipeline import export_bundle
        from heatpose.models.checkpoint import LoadedCheckpoint
        from heatpose.quantize.calibration import ExportData
        from heatpose.quantize.settings import CheckLimits, ExportConfig
        from heatpose.runners import open_runner

        for path in (self.checkpoint, MODEL):
            evaluate(open_runner(path, threads=1), self.evaluation, self.skeleton, progress=False)
        job = ExportJob(
            model=LoadedCheckpoint(self.network, self.skeleton, self.preprocessing, {}),
            data=ExportData(self.training, self.evaluation),
            config=ExportConfig(
                artefacts=artefacts,
                calibration_images=4,
                limits=CheckLimits(drift_p50_px=1000, drop_pc=100, drop_pt=100),
            ),
            folder=self.folder / "exports/loop",
            model_name="net",
            run_config={},
            provenance={},
        )
        export_bundle(job, Console(quiet=True))


def slope(values: list[float]) -> tuple[float, float]:
    """Growth per round by least squares over the second half, and its standard error."""
    half = np.asarray(values[len(values) // 2 :], float)
    rounds = np.arange(len(half)) - (len(half) - 1) / 2
    grown = float(rounds @ half / (rounds @ rounds))
    rest = half - half.mean() - grown * rounds
    return grown, float(np.sqrt(rest @ rest / max(1, len(half) - 2) / (rounds @ rounds)))


def main() -> int:
    """Status 1 where open files or threads grow, or, over 50 rounds or more.

    Memory by more than 0.1 MB a round and three standard errors.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--conversions", type=int, default=10)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    work, rows, begin = Work(options.folder, options.data), [], time.process_time()
    every = options.rounds // options.conversions if options.conversions else options.rounds + 1
    for number in range(options.rounds):
        work(("float32", "int8_pt") if number % every == every - 1 else ())
        rows.append(measured())
        with (options.folder / "loop.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("memory_mb", "files", "threads"), *rows])
    memory = slope([row[0] for row in rows])
    half = rows[len(rows) // 2 :]
    print(
        f"{len(rows)} rounds, {time.process_time() - begin:.0f} s of the processor; over the second"
        f" half memory {memory[0]:+.4f} +- {memory[1]:.4f} MB a round ({half[0][0]:.0f} to"
        f" {half[-1][0]:.0f} MB), open files {half[0][1]} to {half[-1][1]}, threads {half[0][2]} to"
        f" {half[-1][2]}"
    )
    grows = len(rows) >= 50 and memory[0] > max(0.1, 3 * memory[1])
    return int(grows or half[-1][1] > half[0][1] or half[-1][2] > half[0][2])


if __name__ == "__main__":
    sys.exit(main())
