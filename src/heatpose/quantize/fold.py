"""Folds batch norm into the convolution before it, for export and quantisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from heatpose.models.layers import ConvBlock
from heatpose.models.movenet import MoveNet


def fold_batch_norm(network: MoveNet) -> MoveNet:
    """The same function without batch norm.

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
