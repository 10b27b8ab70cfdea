"""Post-training quantisation: from a float network and calibration images to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heatpose.models.movenet import MoveNet
from heatpose.models.topology import Topology
from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.equalize import (
    CEILING,
    Activations,
    absorb_channel_bias,
    equalize,
    fold_batch_norm,
    fold_constant_channels,
    observe,
)
from heatpose.quantize.integer import Int8Conv, QuantParams
from heatpose.quantize.settings import PtqSettings
from heatpose.quantize.simulate import Plan, blocks, simulated


def plan_int8(
    network: MoveNet,
    images: NDArray[np.uint8],
    preprocessing: Preprocessing,
    *,
    per_channel: bool,
    ptq: PtqSettings,
) -> Plan:
    """Decides every scale, zero point, weight and bias of an int8 file.

    Args:
        network: Trained, with or without batch norm; it is left as it is.
        images: Calibration images u8[N, S, S, 3], raw bytes.
        preprocessing: From bytes to the network's input.
        per_channel: One weight scale per output channel, else one per tensor.
        ptq: Steps to apply.

    Returns:
        The plan; its network is a new one that computes the same as `network` in float, except for
        corrected biases.
    """
    folded = fold_batch_norm(network)
    inputs = preprocessing.normalise(torch.from_numpy(images).permute(0, 3, 1, 2))
    observed = observe(folded, inputs, ptq.clip_quantile)
    if ptq.fold_constant_channels and fold_constant_channels(folded, observed):
        observed = observe(folded, inputs, ptq.clip_quantile)
    if ptq.absorb_bias:
        observed = absorb_channel_bias(folded, observed)
    if ptq.equalize is not None:
        observed = equalize(folded, observed, balance=ptq.equalize, sweeps=ptq.sweeps)
    plan = Plan.of(folded, _activation_params(folded, observed, ptq), preprocessing, per_channel)
    if ptq.correct_bias:
        plan = correct_biases(plan, folded, inputs[: ptq.bias_images])
    return plan


def _activation_params(
    network: MoveNet, observed: dict[nn.Module, Activations], ptq: PtqSettings
) -> dict[str, QuantParams]:
    logits = {
        id(network.heads()[name].output)
        for name in ("heatmap", "centre")
        if name in network.heads()
    }
    result = {}
    for name, module in Topology(network).stored().items():
        low, high = (float(value) for value in _range(module, observed[module]))
        if id(module) in logits:  # peaks determine the keypoints: none may be clipped
            low, high = float(observed[module].low.min()), float(observed[module].high.max())
            if ptq.logit_floor is not None:
                low = max(low, ptq.logit_floor)
        result[name] = QuantParams.covering(low, high)
    return result


def _range(module: nn.Module, seen: Activations) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of any channel, clipped by `clip_quantile`.

    ReLU6 tensors keep the whole range, because many of their values are at the limit.
    """
    clipped = isinstance(getattr(module, "activation", None), nn.ReLU6)
    if clipped:
        return seen.low.min(), seen.high.max().clamp_max(CEILING)
    return seen.inner_low.min(), seen.inner_high.max()


def correct_biases(plan: Plan, reference: MoveNet, inputs: Tensor) -> Plan:
    """Bias correction: each channel's mean before the activation becomes that of the float network.

    One pass goes through the rounded network and corrects each layer as it is reached, so later
    layers see the corrected ones.

    Args:
        plan: Left as it is.
        reference: The float network that the plan was made from, layer for layer in the same
            scales.
        inputs: Normalised images f32[B, 3, S, S]; all in one batch.

    Returns:
        The plan with other biases.
    """
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    means = channel_means(reference, inputs)
    rounded = simulated(plan)

    def correct(layer: Int8Conv, steps: Tensor, mean: Tensor) -> None:
        sums, units = layer.sums(steps)
        assert layer.conv.bias is not None
        layer.conv.bias.add_(mean - sums.mean((0, 2, 3)) * units)

    with torch.no_grad(), ExitStack() as stack:
        for name, layer in rounded.layers().items():
            stack.callback(
                layer.register_forward_pre_hook(
                    lambda module, given, name=name: correct(module, given[0], means[name])
                ).remove
            )
        rounded(inputs)
    return rounded.plan()


def channel_means(network: MoveNet, inputs: Tensor) -> Mapping[str, Tensor]:
    """Mean of every convolution's output before its activation.

    Args:
        network: In eval mode.
        inputs: Normalised images f32[B, 3, S, S].

    Returns:
        Name of the block -> f32[O], over images and cells.
    """
    means: dict[str, Tensor] = {}
    with torch.no_grad(), ExitStack() as stack:
        for name, block in blocks(network).items():
            stack.callback(
                block.conv.register_forward_hook(
                    lambda _, __, output, name=name: means.update({name: output.mean((0, 2, 3))})
                ).remove
            )
        network(inputs)
    return means
