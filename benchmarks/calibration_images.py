"""Score of int8 files over the number of calibration images.

PTQ with 16 to 512 images, scored on augmented samples of the hold-out split.

    python benchmarks/calibration_images.py MODEL --train TRAIN --out calibration.csv

MODEL is a checkpoint or a MoveNet TFLite file, TRAIN a folder in COCO's layout. Evaluation images
are not used, because the result sets the default. Rows that are already in the CSV are not
measured again.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

from quantisation_ablation import known, load
from rich.progress import track

from heatpose.data.sources import CocoSource
from heatpose.export.convert import convert
from heatpose.export.onnx import export_onnx
from heatpose.quantize.calibration import (
    calibration_images,
    choose_calibration,
    split_training,
)
from heatpose.quantize.ptq import plan_int8
from heatpose.quantize.select import HoldoutScorer
from heatpose.quantize.settings import PER_CHANNEL, PER_TENSOR, AutoChoice
from heatpose.quantize.write_int8 import write_int8

FIELDS = (
    "network",
    "resolution",
    "artefact",
    "images",
    "seed",
    "oks",
    "drop",
    "low",
    "high",
    "seconds",
)
COUNTS = (16, 32, 64, 128, 256, 512)


def main() -> None:
    """Measures what is missing and appends it row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", help="of the network in the table; the file's name without it")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--seeds", type=int, default=2, help="draws of the images")
    arguments = parser.parse_args()
    name, loaded = arguments.name or arguments.model.stem, load(arguments.model, arguments.size)
    skeleton, preprocessing = loaded.skeleton, loaded.preprocessing
    choice = AutoChoice()
    instances, holdout = split_training(
        CocoSource(root=str(arguments.train)).training(skeleton), set(), choice
    )
    done = known(arguments.out, FIELDS, 5)
    jobs = [
        (count, seed, artefact)
        for count in COUNTS
        for seed in range(arguments.seeds)
        for artefact in ("int8_pc", "int8_pt")
    ]
    with tempfile.TemporaryDirectory() as temporary:
        whole, made = Path(temporary) / "float.tflite", Path(temporary) / "int8.tflite"
        export_onnx(loaded.network, arguments.size, Path(temporary) / "net.onnx", sigmoid=True)
        whole.write_bytes(convert(Path(temporary) / "net.onnx"))
        scorer = HoldoutScorer(holdout, choice.samples, skeleton, preprocessing, whole)
        for count, seed, artefact in track(jobs):
            key = (name, str(arguments.size), artefact, str(count), str(seed))
            if key in done:
                continue
            start = time.perf_counter()
            images = calibration_images(choose_calibration(instances, count, seed), preprocessing)
            per_channel = artefact == "int8_pc"
            plan = plan_int8(
                loaded.network,
                images,
                preprocessing,
                per_channel=per_channel,
                ptq=PER_CHANNEL if per_channel else PER_TENSOR,
            )
            made.write_bytes(write_int8(whole, plan))
            seconds = time.perf_counter() - start
            score = scorer.score(made)
            numbers = [
                f"{value:.2f}"
                for value in (
                    score.oks,
                    score.drop.mean,
                    score.drop.low,
                    score.drop.high,
                    seconds,
                )
            ]
            with arguments.out.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file).writerow([*key, *numbers])


if __name__ == "__main__":
    main()
