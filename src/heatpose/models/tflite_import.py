"""Imports the weights of MoveNet TFLite files.

Supported are Google's MoveNet SinglePose Lightning and Thunder (int8, float16, float32) and files
with the same graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from heatpose.errors import HeatposeError
from heatpose.models.layers import ConvBlock, scaled_channels
from heatpose.models.movenet import MoveNet, with_upsampling
from heatpose.models.tflite_walk import (
    FORMATS,
    LayerMismatch,
    consumers,
    find_heads,
    first_convolution,
    input_scale,
    kernel_shape,
    locate,
)
from heatpose.tflite.graph import Graph, Operator
from heatpose.tflite.reader import read_graph

WIDTHS = (1.0, 1.75, 0.35, 0.5, 0.75, 1.3, 1.4)
"""Width multipliers of MoveNet and MobileNetV2.

Channels are multiples of 8, so the stem does not distinguish all of them: 0.35 and 0.5 have 16.
"""


def import_movenet(path: str | Path, like: MoveNet | None = None) -> MoveNet:
    """Builds a network from a MoveNet TFLite file.

    Args:
        path: Google's file, or one of the same graph with four heads or the heatmap head alone.
        like: Network whose heads and upsampling are used, and whose channels must equal the file's.
            Without it the channels are those of the file, with four heads if the file has them and
            its decode identifies them, else the heatmap head.

    Returns:
        A network without batch norm (its convolutions have biases) and with the file's number of
        keypoints, in eval mode. Its output is logits: the file's sigmoids and decode are left out.

    Raises:
        HeatposeError: The file is not a TFLite file, has another graph, or differs from `like`: the
            message names the first layer.
    """
    graph, file = read_graph(path, complete=False), f"'{path}'"
    own = _own_network(graph, file)
    if like is None:
        return own
    wanted = {
        **like.settings,
        "norm": False,
        "keypoints": own.keypoints,
        "upsample": own.settings["upsample"],
    }
    try:
        return with_upsampling(
            own if own.settings == wanted else _filled(graph, wanted, file),
            like.settings["upsample"],
        )
    except LayerMismatch as error:
        different = {key: value for key, value in own.settings.items() if value != wanted[key]}
        choice = " ".join(
            f"model.{key}={str(value).replace(' ', '')}" for key, value in different.items()
        )
        raise HeatposeError(
            f"{file} is not the configured network: at {error.layer}, {error.why}; set"
            f" {choice}, or give another file."
        ) from error


def _own_network(graph: Graph, file: str) -> MoveNet:
    """The network with the settings of the file."""
    settings = _settings(graph)
    failures = []
    for width in _widths(graph, file):
        try:
            return _filled(graph, {**settings, "width": width}, file)
        except LayerMismatch as error:
            failures.append(error)
    # reports the width that matched most layers
    raise max(failures, key=lambda failure: failure.depth)


def _filled(graph: Graph, settings: dict[str, Any], file: str) -> MoveNet:
    """A network with the file's weights in every layer."""
    network = MoveNet(**settings).eval()
    scale = torch.from_numpy(input_scale(graph, file)).float()
    with torch.no_grad():
        for block, operator in locate(graph, network, file).convolutions.items():
            _copy(graph, operator, block)
        # the factor that the file's stem includes
        network.conv_blocks()[0].conv.weight.mul_(scale[:, None, None])
    return network


def _copy(graph: Graph, operator: Operator, block: ConvBlock) -> None:
    """Copies weights, OHWI -> OIHW or depthwise (1, H, W, C) -> (C, 1, H, W), and biases."""
    weight = graph.resolve_constant(operator.inputs[1])
    bias = graph.resolve_constant(operator.inputs[2]) if len(operator.inputs) > 2 else None
    assert weight is not None and block.conv.bias is not None  # checked by `locate`
    order = (3, 0, 1, 2) if operator.name == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2)
    block.conv.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight.transpose(order))))
    block.conv.bias.copy_(
        torch.zeros_like(block.conv.bias)
        if bias is None
        else torch.from_numpy(bias.reshape(-1).copy())
    )


def _settings(graph: Graph) -> dict[str, Any]:
    """Settings of the network in the file, without the width; MoveNet's own if not recognised."""
    settings = {
        key: value for key, value in MoveNet(17, norm=False).settings.items() if key != "width"
    }
    resizes, top = _resizes(graph), _top(graph)
    features = _pyramid_end(graph, resizes[-1]) if len(resizes) == 3 else None
    if top is None or features is None:
        return settings
    settings["pyramid"] = [
        graph.tensors[index].shape[-1]
        for index in (*(resize.inputs[0] for resize in resizes), features)
    ]
    settings["last_channels"] = graph.tensors[top.inputs[0]].shape[-1]
    heads = find_heads(graph, features)
    if "heatmap" in heads:
        _, hidden, output = (
            graph.tensors[operator.outputs[0]].shape[-1] for operator in heads["heatmap"]
        )
        settings |= {
            "head_channels": hidden,
            "keypoints": output,
            "heads": "all" if len(heads) == 4 else "heatmap",
        }
    return settings


def _resizes(graph: Graph) -> list[Operator]:
    return [operator for operator in graph.operators if operator.name == "RESIZE_BILINEAR"]


def _top(graph: Graph) -> Operator | None:
    """The 1x1 convolution at the start of the pyramid."""
    operator = graph.producer(_resizes(graph)[0].inputs[0]) if _resizes(graph) else None
    while operator is not None and operator.name in FORMATS:
        operator = graph.producer(operator.inputs[0])
    return operator if operator is not None and operator.name == "CONV_2D" else None


def _pyramid_end(graph: Graph, resize: Operator) -> int | None:
    """The output tensor of the last pyramid step: resize, addition, depthwise, 1x1."""
    tensor = resize.outputs[0]
    for kind in ("ADD", "DEPTHWISE_CONV_2D", "CONV_2D"):
        following = [operator for operator in consumers(graph, tensor) if operator.name == kind]
        if len(following) != 1:
            return None
        tensor = following[0].outputs[0]
    return tensor


def _widths(graph: Graph, file: str) -> list[float]:
    """Width multipliers that agree with the stem: usual ones, and one from the widest block."""
    channels = (*kernel_shape(graph, first_convolution(graph, file)[0]), 0)[0]
    top = _top(graph)
    last = graph.producer(top.inputs[0]) if top is not None else None
    widest = (
        (*kernel_shape(graph, last), 0, 0)[1] / 320
        if last is not None and last.name == "CONV_2D"
        else channels / 32
    )
    candidates = dict.fromkeys((*WIDTHS, widest, channels / 32))
    return [width for width in candidates if width and scaled_channels(32, width) == channels] or [
        1.0
    ]
