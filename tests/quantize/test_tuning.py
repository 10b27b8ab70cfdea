"""Quantisation-aware fine-tuning brings an int8 network nearer to the float network that teaches
it.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from heatpose.errors import HeatposeError
from heatpose.models.layers import Upsampling
from heatpose.models.movenet import with_upsampling
from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.integer import input_quant_params
from heatpose.quantize.ptq import plan_int8
from heatpose.quantize.qat import fine_tune
from heatpose.quantize.settings import PER_TENSOR, QatSettings
from heatpose.quantize.simulate import Plan, simulated
from heatpose.training.self_distillation import distance, maps_of
from tests.quantize.conftest import SIZE, troubled

PREPROCESSING = Preprocessing(SIZE)


def with_ptq(images: np.ndarray, heads: str = "heatmap") -> Plan:
    return plan_int8(troubled(heads), images, PREPROCESSING, per_channel=False, ptq=PER_TENSOR)


def off(plan: Plan, inputs: Tensor, heads: str = "heatmap") -> float:
    with torch.no_grad():
        return float(distance(maps_of(simulated(plan)(inputs)), maps_of(troubled(heads)(inputs))))


def test_it_comes_nearer_to_the_teacher(images: np.ndarray, inputs: Tensor) -> None:
    plan, qat = with_ptq(images), QatSettings(steps=30, batch_size=8, rate=0.01)
    before = {name: value.clone() for name, value in plan.network.state_dict().items()}
    tuned = fine_tune(plan, troubled(), images, qat, progress=False)
    assert off(tuned, inputs) < 0.9 * off(plan, inputs)
    assert tuned.activation_params == plan.activation_params
    changed = {
        name
        for name, value in tuned.network.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert all(
        any(name.startswith(part) for name in changed)
        for part in ("backbone.", "pyramid.", "head.")
    )
    # the plan given stays
    assert all(
        torch.equal(value, before[name]) for name, value in plan.network.state_dict().items()
    )


def test_scales_are_trained_too(images: np.ndarray, inputs: Tensor) -> None:
    """All of them move, but for the image's; the file holds the trained ones."""
    plan = with_ptq(images)
    qat = QatSettings(steps=30, batch_size=8, rate=0.01, scale_rate=0.003)
    tuned = fine_tune(plan, troubled(), images, qat, progress=False)
    assert off(tuned, inputs) < 0.9 * off(plan, inputs)
    for name, params in plan.activation_params.items():
        assert tuned.activation_params[name].scale != params.scale, name
        assert tuned.activation_params[name].zero_point == params.zero_point
    for name, scales in plan.weight_scales.items():
        assert not torch.equal(tuned.weight_scales[name], scales), name
    assert input_quant_params(tuned.preprocessing) == input_quant_params(PREPROCESSING)


def test_it_is_the_same_twice_and_takes_four_heads(images: np.ndarray, inputs: Tensor) -> None:
    plan, qat = with_ptq(images, "all"), QatSettings(steps=6, batch_size=8)
    first, second = (
        fine_tune(plan, troubled("all"), images, qat, progress=False).network.state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_distance_is_the_divergence_of_the_softmaxes_weighted_by_the_teachers_peaks() -> None:
    torch.manual_seed(0)
    found, teacher = torch.randn(2, 3, 4, 4), 3 * torch.randn(2, 3, 4, 4)
    total = weights = 0.0
    for image in range(2):
        for k in range(3):
            p, q = (
                torch.softmax(maps[image, k].flatten().double(), 0).tolist()
                for maps in (teacher, found)
            )
            sure = 1 / (1 + math.exp(-float(teacher[image, k].max())))
            total += sure * sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
            weights += sure
    assert float(distance({"heatmap": found}, {"heatmap": teacher})) == pytest.approx(
        total / weights, rel=1e-4
    )


def test_no_pictures_are_refused(images: np.ndarray) -> None:
    with pytest.raises(HeatposeError, match="no training images.*choose quant=int8"):
        fine_tune(with_ptq(images), troubled(), images[:0], QatSettings(), progress=False)


@pytest.mark.parametrize("kind", ["nearest", "transposed"])
def test_the_fixed_layers_of_an_upsampling_stay(kind: Upsampling, images: np.ndarray) -> None:
    network = with_upsampling(troubled(), kind)
    plan = plan_int8(network, images[:8], PREPROCESSING, per_channel=False, ptq=PER_TENSOR)
    before = plan.network.state_dict()
    after = fine_tune(
        plan, network, images[:8], QatSettings(steps=1, batch_size=2), progress=False
    ).network.state_dict()
    fixed = {name for name in before if ".smooth." in name}
    assert len(fixed) == 6 and all(torch.equal(after[name], before[name]) for name in fixed)
    assert any(
        not torch.equal(after[name], before[name])
        for name in before
        if name.startswith("pyramid.") and name not in fixed
    )
