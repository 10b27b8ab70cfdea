"""Where a network's channels can be scaled without changing what it computes.

A tensor between layers can be divided by any positive s per channel when every layer that writes it
divides its weights by s and every layer that reads it multiplies its weights by s (Nagel et al.,
ICCV 2019, "Data-Free Quantization", section 4.1). Tensors that an addition joins share one s;
upsampling commutes with it. ReLU and linear layers allow any s; under ReLU6 the scaled channel must
still meet no clipping that it did not meet before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heatpose.models.layers import ConvBlock
from heatpose.models.movenet import MoveNet
from heatpose.models.topology import Topology


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
    consumers: list[ConvBlock]
    tensors: list[nn.Module]
    clipped: bool
    linear: bool

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
    """Every group of a folded network, in the order of definition.

    The network's outputs are in none: nothing after them could undo a scale.
    """
    topology = Topology(network)
    groups = []
    for layers in topology.joined():
        consumers = topology.readers({layer.name for layer in layers})
        if not consumers:
            continue
        producers = [layer.module for layer in layers if isinstance(layer.module, ConvBlock)]
        kinds = {type(producer.activation) for producer in producers}
        groups.append(
            ChannelGroup(
                producers,
                consumers,
                [layer.module for layer in layers],
                clipped=nn.ReLU6 in kinds,
                linear=kinds == {nn.Identity},
            )
        )
    return groups
