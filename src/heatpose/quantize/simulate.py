"""Simulates the int8 file in torch, with its integer arithmetic, for PTQ and QAT without export."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from heatpose.models.layers import ConvBlock
from heatpose.models.movenet import MoveNet, PoseMaps
from heatpose.models.topology import IMAGE, Topology
from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.integer import (
    LOWEST,
    ActivationScale,
    Int8Add,
    Int8Conv,
    Int8Upsample,
    QuantParams,
    input_quant_params,
    weight_scales,
)


@dataclass(frozen=True, eq=False)
class Plan:
    """Parameters of an int8 file.

    Attributes:
        network: Folded float network whose weights and biases are stored.
        activation_params: Per name of `Topology.stored`: how its output is stored.
        weight_scales: Per name of a convolution block: f32[O], one per output channel, or f32[1].
        preprocessing: From the bytes of an image to the float network's input.
    """

    network: MoveNet
    activation_params: Mapping[str, QuantParams]
    weight_scales: Mapping[str, Tensor]
    preprocessing: Preprocessing

    @classmethod
    def of(
        cls,
        network: MoveNet,
        activation_params: Mapping[str, QuantParams],
        preprocessing: Preprocessing,
        per_channel: bool,
    ) -> Plan:
        """A plan with the smallest weight scales without clipping, per output channel or layer."""
        return cls(
            network,
            activation_params,
            {
                name: weight_scales(block.conv.weight, per_channel)
                for name, block in blocks(network).items()
            },
            preprocessing,
        )


def blocks(network: nn.Module) -> dict[str, ConvBlock]:
    """Convolution blocks by name, in the order of definition."""
    return {
        name: module for name, module in network.named_modules() if isinstance(module, ConvBlock)
    }


class Int8Network(nn.Module):
    """A plan run in the integers of its file.

    Its parameters are the plan's weights and biases in float: training them is quantisation-aware
    fine-tuning, and `plan` gives the result.

    Args:
        plan: Its network is copied.
        learn_scales: The scales of weights and activations are parameters too; the image's is not.
    """

    def __init__(self, plan: Plan, learn_scales: bool = False) -> None:
        super().__init__()
        self.start = [plan]  # in a list: its network's parameters are not this module's
        self.preprocessing = plan.preprocessing
        self.body = copy.deepcopy(plan.network).eval()
        topology = Topology(self.body)
        self.stored = {
            name: ActivationScale(params, learn_scales)
            for name, params in plan.activation_params.items()
        }
        stored = {**self.stored, IMAGE: ActivationScale(input_quant_params(plan.preprocessing))}
        for name, module in topology.stored().items():
            first, *second = (stored[source] for source in topology.stored_sources(name))
            integer = (
                Int8Conv(module, first, stored[name], plan.weight_scales[name], learn_scales)
                if isinstance(module, ConvBlock)
                else Int8Add(first, second[0], stored[name])
            )
            self.body.set_submodule(name, integer)
        for layer in topology.layers.values():
            if isinstance(layer.module, nn.Upsample) and layer.module.mode == "bilinear":
                self.body.set_submodule(layer.name, Int8Upsample())
        names = {module: name for name, module in plan.network.named_modules()}
        self.heads = {
            head: self.stored[names[module.output]] for head, module in plan.network.heads().items()
        }

    def steps(self, images: Tensor) -> Tensor:
        """Normalised images f32[B, 3, S, S] -> whole steps f32[B, 3, S, S] from the zero point."""
        settings = self.preprocessing
        stored = ((images + settings.shift) * settings.divisor).round() + LOWEST
        return stored - input_quant_params(settings).zero_point

    def forward(self, images: Tensor) -> Tensor | PoseMaps:
        """Normalised images f32[B, 3, S, S] -> the real values of the stored maps.

        As the float network's forward. No sigmoid.
        """
        maps = self.body(self.steps(images).contiguous(memory_format=torch.channels_last))
        if isinstance(maps, Tensor):
            return maps * self.heads["heatmap"].scale
        names = {
            "centre": "centre",
            "regression": "regression",
            "heatmaps": "heatmap",
            "offset": "offset",
        }
        return PoseMaps(
            **{
                field: getattr(maps, field) * self.heads[head].scale
                for field, head in names.items()
            }
        )

    def layers(self) -> dict[str, Int8Conv]:
        """The convolutions by their names in the float network, in the order of definition."""
        return {
            name: module
            for name, module in self.body.named_modules()
            if isinstance(module, Int8Conv)
        }

    def plan(self) -> Plan:
        """The plan with the weights, biases and scales as they are now."""
        (start,) = self.start
        network = copy.deepcopy(start.network)
        with torch.no_grad():
            for name, layer in self.layers().items():
                block = network.get_submodule(name)
                assert (
                    isinstance(block, ConvBlock)
                    and block.conv.bias is not None
                    and layer.conv.bias is not None
                )
                block.conv.weight.copy_(layer.conv.weight)
                block.conv.bias.copy_(layer.conv.bias)
        return replace(
            start,
            network=network,
            activation_params={name: steps.quant_params() for name, steps in self.stored.items()},
            weight_scales={
                name: layer.scales.detach().clone() for name, layer in self.layers().items()
            },
        )


def simulated(plan: Plan) -> Int8Network:
    """The plan's int8 network, on a copy of its weights."""
    return Int8Network(plan).eval()
