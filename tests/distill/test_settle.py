"""A network whose upsampling was changed comes back to what it said before."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from heatpose.errors import HeatposeError
from heatpose.models.layers import Upsampling
from heatpose.models.movenet import MoveNet, with_upsampling
from heatpose.pose.preprocessing import Preprocessing
from heatpose.training.self_distillation import (
    UpsamplingTuning,
    distance,
    maps_of,
    sharpened,
    tune_upsampling,
)

PREPROCESSING = Preprocessing(64)


def teacher() -> MoveNet:
    torch.manual_seed(0)
    network = MoveNet(5, 0.35)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        coarse = 2 * torch.rand(16, 3, 5, 5) - 1
        # batch norm has statistics of its own
        network.train()(coarse.repeat_interleave(13, 2).repeat_interleave(13, 3)[..., :64, :64])
        network.head.output.norm.weight.mul_(20)
    return network.eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """u8[16, 64, 64, 3]: smooth images with some noise."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (16, 3, 6, 6)))
    smooth = (
        torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")
        .numpy()
        .transpose(0, 2, 3, 1)
    )
    return (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["nearest", "transposed"])
def test_it_comes_back_and_what_is_fixed_stays(kind: Upsampling, images: np.ndarray) -> None:
    taught, changed = teacher(), with_upsampling(teacher(), kind)
    before, before_teacher = copy.deepcopy(changed.state_dict()), copy.deepcopy(taught.state_dict())
    inputs = PREPROCESSING.normalise(torch.from_numpy(images).permute(0, 3, 1, 2))

    def off() -> float:
        with torch.no_grad():
            return float(distance(maps_of(changed.eval()(inputs)), maps_of(taught(inputs))))

    start = off()
    tune_upsampling(
        changed,
        taught,
        images,
        PREPROCESSING,
        UpsamplingTuning(steps=80, batch_size=8, rate=2e-5),
        progress=False,
    )
    assert 0 < off() < 0.7 * start
    fixed = [name for name in before if ".upsample." in name or "running_" in name]
    assert len(fixed) > 6 and all(
        torch.equal(changed.state_dict()[name], before[name]) for name in fixed
    )
    assert all(
        torch.equal(value, before_teacher[name]) for name, value in taught.state_dict().items()
    )


def test_no_pictures_and_a_rate_too_high_are_told(images: np.ndarray) -> None:
    remedy = r"no training images.*choose quant\.upsampling_tuning=null"
    with pytest.raises(HeatposeError, match=remedy):
        tune_upsampling(
            with_upsampling(teacher(), "nearest"),
            teacher(),
            images[:0],
            PREPROCESSING,
            UpsamplingTuning(),
            progress=False,
        )
    with pytest.raises(HeatposeError, match=r"lower quant\.upsampling_tuning\.rate"):
        tune_upsampling(
            with_upsampling(teacher(), "nearest"),
            teacher(),
            images,
            PREPROCESSING,
            UpsamplingTuning(steps=20, rate=1e30),
            progress=False,
        )


def test_sharpening_moves_each_pixel_away_from_the_mean_around_it(images: np.ndarray) -> None:
    photos = torch.from_numpy(images[:2, :6, :6]).permute(0, 3, 1, 2)
    found = sharpened(photos, torch.tensor([0.0, 1.5]))
    assert torch.equal(found[0], photos[0])
    plain = photos[1].double().numpy()
    for c, y, x in np.ndindex(3, 6, 6):
        around = plain[c, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean()
        assert (
            abs(
                int(found[1, c, y, x])
                - np.clip(plain[c, y, x] + 1.5 * (plain[c, y, x] - around), 0, 255)
            )
            <= 0.51
        )
