"""Networks that upsample by nearest or by a transposed convolution, through ONNX.

Float TFLite and int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from heatpose.export.checks import expected_operators, flatbuffer_check
from heatpose.export.convert import convert
from heatpose.export.onnx import export_onnx
from heatpose.models.movenet import MoveNet, with_upsampling
from heatpose.models.tflite_walk import locate
from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.ptq import plan_int8
from heatpose.quantize.settings import PER_CHANNEL, PER_TENSOR
from heatpose.quantize.simulate import simulated
from heatpose.quantize.write_int8 import write_int8
from heatpose.runners import open_runner
from heatpose.tflite.graph import Graph
from heatpose.tflite.reader import read_graph
from heatpose.tflite.writer import dense_kernel, without_crops
from tests.quantize.conftest import SIZE, images, troubled  # noqa: F401  # a fixture

if not all(find_spec(tool) for tool in ("onnx2tf", "tensorflow", "ai_edge_litert")):
    pytest.skip("the export extra is not installed", allow_module_level=True)

pytestmark = pytest.mark.slow
PREPROCESSING = Preprocessing(SIZE)
BODY = {"CONV_2D": 44, "ADD": 13, "LOGISTIC": 1}
UPSAMPLING = {
    "nearest": {"DEPTHWISE_CONV_2D": 24, "RESIZE_NEAREST_NEIGHBOR": 3},
    "transposed": {"DEPTHWISE_CONV_2D": 21, "TRANSPOSE_CONV": 3},
}


@dataclass
class Exported:
    network: MoveNet
    onnx: Path
    tflite: Path


@pytest.fixture(scope="module", params=["nearest", "transposed"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    network = with_upsampling(troubled(), request.param)
    export_onnx(network, SIZE, folder / "net.onnx", sigmoid=True)
    (folder / "net.tflite").write_bytes(convert(folder / "net.onnx"))
    return Exported(network, folder / "net.onnx", folder / "net.tflite")


def own(network: MoveNet, images: np.ndarray) -> np.ndarray:  # noqa: F811
    with torch.no_grad():
        return torch.sigmoid(
            network(PREPROCESSING.normalise(torch.from_numpy(images).permute(0, 3, 1, 2)))
        ).numpy()


def test_float_files_equal_the_network(exported: Exported, images: np.ndarray) -> None:  # noqa: F811
    want = own(exported.network, images[:4])
    assert np.ptp(want) > 0.1  # not all of one value
    for path in (exported.onnx, exported.tflite):
        np.testing.assert_allclose(open_runner(path).heatmaps(images[:4]), want, atol=2e-5)


def test_the_float_file_has_the_variants_operators_and_nothing_else(exported: Exported) -> None:
    kind = exported.network.settings["upsample"]
    operators = expected_operators(exported.network, "float32", sigmoid=True, output="float32")
    assert operators == BODY | UPSAMPLING[kind]
    assert flatbuffer_check(exported.tflite, "float32", PREPROCESSING, operators).passed
    bilinear = expected_operators(troubled(), "float32", sigmoid=True, output="float32")
    assert not flatbuffer_check(exported.tflite, "float32", PREPROCESSING, bilinear).passed


@pytest.mark.parametrize(("artefact", "output"), [("int8_pc", "float32"), ("int8_pt", "int8")])
def test_int8_files_pass_their_check_and_equal_the_simulation(
    exported: Exported,
    images: np.ndarray,  # noqa: F811
    artefact: str,
    output: str,
    tmp_path: Path,
) -> None:
    per_channel = artefact == "int8_pc"
    plan = plan_int8(
        exported.network,
        images,
        PREPROCESSING,
        per_channel=per_channel,
        ptq=PER_CHANNEL if per_channel else PER_TENSOR,
    )
    path = tmp_path / "net.tflite"
    path.write_bytes(write_int8(exported.tflite, plan, output=output))  # type: ignore[arg-type]
    operators = expected_operators(exported.network, artefact, sigmoid=True, output=output)  # type: ignore[arg-type]
    assert operators == BODY | UPSAMPLING[exported.network.settings["upsample"]] | {
        "QUANTIZE": 1
    } | ({"DEQUANTIZE": 1} if output == "float32" else {})
    check = flatbuffer_check(path, artefact, PREPROCESSING, operators)  # type: ignore[arg-type]
    assert check.passed, check.sentence
    found, expected, exact = (
        open_runner(path).heatmaps(images),
        own(simulated(plan), images),
        own(exported.network, images),
    )
    # One step of difference in a sum moves everything behind it a little, so the two agree to the
    # size of the rounding itself.
    assert np.abs(found - expected).mean() <= max(0.004, 0.7 * np.abs(expected - exact).mean())
    check_fixed_layers(read_graph(path), plan.network)


def check_fixed_layers(graph: Graph, network: MoveNet) -> None:
    """The file's weights and biases are those of the plan, which has scaled the fixed ones."""
    located = locate(graph, network)
    for step in network.pyramid:
        smooth = step.smooth
        assert smooth is not None and smooth.conv.bias is not None
        operator = located.convolutions[smooth]
        transposed = operator.name == "TRANSPOSE_CONV"
        weight, bias = (
            graph.tensors[operator.inputs[i]] for i in ((1, 3) if transposed else (1, 2))
        )
        values = (
            np.stack([weight.dequantized()[c, :, :, c] for c in range(weight.shape[0])])
            if transposed
            else weight.dequantized()[0].transpose(2, 0, 1)
        )
        wanted = smooth.conv.weight.detach().numpy()[:, 0]
        assert np.abs(values - wanted).max() <= 0.51 * np.abs(wanted).max() / 127
        assert bias.quantization is not None
        assert (
            np.abs(bias.dequantized() - smooth.conv.bias.detach().numpy())
            <= 0.51 * bias.quantization.scales + 1e-5
        ).all()
        if transposed:
            # nothing off the diagonal
            assert np.count_nonzero(weight.data) == np.count_nonzero(values)


def test_a_dense_kernel_is_diagonal() -> None:
    weight = np.arange(1, 2 * 3 * 4 + 1, dtype=np.int8).reshape(2, 1, 3, 4)
    dense = dense_kernel(weight)
    assert (
        dense.shape == (2, 3, 4, 2)
        and (dense[0, :, :, 0] == weight[0, 0]).all()
        and (dense[1, :, :, 1] == weight[1, 0]).all()
    )
    assert np.count_nonzero(dense) == weight.size


def test_other_transposed_convolutions_stay_as_they_are(
    small_models: dict[str, Path], tmp_path: Path
) -> None:
    without = small_models["float32"].read_bytes()
    assert without_crops(without) is without
    path = tmp_path / "awkward.tflite"
    path.write_bytes(without_crops(small_models["awkward"].read_bytes()))
    before, after = (
        [
            (o.name, dict(o.options), [graph.tensors[i].shape for i in o.outputs])
            for o in graph.operators
        ]
        for graph in map(read_graph, (small_models["awkward"], path))
    )
    assert before == after and any(name == "TRANSPOSE_CONV" for name, *_ in after)
