"""The int8 network in torch: the same values as the file's, up to the rounding of sums, so that recovery and tuning need no export."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import parametrize

from heatpose.models.movenet import MoveNet
from heatpose.preprocessing import Preprocessing
from heatpose.quantize.channels import pyramid_steps, quantised_modules
from heatpose.quantize.scheme import LOWEST, Affine, input_affine, rounded_weights


@dataclass(frozen=True, eq=False)
class Plan:
    """All that an int8 file needs.

    Attributes:
        network: Folded float network whose weights and biases are stored.
        affines: Per name of `quantised_modules`: how its output is stored.
        preprocessing: What the bytes of an image mean to the float network.
        per_channel: One weight scale per output channel, else one per tensor.
    """

    network: MoveNet
    affines: Mapping[str, Affine]
    preprocessing: Preprocessing
    per_channel: bool


class _RoundedWeight(nn.Module):
    """Parametrisation of a weight f32[O, I, h, w]."""

    def __init__(self, per_channel: bool) -> None:
        super().__init__()
        self.per_channel = per_channel

    def forward(self, weight: Tensor) -> Tensor:
        return rounded_weights(weight, self.per_channel)


def simulated(plan: Plan) -> MoveNet:
    """A copy of the plan's network that rounds its input, weights and activations as the int8 file does.

    Images go in normalised, as for the float network. The sigmoid that may follow is not part of it.
    """
    network = copy.deepcopy(plan.network)
    for block in network.conv_blocks():
        parametrize.register_parametrization(block.conv, "weight", _RoundedWeight(plan.per_channel))
    network.register_forward_pre_hook(lambda _, images: (_stored_image(images[0], plan.preprocessing),))
    modules = quantised_modules(network)
    for name, module in modules.items():
        _round_output(module, plan.affines[name])
    sources = upsampled_names(network)
    for step, name in zip(pyramid_steps(network), sources, strict=True):
        if step.smooth is None:  # nearest repeats what is stored, and a fixed convolution has a range of its own
            _round_output(step.upsample, plan.affines[name])
    return network.eval()


def upsampled_names(network: MoveNet) -> list[str]:
    """The tensor that each pyramid step upsamples, by the name of the module that writes it: the resized map is stored like it."""
    names = {module: name for name, module in network.named_modules()}
    return [names[network.top], *(names[step.pointwise] for step in pyramid_steps(network)[:-1])]


def _stored_image(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalised f32[B, 3, S, S] as the file means the same bytes: off by what rounding the zero point costs."""
    affine = input_affine(preprocessing)
    return images + (preprocessing.shift + (LOWEST - affine.zero_point) * affine.scale)


def _round_output(module: nn.Module, affine: Affine) -> None:
    module.register_forward_hook(lambda _, __, output: affine.rounded(output))
