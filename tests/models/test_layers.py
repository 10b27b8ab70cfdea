"""The convolution block against TensorFlow's SAME convolution written as plain loops."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import KEY, load_checkpoint, save_checkpoint
from heatpose.models.init import from_checkpoint
from heatpose.models.layers import (
    ConvBlock,
    Upsampling,
    dense_transposed,
    scaled_channels,
    upsample,
)
from heatpose.models.movenet import MoveNet, PyramidStep, with_upsampling
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13

Array = NDArray[np.float64]


@pytest.mark.parametrize("stride", [1, 2])
def test_strided_depthwise_convolutions_keep_float32_in_mixed_precision_on_a_cpu(
    stride: int,
) -> None:
    torch.manual_seed(0)
    block = ConvBlock(8, 8, 3, stride, depthwise=True, norm=False)
    x = torch.randn(2, 8, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = block(x.bfloat16())
    exact = block(x.bfloat16().float())
    assert torch.equal(mixed.float(), exact) == (stride == 2)
    assert mixed.dtype == (torch.float32 if stride == 2 else torch.bfloat16)
    mixed.float().sum().backward()
    assert block.conv.weight.grad is not None and block.conv.weight.grad.dtype == torch.float32


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


KINDS: tuple[Upsampling, ...] = get_args(Upsampling)
OTHERS: tuple[Upsampling, ...] = ("nearest", "transposed")


@pytest.fixture(scope="module")
def network() -> MoveNet:
    torch.manual_seed(0)
    network = MoveNet(13, 0.35, pyramid=(32, 24, 16, 16), head_channels=32)
    network.train()(torch.randn(4, 3, 64, 64))  # so that the running statistics are not trivial
    return network.eval()


@pytest.mark.parametrize("kind", OTHERS)
def test_the_same_as_bilinear_but_for_the_border(kind: Upsampling) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 7)
    exact = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    with torch.no_grad():
        found = upsample(kind, 6)(x)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], exact[..., 1:-1, 1:-1], rtol=0, atol=1e-6)
    for row in (0, -1):  # padding is zero where bilinear repeats the border
        torch.testing.assert_close(found[..., row, 1:-1], 0.75 * exact[..., row, 1:-1])
        torch.testing.assert_close(found[..., 1:-1, row], 0.75 * exact[..., 1:-1, row])
        torch.testing.assert_close(found[..., row, row], 0.75**2 * exact[..., row, row])


def test_the_dense_equivalent_computes_the_same() -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(1, 6, 4, 3), nn.Sequential(upsample("transposed", 6))
    with torch.no_grad():
        for parameter in layer.parameters():  # not only the fixed, symmetric weights
            parameter.copy_(torch.randn_like(parameter))
        before = layer(x)
        dense_transposed(layer)
        torch.testing.assert_close(layer(x), before)
    convolutions = [module for module in layer.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert [(conv.groups, tuple(conv.weight.shape)) for conv in convolutions] == [(1, (6, 6, 4, 4))]


@pytest.mark.parametrize("kind", OTHERS)
def test_a_pyramid_step_agrees_with_the_published_one_but_for_the_border(kind: Upsampling) -> None:
    torch.manual_seed(0)
    published, other = (
        PyramidStep(6, 4, 3, norm=False),
        PyramidStep(6, 4, 3, norm=False, upsampling=kind),
    )
    other.load_state_dict({**other.state_dict(), **published.state_dict()})
    top, tap = torch.randn(1, 4, 6, 6), torch.randn(1, 6, 12, 12)
    with torch.no_grad():
        want, found = published(top, tap), other(top, tap)
    # behind the upsampling comes a 3x3
    torch.testing.assert_close(found[..., 2:-2, 2:-2], want[..., 2:-2, 2:-2])
    assert (found - want).abs().max() > 0.1 * want.std()
    assert published.smooth is None and other.smooth is not None


def test_the_two_others_are_one_function(network: MoveNet) -> None:
    torch.manual_seed(1)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        taps = network.backbone(image)
        bilinear, nearest, transposed = (
            with_upsampling(network, kind).features(taps) for kind in KINDS
        )
    torch.testing.assert_close(nearest, transposed, rtol=1e-5, atol=1e-5 * float(bilinear.std()))
    assert (nearest - bilinear).abs().max() > 0.01 * bilinear.std()


def test_there_and_back_is_the_network_itself(network: MoveNet) -> None:
    assert with_upsampling(network, "bilinear") is network
    other = network
    for kind in ("nearest", "transposed", "bilinear"):
        other = with_upsampling(other, kind)  # type: ignore[arg-type]
        assert other.settings == {**network.settings, "upsample": kind} and not other.training
    for (name, found), want in zip(
        other.state_dict().items(), network.state_dict().values(), strict=True
    ):
        assert torch.equal(found, want), name


@pytest.mark.parametrize("kind", OTHERS)
def test_training_leaves_the_fixed_weights_alone(network: MoveNet, kind: Upsampling) -> None:
    changed = with_upsampling(network, kind).train()
    before = {name: value.clone() for name, value in changed.state_dict().items()}
    optimizer = torch.optim.AdamW(changed.parameters(), lr=0.1, weight_decay=0.1)
    changed(torch.randn(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    same = {
        name for name, value in changed.state_dict().items() if torch.equal(value, before[name])
    }
    assert same == {
        f"pyramid.{i}.upsample.smooth.conv.{part}" for i in range(3) for part in ("weight", "bias")
    }


def test_checkpoints_from_before_there_were_three_are_bilinear(
    network: MoveNet, tmp_path: Path
) -> None:
    path = tmp_path / "old.ckpt"
    save_checkpoint(path, network, ST_13, Preprocessing(64))
    content: dict[str, Any] = torch.load(path, weights_only=True)
    del content[KEY]["network"]["upsample"]
    torch.save(content, path)
    assert (
        load_checkpoint(path).network.settings == network.settings
        and network.settings["upsample"] == "bilinear"
    )


@pytest.mark.parametrize(
    ("saved", "wanted"), [*pairwise(KINDS), ("transposed", "bilinear"), ("nearest", "nearest")]
)
def test_a_checkpoint_starts_any_way_of_upsampling(
    network: MoveNet, tmp_path: Path, saved: Upsampling, wanted: Upsampling
) -> None:
    save_checkpoint(tmp_path / "a.ckpt", with_upsampling(network, saved), ST_13, Preprocessing(64))
    assert load_checkpoint(tmp_path / "a.ckpt").network.settings["upsample"] == saved
    started = from_checkpoint(MoveNet(13, 0.35, upsample=wanted), ST_13, str(tmp_path / "a.ckpt"))
    assert started.settings["upsample"] == wanted
    state = started.state_dict()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


def test_others_are_refused() -> None:
    with pytest.raises(
        HeatposeError,
        match="Upsampling 'cubic' is unknown; choose one of bilinear, nearest, transposed",
    ):
        MoveNet(5, 0.35, upsample="cubic")  # type: ignore[arg-type]
