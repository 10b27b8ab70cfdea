"""Recovery steps: exact in float where they say so, and int8 is better for each of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from heatpose.models.movenet import MoveNet
from heatpose.models.topology import Topology
from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.equalize import (
    absorb_channel_bias,
    channel_groups,
    equalize,
    fold_constant_channels,
    observe,
)
from heatpose.quantize.ptq import plan_int8
from heatpose.quantize.settings import PER_CHANNEL, PER_TENSOR, PLAIN, PtqSettings
from heatpose.quantize.simulate import Plan, simulated
from tests.quantize.conftest import SIZE, maps, troubled


def same(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-4 * max(1.0, float(a.abs().max()))


def huge(network: MoveNet) -> int:
    """Weights that read the dead channels of `troubled`."""
    return sum(int((block.conv.weight == 100.0).sum()) for block in network.conv_blocks())


def plan(network: MoveNet, images: np.ndarray, ptq: PtqSettings, per_channel: bool) -> Plan:
    return plan_int8(network, images, Preprocessing(SIZE), per_channel=per_channel, ptq=ptq)


def error(
    network: MoveNet, images: np.ndarray, inputs: Tensor, ptq: PtqSettings, per_channel: bool
) -> float:
    """Root mean square of the simulated maps against the float ones.

    Over the float ones' spread.
    """
    exact = maps(network, inputs)
    rounded = maps(simulated(plan(network, images, ptq, per_channel)), inputs)
    return float((rounded - exact).pow(2).mean().sqrt() / exact.std())


@pytest.mark.parametrize("heads", ["heatmap", "all"])
def test_dead_channels_go_and_the_network_stays(heads: str, inputs: Tensor) -> None:
    network = troubled(heads)
    before = maps(network, inputs)
    assert huge(network) > 0
    assert fold_constant_channels(network, observe(network, inputs)) >= 5
    assert same(before, maps(network, inputs))
    assert huge(network) == 0


@pytest.mark.parametrize("heads", ["heatmap", "all"])
def test_centring_is_exact_and_centres(heads: str, inputs: Tensor) -> None:
    network = troubled(heads)
    before = maps(network, inputs)
    message = absorb_channel_bias(network, observe(network, inputs))
    other = torch.rand(4, 3, SIZE, SIZE) * 2 - 1  # on images that it never saw
    assert same(before, maps(network, inputs)) and same(
        maps(troubled(heads), other), maps(network, other)
    )
    seen = observe(network, inputs)
    for group in channel_groups(network):
        if group.shiftable:
            now = seen[group.producers[0]]
            assert torch.allclose(now.low, -now.high, atol=1e-3 * float(now.high.abs().max()))
    for module, expected in message.items():
        assert torch.allclose(
            expected.low,
            seen[module].low,
            rtol=1e-3,
            atol=1e-3 * float(seen[module].high.abs().max() + 1),
        )


@pytest.mark.parametrize(("balance", "sweeps"), [(1.0, 1), (0.5, 5), (0.0, 5)])
def test_equalising_is_exact(balance: float, sweeps: int, inputs: Tensor) -> None:
    network = troubled("all")
    before = maps(network, inputs)
    message = equalize(network, observe(network, inputs), balance=balance, sweeps=sweeps)
    assert same(before, maps(network, inputs))
    seen = observe(network, inputs)
    for module, expected in message.items():
        assert torch.allclose(expected.high, seen[module].high, rtol=1e-2, atol=1e-3)


def test_equalised_activations_have_equal_ranges(inputs: Tensor) -> None:
    network = troubled()
    fold_constant_channels(network, observe(network, inputs))
    equalize(network, observe(network, inputs), balance=1.0, sweeps=1)
    seen = observe(network, inputs)[network.head.hidden]
    alive = seen.high > 1e-3
    assert torch.allclose(seen.high[alive], torch.full_like(seen.high[alive], 6.0), rtol=1e-3)


@pytest.mark.parametrize(
    ("per_channel", "ptq", "gain"), [(True, PER_CHANNEL, 1.5), (False, PER_TENSOR, 4.0)]
)
def test_recovery_makes_int8_better(
    per_channel: bool, ptq: PtqSettings, gain: float, images: np.ndarray, inputs: Tensor
) -> None:
    network = troubled()
    plain, helped = (
        error(network, images, inputs, settings, per_channel)
        for settings in (PLAIN, replace(ptq, clip_quantile=0.0))
    )
    assert helped * gain < plain, (helped, plain)


def test_biases_are_corrected_to_the_mean(images: np.ndarray, inputs: Tensor) -> None:
    network = troubled()
    exact = maps(network, inputs).mean((0, 2, 3))
    off = {}
    for correct in (False, True):
        settings = replace(PER_TENSOR, correct_bias=correct, bias_images=len(images))
        off[correct] = float(
            (
                maps(simulated(plan(network, images, settings, False)), inputs).mean((0, 2, 3))
                - exact
            )
            .abs()
            .mean()
        )
    assert off[True] < 0.5 * off[False]


def test_the_network_given_is_left_alone_and_the_plan_is_complete(images: np.ndarray) -> None:
    network = troubled("all")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    made = plan(network, images, PER_CHANNEL, True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert set(made.activation_params) == set(Topology(network).stored())
    assert plan(network, images, PER_CHANNEL, True).activation_params == made.activation_params


def test_the_inner_range_leaves_the_tails_out(inputs: Tensor) -> None:
    network = troubled()
    values: list[Tensor] = []
    network.top.register_forward_hook(lambda _, __, output: values.append(output))
    # 2 x 2 cells: all of them are looked at
    seen = observe(network, inputs, clip_quantile=0.05)[network.top]
    flat = torch.cat([v.transpose(0, 1).flatten(1) for v in values], 1)
    left_out = int(0.05 * flat.shape[1])
    assert left_out == 4
    ordered = flat.sort(1).values
    for found, expected in (
        (seen.inner_low, ordered[:, left_out]),
        (seen.inner_high, ordered[:, -1 - left_out]),
        (seen.low, ordered[:, 0]),
    ):
        assert torch.equal(found, expected)
