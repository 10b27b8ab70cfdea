"""The int8 writer: the file holds the plan's numbers and computes what the simulation does."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from heatpose.errors import HeatposeError
from heatpose.export.convert import convert
from heatpose.export.onnx import export_onnx
from heatpose.models.movenet import MoveNet
from heatpose.models.tflite_walk import locate
from heatpose.models.topology import Topology
from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.ptq import plan_int8
from heatpose.quantize.settings import PER_CHANNEL, PER_TENSOR
from heatpose.quantize.simulate import Plan, simulated
from heatpose.quantize.write_int8 import write_int8
from heatpose.runners import open_runner
from heatpose.tflite.inspect import inspect_tflite
from heatpose.tflite.reader import read_graph
from heatpose.tflite.writer import ALIGNMENT
from tests.quantize.conftest import SIZE, images, troubled  # noqa: F401  # a fixture

if not all(find_spec(tool) for tool in ("onnx2tf", "tensorflow", "ai_edge_litert")):
    pytest.skip("the export extra is not installed", allow_module_level=True)

pytestmark = pytest.mark.slow
PREPROCESSING = Preprocessing(SIZE)


@dataclass
class Float:
    network: MoveNet
    path: Path


@pytest.fixture(scope="module", params=["heatmap", "all"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Float:
    """A network and its float file."""
    folder = tmp_path_factory.mktemp("float")
    network = troubled(request.param)
    export_onnx(network, SIZE, folder / "net.onnx", sigmoid=True)
    (folder / "net.tflite").write_bytes(convert(folder / "net.onnx"))
    return Float(network, folder / "net.tflite")


def plan(made: Float, images: np.ndarray, per_channel: bool) -> Plan:  # noqa: F811
    ptq = PER_CHANNEL if per_channel else PER_TENSOR
    return plan_int8(made.network, images, PREPROCESSING, per_channel=per_channel, ptq=ptq)


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_file_holds_the_plans_numbers(
    made: Float,
    images: np.ndarray,  # noqa: F811
    per_channel: bool,
    tmp_path: Path,
) -> None:
    wanted = plan(made, images, per_channel)
    path = tmp_path / "net.tflite"
    path.write_bytes(write_int8(made.path, wanted))
    assert path.read_bytes() == write_int8(made.path, wanted)
    graph = read_graph(path)
    located = locate(graph, wanted.network)
    names = {id(module): name for name, module in Topology(wanted.network).stored().items()}
    for module, operator in (*located.convolutions.items(), *located.additions.items()):
        stored, quant_params = (
            graph.tensors[operator.outputs[0]],
            wanted.activation_params[names[id(module)]],
        )
        assert stored.dtype == "int8" and stored.quantization is not None
        assert (float(stored.quantization.scales[0]), int(stored.quantization.zero_points[0])) == (
            quant_params.scale,
            quant_params.zero_point,
        )
    for block, operator in located.convolutions.items():
        weight = graph.tensors[operator.inputs[1]]
        assert weight.quantization is not None and weight.quantization.scales.size == (
            block.conv.out_channels if per_channel else 1
        )
        values = weight.dequantized().transpose(
            (3, 0, 1, 2) if operator.name.startswith("DEPTH") else (0, 3, 1, 2)
        )
        largest = float(block.conv.weight.detach().abs().max())
        assert np.abs(values - block.conv.weight.detach().numpy()).max() <= 0.51 * largest / 127
        bias = graph.tensors[operator.inputs[2]]
        assert bias.quantization is not None and block.conv.bias is not None
        assert (
            np.abs(bias.dequantized() - block.conv.bias.detach().numpy())
            <= 0.51 * bias.quantization.scales + 1e-5
        ).all()


def test_constants_are_aligned(made: Float, images: np.ndarray, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "net.tflite"
    path.write_bytes(write_int8(made.path, plan(made, images, True)))
    content = path.read_bytes()
    graph = read_graph(path)
    for tensor in graph.tensors:
        if tensor.data is not None and tensor.data.nbytes >= 64:  # long enough to be found
            assert content.find(tensor.data.tobytes()) % ALIGNMENT == 0


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_file_computes_the_same_as_the_simulation(
    made: Float,
    images: np.ndarray,  # noqa: F811
    per_channel: bool,
    tmp_path: Path,
) -> None:
    wanted = plan(made, images, per_channel)
    path = tmp_path / "net.tflite"
    path.write_bytes(write_int8(made.path, wanted))
    if made.network.four_heads:
        poses = open_runner(path).predict(images)
        assert poses.shape == (len(images), 5, 3) and np.isfinite(poses).all()
        counts = inspect_tflite(path).operators
        assert (counts["QUANTIZE"], counts["DEQUANTIZE"], counts["CONV_2D"]) == (1, 4, 44 + 6)
        return
    found = open_runner(path).heatmaps(images)
    with torch.no_grad():
        normalised = PREPROCESSING.normalise(torch.from_numpy(images).permute(0, 3, 1, 2))
        expected = torch.sigmoid(simulated(wanted)(normalised)).numpy()
    # To the last step: what differs is the sigmoid alone, which the file stores in steps of 1/256
    # up to 255/256.
    assert np.abs(found - expected.clip(0, 255 / 256)).max() <= 0.5 / 256 + 1e-6
    cells = expected.reshape(*expected.shape[:2], -1)
    assert len({tuple(row) for row in cells.argmax(-1).tolist()}) > 1  # the maps do say something


def test_int8_output_ends_with_the_sigmoid(made: Float, images: np.ndarray, tmp_path: Path) -> None:  # noqa: F811
    wanted = plan(made, images, True)
    if made.network.four_heads:
        with pytest.raises(HeatposeError, match="quant.output=float32"):
            write_int8(made.path, wanted, output="int8")
        return
    path = tmp_path / "net.tflite"
    path.write_bytes(write_int8(made.path, wanted, output="int8"))
    found = inspect_tflite(path)
    (port,) = found.outputs
    assert (
        (port.dtype, port.scale, port.zero_point) == ("int8", 1 / 256, -128)
        and found.full_integer
        and "DEQUANTIZE" not in found.operators
    )


def test_layers_that_became_one_operator_are_refused(images: np.ndarray, tmp_path: Path) -> None:  # noqa: F811
    network = troubled("all")
    assert network.regression is not None
    network.regression.depthwise.load_state_dict(network.head.depthwise.state_dict())
    export_onnx(network, SIZE, tmp_path / "net.onnx", sigmoid=True)
    (tmp_path / "net.tflite").write_bytes(convert(tmp_path / "net.onnx"))
    wanted = plan_int8(network, images, PREPROCESSING, per_channel=True, ptq=PER_CHANNEL)
    with pytest.raises(HeatposeError, match="Two layers of the network are equal"):
        write_int8(tmp_path / "net.tflite", wanted)
