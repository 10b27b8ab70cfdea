"""Function-preserving steps before quantisation, and the activation ranges that they need.

Batch norm is folded first. Then constant channels are folded, biases are absorbed and layers are
equalised, in this order: in Google's MobileNetV2 a single constant channel with a large weight
determines the scale of its layer's weights per tensor.

A tensor between layers can be divided by any positive s per channel when every layer that writes it
divides its weights by s and every layer that reads it multiplies its weights by s (Nagel et al.,
ICCV 2019, "Data-Free Quantization", section 4.1). Tensors that an addition joins share one s;
upsampling commutes with it. ReLU and linear layers allow any s; under ReLU6 the scaled channel must
not be clipped where it was not clipped before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heatpose.models.layers import ConvBlock
from heatpose.models.movenet import MoveNet
from heatpose.models.topology import Topology

_BATCH = 16
_CELLS = 64  # of each map and image that are kept


@dataclass
class Activations:
    """Ranges of one tensor's channels, f32[C] each.

    Attributes:
        low: Smallest value over every cell of every image.
        high: Largest.
        inner_low: The share `clip_quantile` of the sampled values is below it.
        inner_high: The same share is above it.
    """

    low: Tensor
    high: Tensor
    inner_low: Tensor
    inner_high: Tensor

    def moved(self, shift: Tensor, factors: Tensor) -> Activations:
        """Ranges of (tensor - `shift`) / `factors`; f32[C] each, `factors` > 0."""
        ends = (self.low, self.high, self.inner_low, self.inner_high)
        return Activations(*((end - shift) / factors for end in ends))


def observe(
    network: MoveNet, inputs: Tensor, clip_quantile: float = 0.0
) -> dict[nn.Module, Activations]:
    """Runs the network and measures every tensor that an int8 file stores.

    Args:
        network: Folded, in eval mode.
        inputs: Normalised images f32[B, 3, S, S].
        clip_quantile: Share of the values on each side that the inner range leaves out.

    Returns:
        Module of `Topology.stored` -> its activations.
    """
    parts: dict[nn.Module, list[tuple[Tensor, Tensor, Tensor]]] = {}

    def look(module: nn.Module, values: Tensor) -> None:
        seen = parts.setdefault(module, [])
        flat = values.transpose(0, 1).flatten(1)
        stride = max(1, values.shape[2] * values.shape[3] // _CELLS)
        # Another first cell for each batch, so that not the same columns of the map are seen every
        # time.
        seen.append(
            (flat.amin(1), flat.amax(1), flat[:, (7 * len(seen)) % stride :: stride].clone())
        )

    with torch.no_grad(), _looking(network, look):
        for batch in torch.split(inputs, _BATCH):
            network(batch.contiguous(memory_format=torch.channels_last))
    return {module: _joined(seen, clip_quantile) for module, seen in parts.items()}


@contextmanager
def _looking(network: MoveNet, look: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    handles = [
        m.register_forward_hook(lambda module, _, output: look(module, output))
        for m in Topology(network).stored().values()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _joined(seen: list[tuple[Tensor, Tensor, Tensor]], clip_quantile: float) -> Activations:
    lows, highs, samples = zip(*seen, strict=True)
    low, high, values = torch.stack(lows).amin(0), torch.stack(highs).amax(0), torch.cat(samples, 1)
    left_out = int(clip_quantile * values.shape[1])
    if not left_out:
        return Activations(low, high, low, high)
    inner_low, inner_high = (
        (sign * values).topk(left_out + 1).values[:, -1] * sign for sign in (-1, 1)
    )
    return Activations(low, high, inner_low, inner_high)


CEILING = 6.0
"""Range of every equalised tensor: ReLU6's limit, a usual magnitude for later training."""
_HEADROOM = 1.05  # images outside the calibration set go a little further
_NOTHING = 1e-6
_CONSTANT = 1e-4  # range below which a channel counts as constant
_RARE = 0.01  # share of the ceiling below which a channel's range counts as small

Observed = Mapping[nn.Module, Activations]


@dataclass
class ChannelGroup:
    """Tensors that share one scale per channel.

    Attributes:
        producers: Layers that write them.
        consumers: Layers that read them.
        tensors: The modules whose outputs they are: the producers and the additions between them.
        clipped: They end in ReLU6.
        linear: They have no activation: a constant may be subtracted from each channel as well.
    """

    producers: list[ConvBlock]
    consumers: list[ConvBlock]
    tensors: list[nn.Module]
    clipped: bool
    linear: bool

    @property
    def shiftable(self) -> bool:
        """Whether a constant per channel can be moved into the readers' biases.

        Exact for one linear tensor that 1x1 layers read (padding adds true zeros).
        """
        return self.linear and len(self.tensors) == 1 and not any(map(mixes_cells, self.consumers))

    def scale(self, factors: Tensor) -> None:
        """Divides the tensors by f32[C] > 0 and multiplies the weights of their readers by it."""
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
    assert layer.conv.bias is not None  # PTQ works on folded networks
    return layer.conv.bias


def mixes_cells(layer: ConvBlock) -> bool:
    """Whether the layer reads neighbouring cells, and padding at the border."""
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


def fold_constant_channels(network: MoveNet, observed: Observed) -> int:
    """Moves constant channels into biases; the outputs on the calibration images stay the same.

    A constant c in channel i becomes a bias of the layers that read it, and the weights that write
    and read it become 0, so that they no longer take part in any scale. Before a padded layer only
    zeros are folded: its padding does not hold c.

    Args:
        network: Folded; changed in place.
        observed: Its activations.

    Returns:
        Number of folded channels.
    """
    folded = 0
    for group in channel_groups(network):
        if len(group.producers) > 1:
            continue
        seen = observed[group.producers[0]]
        dead = (seen.high - seen.low) < _CONSTANT
        if any(mixes_cells(layer) for layer in group.consumers):
            dead &= seen.high.abs() < _CONSTANT
        with torch.no_grad():
            _fold(group, dead, (seen.high + seen.low) / 2)
        folded += int(dead.sum())
    return folded


def _fold(group: ChannelGroup, dead: Tensor, constant: Tensor) -> None:
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

    All channels then share one zero point. Applied only where it is exact: to linear tensors behind
    depthwise and projecting layers that 1x1 convolutions read, the linear case of bias absorption
    (Nagel et al., ICCV 2019, section 4.1.3).

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
    """Scales channels to equal ranges within each tensor: of activations, weights, or in between.

    Channel i of a tensor is divided by s_i = a_i^balance * w_i^(1 - balance), where a_i is its
    activation range and w_i = sqrt(largest weight that writes it / largest that reads it), the
    balance of Nagel et al., ICCV 2019, equation 11. Under ReLU6 a channel that clips keeps s = 1,
    and the others stay below 1/1.05 of the limit, so the float network computes the same. Below
    balance 1, a channel under ReLU6 with a small range on the calibration images gets no larger
    writing weights than the others have: it would determine the weight scale of its layer.

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
    rare = [_rare(group, observed) if balance < 1 else None for group in groups]
    for _ in range(sweeps):
        for group, seldom in zip(groups, rare, strict=True):
            factors = _factors(group, result, balance, seldom)
            group.scale(factors)
            for module in group.tensors:
                result[module] = result[module].moved(torch.zeros_like(factors), factors)
    return result


def _rare(group: ChannelGroup, observed: Observed) -> Tensor | None:
    """bool[C]: channels of small range; None for groups without ReLU6, whose scales are free."""
    return _reach_of(group, observed) < _RARE * CEILING if group.clipped else None


def _reach_of(group: ChannelGroup, observed: Observed) -> Tensor:
    """Largest magnitude f32[C] in any of a group's tensors."""
    return torch.stack([_reach(observed[m], group.clipped) for m in group.tensors]).amax(0)


def _factors(
    group: ChannelGroup, observed: Observed, balance: float, rare: Tensor | None
) -> Tensor:
    """s f32[C] of one group."""
    reach = _reach_of(group, observed)
    written, read = group.written(), group.read()
    free = (reach > _NOTHING) & (written > _NOTHING**2) & (read > _NOTHING**2)
    if group.clipped:
        free &= reach < 0.998 * CEILING
    if not free.any():
        return torch.ones_like(reach)
    by_weights = (written.clamp_min(_NOTHING**2) / read.clamp_min(_NOTHING**2)).sqrt()
    # the magnitude of an unclipped tensor is free
    if not group.clipped:
        by_weights = by_weights * (reach / by_weights)[free].max() / CEILING
    factors = (reach / CEILING).clamp_min(_NOTHING**2) ** balance * by_weights ** (1 - balance)
    if group.clipped:
        factors = torch.maximum(factors, reach * _HEADROOM / CEILING)
    if rare is not None and not rare.all():
        largest = (written / torch.where(free, factors, 1.0))[~rare].max()
        factors = torch.where(rare, torch.maximum(factors, written / largest), factors)
    return torch.where(free, factors.clamp(1e-4, 1e4), torch.ones_like(factors))


def _reach(seen: Activations, whole: bool) -> Tensor:
    low, high = (seen.low, seen.high) if whole else (seen.inner_low, seen.inner_high)
    return torch.maximum(-low, high).clamp_min(0)


def fold_batch_norm(network: MoveNet) -> MoveNet:
    """Folds batch norm into the convolutions; the network computes the same.

    gamma (w x - mean) / sqrt(var + eps) + beta is a convolution with bias. Uses the running
    statistics, that is the network in eval mode (Jacob et al., CVPR 2018, section 3.2).

    Args:
        network: With or without batch norm; it is left as it is.

    Returns:
        A new network with `norm=False`, float32, on the CPU, in eval mode.
    """
    folded = MoveNet(**{**network.settings, "norm": False})
    with torch.no_grad():
        for source, target in zip(network.conv_blocks(), folded.conv_blocks(), strict=True):
            weight, bias = folded_weights(source)
            assert target.conv.bias is not None  # norm=False builds biases
            target.conv.weight.copy_(weight)
            target.conv.bias.copy_(bias)
    return folded.eval()


def folded_weights(block: ConvBlock) -> tuple[Tensor, Tensor]:
    """Weight f64[O, I, h, w] and bias f64[O] of a block folded into one convolution (eval mode).

    In float64, so that the rounding to float32 happens once.
    """
    weight = block.conv.weight.detach().double()
    outputs = len(weight)
    bias = (
        torch.zeros(outputs).double()
        if block.conv.bias is None
        else block.conv.bias.detach().double()
    )
    norm = block.norm
    if not isinstance(norm, nn.BatchNorm2d):
        return weight, bias
    assert norm.running_mean is not None and norm.running_var is not None  # tracked by default
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shifted = (
        bias.to(weight.device) - norm.running_mean.double()
    ) * scale + norm.bias.detach().double()
    return weight * scale[:, None, None, None], shifted
