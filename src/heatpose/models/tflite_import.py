"""Weights out of MoveNet TFLite files: Google's MoveNet SinglePose Lightning (int8, float16, float32) and files of the same graph.

Tensor names in these files are fused strings and equal tensors are shared, so layers are found by walking the graph from the input: each step
asks for the next operator of the expected kind and shape, and the first that does not fit is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.export.flatbuffer import read_graph
from heatpose.export.graph import Graph, Operator
from heatpose.models.layers import ConvBlock, scaled_channels
from heatpose.models.mobilenetv2 import TAPS, InvertedResidual
from heatpose.models.movenet import MoveNet, PyramidStep

TRANSPARENT = {"QUANTIZE", "DEQUANTIZE", "CAST"}
"""Operators that change the number format only."""
CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}
WIDTHS = (1.0, 1.75, 0.35, 0.5, 0.75, 1.3, 1.4)
"""Multipliers of MoveNet and MobileNetV2. Channels are multiples of 8, so the stem alone does not tell them all apart: 0.35 and 0.5 have 16."""


def import_movenet(path: str | Path) -> MoveNet:
    """Builds the heatmap network out of a MoveNet TFLite file.

    Args:
        path: Google's file (four heads; the keypoint-heatmap head is taken) or a file with the heatmap head alone.

    Returns:
        A network without batch norm (its convolutions have biases), width and number of keypoints as in the file, in eval mode. It gives
        logits: the file's final sigmoid is left out.

    Raises:
        HeatposeError: Not a TFLite file, or not this graph: the message names the first layer that does not fit.
    """
    walk = _Walk(Path(path), read_graph(path))
    failures = []
    for width in walk.widths():
        network = MoveNet(walk.keypoints(), width=width, norm=False)
        try:
            with torch.no_grad():
                walk.fill(network)
            return network.eval()
        except HeatposeError as error:
            failures.append((walk.copied, error))
    raise max(failures, key=lambda failure: failure[0])[1]  # the width that fitted longest names the layer


class _Walk:
    """Goes through the graph beside a network and copies each layer."""

    def __init__(self, path: Path, graph: Graph) -> None:
        self.path = path
        self.graph = graph
        self.stem = self._first_convolution()
        self.head_operators = self._heatmap_head()
        self.copied = 0

    def fail(self, layer: str, why: str) -> HeatposeError:
        return HeatposeError(f"'{self.path}' is no MoveNet that can be imported: at {layer}, {why}.")

    def fill(self, network: MoveNet) -> None:
        """Copies every layer, in the order of the forward pass; `copied` counts them."""
        self.copied = 0
        features = network.backbone.features
        stem = features[0]
        assert isinstance(stem, ConvBlock)
        x = self.copy("stem", self.stem, stem)
        taps = []
        for i, layer in enumerate(list(features)[1:], start=1):
            x = self.residual(f"block {i}", x, layer) if isinstance(layer, InvertedResidual) else self.step("last backbone convolution", x, layer)
            if i in TAPS:
                taps.append(x)
        x = self.step("pyramid top", x, network.top)
        for i, (step, tap) in enumerate(zip(network.pyramid, reversed(taps), strict=True)):
            x = self.pyramid_step(f"pyramid step {i}", x, tap, step)
        blocks = [network.head.depthwise, network.head.hidden, network.head.output]
        for name, operator, block in zip(("depthwise", "hidden", "output"), self.head_operators, blocks, strict=True):
            self.copy(f"heatmap head, {name}", operator, block)

    def residual(self, layer: str, x: int, block: InvertedResidual) -> int:
        names = ("expand", "depthwise", "project")[-len(block.blocks) :]
        out = x
        for name, conv in zip(names, block.blocks, strict=True):
            out = self.step(f"{layer}, {name}", out, conv)
        return self.addition(layer, x, out) if block.adds else out

    def pyramid_step(self, layer: str, x: int, tap: int, step: torch.nn.Module) -> int:
        assert isinstance(step, PyramidStep)
        resize = self.find(layer, x, lambda operator: operator.name == "RESIZE_BILINEAR", "a bilinear resize")
        if not resize.options.get("half_pixel_centers") or resize.options.get("align_corners"):
            raise self.fail(layer, "the resize does not use half-pixel centres")
        lateral = self.step(f"{layer}, lateral", tap, step.lateral)
        out = self.addition(layer, resize.outputs[0], lateral)
        return self.step(f"{layer}, pointwise", self.step(f"{layer}, depthwise", out, step.depthwise), step.pointwise)

    def addition(self, layer: str, a: int, b: int) -> int:
        reached = {id(operator) for operator in self.consumers(b)}
        operator = self.find(layer, a, lambda o: o.name == "ADD" and id(o) in reached, "an addition of its two branches")
        return operator.outputs[0]

    def step(self, layer: str, x: int, block: torch.nn.Module) -> int:
        assert isinstance(block, ConvBlock)
        wanted = tuple(block.conv.weight.shape)
        kind = "DEPTHWISE_CONV_2D" if block.conv.groups > 1 else "CONV_2D"
        fits = lambda o: o.name == kind and self.kernel(o).shape == wanted  # noqa: E731
        found = [f"{o.name} {self.kernel(o).shape}" for o in self.consumers(x) if o.name in CONVOLUTIONS]
        operator = self.find(layer, x, fits, f"a {kind} with weights {wanted}, but the file has {found or 'none'}")
        return self.copy(layer, operator, block)

    def copy(self, layer: str, operator: Operator, block: ConvBlock) -> int:
        weight, bias = self.kernel(operator), self.graph.resolve_constant(operator.inputs[2]) if len(operator.inputs) > 2 else None
        if weight.shape != tuple(block.conv.weight.shape):
            raise self.fail(layer, f"weights {tuple(block.conv.weight.shape)} were expected, but the file has {weight.shape}")
        options = operator.options
        activation = {"relu6": "RELU6", "relu": "RELU", "none": "NONE"}[type(block.activation).__name__.lower().replace("identity", "none")]
        expected = {"stride": block.conv.stride, "activation": activation}
        if block.conv.kernel_size != (1, 1):  # nothing to pad under a 1x1 kernel: SAME and VALID are one
            expected["padding"] = "SAME"
        for key, value in expected.items():
            found = tuple(options[key]) if key == "stride" else options[key]
            if found != value:
                raise self.fail(layer, f"{key} {value} was expected, but the file has {found}")
        block.conv.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        assert block.conv.bias is not None
        block.conv.bias.copy_(torch.zeros(len(weight)) if bias is None else torch.from_numpy(bias.reshape(-1).copy()))
        return operator.outputs[0]

    def kernel(self, operator: Operator) -> NDArray[np.float32]:
        """Weights as torch wants them: OHWI -> OIHW; depthwise (1, H, W, C) -> (C, 1, H, W)."""
        values = self.graph.resolve_constant(operator.inputs[1])
        if values is None or values.ndim != 4:
            raise self.fail(f"operator {operator.index} ({operator.name})", "the weights are no constant of four dimensions")
        return values.transpose((3, 0, 1, 2) if operator.name == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2))

    def consumers(self, tensor: int) -> Iterator[Operator]:
        """Operators that use a tensor, looking through changes of number format."""
        for operator in self.graph.consumers(tensor):
            if operator.name in TRANSPARENT:
                yield from self.consumers(operator.outputs[0])
            else:
                yield operator

    def find(self, layer: str, tensor: int, fits: object, wanted: str) -> Operator:
        assert callable(fits)
        matching = [operator for operator in self.consumers(tensor) if fits(operator)]
        if len(matching) != 1:
            raise self.fail(layer, f"the graph needs {wanted}" if not matching else f"{len(matching)} operators fit where one is expected")
        return matching[0]

    def _first_convolution(self) -> Operator:
        if len(self.graph.inputs) != 1:
            raise self.fail("input", f"one image is expected, but the file has {len(self.graph.inputs)} inputs")
        tensor = self.graph.inputs[0]
        low, high = np.zeros(3), np.full(3, 255.0)
        plain = True
        for _ in range(8):
            operators = list(self.consumers(tensor))
            if len(operators) != 1:
                break
            operator = operators[0]
            if operator.name == "CONV_2D":
                if not plain:
                    self._check_normalisation(low, high)
                return operator
            low, high = (self._arithmetic(operator, tensor, values) for values in (low, high))
            plain, tensor = False, operator.outputs[0]
        raise self.fail("input", "no convolution follows")

    def _arithmetic(self, operator: Operator, tensor: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        functions: dict[str, np.ufunc] = {"SUB": np.subtract, "ADD": np.add, "MUL": np.multiply, "DIV": np.divide}
        constant = next((c for c in map(self.graph.resolve_constant, operator.inputs) if c is not None), None)
        if operator.name not in functions or constant is None or constant.size not in (1, 3):
            raise self.fail("input", f"the operator {operator.name} is no part of MoveNet's normalisation")
        return np.asarray(functions[operator.name](values, constant.reshape(-1)), np.float64)

    def _check_normalisation(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        if np.abs(low + 1).max() > 0.02 or np.abs(high - 1).max() > 0.02:
            raise self.fail("input", f"bytes 0 and 255 become {low.round(3)} and {high.round(3)}, not -1 and 1")

    def widths(self) -> list[float]:
        """Width multipliers that give the file's stem."""
        channels = int(self.kernel(self.stem).shape[0])
        candidates = dict.fromkeys((*WIDTHS, channels / 32))
        return [w for w in candidates if scaled_channels(32, w) == channels] or [channels / 32]

    def keypoints(self) -> int:
        return int(self.kernel(self.head_operators[-1]).shape[0])

    def _heatmap_head(self) -> list[Operator]:
        """Depthwise, hidden and output convolution of the head whose more than one channels end in a sigmoid or at the file's output."""
        chains = []
        for last in self.graph.operators:
            if last.name != "CONV_2D" or any(o.name in CONVOLUTIONS | {"ADD", "RESIZE_BILINEAR"} for o in self.consumers(last.outputs[0])):
                continue
            chain = self._chain_before(last)
            if len(chain) == 3 and self.kernel(last).shape[0] > 1:
                chains.append(chain)
        if len(chains) > 1:
            chains = [c for c in chains if any(o.name == "LOGISTIC" for o in self.consumers(c[-1].outputs[0]))]
        if len(chains) != 1:
            raise self.fail("heads", f"one keypoint-heatmap head (depthwise, 1x1, 1x1) is expected, but {len(chains)} were found")
        return chains[0]

    def _chain_before(self, last: Operator) -> list[Operator]:
        chain = [last]
        for kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            before = self.graph.producer(chain[0].inputs[0])
            while before is not None and before.name in TRANSPARENT:
                before = self.graph.producer(before.inputs[0])
            if before is None or before.name != kind:
                break
            chain.insert(0, before)
        return chain
