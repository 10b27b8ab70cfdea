"""Steps that leave the float network as it is and make it fit int8.

Dead channels, centred channels, equal channel ranges.

MobileNetV2 as Google ships it needs them in this order: one dead channel with a large weight is
enough to ruin a per-tensor scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from heatpose.models.movenet import MoveNet
from heatpose.quantize.channels import ChannelGroup, bias_of, channel_groups, mixes_cells
from heatpose.quantize.statistics import Activations

CEILING = 6.0
"""Every equalised tensor ends near this, which is ReLU6's own limit.

Ordinary numbers for whatever trains the network afterwards.
"""
_HEADROOM = 1.05  # images outside the calibration set go a little further
_NOTHING = 1e-6
_CONSTANT = 1e-4  # a channel that moves less than this is a constant

Observed = Mapping[nn.Module, Activations]


def fold_constant_channels(network: MoveNet, observed: Observed) -> int:
    """Takes channels that never change out of the weights.

    The network computes the same on the calibration images.

    A constant c in channel i becomes a bias of the layers that read it, and the weights that wrote
    and read it become 0, so that they no longer take part in any scale. Before a padded layer only
    zeros are taken: its padding does not hold c.

    Args:
        network: Folded; changed in place.
        observed: Its activations.

    Returns:
        How many channels.
    """
    buried = 0
    for group in channel_groups(network):
        if len(group.producers) > 1:
            continue
        seen = observed[group.producers[0]]
        dead = (seen.high - seen.low) < _CONSTANT
        if any(mixes_cells(layer) for layer in group.consumers):
            dead &= seen.high.abs() < _CONSTANT
        with torch.no_grad():
            _bury(group, dead, (seen.high + seen.low) / 2)
        buried += int(dead.sum())
    return buried


def _bury(group: ChannelGroup, dead: Tensor, constant: Tensor) -> None:
    for layer in group.consumers:
        if layer.conv.groups > 1:
            layer.conv.weight[dead] = 0
        else:
            if not mixes_cells(layer):
                bias_of(layer).add_(layer.conv.weight[:, dead, 0, 0] @ constant[dead])
            layer.conv.weight[:, dead] = 0
    group.producers[0].conv.weight[dead] = 0
    bias_of(group.producers[0])[dead] = 0


def absorb_channel_bias(network: MoveNet, observed: Observed) -> dict[nn.Module, Activations]:
    """Moves the middle of each channel's range into the biases of the 1x1 layers that read it.

    One zero point serves all channels.

    Exact, and only where it is exact: for linear tensors behind depthwise and projecting layers
    that 1x1 convolutions read. It is the linear case of bias absorption (Nagel et al., ICCV 2019,
    section 4.1.3).

    Args:
        network: Folded; changed in place.
        observed: Its activations.

    Returns:
        The activations afterwards.
    """
    result = dict(observed)
    for group in channel_groups(network):
        if not group.shiftable:
            continue
        writer = group.producers[0]
        middle = (observed[writer].inner_low + observed[writer].inner_high) / 2
        with torch.no_grad():
            bias_of(writer).sub_(middle)
            for layer in group.consumers:
                bias_of(layer).add_(layer.conv.weight[:, :, 0, 0] @ middle)
        result[writer] = observed[writer].moved(middle, torch.ones_like(middle))
    return result


def equalize(
    network: MoveNet, observed: Observed, *, balance: float, sweeps: int
) -> dict[nn.Module, Activations]:
    """Scales channels so that those of a tensor need the same range, in the activations.

    In the weights, or in between.

    Channel i of a tensor is divided by s_i = a_i^balance * w_i^(1 - balance), where a_i is its
    activation range and w_i = sqrt(largest weight that writes it / largest that reads it), the
    balance of Nagel et al., ICCV 2019, equation 11. Under ReLU6 a channel that clips keeps s = 1,
    and no other is brought closer to the limit than `1/1.05` of it, so the float network stays what
    it was.

    Args:
        network: Folded; changed in place.
        observed: Its activations.
        balance: 1 equalises activations (best for per-channel weights), 0 weights.
        sweeps: How often to go through the network; balance 1 is there after one.

    Returns:
        The activations afterwards.
    """
    result = dict(observed)
    groups = channel_groups(network)
    for _ in range(sweeps):
        for group in groups:
            factors = _factors(group, result, balance)
            group.scale(factors)
            for module in group.tensors:
                result[module] = result[module].moved(torch.zeros_like(factors), factors)
    return result


def _factors(group: ChannelGroup, observed: Observed, balance: float) -> Tensor:
    """s f32[C] of one group."""
    reach = torch.stack([_reach(observed[module], group.clipped) for module in group.tensors]).amax(
        0
    )
    written, read = group.written(), group.read()
    free = (reach > _NOTHING) & (written > _NOTHING**2) & (read > _NOTHING**2)
    if group.clipped:
        free &= reach < 0.998 * CEILING
    if not free.any():
        return torch.ones_like(reach)
    by_weights = (written.clamp_min(_NOTHING**2) / read.clamp_min(_NOTHING**2)).sqrt()
    # nothing fixes the size of an unclipped tensor, so bring it to the ceiling
    if not group.clipped:
        by_weights = by_weights * (reach / by_weights)[free].max() / CEILING
    factors = (reach / CEILING).clamp_min(_NOTHING**2) ** balance * by_weights ** (1 - balance)
    if group.clipped:
        factors = torch.maximum(factors, reach * _HEADROOM / CEILING)
    return torch.where(free, factors.clamp(1e-4, 1e4), torch.ones_like(factors))


def _reach(seen: Activations, whole: bool) -> Tensor:
    low, high = (seen.low, seen.high) if whole else (seen.inner_low, seen.inner_high)
    return torch.maximum(-low, high).clamp_min(0)
