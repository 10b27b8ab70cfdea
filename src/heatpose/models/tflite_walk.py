"""Where each layer of a MoveNet is in a TFLite graph.

Tensor names in these files are fused strings and equal tensors are shared, so layers are found by walking the graph from the input beside a
network: each step asks for the next operator of the expected kind and shape, and the first that does not fit is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from heatpose.export.graph import ABSENT, Graph, Operator
from heatpose.models.layers import Add, ConvBlock
from heatpose.models.mobilenetv2 import TAPS, InvertedResidual
from heatpose.models.movenet import MoveNet, PyramidStep
from heatpose.models.tflite_heads import Chain, consumers, find_heads
from heatpose.models.tflite_input import LayerMismatch, first_convolution
from heatpose.models.upsample import NearestUpsample, TransposedUpsample

ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU6: "RELU6", nn.ReLU: "RELU", nn.Identity: "NONE"}
CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}


@dataclass(frozen=True, eq=False)
class Located:
    """The operators of a network's layers.

    Attributes:
        convolutions: Of every `ConvBlock`, in the order of the forward pass, heads last.
        additions: Of every `Add` in use: residual blocks that add, and pyramid steps.
        resizes: Of every pyramid step's `nn.Upsample`, bilinear or nearest.
    """

    convolutions: dict[ConvBlock, Operator] = field(default_factory=dict)
    additions: dict[Add, Operator] = field(default_factory=dict)
    resizes: dict[nn.Module, Operator] = field(default_factory=dict)


def locate(graph: Graph, network: MoveNet, file: str = "The TFLite file") -> Located:
    """Finds every layer of a network in a graph.

    Args:
        graph: Of a TFLite file in any number format, with or without normalisation before and a decode behind.
        network: Of the file's settings; a network with the heatmap head alone also fits a file with four heads.
        file: What the message calls the file.

    Raises:
        LayerMismatch: The message names the first layer that does not fit.
    """
    return _Walk(graph, file).follow(network)


def kernel_shape(graph: Graph, operator: Operator) -> tuple[int, ...]:
    """Shape of a convolution's weights as torch has them: OHWI -> OIHW; depthwise (1, H, W, C) -> (C, 1, H, W). () where they are no constant.

    A transposed convolution is dense in a file and depthwise here: (C, H, W, C) -> (C, 1, H, W).
    """
    constant = graph.constant(operator.inputs[1])
    if constant is None or len(constant.shape) != 4:
        return ()
    if operator.name == "TRANSPOSE_CONV" and constant.shape[0] == constant.shape[3]:
        return (constant.shape[0], 1, *constant.shape[1:3])
    order = (3, 0, 1, 2) if operator.name == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2)
    return tuple(constant.shape[axis] for axis in order)


class _Walk:
    """Goes through the graph beside a network."""

    def __init__(self, graph: Graph, file: str) -> None:
        self.graph, self.file = graph, file
        self.located = Located()

    def fail(self, layer: str, why: str) -> LayerMismatch:
        return LayerMismatch(self.file, layer, why, len(self.located.convolutions))

    def follow(self, network: MoveNet) -> Located:
        """Finds every layer, in the order of the forward pass."""
        stem, *layers = network.backbone.features
        x = self.accept("stem", first_convolution(self.graph, self.file)[0], stem)
        taps = []
        for i, layer in enumerate(layers, start=1):
            x = self.residual(f"block {i}", x, layer) if isinstance(layer, InvertedResidual) else self.step("last backbone convolution", x, layer)
            if i in TAPS:
                taps.append(x)
        x = self.step("pyramid top", x, network.top)
        for i, (step, tap) in enumerate(zip(network.pyramid, reversed(taps), strict=True)):
            x = self.pyramid_step(f"pyramid step {i}", x, tap, step)
        self.heads(x, network)
        return self.located

    def heads(self, x: int, network: MoveNet) -> None:
        found = find_heads(self.graph, x)
        for name, head in network.heads().items():
            if name not in found:
                known = ", ".join(found) or "none"
                raise self.fail(f"{name} head", f"a depthwise, a 1x1 and a 1x1 convolution are expected, but the graph tells only these heads: {known}")
            self.head(name, found[name], [head.depthwise, head.hidden, head.output])

    def head(self, name: str, chain: Chain, blocks: list[ConvBlock]) -> None:
        for part, operator, block in zip(("depthwise", "hidden", "output"), chain, blocks, strict=True):
            self.accept(f"{name} head, {part}", operator, block)

    def residual(self, layer: str, x: int, block: InvertedResidual) -> int:
        names = ("expand", "depthwise", "project")[-len(block.blocks) :]
        out = x
        for name, conv in zip(names, block.blocks, strict=True):
            out = self.step(f"{layer}, {name}", out, conv)
        return self.addition(layer, block.add, x, out) if block.adds else out

    def pyramid_step(self, layer: str, x: int, tap: int, step: nn.Module) -> int:
        assert isinstance(step, PyramidStep)
        larger = self.upsampling(layer, x, step.upsample)
        lateral = self.step(f"{layer}, lateral", tap, step.lateral)
        out = self.addition(layer, step.add, larger, lateral)
        return self.step(f"{layer}, pointwise", self.step(f"{layer}, depthwise", out, step.depthwise), step.pointwise)

    def upsampling(self, layer: str, x: int, module: nn.Module) -> int:
        if isinstance(module, TransposedUpsample):
            operator = self.find(layer, x, lambda o: o.name == "TRANSPOSE_CONV", "a transposed convolution")
            return self.accept(layer, operator, module.smooth)
        if isinstance(module, NearestUpsample):
            resize = self.find(layer, x, lambda o: o.name == "RESIZE_NEAREST_NEIGHBOR", "a nearest resize")
            self.located.resizes[module.repeat] = resize  # of a whole factor: where its centres lie makes no difference
            return self.step(f"{layer}, smoothing", resize.outputs[0], module.smooth)
        resize = self.find(layer, x, lambda o: o.name == "RESIZE_BILINEAR", "a bilinear resize")
        if not resize.options.get("half_pixel_centers") or resize.options.get("align_corners"):
            raise self.fail(layer, "the resize does not use half-pixel centres")
        self.located.resizes[module] = resize
        return resize.outputs[0]

    def addition(self, layer: str, module: Add, a: int, b: int) -> int:
        reached = {operator.index for operator in consumers(self.graph, b)}
        operator = self.find(layer, a, lambda o: o.name == "ADD" and o.index in reached, "an addition of its two branches")
        self.located.additions[module] = operator
        return operator.outputs[0]

    def step(self, layer: str, x: int, block: nn.Module) -> int:
        assert isinstance(block, ConvBlock)
        wanted = tuple(block.conv.weight.shape)
        kind = "DEPTHWISE_CONV_2D" if block.conv.groups > 1 else "CONV_2D"
        found = [o for o in consumers(self.graph, x) if o.name in CONVOLUTIONS]
        fitting = [o for o in found if o.name == kind and kernel_shape(self.graph, o) == wanted]
        if len(fitting) > 1:  # a lateral and an expansion of the same shape
            fitting = [o for o in fitting if o.options["activation"] == ACTIVATIONS[type(block.activation)]]
        if len(fitting) != 1:
            there = ", ".join(f"{o.name} {kernel_shape(self.graph, o) or 'without constant weights'}" for o in found) or "none"
            raise self.fail(layer, f"the graph needs a {kind} with weights {wanted}, but the file has {there}")
        return self.accept(layer, fitting[0], block)

    def accept(self, layer: str, operator: Operator, block: nn.Module) -> int:
        """Checks everything that a convolution computes with, and notes it."""
        assert isinstance(block, ConvBlock)
        shape, options = kernel_shape(self.graph, operator), operator.options
        expected: dict[str, object] = {"weights": tuple(block.conv.weight.shape), "stride": block.conv.stride, "dilation": (1, 1)}
        found: dict[str, object] = {"weights": shape or "no constant", "stride": tuple(options["stride"]), "dilation": tuple(options.get("dilation", (1, 1)))}
        expected["activation"], found["activation"] = ACTIVATIONS[type(block.activation)], options["activation"]
        if block.conv.kernel_size != (1, 1):  # nothing to pad under a 1x1 kernel: SAME and VALID are one
            expected["padding"], found["padding"] = "SAME", options["padding"]
        for key, value in expected.items():
            if found[key] != value:
                verb = "were" if key == "weights" else "was"
                raise self.fail(layer, f"{key} {value} {verb} expected, but the file has {found[key]}")
        self.check_bias(layer, operator, block.conv.out_channels)
        self.located.convolutions[block] = operator
        return operator.outputs[0]

    def check_bias(self, layer: str, operator: Operator, channels: int) -> None:
        """There is none, or it is a constant with a value for each channel."""
        place = 3 if operator.name == "TRANSPOSE_CONV" else 2
        if len(operator.inputs) <= place or operator.inputs[place] == ABSENT:
            return
        bias = self.graph.constant(operator.inputs[place])
        if bias is None:
            raise self.fail(layer, "the bias is no constant")
        if math.prod(bias.shape) != channels:
            raise self.fail(layer, f"a bias of {channels} values was expected, but the file has {math.prod(bias.shape)}")

    def find(self, layer: str, tensor: int, fits: Callable[[Operator], bool], wanted: str) -> Operator:
        matching = [operator for operator in consumers(self.graph, tensor) if fits(operator)]
        if len(matching) != 1:
            raise self.fail(layer, f"the graph needs {wanted}" if not matching else f"{len(matching)} operators fit where one is expected")
        return matching[0]
