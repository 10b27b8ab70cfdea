"""A tiny network on rendered people, exported once; several test modules look at the bundle."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from heatpose.data.coco import benchmark_instances, instances, read_labels
from heatpose.data.formats.folder import find_split
from heatpose.data.sample import Person
from heatpose.export.job import ExportJob
from heatpose.export.pipeline import export_bundle
from heatpose.export.result import BundleResult
from heatpose.models.checkpoint import LoadedCheckpoint
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13, Skeleton
from heatpose.quantize.calibration import ExportData
from heatpose.quantize.settings import CheckLimits, ExportConfig

# scores of random weights are meaningless
LENIENT = CheckLimits(drift_p50_px=100, drop_pc=100, drop_pt=100)


@dataclass
class Case:
    """Everything an export needs, and the first one made of it."""

    network: MoveNet
    training: list[Person]
    evaluation: list[Person]
    result: BundleResult
    converted: dict[str, bytes]

    def export(self, folder: Path, **changes: Any) -> BundleResult:
        """Exports into `folder`; `changes` are arguments of `job`."""
        return export_bundle(self.job(folder, **changes), Console(quiet=True))

    def job(
        self,
        folder: Path,
        *,
        training: list[Person] | None = None,
        evaluation: list[Person] | None = None,
        scored: bool = True,
        network: MoveNet | None = None,
        skeleton: Skeleton = ST_13,
        model_name: str = "net",
        **config: Any,
    ) -> ExportJob:
        """The case's export, changed; `config` are fields of ExportConfig."""
        settings = ExportConfig(**{"limits": LENIENT, "calibration_images": 16, **config})
        return ExportJob(
            model=LoadedCheckpoint(network or self.network, skeleton, Preprocessing(64), {}),
            data=ExportData(
                self.training if training is None else training,
                (self.evaluation if evaluation is None else evaluation) if scored else None,
                settings.auto,
            ),
            config=settings,
            folder=folder,
            model_name=model_name,
            run_config={"resolution": 64},
            provenance={"init": "random"},
        )


def a_lively_network() -> MoveNet:
    """Random weights, but every layer's output is spread out and every map has a clear maximum."""
    torch.manual_seed(0)
    network = MoveNet(13, width=0.35).train()
    with torch.no_grad():
        network.head.output.norm.weight.mul_(20)  # type: ignore[operator]
        for _ in range(40):  # fills the statistics of the batch norms
            network(torch.nn.functional.interpolate(torch.rand(8, 3, 16, 16) * 2 - 1, size=64))
    return network.eval()


def make_case(synthetic_root: Path, out: Path) -> None:
    """Exports into `out`, and keeps its result."""
    result = new_case(synthetic_root).export(out / "exports/tiny")
    (out / "result.pickle").write_bytes(pickle.dumps(result))


def read_case(synthetic_root: Path, out: Path) -> Case:
    """What `make_case` made."""
    case = new_case(synthetic_root)
    case.result = pickle.loads((out / "result.pickle").read_bytes())
    for artefact in ("float32", "int8_pc", "int8_pt"):
        case.converted[artefact] = (case.result.folder / f"net_64_{artefact}.tflite").read_bytes()
    return case


def new_case(synthetic_root: Path) -> Case:
    """The network and its people, before an export."""
    network = a_lively_network()
    splits = {part: find_split(synthetic_root, part) for part in ("train", "val")}  # type: ignore[arg-type]
    training, _ = instances(read_labels(splits["train"].annotations), splits["train"].images, ST_13)
    evaluation, _ = benchmark_instances(
        read_labels(splits["val"].annotations), splits["val"].images, ST_13
    )
    return Case(network, training, evaluation, BundleResult(Path()), {})
