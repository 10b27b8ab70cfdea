"""Where a network's channels can be scaled without changing what it computes.

A tensor between layers can be divided by any positive s per channel when every layer that writes it
divides its weights by s and every layer that reads it multiplies its weights by s (Nagel et al.,
ICCV 2019, "Data-Free Quantization", section 4.1). Tensors that an addition joins share one s;
upsampling commutes with it. ReLU and linear layers allow any s; under ReLU6 the scaled channel must
still meet no clipping that it did not meet before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from heatpose.models.layers import Add, ConvBlock
from heatpose.models.movenet import TAPS, InvertedResidual, MoveNet, PyramidStep


@dataclass
class ChannelGroup:
    """Tensors that share one scale per channel.

    Attributes:
        producers: Layers that write them.
        consumers: Layers that read them.
        tensors: The modules whose outputs they are: the producers and the additions between them.
        clipped: They end in ReLU6.
        linear: No activation at all: a constant may be taken off each channel as well.
    """

    producers: list[ConvBlock]
    consumers: list[ConvBlock] = field(default_factory=list)
    tensors: list[nn.Module] = field(default_factory=list)
    clipped: bool = False
    linear: bool = False

    @classmethod
    def of(cls, producer: ConvBlock) -> ChannelGroup:
        """The group of a layer's output, its readers yet unknown."""
        kind = type(producer.activation)
        return cls([producer], [], [producer], kind is nn.ReLU6, kind is nn.Identity)

    @property
    def shiftable(self) -> bool:
        """A constant per channel can move into the readers' biases.

        Exact for one linear tensor that 1x1 layers read (padding adds true zeros).
        """
        return self.linear and len(self.tensors) == 1 and not any(map(mixes_cells, self.consumers))

    def scale(self, factors: Tensor) -> None:
        """Divides the tensors by f32[C] > 0 and lets the readers multiply by it."""
        with torch.no_grad():
            for layer in self.producers:
                layer.conv.weight.div_(factors.reshape(-1, 1, 1, 1))
                bias_of(layer).div_(factors)
            for layer in self.consumers:
                shape = (-1, 1, 1, 1) if layer.conv.groups > 1 else (1, -1, 1, 1)
                layer.conv.weight.mul_(factors.reshape(shape))

    def written(self) -> Tensor:
        """Largest weight f32[C] that writes each channel."""
        return torch.stack(
            [layer.conv.weight.detach().abs().amax((1, 2, 3)) for layer in self.producers]
        ).amax(0)

    def read(self) -> Tensor:
        """Largest weight f32[C] that reads each channel."""
        axes = {True: (1, 2, 3), False: (0, 2, 3)}
        return torch.stack(
            [c.conv.weight.detach().abs().amax(axes[c.conv.groups > 1]) for c in self.consumers]
        ).amax(0)


def bias_of(layer: ConvBlock) -> Tensor:
    """A folded layer's bias f32[O]."""
    assert layer.conv.bias is not None  # recovery works on folded networks
    return layer.conv.bias


def mixes_cells(layer: ConvBlock) -> bool:
    """It reads neighbouring cells, and padding at the border."""
    return layer.conv.kernel_size != (1, 1)


def channel_groups(network: MoveNet) -> list[ChannelGroup]:
    """Every group of a folded network, in the order of the forward pass."""
    groups, last = _backbone_groups(network)
    last.consumers.append(network.top)
    before = network.top
    for step in pyramid_steps(network):
        # a fixed convolution reads the smaller map, which may have a scale of its own
        if step.smooth is not None:
            smaller = ChannelGroup.of(before)
            smaller.consumers.append(step.smooth)
            groups.append(smaller)
            before = step.smooth
        joined = ChannelGroup(
            [before, step.lateral],
            [step.depthwise],
            [before, step.lateral, step.add],
            linear=isinstance(before.activation, nn.Identity),
        )
        between = ChannelGroup.of(step.depthwise)
        between.consumers.append(step.pointwise)
        groups += [joined, between]
        before = step.pointwise
    return groups + _head_groups(network, before)


def _backbone_groups(network: MoveNet) -> tuple[list[ChannelGroup], ChannelGroup]:
    """The groups up to the last backbone convolution, whose group comes second."""
    stem, *layers = network.backbone.features
    assert isinstance(stem, ConvBlock)
    current = ChannelGroup.of(stem)
    groups = [current]
    laterals = dict(
        zip(reversed(TAPS), (step.lateral for step in pyramid_steps(network)), strict=True)
    )
    for i, layer in enumerate(layers, start=1):
        blocks = _blocks(layer)
        current.consumers.append(blocks[0])
        for writer, reader in zip(blocks, blocks[1:], strict=False):
            inner = ChannelGroup.of(writer)
            inner.consumers.append(reader)
            groups.append(inner)
        if isinstance(layer, InvertedResidual) and layer.adds:
            current.producers.append(blocks[-1])
            current.tensors += [blocks[-1], layer.add]
        else:
            current = ChannelGroup.of(blocks[-1])
            groups.append(current)
        if i in laterals:
            current.consumers.append(laterals[i])
    return groups, current


def _head_groups(network: MoveNet, features: ConvBlock) -> list[ChannelGroup]:
    shared = ChannelGroup.of(features)
    groups = [shared]
    for head in network.heads().values():
        shared.consumers.append(head.depthwise)
        for writer, reader in ((head.depthwise, head.hidden), (head.hidden, head.output)):
            inner = ChannelGroup.of(writer)
            inner.consumers.append(reader)
            groups.append(inner)
    return groups


def _blocks(layer: nn.Module) -> list[ConvBlock]:
    inner = list(layer.blocks) if isinstance(layer, InvertedResidual) else [layer]
    return [block for block in inner if isinstance(block, ConvBlock)]


def pyramid_steps(network: MoveNet) -> list[PyramidStep]:
    """The steps, from stride 32 to 4."""
    return [step for step in network.pyramid if isinstance(step, PyramidStep)]


def quantised_modules(network: MoveNet) -> dict[str, nn.Module]:
    """Every module whose output an int8 file stores with a range of its own, by its name.

    Convolutions and additions, in the order of definition.

    A resized map is stored too, with the range of what it was made from; a fixed convolution that
    upsampling ends in is a convolution like any.
    """
    used = {id(m.add) for m in network.modules() if isinstance(m, InvertedResidual) and m.adds} | {
        id(step.add) for step in pyramid_steps(network)
    }
    return {
        name: m
        for name, m in network.named_modules()
        if isinstance(m, ConvBlock) or (isinstance(m, Add) and id(m) in used)
    }
