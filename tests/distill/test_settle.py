"""A network whose upsampling was changed comes back to what it said before."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from heatpose.distill.live import distance, maps_of
from heatpose.distill.settle import Settling, settle
from heatpose.errors import HeatposeError
from heatpose.models.movenet import MoveNet, with_upsampling
from heatpose.models.upsample import Upsampling
from heatpose.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(64)


def teacher() -> MoveNet:
    torch.manual_seed(0)
    network = MoveNet(5, 0.35)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        network.train()(torch.randn(16, 3, 64, 64))  # batch norm has statistics of its own
        network.head.output.norm.weight.mul_(20)
    return network.eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("kind", ["nearest", "transposed"])
def test_it_comes_back_and_what_is_fixed_stays(kind: Upsampling, images: np.ndarray) -> None:
    taught, changed = teacher(), with_upsampling(teacher(), kind)
    before, before_teacher = copy.deepcopy(changed.state_dict()), copy.deepcopy(taught.state_dict())
    inputs = PREPROCESSING.normalise(torch.from_numpy(images).permute(0, 3, 1, 2))

    def off() -> float:
        with torch.no_grad():
            return float(distance(maps_of(changed.eval()(inputs)), maps_of(taught(inputs))))

    start = off()
    settle(changed, taught, images, PREPROCESSING, Settling(steps=80, batch_size=8, rate=1e-4), progress=False)
    assert 0 < off() < 0.7 * start
    fixed = [name for name in before if ".upsample." in name or "running_" in name]
    assert len(fixed) > 6 and all(torch.equal(changed.state_dict()[name], before[name]) for name in fixed)
    assert all(torch.equal(value, before_teacher[name]) for name, value in taught.state_dict().items())


def test_no_pictures_and_a_rate_too_high_are_told(images: np.ndarray) -> None:
    with pytest.raises(HeatposeError, match="no training pictures"):
        settle(with_upsampling(teacher(), "nearest"), teacher(), images[:0], PREPROCESSING, Settling(), progress=False)
    with pytest.raises(HeatposeError, match=r"lower quant\.settling\.rate"):
        settle(with_upsampling(teacher(), "nearest"), teacher(), images, PREPROCESSING, Settling(steps=20, rate=1e30), progress=False)
