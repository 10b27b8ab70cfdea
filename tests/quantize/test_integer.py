"""The integer arithmetic against plain Python, and its gradients."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from heatpose.models.layers import ConvBlock
from heatpose.quantize.integer import (
    ActivationScale,
    Int8Add,
    Int8Conv,
    Int8Upsample,
    QuantParams,
    activation_limits,
    fixed_point,
    weight_scales,
)


def half_even(value: Fraction) -> int:
    return round(value)


def test_a_convolution_is_whole_sums_times_a_factor_rounded_to_even() -> None:
    torch.manual_seed(0)
    block = ConvBlock(3, 4, 3, norm=False, activation="relu6")
    torch.nn.init.normal_(block.conv.bias)
    source, target = QuantParams.covering(-2, 3), QuantParams.covering(0, 5)
    scales = weight_scales(block.conv.weight, True)
    steps = torch.randint(-128 - source.zero_point, 128 - source.zero_point, (1, 3, 4, 4)).float()
    with torch.no_grad():
        found = Int8Conv(block, ActivationScale(source), ActivationScale(target), scales)(steps)
    weight = np.rint(
        block.conv.weight.detach().double().numpy() / scales.double().numpy()[:, None, None, None]
    ).astype(int)
    bias = np.rint(
        block.conv.bias.detach().double().numpy() / (scales.double().numpy() * source.scale)
    ).astype(int)
    padded = np.pad(steps[0].numpy().astype(int), ((0, 0), (1, 1), (1, 1)))
    low, high = activation_limits(block.activation, target)
    for o in range(4):
        factor = Fraction(
            float(
                np.float32(
                    np.float32(float(scales[o]) * np.float32(source.scale))
                    / np.float32(target.scale)
                )
            )
        )
        for y in range(4):
            for x in range(4):
                total = int((weight[o] * padded[:, y : y + 3, x : x + 3]).sum() + bias[o])
                assert found[0, o, y, x] == min(max(half_even(total * factor), low), high)


def test_a_sum_is_that_of_the_fixed_point_multipliers() -> None:
    a, b, target = (
        QuantParams.covering(-1, 1),
        QuantParams.covering(-3, 5),
        QuantParams.covering(-4, 5),
    )
    first, second, shift = fixed_point(np.float32([a.scale, b.scale]) / np.float32(target.scale))
    assert max(first, second) >> 20 == 1  # the larger one fills 21 bits
    assert math.isclose(first / 2**shift, a.scale / target.scale, rel_tol=1e-5)
    values = torch.arange(-120.0, 121.0, 3.0)
    found = Int8Add(ActivationScale(a), ActivationScale(b), ActivationScale(target))(
        values, values.flip(0)
    )
    for x, y, z in zip(values, values.flip(0), found, strict=True):
        expected = (int(x) * first + int(y) * second + (1 << (shift - 1))) >> shift
        assert int(z) == min(max(expected, -128 - target.zero_point), 127 - target.zero_point)


def test_upsampling_rounds_half_up() -> None:
    steps = torch.tensor([[[[0.0, 2.0, -2.0]]]])
    row = Int8Upsample()(steps)[0, 0, 0]
    # 0, 0.5, 1.5, 1, -1, -2: halves go up, also below zero
    assert row.tolist() == [0, 1, 2, 1, -1, -2]


@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
def test_the_gradient_is_that_of_the_real_layer_where_nothing_is_cut_off(activation: str) -> None:
    torch.manual_seed(1)
    block = ConvBlock(4, 5, 1, norm=False, activation=activation)
    source, target = QuantParams.covering(-2, 2), QuantParams.covering(-4, 4)
    layer = Int8Conv(
        block,
        ActivationScale(source),
        ActivationScale(target),
        weight_scales(block.conv.weight, False),
    )
    steps = torch.randint(-100, 100, (2, 4, 3, 3)).float()
    (layer(steps) * target.scale).sum().backward()
    found, wanted = block.conv.weight.grad, None
    block.conv.weight.grad = None
    block(steps * source.scale).sum().backward()
    wanted = block.conv.weight.grad
    assert found is not None and wanted is not None
    assert torch.allclose(found, wanted, rtol=0.05, atol=0.1 * float(wanted.abs().max()))
    assert float(wanted.abs().max()) > 0


def test_the_gradients_of_scales_are_those_of_fake_quantisation() -> None:
    """Against autograd through scale * clip(round(x / scale)), rounding passed straight through."""
    torch.manual_seed(2)
    blocks = [ConvBlock(3, 3, 1, norm=False, activation=a) for a in ("relu6", "none")]
    stored = [
        ActivationScale(QuantParams.covering(low, high), learnt)
        for low, high, learnt in (
            (-2, 2, False),
            (0, 1, True),
            (-0.6, 0.6, True),
            (-0.7, 0.9, True),
        )
    ]
    layers = [  # no weight on the limit, where the gradient is one or the other
        Int8Conv(
            block, stored[i], stored[i + 1], 1.01 * weight_scales(block.conv.weight, True), True
        )
        for i, block in enumerate(blocks)
    ]
    add = Int8Add(stored[1], stored[2], stored[3])
    steps, coefficients = torch.randint(-90, 90, (4, 3, 5, 5)).float(), torch.randn(4, 3, 5, 5)
    first = layers[0](steps)
    found = add(first, layers[1](first)) * stored[3].scale
    (found * coefficients).sum().backward()
    gradients = [
        growth.grad.clone() for growth in (*(s.growth for s in stored[1:]), layers[1].growth)
    ]

    scales = [(s.start.clone().requires_grad_(), s.zero_point) for s in stored]
    weights = [layer.start.clone().requires_grad_() for layer in layers]

    def rounded(values: torch.Tensor) -> torch.Tensor:
        return values + (values.round() - values).detach()

    def fake(values: torch.Tensor, index: int) -> torch.Tensor:
        scale, zero_point = scales[index]
        return scale * rounded(values / scale).clamp(-128 - zero_point, 127 - zero_point)

    def layer(values: torch.Tensor, index: int) -> torch.Tensor:
        conv, scale = blocks[index].conv, weights[index].reshape(-1, 1, 1, 1)
        weight = scale * rounded(conv.weight / scale).clamp(-127, 127)
        values = torch.nn.functional.conv2d(values, weight, conv.bias)
        return fake(blocks[index].activation(values), index + 1)

    one = layer(steps * scales[0][0], 0)
    wanted = fake(one + layer(one, 1), 3)
    (wanted * coefficients).sum().backward()
    expected = [scale.grad * scale for scale in (*(each for each, _ in scales[1:]), weights[1])]
    assert float((found - wanted).detach().abs().max()) <= 1.01 * float(stored[3].start)
    for name, a, b in zip(("relu6", "none", "sum", "weights"), gradients, expected, strict=True):
        assert torch.allclose(a, b, rtol=0.1, atol=0.02 * float(b.abs().max())), (name, a, b)
