"""Google's own file: what is imported from it computes what it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from heatpose.data.sample import Person
from heatpose.data.sources import CocoSource
from heatpose.evaluation.evaluate import EvalReport, evaluate
from heatpose.models.checkpoint import LoadedCheckpoint
from heatpose.models.decode import decode_maps
from heatpose.models.init import from_movenet
from heatpose.models.movenet import MoveNet, PoseMaps
from heatpose.models.tflite_import import import_movenet
from heatpose.models.tflite_walk import locate
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton
from heatpose.runners import open_runner
from heatpose.runners.torch_runner import TorchRunner
from heatpose.tflite.reader import read_graph
from heatpose.utils.image_files import load_image

Values = Callable[[int], Tensor]


def instances(shared: Path, skeleton: Skeleton = COCO_17) -> list[Person]:
    found = CocoSource(eval_root=str(shared / "data" / "coco_val_dev")).evaluation(skeleton)
    assert found is not None and len(found) == 470
    return found


def test_googles_file_is_lightning(lightning: Path) -> None:
    network = import_movenet(lightning)
    assert (
        network.keypoints == 17
        and network.settings["width"] == 1.0
        and not network.settings["norm"]
    )
    assert network.four_heads and len(network.conv_blocks()) == 65 + 9
    heatmaps = import_movenet(lightning, MoveNet(17))
    assert sum(p.numel() for p in heatmaps.parameters()) == 2_303_577
    assert all(
        torch.equal(network.state_dict()[name], value)
        for name, value in heatmaps.state_dict().items()
    )
    assert all(torch.isfinite(p).all() for p in network.parameters())
    assert all(block.conv.weight.abs().sum() > 0 for block in network.conv_blocks())


@pytest.fixture(scope="module")
def inside(shared: Path, lightning: Path) -> tuple[Any, Values, Any]:
    """Google's file run on an image.

    Its graph, the real values of any of its int8 activations as NCHW, and its pose y, x, score.
    """
    interpreters = pytest.importorskip(
        "ai_edge_litert.interpreter", reason="the export extra is not installed"
    )
    graph = read_graph(lightning)
    # XNNPACK would not keep what it computes in between
    kernels = interpreters.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = interpreters.Interpreter(
        str(lightning),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=kernels,
    )
    interpreter.allocate_tensors()
    person = instances(shared)[3]
    image = Preprocessing(192).resize(load_image(person.image_path, person.width, person.height))
    interpreter.set_tensor(graph.inputs[0], image[None])
    interpreter.invoke()

    def values(tensor: int) -> Tensor:
        quantization = graph.tensors[tensor].quantization
        assert quantization is not None
        stored = interpreter.get_tensor(tensor).astype(np.float64)
        return (
            torch.from_numpy((stored - quantization.zero_points[0]) * quantization.scales[0])
            .float()
            .permute(0, 3, 1, 2)
        )

    return graph, values, interpreter.get_tensor(graph.outputs[0])[0, 0]


def test_every_layer_computes_the_same_as_the_file(
    inside: tuple[Any, Values, Any], lightning: Path
) -> None:
    """From the file's own int8 input of each layer.

    Its output is the file's to within its rounding, half a step.
    """
    graph, values, _ = inside
    network = import_movenet(lightning)
    located = locate(graph, network)
    layers = [*located.convolutions.items(), *located.additions.items(), *located.resizes.items()]
    assert len(layers) == 74 + 13 + 3
    for module, operator in layers:
        quantization = graph.tensors[operator.outputs[0]].quantization
        scale, zero = float(quantization.scales[0]), int(quantization.zero_points[0])
        with torch.inference_mode():
            found = module(
                *(values(index) for index in operator.inputs if graph.constant(index) is None)
            )
        limited = found.clamp((-128 - zero) * scale, (127 - zero) * scale)
        steps = ((limited - values(operator.outputs[0])) / scale).abs()
        assert steps.max() < 1.01 and steps.mean() < 0.3, f"{operator.name} #{operator.index}"
        assert steps.quantile(0.99) < 0.52 if steps.numel() < 1e7 else True


def test_the_decode_of_the_files_own_maps_is_its_pose(
    inside: tuple[Any, Values, Any], lightning: Path
) -> None:
    """Up to the file's rounding of lengths to a fifth of a cell and of coordinates to three
    quarters of a pixel.
    """
    graph, values, pose = inside
    network = import_movenet(lightning)
    operators = locate(graph, network).convolutions
    heads = network.heads()
    maps = PoseMaps(
        *(
            values(operators[heads[name].output].outputs[0])
            for name in ("centre", "regression", "heatmap", "offset")
        )
    )
    found = decode_maps(maps)[0].numpy()
    sure = pose[:, 2] > 0.3
    assert sure.sum() >= 10
    distance = np.hypot(*(found[:, [1, 0]] - pose[:, :2]).T)[sure] * 192
    # A few of the file's int8 searches end in a tie that a float search decides otherwise.
    assert np.median(distance) < 1 and np.median(np.abs(found[:, 2] - pose[:, 2])[sure]) < 0.004


def scored(shared: Path, network: MoveNet, skeleton: Skeleton) -> EvalReport:
    loaded = LoadedCheckpoint(network, skeleton, Preprocessing(192), {})
    return evaluate(
        TorchRunner(Path("memory"), loaded), instances(shared, skeleton), skeleton, progress=False
    )


@pytest.mark.slow
def test_googles_heatmap_network_keeps_its_measured_score(shared: Path, lightning: Path) -> None:
    assert scored(shared, import_movenet(lightning, MoveNet(17)), COCO_17).oks == pytest.approx(
        55.84, abs=0.15
    )


@pytest.mark.slow
def test_thirteen_keypoints_start_above_54_without_training(shared: Path, lightning: Path) -> None:
    assert (
        scored(shared, from_movenet(MoveNet(13, norm=False), ST_13, str(lightning)), ST_13).oks
        >= 54
    )


@pytest.mark.slow
def test_the_imported_network_has_the_poses_of_googles_file(shared: Path, lightning: Path) -> None:
    """Within the difference between two sets of kernels that run the file."""
    ours = scored(shared, import_movenet(lightning), COCO_17)
    files = [
        evaluate(
            open_runner(lightning, reference_kernels=slow),
            instances(shared),
            COCO_17,
            progress=False,
        )
        for slow in (False, True)
    ]
    sure = files[0].poses[..., 2] > 0.3

    def apart(a: EvalReport, b: EvalReport) -> float:
        return float(np.median(np.linalg.norm((a.poses - b.poses)[..., :2], axis=-1)[sure])) * 192

    assert ours.oks > files[0].oks > 52.7 and ours.oks == pytest.approx(55.83, abs=0.15)
    assert apart(ours, files[0]) < 1.7 < apart(*files)
    bias = np.median((ours.poses - files[0].poses)[..., :2][sure], axis=0) * 192
    assert (np.abs(bias) < 0.3).all()
