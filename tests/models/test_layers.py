"""The convolution block against TensorFlow's SAME convolution written as plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heatpose.models.layers import ConvBlock, scaled_channels

Array = NDArray[np.float64]


def same_convolution(x: Array, weight: Array, stride: int, depthwise: bool) -> Array:
    """TensorFlow's SAME: the output has ceil(in / stride) rows.

    And the odd padding goes below and to the right.

    x [C, H, W], weight [O, I, k, k] -> [O, ceil(H / stride), ceil(W / stride)].
    """
    outputs, kernel = weight.shape[0], weight.shape[2]
    sides = [math.ceil(side / stride) for side in x.shape[1:]]
    first = [
        -(max((out - 1) * stride + kernel - side, 0) // 2)
        for out, side in zip(sides, x.shape[1:], strict=True)
    ]
    result = np.zeros((outputs, *sides))
    for o, v, u in np.ndindex(*result.shape):
        for dy, dx in np.ndindex(kernel, kernel):
            row, column = first[0] + v * stride + dy, first[1] + u * stride + dx
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                channels = x[o : o + 1, row, column] if depthwise else x[:, row, column]
                result[o, v, u] += (channels * weight[o, :, dy, dx]).sum()
    return result


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("sides", [(8, 8), (6, 10), (2, 4)])
def test_pads_as_tensorflow_does(
    sides: tuple[int, int], kernel: int, stride: int, depthwise: bool
) -> None:
    torch.manual_seed(0)
    channels, outputs = 4, 4 if depthwise else 5
    block = ConvBlock(channels, outputs, kernel, stride, depthwise=depthwise, norm=False)
    assert block.conv.bias is not None
    torch.nn.init.normal_(block.conv.bias)
    x = torch.randn(2, channels, *sides)
    with torch.no_grad():
        found = block(x).numpy()
    weight, bias = block.conv.weight.detach().double().numpy(), block.conv.bias.detach().numpy()
    for image, expected in zip(found, x.double().numpy(), strict=True):
        want = same_convolution(expected, weight, stride, depthwise) + bias[:, None, None]
        np.testing.assert_allclose(image, want, atol=1e-5)


def test_a_stride_of_two_does_not_shift_the_image() -> None:
    """Padding before instead of after, torch's habit.

    Would move every pixel of the output by one input pixel.
    """
    block = ConvBlock(1, 1, 3, 2, norm=False)
    with torch.no_grad():
        block.conv.weight.zero_()
        block.conv.weight[0, 0, 0, 0] = 1  # the window's first pixel
        image = torch.arange(64.0).reshape(1, 1, 8, 8)
        torch.testing.assert_close(block(image), image[..., ::2, ::2])


@pytest.mark.parametrize(
    ("activation", "limits"),
    [("relu6", (0, 6)), ("relu", (0, math.inf)), ("none", (-math.inf, math.inf))],
)
@pytest.mark.parametrize("norm", [False, True])
def test_norm_then_activation(norm: bool, activation: str, limits: tuple[float, float]) -> None:
    torch.manual_seed(1)
    block = ConvBlock(3, 4, activation=activation, norm=norm).eval()
    assert (block.conv.bias is None) == norm
    scale, shift = torch.ones(4), torch.zeros(4)
    if norm:
        assert isinstance(block.norm, torch.nn.BatchNorm2d)
        running = {
            "weight": torch.rand(4) + 0.5,
            "bias": torch.randn(4),
            "running_mean": torch.randn(4),
            "running_var": torch.rand(4) + 0.1,
        }
        block.norm.load_state_dict({**block.norm.state_dict(), **running})
        scale = running["weight"] / (running["running_var"] + block.norm.eps).sqrt()
        shift = running["bias"] - running["running_mean"] * scale
    x = torch.randn(2, 3, 5, 5) * 8
    linear = torch.einsum("oi,bihw->bohw", block.conv.weight.detach()[..., 0, 0], x)
    want = (linear * scale[:, None, None] + shift[:, None, None]).clamp(*limits)
    with torch.no_grad():
        torch.testing.assert_close(block(x), want, atol=1e-4, rtol=1e-4)


def rounded_by_the_paper(channels: int, width: float) -> int:
    """The nearest multiple of 8 (halves up), at least 8.

    And one step more where that loses over a tenth.
    """
    wanted = channels * width
    candidates = [8 * step for step in range(1, 1000)]
    nearest = min(candidates, key=lambda c: (abs(c - wanted), -c))
    return nearest if nearest >= 0.9 * wanted else nearest + 8


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4, 1.75])
@pytest.mark.parametrize("channels", [16, 24, 32, 64, 96, 160, 320])
def test_channels_are_rounded_by_mobilenets_rule(channels: int, width: float) -> None:
    found = scaled_channels(channels, width)
    assert found == rounded_by_the_paper(channels, width)
    assert found % 8 == 0 and found >= 0.9 * channels * width


def test_channels_at_the_published_widths() -> None:
    """The sizes of the published MobileNetV2 0.35, and of MoveNet Thunder (1.75)."""
    published = (16, 24, 32, 64, 96, 160, 320)
    assert [scaled_channels(c, 0.35) for c in published] == [8, 8, 16, 24, 32, 56, 112]
    assert [scaled_channels(c, 1.0) for c in published] == list(published)
    assert [scaled_channels(c, 1.75) for c in published] == [32, 40, 56, 112, 168, 280, 560]
