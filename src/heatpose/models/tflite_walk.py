"""Finds the layers of a MoveNet in a TFLite graph.

The heads have equal shapes, so they are identified by their use in the decode behind them: the
centre and the heatmaps pass through a sigmoid and an ARG_MAX; an ARG_MAX of the heatmaps depends on
the regression; no ARG_MAX depends on the offset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from heatpose.errors import HeatposeError
from heatpose.models.layers import Add, ConvBlock, NearestUpsample, TransposedUpsample
from heatpose.models.movenet import TAPS, InvertedResidual, MoveNet, PyramidStep
from heatpose.tflite.graph import ABSENT, Graph, Operator

FORMATS = {"QUANTIZE", "DEQUANTIZE", "CAST"}
"""Operators that only change the number format."""
LAYOUTS = {"RESHAPE", "TRANSPOSE"}
Chain = tuple[Operator, Operator, Operator]
"""Depthwise, hidden and output convolution of a head."""

_ROLES = {(True, 2): "centre", (False, 1): "regression", (True, 1): "heatmap", (False, 0): "offset"}
"""(passes through a sigmoid, number of ARG_MAX operators that depend on it) -> head."""


def consumers(graph: Graph, tensor: int, through: set[str] = FORMATS) -> Iterator[Operator]:
    """Operators that read a tensor, directly or behind operators named in `through`."""
    for operator in graph.consumers(tensor):
        if operator.name in through:
            yield from consumers(graph, operator.outputs[0], through)
        else:
            yield operator


def find_heads(graph: Graph, features: int) -> dict[str, Chain]:
    """Finds the heads behind the pyramid's last tensor.

    Args:
        graph: Of a TFLite file.
        features: Index of the tensor that every head reads.

    Returns:
        The heads by name, as `MoveNet.heads`. A single head is the heatmap head. Of several heads
        without a decode only the centre and the heatmaps can be identified; others are left out.
    """
    chains = list(_chains(graph, features))
    if len(chains) == 1:
        return {"heatmap": chains[0]}
    named = [(_role(graph, chain), chain) for chain in chains]
    names = [name for name, _ in named]
    return {name: chain for name, chain in named if name and names.count(name) == 1}


def _chains(graph: Graph, features: int) -> Iterator[Chain]:
    """Chains of depthwise, 1x1 and 1x1 convolution that no convolution follows.

    Heads may share operators.
    """
    for depthwise in _convolutions(graph, features, "DEPTHWISE_CONV_2D"):
        for hidden in _convolutions(graph, depthwise.outputs[0]):
            for output in _convolutions(graph, hidden.outputs[0]):
                if not list(_convolutions(graph, output.outputs[0])):
                    yield depthwise, hidden, output


def _convolutions(graph: Graph, tensor: int, kind: str = "CONV_2D") -> Iterator[Operator]:
    return (operator for operator in consumers(graph, tensor) if operator.name == kind)


def _role(graph: Graph, chain: Chain) -> str | None:
    output = chain[-1].outputs[0]
    sigmoid = any(
        operator.name == "LOGISTIC" for operator in consumers(graph, output, FORMATS | LAYOUTS)
    )
    searches = _searches(graph, output)
    if sigmoid and searches == 0:
        return "centre" if graph.tensors[output].shape[-1] == 1 else "heatmap"
    return (
        _ROLES.get((sigmoid, searches))
        if searches or any(o.name == "ARG_MAX" for o in graph.operators)
        else None
    )


def _searches(graph: Graph, tensor: int) -> int:
    """Number of ARG_MAX operators that depend on a tensor."""
    reached: set[int] = set()
    waiting = [tensor]
    while waiting:
        for operator in graph.consumers(waiting.pop()):
            if operator.index not in reached:
                reached.add(operator.index)
                waiting += operator.outputs
    return sum(graph.operators[index].name == "ARG_MAX" for index in reached)


TOLERANCE = 0.02
"""Maximum difference from `bytes / 127.5 - 1` (range [-1, 1]); quantised steps are 1/127."""
MAX_OPERATORS = 24
"""Maximum length of a preprocessing, far above any in use."""

_ARITHMETIC: dict[str, np.ufunc] = {
    "SUB": np.subtract,
    "ADD": np.add,
    "MUL": np.multiply,
    "DIV": np.divide,
}
_RESHAPING = {"RESHAPE", "EXPAND_DIMS", "SQUEEZE", "UNPACK", "PACK"}
"""Operators that keep the order of the elements of one image."""
_FORMATS = {"CAST", "QUANTIZE", "DEQUANTIZE"}


class LayerMismatch(HeatposeError):
    """The graph differs from the network's.

    Attributes:
        layer: The first layer that differs.
        why: The difference.
        depth: Number of convolutions that matched.
    """

    def __init__(self, file: str, layer: str, why: str, depth: int = 0) -> None:
        super().__init__(f"{file} is not a MoveNet that can be imported: at {layer}, {why}.")
        self.layer, self.why, self.depth = layer, why, depth


def first_convolution(graph: Graph, file: str) -> tuple[Operator, list[Operator]]:
    """The stem, and the operators between the input and the stem, in order.

    Raises:
        LayerMismatch: There are several inputs, a branch, an operator that is not part of a
            preprocessing, or no convolution.
    """
    if len(graph.inputs) != 1:
        raise LayerMismatch(
            file, "input", f"one image is expected, but the file has {len(graph.inputs)} inputs"
        )
    before: list[Operator] = []
    tensor, allowed = graph.inputs[0], _ARITHMETIC.keys() | _RESHAPING | _FORMATS
    for _ in range(MAX_OPERATORS):
        operators = list(consumers(graph, tensor, set()))
        if len(operators) != 1:
            raise LayerMismatch(
                file, "input", f"{len(operators)} operators read the image where one is expected"
            )
        operator = operators[0]
        if operator.name == "CONV_2D":
            return operator, before
        if operator.name not in allowed or len(operator.outputs) != 1:
            raise LayerMismatch(
                file,
                "input",
                f"no convolution follows: the operator {operator.name} is not part of a"
                " preprocessing",
            )
        before.append(operator)
        tensor = operator.outputs[0]
    raise LayerMismatch(file, "input", f"no convolution follows within {MAX_OPERATORS} operators")


def input_scale(graph: Graph, file: str) -> NDArray[np.float64]:
    """Evaluates the operators before the stem, and finds the scale of their result.

    Real values are computed in float64: quantised tensors by their scale, without rounding. A
    converter may move a factor into the first convolution's weights. Zero padding commutes with a
    factor, so `factor * (bytes / 127.5 - 1)` is accepted, and the factor is multiplied into the
    imported weights.

    Returns:
        f64[C], the factor of each channel; 1 if the file maps bytes to [-1, 1], or its input is in
        [-1, 1].

    Raises:
        LayerMismatch: The input of the stem is not a multiple of `bytes / 127.5 - 1` of the same
            pixel.
    """
    stem, operators = first_convolution(graph, file)
    start, shape = graph.tensors[graph.inputs[0]], graph.tensors[stem.inputs[0]].shape
    if (
        len(shape) != 4
        or shape[0] != 1
        or np.prod(start.shape, dtype=int) != np.prod(shape, dtype=int)
    ):
        why = f"an input {list(start.shape)} reaches the first layer as {list(shape)}"
        raise LayerMismatch(file, "input", why)
    arithmetic = _ARITHMETIC.keys() & {operator.name for operator in operators}
    if start.dtype.startswith("float") and not arithmetic:
        return np.ones(shape[-1])
    bytes_ = np.random.default_rng(0).integers(0, 256, shape).astype(np.float64)
    bytes_[0, 0, 0], bytes_[0, -1, -1] = 0, 255  # the limits of the range, in every channel
    found = bytes_.reshape(start.shape)
    if start.quantization is not None and not (operators and operators[0].name == "CAST"):
        # a cast reads the stored integers, every other operator their real values
        stored = found - (128 if start.dtype == "int8" else 0)
        found = (stored - start.quantization.zero_points[0]) * np.float64(
            start.quantization.scales[0]
        )
    for operator in operators:
        found = _computed(graph, operator, found, file)
    return _factor(bytes_ / 127.5 - 1, found.reshape(shape), file)


def _factor(
    expected: NDArray[np.float64], found: NDArray[np.float64], file: str
) -> NDArray[np.float64]:
    """Factor f64[C] with `found` = factor * `expected`, both f64[1, H, W, C]; 1 if equal."""
    if not np.isfinite(found).all():
        raise LayerMismatch(file, "input", "bytes become numbers that are not finite")
    if np.abs(found - expected).max() <= TOLERANCE:
        return np.ones(found.shape[-1])
    factor = (found * expected).sum((0, 1, 2)) / (expected**2).sum((0, 1, 2))
    size = np.abs(factor)
    if not (
        (size > 0) & (np.abs(found - factor * expected).max((0, 1, 2)) <= TOLERANCE * size)
    ).all():
        low, high = found[0, 0, 0].round(3), found[0, -1, -1].round(3)
        why = (
            f"bytes 0 and 255 become {low} and {high}, and the network expects -1 and 1 at the same"
            " place"
        )
        raise LayerMismatch(file, "input", why)
    return np.asarray(factor, np.float64)


def _computed(
    graph: Graph, operator: Operator, values: NDArray[np.float64], file: str
) -> NDArray[np.float64]:
    """Evaluates one operator on real values."""
    shape = graph.tensors[operator.outputs[0]].shape
    if operator.name in _ARITHMETIC:
        constants = [graph.resolve_constant(tensor) for tensor in operator.inputs]
        if len(constants) != 2 or sum(constant is not None for constant in constants) != 1:
            raise LayerMismatch(
                file, "input", f"the operator {operator.name} has no constant operand"
            )
        if operator.options.get("activation", "NONE") != "NONE":
            raise LayerMismatch(file, "input", f"the operator {operator.name} has an activation")
        operands = [
            values if constant is None else constant.astype(np.float64) for constant in constants
        ]
        try:
            with np.errstate(all="ignore"):  # the result is checked for NaN and infinity
                values = np.asarray(_ARITHMETIC[operator.name](*operands), np.float64)
        except ValueError as error:
            raise LayerMismatch(
                file, "input", f"the operands of {operator.name} do not fit each other"
            ) from error
    if values.size != np.prod(shape, dtype=int):
        raise LayerMismatch(
            file, "input", f"{operator.name} gives {list(shape)}, but {values.size} values reach it"
        )
    return values.reshape(shape)


ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU6: "RELU6", nn.ReLU: "RELU", nn.Identity: "NONE"}
CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}


@dataclass(frozen=True, eq=False)
class Located:
    """Operators by layer.

    Attributes:
        convolutions: Of every `ConvBlock`, in the order of the forward pass, heads last.
        additions: Of every `Add` in residual blocks and pyramid steps.
        resizes: Of every pyramid step's `nn.Upsample`, bilinear or nearest.
    """

    convolutions: dict[ConvBlock, Operator] = field(default_factory=dict)
    additions: dict[Add, Operator] = field(default_factory=dict)
    resizes: dict[nn.Module, Operator] = field(default_factory=dict)


def locate(graph: Graph, network: MoveNet, file: str = "The TFLite file") -> Located:
    """Finds every layer of a network in a graph.

    Args:
        graph: Of a TFLite file in any number format, with or without preprocessing and decode.
        network: With the settings of the file; one with the heatmap head alone also matches a file
            with four heads.
        file: Name of the file in the message.

    Raises:
        LayerMismatch: A layer differs; the message names the first one.
    """
    return _Walk(graph, file).follow(network)


def kernel_shape(graph: Graph, operator: Operator) -> tuple[int, ...]:
    """Shape of a convolution's weights in torch's layout; () if they are not a constant.

    OHWI -> OIHW; depthwise (1, H, W, C) -> (C, 1, H, W); a transposed convolution is dense in the
    file and depthwise here: (C, H, W, C) -> (C, 1, H, W).
    """
    constant = graph.constant(operator.inputs[1])
    if constant is None or len(constant.shape) != 4:
        return ()
    if operator.name == "TRANSPOSE_CONV" and constant.shape[0] == constant.shape[3]:
        return (constant.shape[0], 1, *constant.shape[1:3])
    order = (3, 0, 1, 2) if operator.name == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2)
    return tuple(constant.shape[axis] for axis in order)


class _Walk:
    """Follows the graph and a network in parallel."""

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
            x = (
                self.residual(f"block {i}", x, layer)
                if isinstance(layer, InvertedResidual)
                else self.step("last backbone convolution", x, layer)
            )
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
                raise self.fail(
                    f"{name} head",
                    "a depthwise, a 1x1 and a 1x1 convolution are expected, but only these heads"
                    f" are recognised: {known}",
                )
            self.head(name, found[name], [head.depthwise, head.hidden, head.output])

    def head(self, name: str, chain: Chain, blocks: list[ConvBlock]) -> None:
        for part, operator, block in zip(
            ("depthwise", "hidden", "output"), chain, blocks, strict=True
        ):
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
        return self.step(
            f"{layer}, pointwise",
            self.step(f"{layer}, depthwise", out, step.depthwise),
            step.pointwise,
        )

    def upsampling(self, layer: str, x: int, module: nn.Module) -> int:
        if isinstance(module, TransposedUpsample):
            operator = self.find(
                layer, x, lambda o: o.name == "TRANSPOSE_CONV", "a transposed convolution"
            )
            return self.accept(layer, operator, module.smooth)
        if isinstance(module, NearestUpsample):
            resize = self.find(
                layer, x, lambda o: o.name == "RESIZE_NEAREST_NEIGHBOR", "a nearest resize"
            )
            # by an integer factor: the position of the centres has no effect
            self.located.resizes[module.repeat] = resize
            return self.step(f"{layer}, smoothing", resize.outputs[0], module.smooth)
        resize = self.find(layer, x, lambda o: o.name == "RESIZE_BILINEAR", "a bilinear resize")
        if not resize.options.get("half_pixel_centers") or resize.options.get("align_corners"):
            raise self.fail(layer, "the resize does not use half-pixel centres")
        self.located.resizes[module] = resize
        return resize.outputs[0]

    def addition(self, layer: str, module: Add, a: int, b: int) -> int:
        reached = {operator.index for operator in consumers(self.graph, b)}
        operator = self.find(
            layer,
            a,
            lambda o: o.name == "ADD" and o.index in reached,
            "an addition of its two branches",
        )
        self.located.additions[module] = operator
        return operator.outputs[0]

    def step(self, layer: str, x: int, block: nn.Module) -> int:
        assert isinstance(block, ConvBlock)
        wanted = tuple(block.conv.weight.shape)
        kind = "DEPTHWISE_CONV_2D" if block.conv.groups > 1 else "CONV_2D"
        found = [o for o in consumers(self.graph, x) if o.name in CONVOLUTIONS]
        fitting = [o for o in found if o.name == kind and kernel_shape(self.graph, o) == wanted]
        if len(fitting) > 1:  # a lateral and an expansion of the same shape
            fitting = [
                o for o in fitting if o.options["activation"] == ACTIVATIONS[type(block.activation)]
            ]
        if len(fitting) != 1:
            there = (
                ", ".join(
                    f"{o.name} {kernel_shape(self.graph, o) or 'without constant weights'}"
                    for o in found
                )
                or "none"
            )
            raise self.fail(
                layer, f"the graph needs a {kind} with weights {wanted}, but the file has {there}"
            )
        return self.accept(layer, fitting[0], block)

    def accept(self, layer: str, operator: Operator, block: nn.Module) -> int:
        """Checks all parameters of a convolution, and records it."""
        assert isinstance(block, ConvBlock)
        shape, options = kernel_shape(self.graph, operator), operator.options
        expected: dict[str, object] = {
            "weights": tuple(block.conv.weight.shape),
            "stride": block.conv.stride,
            "dilation": (1, 1),
        }
        found: dict[str, object] = {
            "weights": shape or "no constant",
            "stride": tuple(options["stride"]),
            "dilation": tuple(options.get("dilation", (1, 1))),
        }
        expected["activation"], found["activation"] = (
            ACTIVATIONS[type(block.activation)],
            options["activation"],
        )
        # a 1x1 kernel is not padded: SAME and VALID are equal
        if block.conv.kernel_size != (1, 1):
            expected["padding"], found["padding"] = "SAME", options["padding"]
        for key, value in expected.items():
            if found[key] != value:
                verb = "were" if key == "weights" else "was"
                raise self.fail(
                    layer, f"{key} {value} {verb} expected, but the file has {found[key]}"
                )
        self.check_bias(layer, operator, block.conv.out_channels)
        self.located.convolutions[block] = operator
        return operator.outputs[0]

    def check_bias(self, layer: str, operator: Operator, channels: int) -> None:
        """Checks that the bias is absent, or a constant with a value for each channel."""
        place = 3 if operator.name == "TRANSPOSE_CONV" else 2
        if len(operator.inputs) <= place or operator.inputs[place] == ABSENT:
            return
        bias = self.graph.constant(operator.inputs[place])
        if bias is None:
            raise self.fail(layer, "the bias is not a constant")
        if math.prod(bias.shape) != channels:
            raise self.fail(
                layer,
                f"a bias of {channels} values was expected, but the file has"
                f" {math.prod(bias.shape)}",
            )

    def find(
        self, layer: str, tensor: int, fits: Callable[[Operator], bool], wanted: str
    ) -> Operator:
        matching = [operator for operator in consumers(self.graph, tensor) if fits(operator)]
        if len(matching) != 1:
            raise self.fail(
                layer,
                (
                    f"the graph needs {wanted}"
                    if not matching
                    else f"{len(matching)} operators fit where one is expected"
                ),
            )
        return matching[0]
