"""Building blocks: convolution with TensorFlow's SAME padding, addition, upsampling.

Shape legend: B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatpose.errors import HeatposeError


def scaled_channels(channels: int, width: float) -> int:
    """`channels` times the width multiplier, as a multiple of 8 and at least 90 % of it.

    The rule of MobileNetV2 (`_make_divisible` of its authors' code).
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class ConvBlock(nn.Module):
    """Convolution with batch norm or bias, and an activation.

    SAME padding of a 3x3 convolution of stride 2 on an even side adds one row below and one column
    to the right. Torch's symmetric padding would shift the image by a pixel relative to TensorFlow
    and leave a PAD operator in the exported graph.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: 1 or 3.
        stride: 1 or 2.
        depthwise: One filter per channel.
        activation: "relu6", "relu" or "none".
        norm: Batch norm after a convolution without bias; else a bias.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        activation: str = "none",
        norm: bool = True,
    ) -> None:
        super().__init__()
        groups = inputs if depthwise else 1
        padding = kernel // 2 if stride == 1 else 0
        self.conv: nn.Conv2d | nn.ConvTranspose2d = nn.Conv2d(
            inputs, outputs, kernel, stride, padding, groups=groups, bias=not norm
        )
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.activation: nn.Module = {"relu6": nn.ReLU6, "relu": nn.ReLU, "none": nn.Identity}[
            activation
        ]()
        self.pads = stride == 2 and kernel == 3
        # On CPUs the gradients of these layers take 2 to 10 times as long in bfloat16 as in float32
        # (oneDNN): a quarter of an optimiser step.
        self.full_precision = depthwise and stride == 2
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """f32[B, C, H, W] -> f32[B, C', H / stride, W / stride]; H and W are even for stride 2."""
        if self.pads:
            x = functional.pad(x, (0, 1, 0, 1))
        if self.full_precision and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                x = self.conv(x.float())
        else:
            x = self.conv(x)
        x = self.activation(self.norm(x))
        return x


class Add(nn.Module):
    """Addition of two maps, as a module: quantisation assigns a range to each of them."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The sum of two f32[B, C, H, W]."""
        total: Tensor = a + b
        return total


Upsampling = Literal["bilinear", "nearest", "transposed"]


class NearestUpsample(nn.Module):
    """Nearest upsampling by 2 and a fixed depthwise 3x3; equals bilinear except at the border."""

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
    """A depthwise transposed 4x4 convolution of stride 2: weight f32[C, 1, 4, 4], bias f32[C]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, depthwise=True, norm=False)
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, groups=channels)


class TransposedUpsample(nn.Module):
    """A fixed depthwise transposed convolution; equals bilinear except at the border."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.smooth = TransposedBlock(channels)
        _fix(self.smooth, (1, 3, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        """f32[B, C, H, W] -> f32[B, C, 2H, 2W]."""
        out: Tensor = self.smooth(x)
        return out


def upsample(kind: Upsampling, channels: int) -> nn.Module:
    """Makes the layer that doubles the sides of a map.

    Args:
        kind: Of upsampling.
        channels: Of the map.

    Raises:
        HeatposeError: The kind is unknown.
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
    """Replaces depthwise transposed convolutions in place by dense ones, zero off the diagonal.

    TFLite only has dense transposed convolutions.
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
    """Sets and freezes the weights: the outer product of the taps, divided by 4 along each axis."""
    line = torch.tensor(taps, dtype=torch.float32) / 4
    assert block.conv.bias is not None
    with torch.no_grad():
        block.conv.weight.copy_(line[:, None] * line)
        block.conv.bias.zero_()
    block.requires_grad_(False)
