"""MoveNet with the single keypoint-heatmap head: MobileNetV2, feature pyramid to stride 4, head.

The graph is that of Google's MoveNet SinglePose Lightning (read off its TFLite file) with only its keypoint-heatmap head, which is also the
graph of ST's `st_movenet_lightning_heatmaps`. Shape legend: B batch, K keypoints, S input side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from heatpose.models.layers import Add, ConvBlock
from heatpose.models.mobilenetv2 import MobileNetV2

STRIDE = 4
"""Input pixels per heatmap cell."""


class PyramidStep(nn.Module):
    """Upsample x2 (bilinear, half-pixel centres), add the lateral map, depthwise 3x3 (linear), 1x1 + ReLU."""

    def __init__(self, tap: int, inputs: int, outputs: int, norm: bool) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False)
        self.lateral = ConvBlock(tap, inputs, norm=norm)
        self.add = Add()
        self.depthwise = ConvBlock(inputs, inputs, 3, depthwise=True, norm=norm)
        self.pointwise = ConvBlock(inputs, outputs, activation="relu", norm=norm)

    def forward(self, top: Tensor, tap: Tensor) -> Tensor:
        """f32[B, C, H, W] and f32[B, T, 2H, 2W] -> f32[B, C', 2H, 2W]."""
        out: Tensor = self.pointwise(self.depthwise(self.add(self.upsample(top), self.lateral(tap))))
        return out


class Head(nn.Module):
    """Depthwise 3x3 (linear), 1x1 to 96 + ReLU, 1x1 to the output channels."""

    def __init__(self, inputs: int, outputs: int, hidden: int, norm: bool) -> None:
        super().__init__()
        self.depthwise = ConvBlock(inputs, inputs, 3, depthwise=True, norm=norm)
        self.hidden = ConvBlock(inputs, hidden, activation="relu", norm=norm)
        self.output = ConvBlock(hidden, outputs, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """f32[B, C, H, W] -> f32[B, outputs, H, W]."""
        out: Tensor = self.output(self.hidden(self.depthwise(x)))
        return out


class MoveNet(nn.Module):
    """One heatmap of logits per keypoint.

    Args:
        keypoints: K.
        width: MobileNetV2's width multiplier.
        norm: True builds batch-norm layers (training from ImageNet or from scratch); False builds biases (imported or folded networks).
        last_channels: Channels of the backbone's last convolution.
        pyramid: Channels of the pyramid at strides 16, 8, 4 and at its end.
        head_channels: Hidden channels of the head.
    """

    def __init__(
        self,
        keypoints: int,
        width: float = 1.0,
        norm: bool = True,
        last_channels: int = 1280,
        pyramid: tuple[int, int, int, int] = (64, 32, 24, 24),
        head_channels: int = 96,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "keypoints": int(keypoints), "width": float(width), "norm": bool(norm), "last_channels": int(last_channels),
            "pyramid": [int(channels) for channels in pyramid], "head_channels": int(head_channels),
        }  # fmt: skip
        self.keypoints = keypoints
        self.backbone = MobileNetV2(width, last_channels, norm)
        taps = self.backbone.channels
        self.top = ConvBlock(taps[3], pyramid[0], norm=norm)
        self.pyramid = nn.ModuleList(PyramidStep(taps[2 - i], pyramid[i], pyramid[i + 1], norm) for i in range(3))
        self.head = Head(pyramid[3], keypoints, head_channels, norm)
        self._rare_peaks()

    def _rare_peaks(self) -> None:
        """Starts every heatmap near 0.01 (focal loss, Lin et al. 2017, section 3.3): nearly all cells are background."""
        last = self.head.output
        bias = last.norm.bias if isinstance(last.norm, nn.BatchNorm2d) else last.conv.bias
        scale = last.norm.weight if isinstance(last.norm, nn.BatchNorm2d) else last.conv.weight
        assert isinstance(bias, Tensor) and isinstance(scale, Tensor)
        with torch.no_grad():
            bias.fill_(-4.6)
            scale.mul_(0.1)

    def features(self, images: Tensor) -> Tensor:
        """f32[B, 3, S, S] -> the pyramid's stride-4 map f32[B, C, S/4, S/4]."""
        *taps, top = self.backbone(images)
        x = self.top(top)
        for step, tap in zip(self.pyramid, reversed(taps), strict=True):
            x = step(x, tap)
        out: Tensor = x
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images f32[B, 3, S, S] in [-1, 1], S a multiple of 32 -> logits f32[B, K, S/4, S/4]."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def conv_blocks(self) -> list[ConvBlock]:
        """Every convolution block, in the order of the forward pass through the backbone, then top, pyramid (bottom-up in stride), head."""
        return [module for module in self.modules() if isinstance(module, ConvBlock)]
