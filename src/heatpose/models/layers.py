"""The building blocks: a sum.

And one convolution with TensorFlow's SAME padding, batch norm or bias, activation.

Shape legend: B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def scaled_channels(channels: int, width: float) -> int:
    """`channels` times the width multiplier, rounded to a multiple of 8 but never below 90 %.

    (MobileNetV2's rule).
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class ConvBlock(nn.Module):
    """Convolution, then batch norm (or a bias), then an activation.

    SAME padding of a stride-2, 3x3 convolution on an even side pads one row below and one column to
    the right; torch's symmetric padding would shift the image by a pixel against TensorFlow and
    leave a PAD operator in the exported graph.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: 1 or 3.
        stride: 1 or 2.
        depthwise: One filter per channel.
        activation: "relu6", "relu" or "none".
        norm: Batch norm after a convolution without bias; else a convolution with bias.
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
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """f32[B, C, H, W] -> f32[B, C', H / stride, W / stride]; H and W even where stride is 2."""
        if self.pads:
            x = functional.pad(x, (0, 1, 0, 1))
        x = self.activation(self.norm(self.conv(x)))
        return x


class Add(nn.Module):
    """The sum of two maps, as a module: quantisation gives each sum a range of its own."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two tensors of one shape -> their sum."""
        total: Tensor = a + b
        return total
