"""Which layer of a network reads which, derived from its forward pass with torch.fx.

A layer is a convolution block, an addition or a resize, the units of the exported graph. A new kind
of layer takes part once it is one of `KINDS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import fx, nn

from heatpose.models.layers import Add, ConvBlock
from heatpose.models.movenet import MoveNet

KINDS = (ConvBlock, Add, nn.Upsample)
IMAGE = ""
"""Name of the network's input among the sources of a layer."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer.

    Attributes:
        name: Of its module in the network.
        module: The module.
        sources: Names of the layers whose outputs it reads, in the order of its arguments.
    """

    name: str
    module: nn.Module
    sources: tuple[str, ...]

    @property
    def resizes(self) -> bool:
        """Whether it enlarges a map, whose range of values stays that of its input."""
        return isinstance(self.module, nn.Upsample)


class Topology:
    """The layers of a network that its forward pass uses, in the order of definition.

    That order is also one in which every layer comes after its sources.

    Args:
        network: With or without batch norm, on any device; it is not run.

    Attributes:
        layers: By name.
        outputs: Names of the layers whose outputs the network returns.
    """

    def __init__(self, network: MoveNet) -> None:
        graph = _Tracer().trace(network)
        names = {node: str(node.target) for node in graph.nodes if node.op == "call_module"}
        names |= {node: IMAGE for node in graph.nodes if node.op == "placeholder"}
        sources = {name: tuple(_sources(node, names)) for node, name in names.items()}
        self.layers = {
            name: Layer(name, module, sources[name])
            for name, module in network.named_modules()
            if name != IMAGE and name in sources
        }
        (end,) = (node for node in graph.nodes if node.op == "output")
        self.outputs = tuple(_sources(end, names))

    def stored(self) -> dict[str, nn.Module]:
        """Modules whose outputs an int8 file stores with a range of their own, by name.

        Convolutions and additions. A resized map has the range of its source.
        """
        return {layer.name: layer.module for layer in self.layers.values() if not layer.resizes}

    def stored_sources(self, name: str) -> list[str]:
        """Names of the stored outputs, or of the image, that a layer reads, through resizes."""
        return [self._origin(source) for source in self.layers[name].sources]

    def _origin(self, name: str) -> str:
        while name != IMAGE and self.layers[name].resizes:
            (name,) = self.layers[name].sources
        return name

    def joined(self) -> list[list[Layer]]:
        """Stored layers whose outputs share one scale per channel: those that additions join.

        In the order of the first layer of each group.
        """
        group_of: dict[str, list[Layer]] = {}
        for name in self.stored():
            layer = self.layers[name]
            merged = [layer]
            if isinstance(layer.module, Add):
                for group in self._distinct(group_of[s] for s in self.stored_sources(name)):
                    merged = [*group, *merged]
            for each in merged:
                group_of[each.name] = merged
        order = list(self.layers)
        groups = [
            sorted(group, key=lambda layer: order.index(layer.name))
            for group in self._distinct(iter(group_of.values()))
        ]
        return sorted(groups, key=lambda group: order.index(group[0].name))

    @staticmethod
    def _distinct(groups: Iterator[list[Layer]]) -> list[list[Layer]]:
        return list({id(group): group for group in groups}.values())

    def readers(self, names: set[str]) -> list[ConvBlock]:
        """Convolution blocks that read one of some stored outputs, resized or not."""
        return [
            layer.module
            for layer in self.layers.values()
            if isinstance(layer.module, ConvBlock)
            and not names.isdisjoint(self.stored_sources(layer.name))
        ]


def _sources(node: fx.Node, names: Mapping[fx.Node, str]) -> Iterator[str]:
    """Names of the layers that a node reads, through nodes that only group outputs."""
    for source in node.all_input_nodes:
        if source in names:
            yield names[source]
        else:
            yield from _sources(source, names)


class _Tracer(fx.Tracer):
    """Enters modules down to the layers."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, KINDS) or super().is_leaf_module(module, name)
