"""Bias correction: what rounding adds to a layer's mean output is taken off its bias (Nagel et al., ICCV 2019, section 4.2)."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from heatpose.models.movenet import MoveNet
from heatpose.quantize.channels import bias_of
from heatpose.quantize.simulate import Plan, simulated


def correct_biases(plan: Plan, reference: MoveNet, inputs: Tensor) -> None:
    """Brings the mean of every channel, before its activation, to where the float network has it.

    One pass goes through the rounded network and corrects each layer as it is reached, so later layers see the corrected ones.

    Args:
        plan: Its network's biases are changed in place.
        reference: The float network that the plan was made from, layer for layer in the same scales.
        inputs: Normalised images f32[B, 3, S, S]; all in one batch.
    """
    means: dict[str, Tensor] = {}
    biases = {name: bias_of(block) for name, block in zip(_names(plan.network), plan.network.conv_blocks(), strict=True)}
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), ExitStack() as stack:
        for name, block in zip(_names(reference), reference.conv_blocks(), strict=True):
            stack.callback(block.conv.register_forward_hook(lambda _, __, output, name=name: means.update({name: output.mean((0, 2, 3))})).remove)
        reference(inputs)

        def correct(name: str, output: Tensor) -> Tensor:
            shift = means[name] - output.mean((0, 2, 3))
            biases[name].add_(shift)
            return output + shift.reshape(-1, 1, 1)

        network = simulated(plan)
        for name, block in zip(_names(network), network.conv_blocks(), strict=True):
            stack.callback(block.conv.register_forward_hook(lambda _, __, output, name=name: correct(name, output)).remove)
        network(inputs)


def _names(network: nn.Module) -> list[str]:
    assert isinstance(network, MoveNet)
    blocks = {id(block) for block in network.conv_blocks()}
    return [name for name, module in network.named_modules() if id(module) in blocks]
