"""Scores the ways of upsampling against each other, as imported and after the same short fine-tuning: float, int8_pc and int8_pt.

    python benchmarks/upsampling_variants.py MODEL --train TRAIN --evaluation DEV --out variants.csv

MODEL is a checkpoint or a MoveNet TFLite file; TRAIN and DEV are folders in COCO's layout. Fine-tuned are pyramid and head, the backbone is frozen; every
variant sees the same batches. Rows that the CSV holds already are not measured again. `against_bilinear` is float OKS, bilinear's minus the variant's;
`lost` is the variant's float OKS minus its file's; both paired, with a 95 % interval.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from heatpose.data.augment import GeometricAugment, Photometric
from heatpose.data.datamodule import PoseData
from heatpose.data.sample import Person
from heatpose.data.sources import CocoSource
from heatpose.evaluate import EvalReport, evaluate, paired_difference
from heatpose.export.convert import convert
from heatpose.export.int8 import write_int8
from heatpose.export.onnx import export_onnx
from heatpose.losses import SpatialCrossEntropy
from heatpose.models.checkpoint import LoadedCheckpoint, load_checkpoint
from heatpose.models.initial import from_movenet
from heatpose.models.movenet import MoveNet, with_upsampling
from heatpose.models.upsample import Upsampling
from heatpose.module import warmup_cosine
from heatpose.preprocessing import Preprocessing
from heatpose.quantize.calibration import calibration_images, choose_calibration, shared_images
from heatpose.quantize.recovery import plan_int8
from heatpose.quantize.settings import PER_CHANNEL, PER_TENSOR
from heatpose.runners import open_runner
from heatpose.runners.torch_runner import TorchRunner
from heatpose.skeleton import COCO_17

FIELDS = (
    "stage", "upsample", "float", "against_bilinear", "low", "high", "int8_pc", "pc_lost", "pc_low", "pc_high", "int8_pt", "pt_lost", "pt_low", "pt_high",
)  # fmt: skip
BATCH, RATE = 16, 1e-4


@dataclass(frozen=True)
class Material:
    """What every variant is tuned, calibrated and scored on."""

    loaded: LoadedCheckpoint
    source: CocoSource
    people: list[Person]
    images: NDArray[np.uint8]

    def score(self, model: Path | MoveNet) -> EvalReport:
        """The protocol's score of a file or a network."""
        if isinstance(model, Path):
            return evaluate(open_runner(model), self.people, self.loaded.skeleton)
        loaded = LoadedCheckpoint(model.eval(), self.loaded.skeleton, self.loaded.preprocessing, {})
        return evaluate(TorchRunner(Path("network"), loaded), self.people, self.loaded.skeleton)


def load(model: Path, size: int) -> LoadedCheckpoint:
    """The float network, bilinear."""
    if model.suffix == ".tflite":
        return LoadedCheckpoint(from_movenet(MoveNet(17, norm=False), COCO_17, str(model)), COCO_17, Preprocessing(size), {})
    return load_checkpoint(model)


def tuned(network: MoveNet, material: Material, steps: int, workers: int) -> MoveNet:
    """Pyramid and head after `steps` steps of batch 16, AdamW, cosine."""
    torch.manual_seed(0)
    skeleton, preprocessing = material.loaded.skeleton, material.loaded.preprocessing
    data = PoseData(
        material.source, skeleton, preprocessing, GeometricAugment(), batch_size=BATCH, workers=workers, held_out=0.15, min_keypoints=2, prominent_weight=2
    )
    data.setup()
    loss, photometric = SpatialCrossEntropy(skeleton.sigmas, spread=0.5, score_weight=5.0), Photometric(0.2, 0.3, 0.3)
    network.requires_grad_(True)
    network.backbone.requires_grad_(False)
    for step in network.pyramid:
        step.upsample.requires_grad_(False)
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=RATE, weight_decay=1e-4)
    schedule = warmup_cosine(optimizer, steps)
    batches = (batch for _ in range(steps) for batch in data.train_dataloader())
    for _, batch in zip(track(range(steps), "fine-tuning"), batches, strict=False):
        output = network(preprocessing.normalise(photometric(batch["image"])))
        value = torch.stack([*loss.terms(output, batch["points"], batch["labelled"], batch["box"]).values()]).sum()
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()


def float_file(network: MoveNet, size: int, folder: Path) -> Path:
    """The variant's float TFLite. The int8 writer takes the graph of it and every number from the plan, so that one file serves all weights."""
    whole = folder / f"{network.settings['upsample']}.tflite"
    if not whole.is_file():
        export_onnx(network, size, folder / "network.onnx", sigmoid=True)
        whole.write_bytes(convert(folder / "network.onnx"))
    return whole


def files(network: MoveNet, material: Material, reference: EvalReport, folder: Path) -> list[float]:
    """OKS, loss and its interval of int8_pc and int8_pt."""
    numbers: list[float] = []
    whole, made = float_file(network, material.loaded.preprocessing.size, folder), folder / "int8.tflite"
    for per_channel, recovery in ((True, PER_CHANNEL), (False, PER_TENSOR)):
        plan = plan_int8(network, material.images, material.loaded.preprocessing, per_channel=per_channel, recovery=recovery)
        made.write_bytes(write_int8(whole, plan))
        report = material.score(made)
        lost = paired_difference(reference, report)
        numbers += [report.oks, lost.mean, lost.low, lost.high]
    return numbers


def known(path: Path) -> set[tuple[str, str]]:
    """Rows that were measured before."""
    if not path.is_file():
        path.write_text(",".join(FIELDS) + "\n", encoding="utf-8")
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["stage"], row["upsample"]) for row in csv.DictReader(file)}


def main() -> None:
    """Measures what is missing and appends it row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    for name in ("--train", "--evaluation", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--images", type=int, default=128, help="for calibration")
    parser.add_argument("--steps", type=int, default=100, help="of the fine-tuning; 0 leaves it out")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    loaded = load(arguments.model, arguments.size)
    source = CocoSource(root=str(arguments.train), eval_root=str(arguments.evaluation))
    training, evaluation = source.training(loaded.skeleton), source.evaluation(loaded.skeleton)
    assert evaluation is not None
    images = calibration_images(choose_calibration(training, arguments.images, 0, shared_images(training, evaluation)), loaded.preprocessing)
    material, done = Material(loaded, source, evaluation, images), known(arguments.out)
    with tempfile.TemporaryDirectory() as temporary:
        for stage in ("as imported", f"{arguments.steps} steps")[: 1 + bool(arguments.steps)]:
            reference = None
            for kind in get_args(Upsampling):
                if (stage, kind) in done and (kind != "bilinear" or all((stage, each) in done for each in get_args(Upsampling))):
                    continue
                network = with_upsampling(load(arguments.model, arguments.size).network, kind)
                if stage != "as imported":
                    network = tuned(network, material, arguments.steps, arguments.workers)
                report = material.score(network)
                reference = reference or report  # bilinear comes first
                if (stage, kind) not in done:
                    lost = paired_difference(reference, report)
                    numbers = [report.oks, lost.mean, lost.low, lost.high, *files(network, material, report, Path(temporary))]
                    with arguments.out.open("a", encoding="utf-8", newline="") as file:
                        csv.writer(file).writerow([stage, kind, *(f"{value:.2f}" for value in numbers)])


if __name__ == "__main__":
    main()
