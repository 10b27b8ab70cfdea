"""TFLite's int8 scheme, and its integer arithmetic as XNNPACK computes it, in torch.

Scheme: real = scale * (stored - zero point). Activations are int8 with a zero point, weights are
int8 in [-127, 127] around 0 (TensorFlow Lite 8-bit quantization specification,
https://ai.google.dev/edge/litert/models/quantization_spec).

Arithmetic: activations are f32 tensors that hold whole steps from the zero point (stored value -
zero point). Sums of products stay exact in float32 while they are below 2^24, which those of a
network of this size are. Formulas: XNNPACK `qs8-qc8w` convolutions with "fp32" requantisation,
`qs8-vadd` and `qs8-ibilinear` (https://github.com/google/XNNPACK, src/params.c and src/operators);
what TFLite runs on CPUs. Gradients pass every rounding unchanged (Bengio et al. 2013) and stop
where a value is clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from heatpose.models.layers import ConvBlock
from heatpose.pose.preprocessing import Preprocessing

LOWEST, HIGHEST = -128, 127
WEIGHT_LIMIT = 127
_LEAST = 1e-9  # scale of a channel of zeros
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
        """The 256 steps from `low` to `high` (real values), widened to hold 0.

        Shifted by less than a step so that 0 is one of them. The scale is rounded to float32.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        # as the file stores it
        scale = float(
            torch.tensor(max(high - low, 256 * _LEAST) / (HIGHEST - LOWEST), dtype=torch.float32)
        )
        zero_point = min(max(round(LOWEST - low / scale), LOWEST), HIGHEST)
        return cls(scale, zero_point)

    def rounded(self, values: Tensor) -> Tensor:
        """Real values f32[...] -> the nearest real values that int8 can store, f32[...].

        The gradient is 1 inside the range and 0 where values were clipped.
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

    The scale of a channel is at least a fixed share of the layer's largest: the bias is stored in
    steps of that scale, and must fit in 32 bits.
    """
    largest = weight.detach().abs().flatten(1).amax(1)
    if not per_channel:
        largest = largest.amax().reshape(1)
    return (torch.maximum(largest, largest.max() * _LEAST_SHARE) / WEIGHT_LIMIT).clamp_min(_LEAST)


def stored_weights(weight: Tensor, scales: Tensor) -> Tensor:
    """Weights f32[O, I, h, w] in steps of their scales f32[O] or f32[1]: i8[O, I, h, w]."""
    steps = weight.detach() / scales.reshape(-1, *(1,) * (weight.dim() - 1))
    return steps.round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT).to(torch.int8)


def rounded_weights(weight: Tensor, per_channel: bool) -> Tensor:
    """Weights f32[O, I, h, w] rounded to stored values, as real values; the gradient is 1."""
    scales = weight_scales(weight, per_channel)
    if per_channel:
        zeros = torch.zeros(len(weight), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, scales, zeros, 0, -WEIGHT_LIMIT, WEIGHT_LIMIT
        )
    return torch.fake_quantize_per_tensor_affine(
        weight, float(scales), 0, -WEIGHT_LIMIT, WEIGHT_LIMIT
    )


class _Stored(torch.autograd.Function):
    """Sums -> steps of the output: multiplied, rounded half to even, clipped.

    The factors get a gradient where scales are trained (Esser et al., "Learned Step Size
    Quantization", ICLR 2020, equation 3, split between this tensor's writer and its readers).
    """

    @staticmethod
    def forward(context: Any, sums: Tensor, factors: Tensor, low: float, high: float) -> Tensor:
        scaled = (sums * factors).round_()
        context.save_for_backward(scaled, factors, *([sums] if factors.requires_grad else []))
        # between whole steps: a value on the limit is not cut off
        context.limits = low - 0.5, high + 0.5
        return scaled.clamp(low, high)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scaled, factors, *sums = context.saved_tensors
        # one pass, where a mask takes three
        passed = torch.ops.aten.hardtanh_backward(gradient, scaled, *context.limits)
        of_factors = (passed * sums[0]).sum_to_size(factors.shape) if sums else None
        return passed.mul_(factors), of_factors, None, None


class _Rounded(torch.autograd.Function):
    """Rounds half to even, clips at +- `limit`; the gradient is 1 up to and at the limit."""

    @staticmethod
    def forward(context: Any, values: Tensor, limit: float) -> Tensor:
        rounded = values.round()
        context.save_for_backward(rounded.abs() <= limit)
        return rounded.clamp_(-limit, limit)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = context.saved_tensors
        return gradient * inside, None


class _Added(torch.autograd.Function):
    """XNNPACK's sum: both inputs times 20-bit multipliers, shifted back, half up."""

    @staticmethod
    def forward(context: Any, a: Tensor, b: Tensor, ratios: Tensor, low: int, high: int) -> Tensor:
        first, second, shift = fixed_point(ratios.detach().numpy())
        context.factors = first / 2**shift, second / 2**shift
        total = (a.int() * first + b.int() * second + (1 << (shift - 1))) >> shift
        stored = total.clamp(low, high)
        context.save_for_backward(stored != total, *([a, b] if ratios.requires_grad else []))
        return stored.to(a.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cut_off, *steps = context.saved_tensors
        gradient = gradient.masked_fill(cut_off, 0.0)
        of_ratios = torch.stack([(gradient * each).sum() for each in steps]) if steps else None
        return gradient * context.factors[0], gradient * context.factors[1], of_ratios, None, None


class _Upsampled(torch.autograd.Function):
    """Bilinear x2 at half-pixel centres.

    Quarters are exact in float32, the sum is rounded half up.
    """

    @staticmethod
    def forward(context: Any, steps: Tensor) -> Tensor:
        context.shape = steps.shape
        return (_bilinear(steps) + 0.5).floor_()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        height, width = gradient.shape[2:]
        size = list(context.shape)
        result: Tensor = torch.ops.aten.upsample_bilinear2d_backward(
            gradient, [height, width], size, False, None, None
        )
        return result


def _bilinear(steps: Tensor) -> Tensor:
    return functional.interpolate(steps, scale_factor=2.0, mode="bilinear", align_corners=False)


def fixed_point(ratios: NDArray[np.float32]) -> tuple[int, int, int]:
    """XNNPACK's fixed-point representation of the ratios of two input scales to the output's.

    Args:
        ratios: f32[2], > 0.

    Returns:
        Two 20-bit multipliers and a right shift.
    """
    exponent = math.frexp(float(max(ratios)))[1] - 1
    shift = 20 - exponent
    first, second = (int(np.rint(float(ratio) * 2.0**shift)) for ratio in ratios)
    return first, second, shift


class ActivationScale(nn.Module):
    """The quantisation parameters of one stored tensor, its scale as a tensor.

    Args:
        start: The parameters; the zero point stays.
        learnt: The scale is a parameter: `start.scale * exp(growth)`.
    """

    growth: Tensor
    start: Tensor

    def __init__(self, start: QuantParams, learnt: bool = False) -> None:
        super().__init__()
        self.zero_point = start.zero_point
        self.register_buffer("start", torch.tensor(start.scale), persistent=False)
        self.register_parameter("growth", nn.Parameter(torch.zeros(())) if learnt else None)

    @property
    def scale(self) -> Tensor:
        """f32[], > 0: real units per step."""
        return self.start if self.growth is None else self.start * self.growth.exp()

    def quant_params(self) -> QuantParams:
        """The current scale and the zero point as plain numbers."""
        return QuantParams(float(self.scale.detach()), self.zero_point)


class Int8Conv(nn.Module):
    """A convolution block, transposed or not, as the file computes it.

    Int8 weights, int32 bias, int8 output with the activation's limits.

    Args:
        block: Folded; its convolution is taken over, not copied.
        source: How the input is stored.
        target: How the output is stored.
        scales: Of the weights, f32[O] or f32[1].
        learnt: The scales of the weights are parameters.
    """

    start: Tensor
    growth: Tensor | None

    def __init__(
        self,
        block: ConvBlock,
        source: ActivationScale,
        target: ActivationScale,
        scales: Tensor,
        learnt: bool = False,
    ) -> None:
        super().__init__()
        self.conv, self.pads, self.activation = block.conv, block.pads, block.activation
        self.source, self.target = source, target
        self.register_buffer("start", scales.detach().clone(), persistent=False)
        growth = nn.Parameter(torch.zeros_like(scales)) if learnt else None
        self.register_parameter("growth", growth)

    @property
    def scales(self) -> Tensor:
        """Of the weights, f32[O] or f32[1]."""
        return self.start if self.growth is None else self.start * self.growth.exp()

    def sums(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Accumulators of the convolution: products of stored values, and the stored bias.

        Args:
            steps: f32[B, I, H, W], whole steps from the zero point of the input.

        Returns:
            Whole numbers f32[B, O, H', W'], and the real value of one unit, f32[O] or f32[1].
        """
        scales = self.scales
        weight = _Rounded.apply(self.conv.weight / scales.reshape(-1, 1, 1, 1), WEIGHT_LIMIT)
        units = scales * self.source.scale
        assert self.conv.bias is not None
        bias = _Rounded.apply(
            self.conv.bias.double() / (scales.double() * self.source.scale.double()), 2**31 - 1
        ).float()
        if self.pads:
            steps = functional.pad(steps, (0, 1, 0, 1))
        conv = self.conv
        if isinstance(conv, nn.ConvTranspose2d):
            # padding of `TransposedBlock`
            return (
                functional.conv_transpose2d(
                    steps, weight, bias, conv.stride, (1, 1), groups=conv.groups
                ),
                units,
            )
        return (
            functional.conv2d(
                steps, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups
            ),
            units,
        )

    def forward(self, steps: Tensor) -> Tensor:
        """Steps f32[B, I, H, W] of the input -> steps f32[B, O, H', W'] of the output."""
        sums, units = self.sums(steps)
        factors = (units / self.target.scale).reshape(1, -1, 1, 1)
        limits = activation_limits(self.activation, self.target.quant_params())
        out: Tensor = _Stored.apply(sums, factors, *limits)
        return out


class Int8Add(nn.Module):
    """A sum of two int8 tensors."""

    def __init__(self, a: ActivationScale, b: ActivationScale, target: ActivationScale) -> None:
        super().__init__()
        self.a, self.b, self.target = a, b, target

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Steps f32[B, C, H, W] of both inputs -> steps f32[B, C, H, W] of the sum."""
        ratios = torch.stack([self.a.scale, self.b.scale]) / self.target.scale
        zero_point = self.target.zero_point
        out: Tensor = _Added.apply(a, b, ratios, LOWEST - zero_point, HIGHEST - zero_point)
        return out


class Int8Upsample(nn.Module):
    """Bilinear x2 of an int8 tensor, stored as the input is."""

    def forward(self, steps: Tensor) -> Tensor:
        """Steps f32[B, C, H, W] -> steps f32[B, C, 2H, 2W]."""
        out: Tensor = _Upsampled.apply(steps)
        return out


def activation_limits(activation: nn.Module, target: QuantParams) -> tuple[float, float]:
    """Lowest and highest step from the zero point under no activation, ReLU or ReLU6."""
    low, high = float(LOWEST - target.zero_point), float(HIGHEST - target.zero_point)
    if isinstance(activation, nn.ReLU | nn.ReLU6):
        low = max(low, 0.0)
    if isinstance(activation, nn.ReLU6):
        high = min(high, float(np.rint(6.0 / target.scale)))
    return low, high
