"""Ranges of a network's activations on calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
        inner_low: The share `tail` of the sampled values is below it.
        inner_high: The same share is above it.
    """

    low: Tensor
    high: Tensor
    inner_low: Tensor
    inner_high: Tensor

    def moved(self, shift: Tensor, factors: Tensor) -> Activations:
        """Of the tensor minus `shift`, divided by `factors` > 0 (f32[C] each)."""
        ends = (self.low, self.high, self.inner_low, self.inner_high)
        return Activations(*((end - shift) / factors for end in ends))


def observe(network: MoveNet, inputs: Tensor, tail: float = 0.0) -> dict[nn.Module, Activations]:
    """Runs the network and measures every tensor that an int8 file stores.

    Args:
        network: Folded, in eval mode.
        inputs: Normalised images f32[B, 3, S, S].
        tail: Share of the values on each side that the inner range leaves out.

    Returns:
        Per module of `Topology.stored`.
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
    return {module: _joined(seen, tail) for module, seen in parts.items()}


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


def _joined(seen: list[tuple[Tensor, Tensor, Tensor]], tail: float) -> Activations:
    lows, highs, samples = zip(*seen, strict=True)
    low, high, values = torch.stack(lows).amin(0), torch.stack(highs).amax(0), torch.cat(samples, 1)
    left_out = int(tail * values.shape[1])
    if not left_out:
        return Activations(low, high, low, high)
    inner_low, inner_high = (
        (sign * values).topk(left_out + 1).values[:, -1] * sign for sign in (-1, 1)
    )
    return Activations(low, high, inner_low, inner_high)
