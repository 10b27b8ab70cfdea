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
from heatpose.export.checks import CheckLimits
from heatpose.export.pipeline import BundleResult, export_bundle
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13

# random weights tell nothing about int8
LENIENT = CheckLimits(drift_p50_px=100, drop_pc=100, drop_pt=100)


@dataclass
class Case:
    """Everything an export needs, and the first one made of it."""

    network: MoveNet
    training: list[Person]
    evaluation: list[Person]
    result: BundleResult
    converted: dict[str, bytes]

    def export(self, out: Path, **changes: Any) -> BundleResult:
        settings: dict[str, Any] = dict(
            network=self.network,
            skeleton=ST_13,
            preprocessing=Preprocessing(64),
            name="tiny",
            model_name="net",
            out=out,
            calibration_instances=self.training,
            evaluation_instances=self.evaluation,
            limits=LENIENT,
            config={"resolution": 64},
            provenance={"init": "random"},
            calibration_count=16,
            console=Console(quiet=True),
        )
        return export_bundle(**{**settings, **changes})


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
    """Exports into `out`, and keeps what the export answered."""
    result = new_case(synthetic_root).export(out / "exports")
    (out / "result.pickle").write_bytes(pickle.dumps(result))


def read_case(synthetic_root: Path, out: Path) -> Case:
    """What `make_case` made."""
    case = new_case(synthetic_root)
    case.result = pickle.loads((out / "result.pickle").read_bytes())
    for form in ("float32", "int8_pc", "int8_pt"):
        case.converted[form] = (case.result.folder / f"net_64_{form}.tflite").read_bytes()
    return case


def new_case(synthetic_root: Path) -> Case:
    """The network and its people, before an export."""
    network = a_lively_network()
    splits = {part: find_split(synthetic_root, part) for part in ("train", "val")}  # type: ignore[arg-type]
    training, _ = instances(read_labels(splits["train"].annotations), splits["train"].images, ST_13)
    evaluation, _ = benchmark_instances(
        read_labels(splits["val"].annotations), splits["val"].images, ST_13
    )
    return Case(network, training, evaluation, BundleResult(Path(), (), (), {}), {})
