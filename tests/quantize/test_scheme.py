"""The int8 numbers, against plain arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.integer import (
    QuantParams,
    input_quant_params,
    rounded_weights,
    stored_weights,
    weight_scales,
)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 6.0), (-3.0, 5.0), (-0.01, 900.0), (2.0, 4.0), (-7.0, -1.0), (0.0, 0.0)]
)
def test_a_range_is_covered_and_zero_is_a_step(low: float, high: float) -> None:
    quant_params = QuantParams.covering(low, high)
    least, most = ((q - quant_params.zero_point) * quant_params.scale for q in (-128, 127))
    assert -128 <= quant_params.zero_point <= 127
    assert (
        least <= min(low, 0) + quant_params.scale / 2 + 1e-12
        and most >= max(high, 0) - quant_params.scale / 2 - 1e-12
    )
    assert np.float32(quant_params.scale) == quant_params.scale  # what a file stores


def test_rounding_is_to_the_nearest_step_and_clips() -> None:
    quant_params = QuantParams(0.1, 20)
    for value in np.linspace(-20, 20, 4001) + 1e-4:
        stored = min(max(math.floor(value / 0.1 + 0.5) + 20, -128), 127)
        assert float(
            quant_params.rounded(torch.tensor([value], dtype=torch.float32))
        ) == pytest.approx((stored - 20) * 0.1, abs=1e-5)


def test_the_input_takes_raw_bytes() -> None:
    quant_params = input_quant_params(Preprocessing(64))
    assert quant_params.scale == pytest.approx(1 / 127.5) and quant_params.zero_point == -1
    for byte in (0, 77, 255):
        meant = (byte - 128 - quant_params.zero_point) * quant_params.scale
        assert meant == pytest.approx(byte / 127.5 - 1, abs=0.5 / 127.5 + 1e-6)


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_stored_to_half_a_step(per_channel: bool) -> None:
    weight = torch.randn(6, 4, 3, 3) * torch.logspace(-2, 1, 6)[:, None, None, None]
    scales, meant = weight_scales(weight, per_channel), rounded_weights(weight, per_channel)
    stored = stored_weights(weight, scales)
    assert len(scales) == (6 if per_channel else 1) and int(stored.abs().max()) == 127
    steps = scales.reshape(-1, 1, 1, 1)
    assert bool(((weight - meant).abs() <= 0.5001 * steps).all())
    assert torch.allclose(stored * steps, meant, atol=1e-6)


def test_an_empty_channel_keeps_a_scale_its_bias_can_use() -> None:
    weight = torch.ones(3, 2, 1, 1)
    weight[1] = 0
    scales = weight_scales(weight, per_channel=True)
    assert 6.0 / (float(scales[1]) * 0.02) < 2**31
