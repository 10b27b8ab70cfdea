"""Doubling a map's side by three graphs that compute the same away from the border.

For compilers that map one of them and not another.

Half-pixel bilinear x2 gives each new cell 3/4 of the old cell that it lies in and 1/4 of the
nearest neighbour, along each axis. Repeating cells and smoothing with [1, 2, 1] / 4 gives the same
sums, and so does a transposed convolution of stride 2 with [1, 3, 3, 1] / 4. At the border bilinear
repeats the outermost cell, while a convolution's padding is zero there: its outermost new cells are
3/4 (in the corners 9/16) of bilinear's.

Shape legend: B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from heatpose.errors import HeatposeError
from heatpose.models.layers import ConvBlock

Upsampling = Literal["bilinear", "nearest", "transposed"]


class NearestUpsample(nn.Module):
    """Every cell four times, then a fixed depthwise 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.repeat = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.smooth = ConvBlock(channels, channels, 3, depthwise=True, norm=False)
        _fix(self.smooth, (1, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        """f32[B, C, H, W] -> f32[B, C, 2H, 2W]."""
        out: Tensor = self.smooth(self.repeat(x))
        return out


class TransposedBlock(ConvBlock):
    """A depthwise transposed 4x4 convolution of stride 2.

    Weight f32[C, 1, 4, 4] as a depthwise convolution's, bias f32[C].
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, depthwise=True, norm=False)
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, groups=channels)


class TransposedUpsample(nn.Module):
    """A fixed depthwise transposed convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.smooth = TransposedBlock(channels)
        _fix(self.smooth, (1, 3, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        """f32[B, C, H, W] -> f32[B, C, 2H, 2W]."""
        out: Tensor = self.smooth(x)
        return out


def upsample(kind: Upsampling, channels: int) -> nn.Module:
    """The layer that doubles a map's side.

    Raises:
        HeatposeError: Another kind.
    """
    if kind == "nearest":
        return NearestUpsample(channels)
    if kind == "transposed":
        return TransposedUpsample(channels)
    if kind == "bilinear":
        return nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False)
    raise HeatposeError(
        f"Upsampling '{kind}' is unknown; choose one of {', '.join(get_args(Upsampling))}."
    )


def dense_transposed(module: nn.Module) -> None:
    """Turns depthwise transposed convolutions into dense ones with zeros off the diagonal.

    In place: TFLite knows no others.
    """
    for block in module.modules():
        if isinstance(block, TransposedBlock):
            block.conv = _dense(block.conv)


def _dense(conv: nn.Module) -> nn.ConvTranspose2d:
    assert isinstance(conv, nn.ConvTranspose2d) and conv.bias is not None
    channels = conv.in_channels
    dense = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
    assert dense.bias is not None
    with torch.no_grad():
        dense.weight.copy_(torch.diag_embed(conv.weight[:, 0].permute(1, 2, 0)).permute(2, 3, 0, 1))
        dense.bias.copy_(conv.bias)
    return dense


def _fix(block: ConvBlock, taps: Sequence[int]) -> None:
    """Sets and freezes the weights.

    The outer product of the taps, whose sum over what one new cell sees is 1.
    """
    line = torch.tensor(taps, dtype=torch.float32) / 4
    assert block.conv.bias is not None
    with torch.no_grad():
        block.conv.weight.copy_(line[:, None] * line)
        block.conv.bias.zero_()
    block.requires_grad_(False)
