"""Bias correction: what rounding adds to a layer's mean output is taken off its bias (Nagel et al., ICCV 2019, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor

from heatpose.models.movenet import MoveNet
from heatpose.quantize.integer import Int8Conv
from heatpose.quantize.simulate import Plan, blocks, simulated


def correct_biases(plan: Plan, reference: MoveNet, inputs: Tensor) -> Plan:
    """Brings the mean of every channel, before its activation, to where the float network has it.

    One pass goes through the rounded network and corrects each layer as it is reached, so later layers see the corrected ones.

    Args:
        plan: Left as it is.
        reference: The float network that the plan was made from, layer for layer in the same scales.
        inputs: Normalised images f32[B, 3, S, S]; all in one batch.

    Returns:
        The plan with other biases.
    """
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    means = channel_means(reference, inputs)
    rounded = simulated(plan)

    def correct(layer: Int8Conv, steps: Tensor, mean: Tensor) -> None:
        sums, units = layer.sums(steps)
        assert layer.conv.bias is not None
        layer.conv.bias.add_(mean - sums.mean((0, 2, 3)) * units)

    with torch.no_grad(), ExitStack() as stack:
        for name, layer in rounded.layers().items():
            stack.callback(layer.register_forward_pre_hook(lambda module, given, name=name: correct(module, given[0], means[name])).remove)
        rounded(inputs)
    return rounded.plan()


def channel_means(network: MoveNet, inputs: Tensor) -> Mapping[str, Tensor]:
    """Mean of every convolution's output before its activation, f32[O] by the name of its block."""
    means: dict[str, Tensor] = {}
    with torch.no_grad(), ExitStack() as stack:
        for name, block in blocks(network).items():
            stack.callback(block.conv.register_forward_hook(lambda _, __, output, name=name: means.update({name: output.mean((0, 2, 3))})).remove)
        network(inputs)
    return means
