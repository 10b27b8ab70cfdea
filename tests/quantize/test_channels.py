"""Channel groups: complete, and scaling or shifting one changes nothing."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from heatpose.models.movenet import MoveNet
from heatpose.models.topology import Topology
from heatpose.quantize.equalize import Activations, bias_of, channel_groups, equalize, observe
from tests.quantize.conftest import maps, troubled


@pytest.mark.parametrize("heads", ["heatmap", "all"])
def test_every_layer_writes_one_group_and_reads_one(heads: str) -> None:
    network = MoveNet(5, 0.5, norm=False, heads=heads)
    groups = channel_groups(network)
    blocks = network.conv_blocks()
    last = {id(head.output) for head in network.heads().values()}
    written, read = (
        Counter(id(layer) for g in groups for layer in getattr(g, kind))
        for kind in ("producers", "consumers")
    )
    assert written == Counter(id(b) for b in blocks if id(b) not in last)
    assert read == Counter(id(b) for b in blocks if b is not network.backbone.features[0])
    stored = {id(m) for m in Topology(network).stored().values()}
    assert {id(m) for g in groups for m in g.tensors} | last == stored


@pytest.mark.parametrize("heads", ["heatmap", "all"])
def test_scaling_leaves_the_network_alone(heads: str, inputs: Tensor) -> None:
    network = troubled(heads)
    before = maps(network, inputs)
    for group in channel_groups(network):
        if not group.clipped:
            group.scale(torch.exp(torch.randn(len(bias_of(group.producers[0])))))
    after = maps(network, inputs)
    assert float((after - before).abs().max()) <= 1e-4 * float(before.abs().max())


def test_what_is_stored_is_every_convolution_and_addition() -> None:
    names = list(Topology(MoveNet(17, norm=False)).stored())
    assert len(names) == 44 + 21 + 13  # as in the published graph
    assert sum(name.endswith("add") for name in names) == 13


@pytest.mark.parametrize("reach", [1e-3, 1e-2])
def test_a_channel_that_hardly_moved_does_not_set_a_weight_scale(
    inputs: Tensor, reach: float
) -> None:
    """Else its writing weights are multiplied by hundreds, and the others are rounded to zero."""
    network = troubled("heatmap")
    group = next(g for g in channel_groups(network) if g.clipped and len(g.producers) == 1)
    (writer,) = group.producers
    observed = observe(network, inputs)
    seen = observed[writer]
    rare = int(seen.high.argmax())
    ends = [end.clone() for end in (seen.low, seen.high, seen.inner_low, seen.inner_high)]
    for end in ends:
        end[rare] = min(float(end[rare]), reach)
    equalize(network, {**observed, writer: Activations(*ends)}, balance=0.5, sweeps=10)
    largest = writer.conv.weight.detach().abs().flatten(1).amax(1)
    others = torch.arange(len(largest)) != rare
    assert 0 < float(largest[rare]) <= 1.001 * float(largest[others].max())
