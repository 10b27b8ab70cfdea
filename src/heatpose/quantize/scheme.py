"""TFLite's int8 scheme: scales, zero points and rounding.

real = scale * (stored - zero point). Activations are int8 with a zero point, weights are int8 in
[-127, 127] around 0 (TensorFlow Lite 8-bit quantization specification,
https://ai.google.dev/edge/litert/models/quantization_spec).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heatpose.pose.preprocessing import Preprocessing

LOWEST, HIGHEST = -128, 127
WEIGHT_LIMIT = 127
_LEAST = 1e-9  # a scale below this is a channel that holds nothing
_LEAST_SHARE = 2.0**-14


@dataclass(frozen=True)
class QuantParams:
    """Quantisation of one activation tensor.

    Attributes:
        scale: Real units per step, > 0.
        zero_point: The stored value that means 0, -128..127.
    """

    scale: float
    zero_point: int

    @classmethod
    def covering(cls, low: float, high: float) -> QuantParams:
        """The 256 steps from `low` to `high`, widened to hold 0.

        Shifted by less than a step so that 0 is one of them.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        # as the file stores it
        scale = float(
            torch.tensor(max(high - low, 256 * _LEAST) / (HIGHEST - LOWEST), dtype=torch.float32)
        )
        zero_point = min(max(round(LOWEST - low / scale), LOWEST), HIGHEST)
        return cls(scale, zero_point)

    def rounded(self, values: Tensor) -> Tensor:
        """f32 of any shape -> what is left of it after storing.

        Gradients pass where nothing was cut off.
        """
        return torch.fake_quantize_per_tensor_affine(
            values, self.scale, self.zero_point, LOWEST, HIGHEST
        )


def input_quant_params(preprocessing: Preprocessing) -> QuantParams:
    """Quantisation parameters of the int8 input, which stores a raw byte b as b - 128.

    Divisor 127.5 and shift 1 give scale 1/127.5 and zero point -1. The exact zero point,
    127.5 - 128, is not an integer; the real input is half a step (1/255) above that of training.
    """
    scale = float(torch.tensor(1 / preprocessing.divisor, dtype=torch.float32))
    return QuantParams(scale, int(preprocessing.shift * preprocessing.divisor) + LOWEST)


def weight_scales(weight: Tensor, per_channel: bool) -> Tensor:
    """Scales f32[O] (one per output channel) or f32[1] that hold every weight of f32[O, I, h, w].

    A channel whose weights are nothing beside the layer's largest gets a scale that is not: its
    bias is stored in steps of that scale, in 32 bits.
    """
    largest = weight.detach().abs().flatten(1).amax(1)
    if not per_channel:
        largest = largest.amax().reshape(1)
    return (torch.maximum(largest, largest.max() * _LEAST_SHARE) / WEIGHT_LIMIT).clamp_min(_LEAST)


def stored_weights(weight: Tensor, scales: Tensor) -> Tensor:
    """i8[O, I, h, w] for scales f32[O] or f32[1]."""
    steps = weight.detach() / scales.reshape(-1, *(1,) * (weight.dim() - 1))
    return steps.round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT).to(torch.int8)


def rounded_weights(weight: Tensor, per_channel: bool) -> Tensor:
    """f32[O, I, h, w] -> what the stored weights mean; the gradient passes unchanged."""
    scales = weight_scales(weight, per_channel)
    if per_channel:
        zeros = torch.zeros(len(weight), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, scales, zeros, 0, -WEIGHT_LIMIT, WEIGHT_LIMIT
        )
    return torch.fake_quantize_per_tensor_affine(
        weight, float(scales), 0, -WEIGHT_LIMIT, WEIGHT_LIMIT
    )
