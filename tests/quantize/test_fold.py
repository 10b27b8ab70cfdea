"""Folding keeps the function.

Compared with the network it came from, on random batch-norm statistics.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from heatpose.models.movenet import MoveNet
from heatpose.quantize.equalize import fold_batch_norm


def with_random_statistics(network: MoveNet, seed: int = 0) -> MoveNet:
    """Batch norm as after training.

    No mean, variance, scale or shift is left at its initial value.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    return network


@pytest.mark.parametrize(
    ("width", "keypoints"), [(0.35, 1), (0.35, 17), (0.5, 13), (1.0, 13), (1.4, 17)]
)
def test_folding_keeps_the_function(width: float, keypoints: int) -> None:
    network = with_random_statistics(MoveNet(keypoints, width=width)).eval()
    folded = fold_batch_norm(network)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected, found = network(images), folded(images)
    assert expected.std() > 0.01  # a dead network would agree with anything
    assert (expected - found).abs().max() <= 1e-4


def test_a_folded_network_has_no_batch_norm_and_says_so() -> None:
    folded = fold_batch_norm(MoveNet(5, width=0.35))
    assert folded.settings == {**MoveNet(5, width=0.35).settings, "norm": False}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not folded.training


def test_the_source_is_left_as_it_is() -> None:
    network = with_random_statistics(MoveNet(3, width=0.35)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold_batch_norm(network)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.add_(1)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_epsilon_counts_where_the_variance_is_tiny() -> None:
    network = MoveNet(3, width=0.35).eval()
    stem = network.backbone.features[0]
    norm = stem.norm
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    norm.running_var.fill_(norm.eps)
    folded = fold_batch_norm(network).backbone.features[0]
    assert torch.allclose(folded.conv.weight, stem.conv.weight / (2 * norm.eps) ** 0.5)


def test_a_network_without_batch_norm_is_copied() -> None:
    network = MoveNet(3, width=0.35, norm=False)
    folded = fold_batch_norm(network)
    assert folded is not network
    for mine, theirs in zip(
        folded.state_dict().values(), network.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)
