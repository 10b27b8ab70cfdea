"""Scores int8 files with each PTQ step on and off against the float network on the same images.

    python benchmarks/quantisation_ablation.py MODEL --train TRAIN --evaluation DEV \\
        --out ablation.csv

MODEL is a checkpoint or a MoveNet TFLite file; TRAIN and DEV are folders in COCO's layout, as
data.root and data.eval_root take. Rows that are already in the CSV are not measured again.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.progress import track

from heatpose.data.sample import Person
from heatpose.data.sources import CocoSource
from heatpose.evaluation.evaluate import EvalReport, evaluate, paired_difference
from heatpose.export.convert import convert
from heatpose.export.onnx import export_onnx
from heatpose.models.checkpoint import LoadedCheckpoint, load_checkpoint
from heatpose.models.init import from_movenet
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17, Skeleton
from heatpose.quantize.calibration import ExportData, calibration_images, choose_calibration
from heatpose.quantize.ptq import plan_int8
from heatpose.quantize.settings import PER_CHANNEL, PER_TENSOR, PLAIN, PtqSettings
from heatpose.quantize.write_int8 import write_int8
from heatpose.runners import open_runner
from heatpose.runners.torch_runner import TorchRunner

FIELDS = ("network", "resolution", "artefact", "recovery", "oks", "drop", "low", "high")


def variants(full: PtqSettings) -> dict[str, PtqSettings]:
    """Steps added one after the other, then full PTQ without one of them."""
    dead = replace(PLAIN, fold_constant_channels=True)
    equal = replace(dead, equalize=full.equalize, sweeps=full.sweeps)
    centred = replace(equal, absorb_bias=True)
    ranges = replace(centred, clip_quantile=full.clip_quantile, logit_floor=full.logit_floor)
    added = {
        "min-max": PLAIN,
        "+ constant channels": dead,
        "+ equalisation": equal,
        "+ bias absorption": centred,
        "+ clipped ranges": ranges,
        "+ bias (all)": full,
    }
    taken = {
        "all but constant channels": replace(full, fold_constant_channels=False),
        "all but equalisation": replace(full, equalize=None),
        "all but bias absorption": replace(full, absorb_bias=False),
        "all but clipped ranges": replace(full, clip_quantile=0.0, logit_floor=None),
    }
    return added | taken


def load(model: Path, size: int) -> LoadedCheckpoint:
    """The float network at a resolution."""
    if model.suffix == ".tflite":
        network = from_movenet(MoveNet(17, norm=False), COCO_17, str(model))
        return LoadedCheckpoint(network, COCO_17, Preprocessing(size), {})
    loaded = load_checkpoint(model)
    return replace(loaded, preprocessing=replace(loaded.preprocessing, size=size))


def known(path: Path, fields: Sequence[str], keys: int) -> set[tuple[str, ...]]:
    """The first `keys` fields of the rows that were measured before.

    Begins the file where there is none.
    """
    if not path.is_file():
        path.write_text(",".join(fields) + "\n", encoding="utf-8")
    with path.open(encoding="utf-8", newline="") as file:
        return {tuple(row[field] for field in fields[:keys]) for row in csv.DictReader(file)}


def score(path: Path, instances: list[Person], skeleton: Skeleton) -> EvalReport:
    """The protocol's score of a TFLite file."""
    return evaluate(open_runner(path), instances, skeleton)


def main() -> None:
    """Measures what is missing and appends it row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    for name in ("--train", "--evaluation", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--name", help="of the network in the table; the file's name without it")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--images", type=int, default=128, help="for calibration")
    parser.add_argument("--only-full", action="store_true", help="min-max and full PTQ only")
    arguments = parser.parse_args()
    name, size = arguments.name or arguments.model.stem, arguments.size
    loaded = load(arguments.model, size)
    source = CocoSource(root=str(arguments.train), eval_root=str(arguments.evaluation))
    training, evaluation = source.training(loaded.skeleton), source.evaluation(loaded.skeleton)
    assert evaluation is not None
    images = calibration_images(
        choose_calibration(ExportData(training, evaluation).fitting, arguments.images, 0),
        loaded.preprocessing,
    )
    done = known(arguments.out, FIELDS, 4)
    with tempfile.TemporaryDirectory() as temporary:
        whole, made = Path(temporary) / "float.tflite", Path(temporary) / "int8.tflite"
        export_onnx(loaded.network, size, Path(temporary) / "net.onnx", sigmoid=True)
        whole.write_bytes(convert(Path(temporary) / "net.onnx"))
        reference = evaluate(TorchRunner(arguments.model, loaded), evaluation, loaded.skeleton)
        jobs = [
            (artefact, label, r)
            for artefact, full in (("int8_pc", PER_CHANNEL), ("int8_pt", PER_TENSOR))
            for label, r in variants(full).items()
        ]
        for artefact, label, ptq in track(jobs):
            key = (name, str(size), artefact, label)
            if key in done or (arguments.only_full and label not in ("min-max", "+ bias (all)")):
                continue
            plan = plan_int8(
                loaded.network,
                images,
                loaded.preprocessing,
                per_channel=artefact == "int8_pc",
                ptq=ptq,
            )
            made.write_bytes(write_int8(whole, plan))
            report = score(made, evaluation, loaded.skeleton)
            lost = paired_difference(reference, report)
            numbers = [f"{value:.2f}" for value in (report.oks, lost.mean, lost.low, lost.high)]
            with arguments.out.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file).writerow([*key, *numbers])


if __name__ == "__main__":
    main()
