"""MoveNet: MobileNetV2, a feature pyramid to stride 4, and the heatmap head or all four heads.

The graph is that of Google's MoveNet SinglePose Lightning, taken from its TFLite file; with the
heatmap head alone it is also the graph of ST's `st_movenet_lightning_heatmaps`. The backbone is
MobileNetV2 (Sandler et al., CVPR 2018) without its classifier.

Shape legend: B batch, C channels, K keypoints, S input side, H and W the rows and columns of a map,
S/4 each.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from heatpose.errors import HeatposeError
from heatpose.models.layers import (
    Add,
    ConvBlock,
    NearestUpsample,
    TransposedUpsample,
    Upsampling,
    scaled_channels,
    upsample,
)

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
"""Indices in `features` of the outputs at strides 4, 8 and 16; the last output has stride 32."""


class InvertedResidual(nn.Module):
    """Expand 1x1 (ReLU6), depthwise 3x3 (ReLU6), project 1x1 (linear); residual if shapes agree."""

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
        norm: Batch norm (training from ImageNet or from scratch); else biases (folded).
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


STRIDE = 4
"""Input pixels per heatmap cell."""
Heads = Literal["heatmap", "all"]


class PoseMaps(NamedTuple):
    """Output of four heads. Lengths are in cells; channels 2k and 2k + 1 are y and x of keypoint k.

    Attributes:
        centre: f32[B, 1, H, W] logits: the instance's centre is in this cell.
        regression: f32[B, 2K, H, W] vectors from this cell's index to each keypoint, if the centre
            is in this cell.
        heatmaps: f32[B, K, H, W] logits: the keypoint is in this cell.
        offset: f32[B, 2K, H, W] vectors from this cell's index to the keypoint, if it is in this
            cell: 0 to 1.
    """

    centre: Tensor
    regression: Tensor
    heatmaps: Tensor
    offset: Tensor


class PyramidStep(nn.Module):
    """Upsample x2 (half-pixel centres), add the lateral map, depthwise 3x3 (linear), 1x1 + ReLU."""

    def __init__(
        self, tap: int, inputs: int, outputs: int, norm: bool, upsampling: Upsampling = "bilinear"
    ) -> None:
        super().__init__()
        self.upsample = upsample(upsampling, inputs)
        self.lateral = ConvBlock(tap, inputs, norm=norm)
        self.add = Add()
        self.depthwise = ConvBlock(inputs, inputs, 3, depthwise=True, norm=norm)
        self.pointwise = ConvBlock(inputs, outputs, activation="relu", norm=norm)

    def forward(self, top: Tensor, tap: Tensor) -> Tensor:
        """f32[B, C, H, W] and f32[B, T, 2H, 2W] -> f32[B, C', 2H, 2W]."""
        out: Tensor = self.pointwise(
            self.depthwise(self.add(self.upsample(top), self.lateral(tap)))
        )
        return out

    @property
    def smooth(self) -> ConvBlock | None:
        """The fixed convolution of the upsampling; None for bilinear."""
        return (
            self.upsample.smooth
            if isinstance(self.upsample, NearestUpsample | TransposedUpsample)
            else None
        )

    @property
    def resize(self) -> nn.Module | None:
        """The resize layer of the upsampling; None for a transposed convolution."""
        if isinstance(self.upsample, NearestUpsample):
            return self.upsample.repeat
        return None if isinstance(self.upsample, TransposedUpsample) else self.upsample


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
    """The network: one heatmap per keypoint, or the four heads of MoveNet.

    Args:
        keypoints: K.
        width: MobileNetV2's width multiplier.
        norm: True builds batch-norm layers (training from ImageNet or from scratch); False builds
            biases (imported or folded networks).
        last_channels: Channels of the backbone's last convolution.
        pyramid: Channels of the pyramid at strides 16, 8, 4 and at its end.
        head_channels: Hidden channels of each head.
        heads: "heatmap", or "all" for the four heads that MoveNet's own decode needs.
        upsample: Of the pyramid: "bilinear" (as published), or "nearest" or "transposed", which
            compute the same away from the border with operators that an NPU may prefer. Their
            weights are fixed, so that any network can be converted.

    Raises:
        HeatposeError: `heads` or `upsample` is unknown.
    """

    def __init__(
        self,
        keypoints: int,
        width: float = 1.0,
        norm: bool = True,
        last_channels: int = 1280,
        pyramid: tuple[int, int, int, int] = (64, 32, 24, 24),
        head_channels: int = 96,
        heads: Heads = "heatmap",
        upsample: Upsampling = "bilinear",
    ) -> None:
        super().__init__()
        if heads not in ("heatmap", "all"):
            raise HeatposeError(
                f"A network with heads '{heads}' is unknown; choose heads=heatmap or heads=all."
            )
        self.settings: dict[str, Any] = {
            "keypoints": int(keypoints),
            "width": float(width),
            "norm": bool(norm),
            "last_channels": int(last_channels),
            "pyramid": [int(channels) for channels in pyramid],
            "head_channels": int(head_channels),
            "heads": str(heads),
            "upsample": str(upsample),
        }
        self.keypoints = keypoints
        self.backbone = MobileNetV2(width, last_channels, norm)
        taps = self.backbone.channels
        self.top = ConvBlock(taps[3], pyramid[0], norm=norm)
        self.pyramid = nn.ModuleList(
            PyramidStep(taps[2 - i], pyramid[i], pyramid[i + 1], norm, upsample) for i in range(3)
        )
        self.head = Head(pyramid[3], keypoints, head_channels, norm)
        self.centre, self.regression, self.offset = (
            Head(pyramid[3], channels, head_channels, norm) if heads == "all" else None
            for channels in (1, 2 * keypoints, 2 * keypoints)
        )
        self._rare_peaks()

    def _rare_peaks(self) -> None:
        """Initialises heatmaps near 0.01 and vectors near 0, because most cells are background.

        See Lin et al., "Focal Loss for Dense Object Detection", 2017, section 3.3.
        """
        for name, head in self.heads().items():
            norm, conv = head.output.norm, head.output.conv
            bias, scale = (
                (norm.bias, norm.weight)
                if isinstance(norm, nn.BatchNorm2d)
                else (conv.bias, conv.weight)
            )
            assert isinstance(bias, Tensor)
            with torch.no_grad():
                bias.fill_(-4.6 if name in ("heatmap", "centre") else 0)
                scale.mul_(0.1)

    @property
    def four_heads(self) -> bool:
        """Whether the network has all four heads, and thus MoveNet's own decode."""
        return self.centre is not None

    def heads(self) -> dict[str, Head]:
        """The heads by name: "heatmap", and of four heads "centre", "regression" and "offset"."""
        every = {
            "heatmap": self.head,
            "centre": self.centre,
            "regression": self.regression,
            "offset": self.offset,
        }
        return {name: head for name, head in every.items() if head is not None}

    def features(self, taps: list[Tensor]) -> Tensor:
        """The backbone's four maps -> the pyramid's stride-4 map f32[B, C, S/4, S/4]."""
        *taps, top = taps
        x = self.top(top)
        for step, tap in zip(self.pyramid, reversed(taps), strict=True):
            x = step(x, tap)
        out: Tensor = x
        return out

    def forward(self, images: Tensor) -> Tensor | PoseMaps:
        """Computes the maps of normalised images.

        Args:
            images: f32[B, 3, S, S] in [-1, 1], S a multiple of 32.

        Returns:
            Logits f32[B, K, S/4, S/4], or the maps of the four heads.
        """
        x = self.features(self.backbone(images))
        logits: Tensor = self.head(x)
        if self.centre is None or self.regression is None or self.offset is None:
            return logits
        return PoseMaps(self.centre(x), self.regression(x), logits, self.offset(x))

    def conv_blocks(self) -> list[ConvBlock]:
        """All convolution blocks: backbone, top, pyramid (from stride 16 to 4), heads."""
        return [module for module in self.modules() if isinstance(module, ConvBlock)]


def with_upsampling(network: MoveNet, kind: Upsampling) -> MoveNet:
    """A network with the same weights and another upsampling; `network` itself if unchanged.

    Raises:
        HeatposeError: The kind is unknown.
    """
    if network.settings["upsample"] == kind:
        return network
    result = MoveNet(**{**network.settings, "upsample": kind})
    trained = {
        name: value for name, value in network.state_dict().items() if ".upsample." not in name
    }
    result.load_state_dict({**result.state_dict(), **trained})
    return result.to(next(network.parameters()).device).train(network.training)
