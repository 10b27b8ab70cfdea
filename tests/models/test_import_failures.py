"""Files that are not a MoveNet, or a damaged one.

Modified real files, and the layer that each message names.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatpose.errors import HeatposeError
from heatpose.models.movenet import MoveNet
from heatpose.models.tflite_import import import_movenet
from heatpose.models.tflite_walk import find_heads, locate
from heatpose.tflite.graph import Operator
from heatpose.tflite.reader import read_graph

Change = Callable[[Any, "Places"], None]


class Places:
    """Where things are in a file: positions of operators, in the file's order."""

    def __init__(self, path: Path) -> None:
        self.graph = read_graph(path)
        self.network = import_movenet(path)
        self.located = locate(self.graph, self.network)

    def block(self, index: int, part: int) -> Operator:
        """Convolution `part` of backbone block `index`."""
        return self.located.convolutions[self.network.backbone.features[index].blocks[part]]  # type: ignore[union-attr,index]

    def head(self, name: str, part: str) -> Operator:
        return self.located.convolutions[getattr(self.network.heads()[name], part)]

    def pyramid(self, step: int) -> Any:
        return self.network.pyramid[step]

    def following(self, operator: Operator) -> Operator:
        return self.graph.consumers(operator.outputs[0])[0]


def options(model: Any, operator: Operator) -> Any:
    return model.subgraphs[0].operators[operator.index].builtinOptions


def renamed(model: Any, operator: Operator, name: str) -> None:
    """Makes an operator another one, its own options dropped."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = 1
    model.operatorCodes.append(code)
    changed = model.subgraphs[0].operators[operator.index]
    changed.opcodeIndex = len(model.operatorCodes) - 1
    kinds = {"SUB": "SubOptions", "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions"}
    changed.builtinOptions = getattr(schema, kinds[name] + "T")() if name in kinds else None
    changed.builtinOptionsType = getattr(schema.BuiltinOptions, kinds[name]) if name in kinds else 0


def cut(model: Any, operator: Operator) -> None:
    """Takes an operator out; what read its output reads its input."""
    graph = model.subgraphs[0]
    for other in graph.operators:
        other.inputs = [
            operator.inputs[0] if index == operator.outputs[0] else index for index in other.inputs
        ]
    del graph.operators[operator.index]


def fewer_outputs(model: Any, operator: Operator, place: int = 1) -> None:
    """Half of a convolution's output channels, or half of its bias (place 2)."""
    tensor = model.subgraphs[0].tensors[operator.inputs[place]]
    buffer = model.buffers[tensor.buffer]
    tensor.shape = [tensor.shape[0] // 2, *tensor.shape[1:]]
    buffer.data = np.asarray(buffer.data, np.uint8)[: 4 * int(np.prod(tensor.shape))]


def emptied(model: Any, tensor: int) -> None:
    """A constant without its values."""
    model.subgraphs[0].tensors[tensor].buffer = 0


def set_options(name: str, value: int) -> Callable[[Any, Operator], None]:
    return lambda model, operator: setattr(options(model, operator), name, value)


CHANGES: dict[str, tuple[Change, str]] = {
    "activation": (
        lambda m, p: set_options("fusedActivationFunction", 1)(m, p.block(4, 0)),
        "block 4, expand, activation RELU6 was expected, .* RELU$",
    ),
    "stride": (
        lambda m, p: set_options("strideW", 1)(m, p.block(2, 1)),
        r"block 2, depthwise, stride \(2, 2\) was expected, .* \(2, 1\)",
    ),
    "padding": (
        lambda m, p: set_options("padding", 1)(m, p.block(1, 0)),
        "block 1, depthwise, padding SAME was expected, .* VALID",
    ),
    "dilation": (
        lambda m, p: set_options("dilationHFactor", 2)(m, p.block(9, 1)),
        r"block 9, depthwise, dilation \(1, 1\) was expected",
    ),
    "channels": (
        lambda m, p: fewer_outputs(m, p.block(5, 2)),
        (
            r"block 5, project, the graph needs a CONV_2D with weights \(\d+, \d+, 1, 1\), but .*"
            r" \(\d+,"
        ),
    ),
    "weights": (
        lambda m, p: emptied(m, p.block(12, 0).inputs[1]),
        "block 12, expand, the graph needs a CONV_2D .* without constant weights",
    ),
    "bias": (
        lambda m, p: emptied(m, p.block(12, 0).inputs[2]),
        "block 12, expand, the bias is not a constant",
    ),
    "short bias": (
        lambda m, p: fewer_outputs(m, p.block(12, 0), 2),
        r"block 12, expand, a bias of \d+ values was expected, but the file has \d+",
    ),
    "missing layer": (
        lambda m, p: cut(m, p.block(8, 1)),
        "block 8, depthwise, the graph needs a DEPTHWISE_CONV_2D",
    ),
    "addition": (
        lambda m, p: renamed(m, p.located.additions[p.network.backbone.features[3].add], "SUB"),
        "block 3, the graph needs an addition",
    ),  # type: ignore[index]
    "resize": (
        lambda m, p: renamed(
            m, p.located.resizes[p.pyramid(1).upsample], "RESIZE_NEAREST_NEIGHBOR"
        ),
        "pyramid step 1, .* a bilinear resize",
    ),
    "corners": (
        lambda m, p: set_options("alignCorners", True)(m, p.located.resizes[p.pyramid(0).upsample]),
        "pyramid step 0, the resize does not use",
    ),
    "half pixels": (
        lambda m, p: set_options("halfPixelCenters", False)(
            m, p.located.resizes[p.pyramid(2).upsample]
        ),
        "pyramid step 2, the resize does not",
    ),
    "hidden layer": (
        lambda m, p: emptied(m, p.head("heatmap", "hidden").inputs[1]),
        "heatmap head, hidden, weights .* were expected, .* no constant",
    ),
    "head": (
        lambda m, p: renamed(m, p.head("heatmap", "hidden"), "RELU"),
        "heatmap head, a depthwise, a 1x1 and a 1x1 convolution are expected",
    ),
}
FOUR_HEADS: dict[str, tuple[Change, str]] = {
    "no sigmoid": (
        lambda m, p: renamed(m, p.following(p.head("centre", "output")), "TANH"),
        "centre head, .* only these heads are recognised: ",
    ),
    "no regression": (
        lambda m, p: cut(m, p.head("regression", "hidden")),
        "regression head, .* only these heads are recognised: .*heatmap",
    ),
    "no offset": (
        lambda m, p: cut(m, p.head("offset", "output")),
        "offset head, .* only these heads are recognised: .*heatmap",
    ),
}


def modified(source: Path, folder: Path, change: Change) -> Path:
    """A copy of a file with something changed."""
    flatbuffers = pytest.importorskip("flatbuffers")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(source.read_bytes(), 0)
    change(model, Places(source))
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path = folder / "modified.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES.keys())
def test_the_first_layer_that_does_not_fit_is_named(
    files: Path, change: Change, message: str, tmp_path: Path
) -> None:
    path = modified(files / "plain_float32.tflite", tmp_path, change)
    with pytest.raises(
        HeatposeError,
        match=rf"modified\.tflite' is not a MoveNet that can be imported: at {message.rstrip('$')}",
    ) as caught:
        import_movenet(path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("change", "message"), FOUR_HEADS.values(), ids=FOUR_HEADS.keys())
def test_a_head_that_is_not_there_is_named(
    files: Path, change: Change, message: str, tmp_path: Path
) -> None:
    path = modified(files / "thunder_float32.tflite", tmp_path, change)
    with pytest.raises(
        HeatposeError, match=f"is not the configured network: at {message}"
    ) as caught:
        import_movenet(path, MoveNet(17, 1.75, heads="all"))
    assert "\n" not in str(caught.value)


def test_googles_file_without_a_layer_is_refused(lightning: Path, tmp_path: Path) -> None:
    path = modified(
        lightning, tmp_path, lambda m, p: renamed(m, p.located.additions[p.pyramid(2).add], "SUB")
    )
    with pytest.raises(
        HeatposeError, match="at pyramid step 2, the graph needs an addition of its two branches"
    ):
        import_movenet(path)
    path = modified(
        lightning, tmp_path, lambda m, p: emptied(m, p.head("offset", "depthwise").inputs[1])
    )
    with pytest.raises(
        HeatposeError,
        match="at offset head, depthwise, weights .* were expected, but the file has no constant",
    ):
        import_movenet(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "layer"),
    [
        ("other_head", "block 1, depthwise, activation"),
        ("no_head", "block 1, depthwise, the"),
        ("unit_range", "input"),
    ],
)
def test_a_graph_that_is_not_a_movenet_is_refused_with_the_layer(
    files: Path, file: str, layer: str
) -> None:
    with pytest.raises(
        HeatposeError, match=rf"{file}.tflite' is not a MoveNet that can be imported: at {layer}"
    ):
        import_movenet(files / f"{file}.tflite")


def test_only_an_unchanged_copy_comes_in(lightning: Path, tmp_path: Path) -> None:
    """The tool that modifies files adds no fault of its own."""
    network = import_movenet(modified(lightning, tmp_path, lambda m, p: None))
    graph = read_graph(lightning)
    assert network.four_heads and network.settings == import_movenet(lightning).settings
    features = (
        graph.constant(0) is None
        and locate(graph, network).convolutions[network.pyramid[2].pointwise]
    )  # type: ignore[union-attr,index]
    assert features and set(find_heads(graph, features.outputs[0])) == {
        "heatmap",
        "centre",
        "regression",
        "offset",
    }
