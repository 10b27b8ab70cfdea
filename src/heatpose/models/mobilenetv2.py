"""MobileNetV2 (Sandler et al., CVPR 2018) with taps after strides 4, 8, 16 and 32."""

from __future__ import annotations

from torch import Tensor, nn

from heatpose.models.layers import Add, ConvBlock, scaled_channels

# expansion t, channels c, repeats n, stride s: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
TAPS = (3, 6, 10)
"""Positions in `features` whose outputs feed the pyramid at strides 4, 8 and 16.

The last position gives stride 32.
"""


class InvertedResidual(nn.Module):
    """Expand 1x1 (ReLU6), depthwise 3x3 (ReLU6), project 1x1 (linear).

    Added to its input where the shapes allow.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, norm: bool) -> None:
        super().__init__()
        hidden = inputs * expansion
        blocks = (
            [ConvBlock(inputs, hidden, activation="relu6", norm=norm)] if expansion != 1 else []
        )
        blocks += [
            ConvBlock(hidden, hidden, 3, stride, depthwise=True, activation="relu6", norm=norm),
            ConvBlock(hidden, outputs, norm=norm),
        ]
        self.blocks = nn.Sequential(*blocks)
        self.adds = stride == 1 and inputs == outputs
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        """f32[B, C, H, W] -> f32[B, C', H / stride, W / stride]."""
        out: Tensor = self.blocks(x)
        total: Tensor = self.add(x, out) if self.adds else out
        return total


class MobileNetV2(nn.Module):
    """The backbone without classifier.

    Args:
        width: Width multiplier of every layer but the last.
        last_channels: Channels of the last 1x1 convolution; MoveNet keeps 1280 at every width.
        norm: Batch norm (training from ImageNet or scratch) or biases (folded).
    """

    def __init__(self, width: float = 1.0, last_channels: int = 1280, norm: bool = True) -> None:
        super().__init__()
        channels = scaled_channels(32, width)
        layers: list[nn.Module] = [ConvBlock(3, channels, 3, 2, activation="relu6", norm=norm)]
        self.channels: list[int] = []
        for expansion, stage_channels, repeats, stride in STAGES:
            outputs = scaled_channels(stage_channels, width)
            for i in range(repeats):
                layers.append(
                    InvertedResidual(channels, outputs, stride if i == 0 else 1, expansion, norm)
                )
                channels = outputs
                if len(layers) - 1 in TAPS:
                    self.channels.append(channels)
        layers.append(ConvBlock(channels, last_channels, activation="relu6", norm=norm))
        self.channels.append(last_channels)
        self.features = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """f32[B, 3, S, S] -> maps at strides 4, 8, 16, 32 with `self.channels` channels."""
        taps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in TAPS:
                taps.append(x)
        return [*taps, x]
