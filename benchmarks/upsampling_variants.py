"""Compares the scores of the upsampling variants.

Float network, int8_pc with float and with int8 output, and int8_pt.

    python benchmarks/upsampling_variants.py --model MODEL --train TRAIN --evaluation DEV \\
        --out variants.csv
    python benchmarks/upsampling_variants.py --tuned bilinear=A.ckpt nearest=B.ckpt \\
        transposed=B.ckpt --train TRAIN --evaluation DEV --out tuned.csv

MODEL is a checkpoint or a MoveNet TFLite file; TRAIN and DEV are folders in COCO's layout. With
`--model` the variants are scored as imported and after a short fine-tuning of pyramid and head, in
which every variant sees the same batches. With `--tuned` each variant's network comes from a
checkpoint of `train.py`; one may serve several variants, for their weights are the same. Rows that
the CSV holds already are not measured again. In a float row `lost` is bilinear's float OKS minus
this one's, in the others the same variant's float OKS minus the file's; paired, with a 95 %
interval.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from heatpose.data.augment import GeometricAugment, Photometric
from heatpose.data.datamodule import DataSettings, PoseData
from heatpose.data.sample import Person
from heatpose.data.sources import CocoSource
from heatpose.evaluation.evaluate import EvalReport, evaluate, paired_difference
from heatpose.export.convert import convert
from heatpose.export.onnx import export_onnx
from heatpose.models.checkpoint import LoadedCheckpoint, load_checkpoint
from heatpose.models.init import from_movenet
from heatpose.models.layers import Upsampling
from heatpose.models.losses import SpatialCrossEntropy
from heatpose.models.movenet import MoveNet, with_upsampling
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17
from heatpose.quantize.calibration import ExportData, calibration_images, choose_calibration
from heatpose.quantize.ptq import plan_int8
from heatpose.quantize.settings import PER_CHANNEL, PER_TENSOR
from heatpose.quantize.write_int8 import write_int8
from heatpose.runners import open_runner
from heatpose.runners.torch_runner import TorchRunner
from heatpose.tflite.inspect import Output
from heatpose.training.module import warmup_cosine

FIELDS = ("stage", "upsample", "file", "oks", "lost", "low", "high")
KINDS: tuple[Upsampling, ...] = get_args(Upsampling)
BATCH, RATE = 16, 1e-4


@dataclass(frozen=True)
class Material:
    """What every variant is tuned, calibrated and scored on."""

    loaded: LoadedCheckpoint
    source: CocoSource
    instances: list[Person]
    images: NDArray[np.uint8]

    def score(self, model: Path | MoveNet) -> EvalReport:
        """The protocol's score of a file or a network."""
        if isinstance(model, Path):
            return evaluate(open_runner(model), self.instances, self.loaded.skeleton)
        loaded = LoadedCheckpoint(model.eval(), self.loaded.skeleton, self.loaded.preprocessing, {})
        return evaluate(TorchRunner(Path("network"), loaded), self.instances, self.loaded.skeleton)


def load(model: Path, size: int) -> LoadedCheckpoint:
    """The float network, bilinear."""
    if model.suffix == ".tflite":
        return LoadedCheckpoint(
            from_movenet(MoveNet(17, norm=False), COCO_17, str(model)),
            COCO_17,
            Preprocessing(size),
            {},
        )
    return load_checkpoint(model)


def tuned(network: MoveNet, material: Material, steps: int, workers: int) -> MoveNet:
    """Pyramid and head after `steps` steps of batch 16, AdamW, cosine."""
    torch.manual_seed(0)
    skeleton, preprocessing = material.loaded.skeleton, material.loaded.preprocessing
    data = PoseData(
        material.source,
        skeleton,
        preprocessing,
        GeometricAugment(),
        DataSettings(
            batch_size=BATCH, workers=workers, held_out=0.15, min_keypoints=2, prominent_weight=2
        ),
    )
    data.setup()
    loss, photometric = (
        SpatialCrossEntropy(skeleton.sigmas, spread=0.5, score_weight=5.0),
        Photometric(0.2, 0.3, 0.3),
    )
    network.requires_grad_(True)
    network.backbone.requires_grad_(False)
    for step in network.pyramid:
        step.upsample.requires_grad_(False)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=1e-4)
    schedule = warmup_cosine(optimizer, steps)
    batches = (batch for _ in range(steps) for batch in data.train_dataloader())
    for _, batch in zip(track(range(steps), "fine-tuning"), batches, strict=False):
        output = network(preprocessing.normalise(photometric(batch["image"])))
        value = torch.stack(
            [*loss.terms(output, batch["points"], batch["labelled"], batch["box"]).values()]
        ).sum()
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()


def float_file(network: MoveNet, size: int, folder: Path) -> Path:
    """The variant's float TFLite.

    The int8 writer takes the graph of it and every number from the plan, so that one file serves
    all weights.
    """
    whole = folder / f"{network.settings['upsample']}.tflite"
    if not whole.is_file():
        export_onnx(network, size, folder / "network.onnx", sigmoid=True)
        whole.write_bytes(convert(folder / "network.onnx"))
    return whole


def int8_scores(
    network: MoveNet, material: Material, folder: Path, artefact: str
) -> Iterator[tuple[str, EvalReport]]:
    """Names and scores of "int8_pc", with float and with int8 output, or of "int8_pt"."""
    per_channel = artefact == "int8_pc"
    ptq = PER_CHANNEL if per_channel else PER_TENSOR
    plan = plan_int8(
        network, material.images, material.loaded.preprocessing, per_channel=per_channel, ptq=ptq
    )
    whole = float_file(network, material.loaded.preprocessing.size, folder)
    outputs: dict[str, Output] = (
        {artefact: "float32", f"{artefact}_int8_output": "int8"}
        if per_channel
        else {artefact: "float32"}
    )
    for name, output in outputs.items():
        made = folder / f"{name}.tflite"
        made.write_bytes(write_int8(whole, plan, output=output))
        yield name, material.score(made)


class Stage:
    """One set of networks, a way of upsampling each.

    Whose float scores the others are held against.
    """

    def __init__(
        self, name: str, networks: dict[Upsampling, MoveNet], material: Material, out: Path
    ) -> None:
        self.name, self.networks, self.material, self.out = name, networks, material, out
        self.floats: dict[Upsampling, EvalReport] = {}

    def float_score(self, kind: Upsampling) -> EvalReport:
        """Scored once."""
        if kind not in self.floats:
            self.floats[kind] = self.material.score(self.networks[kind])
        return self.floats[kind]

    def measure(self) -> None:
        """Appends what the CSV lacks, row by row: all variants of one artefact after the other."""
        done, first = known(self.out), next(iter(self.networks))
        with tempfile.TemporaryDirectory() as temporary:
            for artefact in ("float", "int8_pc", "int8_pt"):
                for kind in [
                    kind for kind in self.networks if (self.name, kind, artefact) not in done
                ]:
                    if artefact == "float":
                        self._append(
                            kind, artefact, self.float_score(first), self.float_score(kind)
                        )
                        continue
                    folder = Path(temporary) / kind
                    folder.mkdir(exist_ok=True)
                    for name, report in int8_scores(
                        self.networks[kind], self.material, folder, artefact
                    ):
                        self._append(kind, name, self.float_score(kind), report)

    def _append(self, kind: str, file: str, against: EvalReport, report: EvalReport) -> None:
        lost = paired_difference(against, report)
        with self.out.open("a", encoding="utf-8", newline="") as rows:
            csv.writer(rows).writerow(
                [
                    self.name,
                    kind,
                    file,
                    *(f"{value:.2f}" for value in (report.oks, lost.mean, lost.low, lost.high)),
                ]
            )


def known(path: Path) -> set[tuple[str, ...]]:
    """Rows that were measured before."""
    if not path.is_file():
        path.write_text(",".join(FIELDS) + "\n", encoding="utf-8")
    with path.open(encoding="utf-8", newline="") as file:
        return {tuple(row[key] for key in FIELDS[:3]) for row in csv.DictReader(file)}


def main() -> None:
    """Measures what is missing and appends it row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--model", type=Path)
    given.add_argument(
        "--tuned",
        nargs="+",
        metavar="KIND=CHECKPOINT",
        help="the first of bilinear, nearest, transposed is what the others are held against",
    )
    for name in ("--train", "--evaluation", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--size", type=int, default=192, help="of a TFLite MODEL")
    parser.add_argument("--images", type=int, default=128, help="for calibration")
    parser.add_argument(
        "--steps", type=int, default=100, help="of the fine-tuning of MODEL; 0 leaves it out"
    )
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    paths: dict[str, Path] = {
        kind: Path(path)
        for kind, _, path in (pair.partition("=") for pair in arguments.tuned or [])
    }
    paths = paths or {kind: arguments.model for kind in KINDS}
    if unknown := sorted(set(paths) - set(KINDS)):
        parser.error(f"{unknown[0]} is not an upsampling variant; choose from {', '.join(KINDS)}")
    kinds = [kind for kind in KINDS if kind in paths]
    loaded = load(paths[kinds[0]], arguments.size)
    source = CocoSource(root=str(arguments.train), eval_root=str(arguments.evaluation))
    training, evaluation = source.training(loaded.skeleton), source.evaluation(loaded.skeleton)
    assert evaluation is not None
    images = calibration_images(
        choose_calibration(ExportData(training, evaluation).fitting, arguments.images, 0),
        loaded.preprocessing,
    )
    material = Material(loaded, source, evaluation, images)
    networks = {
        kind: with_upsampling(load(paths[kind], arguments.size).network, kind) for kind in kinds
    }
    Stage(
        "train.py" if arguments.tuned else "as imported", networks, material, arguments.out
    ).measure()
    if arguments.model and arguments.steps:
        trained = {
            kind: tuned(network, material, arguments.steps, arguments.workers)
            for kind, network in networks.items()
        }
        Stage(f"{arguments.steps} steps", trained, material, arguments.out).measure()


if __name__ == "__main__":
    main()
