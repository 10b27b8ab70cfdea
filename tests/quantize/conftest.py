"""A small network with the troubles of a trained one.

Channels of very different size, dead ones, ones that clip.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.equalize import ChannelGroup, bias_of, channel_groups

SIZE = 64


def troubled(heads: str = "heatmap", seed: int = 0) -> MoveNet:
    torch.manual_seed(seed)
    network = MoveNet(5, 0.35, norm=False, heads=heads).eval()
    with torch.no_grad():
        for head in network.heads().values():
            head.output.conv.weight.mul_(10)
        for block in network.conv_blocks():
            bias_of(block).add_(0.3 * torch.randn_like(bias_of(block)))
        for group in channel_groups(network):
            if not group.clipped:
                group.scale(torch.exp(1.5 * torch.randn(len(bias_of(group.producers[0])))))
        for group in channel_groups(network)[2:30:3]:
            kill(group, 1)
    return network


def kill(group: ChannelGroup, channel: int) -> None:
    """Makes a channel under an activation always 0, and what reads it huge."""
    if group.linear or len(group.producers) > 1:
        return
    bias_of(group.producers[0])[channel] = -1e4
    for reader in group.consumers:
        if reader.conv.groups > 1:
            reader.conv.weight[channel] = 100.0
        else:
            reader.conv.weight[:, channel] = 100.0


@pytest.fixture
def images() -> np.ndarray:
    """u8[24, 64, 64, 3]: smooth images with some noise."""
    rng = np.random.default_rng(1)
    coarse = torch.from_numpy(rng.uniform(0, 255, (24, 3, 5, 5)))
    smooth = (
        torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")
        .numpy()
        .transpose(0, 2, 3, 1)
    )
    photos = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
    photos[0, 0, 0, :2] = 0, 255
    return photos


@pytest.fixture
def inputs(images: np.ndarray) -> Tensor:
    """The same, normalised, f32[24, 3, 64, 64]."""
    return Preprocessing(SIZE).normalise(torch.from_numpy(images).permute(0, 3, 1, 2))


def maps(network: MoveNet, inputs: Tensor) -> Tensor:
    """All of a network's maps, f32[B, C, H, W]."""
    with torch.no_grad():
        output = network(inputs)
    return output if isinstance(output, Tensor) else torch.cat(tuple(output), 1)
