"""Writes TFLite files of random networks into a folder, with the weights beside them.

No test: a program of its own, because onnx2tf changes
the process that it runs in.

plain_{float32,float16,int8_pc,int8_pt}.tflite   width 0.35, 17 keypoints, the heatmap head alone
thunder_{float32,float16,int8}.tflite            width 1.75 at 256, 17 keypoints, four heads and
their decode raw_heads.tflite                                 width 0.75, 5 keypoints, other
channels; four heads without decode, the normalisation inside normed.tflite
width 0.5, 13 keypoints, batch norm folded by the export other_head.tflite, no_head.tflite,
unit_range.tflite   graphs that are no MoveNet
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heatpose.export.convert import onnx_to_saved_model
from heatpose.export.onnx import INPUT, OUTPUT, export_onnx
from heatpose.models.layers import ConvBlock
from heatpose.models.movenet import MoveNet, PoseMaps

SIZE = 64


def randomised(network: nn.Module) -> None:
    """Weights that keep the signal's size through a network without norms.

    Biases and statistics that are not trivial.
    """
    for block in network.modules():
        if isinstance(block, ConvBlock):
            nn.init.normal_(block.conv.weight, std=float((2 / block.conv.weight[0].numel()) ** 0.5))
            if block.conv.bias is not None:
                nn.init.normal_(block.conv.bias, std=0.3)
            if isinstance(block.norm, nn.BatchNorm2d):
                state = block.norm.state_dict()
                for name, low in (
                    ("weight", 0.5),
                    ("bias", -0.5),
                    ("running_mean", -0.5),
                    ("running_var", 0.5),
                ):
                    state[name] = torch.rand_like(state[name]) + low
                block.norm.load_state_dict(state)


def save(folder: Path, name: str, network: MoveNet) -> None:
    torch.save({"settings": network.settings, "state": network.state_dict()}, folder / f"{name}.pt")


def converter(saved_model: Path) -> Any:
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_saved_model(str(saved_model))


def plain(folder: Path) -> None:
    import tensorflow as tf

    network = MoveNet(17, 0.35, norm=False)
    randomised(network)
    save(folder, "plain", network)
    export_onnx(network.eval(), SIZE, folder / "plain.onnx", sigmoid=True)
    onnx_to_saved_model(folder / "plain.onnx", folder / "plain")
    images = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    for artefact in ("float32", "int8_pc", "int8_pt"):
        made = converter(folder / "plain")
        if artefact != "float32":
            made.optimizations, made.representative_dataset = (
                [tf.lite.Optimize.DEFAULT],
                lambda: ([image[None] / np.float32(127.5) - 1] for image in images),
            )
            made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            made.inference_input_type, made.inference_output_type = tf.uint8, tf.float32
            made._experimental_disable_per_channel = artefact == "int8_pt"
        (folder / f"plain_{artefact}.tflite").write_bytes(made.convert())
    half = converter(folder / "plain")
    half.optimizations = [tf.lite.Optimize.DEFAULT]
    half.target_spec.supported_types = [tf.float16]
    (folder / "plain_float16.tflite").write_bytes(half.convert())


def thunder(folder: Path) -> None:
    import tensorflow as tf

    network = MoveNet(17, 1.75, norm=False, heads="all")
    randomised(network)
    assert network.regression is not None
    with torch.no_grad():
        # scores that do not saturate, vectors that stay on the map
        for head in network.heads().values():
            head.output.conv.weight.mul_(0.03)
    # Equal layers become one operator: the importer must not mind.
    network.regression.depthwise.load_state_dict(network.head.depthwise.state_dict())
    save(folder, "thunder", network)
    export_onnx(network.eval(), 256, folder / "thunder.onnx", sigmoid=True)
    onnx_to_saved_model(folder / "thunder.onnx", folder / "thunder")
    (folder / "thunder_float32.tflite").write_bytes(converter(folder / "thunder").convert())
    half = converter(folder / "thunder")
    half.optimizations, half.target_spec.supported_types = [tf.lite.Optimize.DEFAULT], [tf.float16]
    (folder / "thunder_float16.tflite").write_bytes(half.convert())
    whole = converter(folder / "thunder")
    images = np.random.default_rng(0).uniform(-1, 1, (4, 1, 256, 256, 3)).astype(np.float32)
    whole.optimizations, whole.representative_dataset = (
        [tf.lite.Optimize.DEFAULT],
        lambda: ([image] for image in images),
    )
    whole.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
        tf.lite.OpsSet.TFLITE_BUILTINS,
    ]
    (folder / "thunder_int8.tflite").write_bytes(whole.convert())


class RawHeads(nn.Module):
    """Raw bytes in as in Google's files, and the four heads without a decode along one axis."""

    def __init__(self, network: MoveNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        maps = self.network(images / 127.5 - 1)
        assert isinstance(maps, PoseMaps)
        return torch.cat(
            (maps.centre.sigmoid(), maps.regression, maps.heatmaps.sigmoid(), maps.offset), 1
        )


def raw_heads(folder: Path) -> None:
    network = MoveNet(
        5,
        0.75,
        norm=False,
        last_channels=640,
        pyramid=(48, 40, 24, 16),
        head_channels=32,
        heads="all",
    )
    randomised(network)
    save(folder, "raw_heads", network)
    settings: dict[str, Any] = {
        "input_names": [INPUT],
        "output_names": [OUTPUT],
        "opset_version": 17,
        "dynamo": False,
    }
    with torch.no_grad():
        torch.onnx.export(
            RawHeads(network).eval(),
            (torch.zeros(1, 3, SIZE, SIZE),),
            str(folder / "raw_heads.onnx"),
            **settings,
        )
    onnx_to_saved_model(folder / "raw_heads.onnx", folder / "raw_heads")
    (folder / "raw_heads.tflite").write_bytes(converter(folder / "raw_heads").convert())


def normed(folder: Path) -> None:
    network = MoveNet(13, 0.5)
    randomised(network)
    save(folder, "normed", network)
    export_onnx(network.eval(), SIZE, folder / "normed.onnx", sigmoid=False)
    onnx_to_saved_model(folder / "normed.onnx", folder / "normed")
    (folder / "normed.tflite").write_bytes(converter(folder / "normed").convert())


def others(folder: Path) -> None:
    import tensorflow as tf

    def constant(*shape: int) -> Any:
        return tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)

    def stem(x: Any) -> Any:
        return tf.nn.relu6(tf.nn.conv2d(x, constant(3, 3, 3, 32), 2, "SAME"))

    def head(x: Any) -> Any:
        x = tf.nn.depthwise_conv2d(x, constant(3, 3, 32, 1), [1, 1, 1, 1], "SAME")
        x = tf.nn.relu(tf.nn.conv2d(x, constant(1, 1, 32, 96), 1, "SAME"))
        return tf.sigmoid(tf.nn.conv2d(x, constant(1, 1, 96, 17), 1, "SAME"))

    graphs = {
        "other_head": lambda x: head(stem(x)),
        "no_head": stem,
        "unit_range": lambda x: head(stem(x / 255 - 0.25)),
    }
    for name, graph in graphs.items():
        signature = tf.TensorSpec((1, SIZE, SIZE, 3), tf.float32)
        concrete = tf.function(graph).get_concrete_function(signature)
        content = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module()).convert()
        (folder / f"{name}.tflite").write_bytes(content)


if __name__ == "__main__":
    torch.manual_seed(0)
    for step in (plain, thunder, raw_heads, normed, others):
        step(Path(sys.argv[1]))
