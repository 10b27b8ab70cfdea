"""Three ways of doubling a map's side.

Where they agree, where they do not, and how a network changes from one to another.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.nn import functional

from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import KEY, load_checkpoint, save_checkpoint
from heatpose.models.init import from_checkpoint
from heatpose.models.movenet import MoveNet, PyramidStep, with_upsampling
from heatpose.models.upsample import Upsampling, dense_transposed, upsample
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13

KINDS: tuple[Upsampling, ...] = get_args(Upsampling)
OTHERS: tuple[Upsampling, ...] = ("nearest", "transposed")


@pytest.fixture(scope="module")
def network() -> MoveNet:
    torch.manual_seed(0)
    network = MoveNet(13, 0.35, pyramid=(32, 24, 16, 16), head_channels=32)
    network.train()(torch.randn(4, 3, 64, 64))  # so that the running statistics are not trivial
    return network.eval()


@pytest.mark.parametrize("kind", OTHERS)
def test_the_same_as_bilinear_but_for_the_border(kind: Upsampling) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 7)
    exact = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    with torch.no_grad():
        found = upsample(kind, 6)(x)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], exact[..., 1:-1, 1:-1], rtol=0, atol=1e-6)
    for row in (0, -1):  # padding is zero where bilinear repeats the border
        torch.testing.assert_close(found[..., row, 1:-1], 0.75 * exact[..., row, 1:-1])
        torch.testing.assert_close(found[..., 1:-1, row], 0.75 * exact[..., 1:-1, row])
        torch.testing.assert_close(found[..., row, row], 0.75**2 * exact[..., row, row])


def test_the_dense_form_computes_the_same() -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(1, 6, 4, 3), nn.Sequential(upsample("transposed", 6))
    with torch.no_grad():
        for parameter in layer.parameters():  # not only the fixed, symmetric weights
            parameter.copy_(torch.randn_like(parameter))
        before = layer(x)
        dense_transposed(layer)
        torch.testing.assert_close(layer(x), before)
    convolutions = [module for module in layer.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert [(conv.groups, tuple(conv.weight.shape)) for conv in convolutions] == [(1, (6, 6, 4, 4))]


@pytest.mark.parametrize("kind", OTHERS)
def test_a_pyramid_step_agrees_with_the_published_one_but_for_the_border(kind: Upsampling) -> None:
    torch.manual_seed(0)
    published, other = (
        PyramidStep(6, 4, 3, norm=False),
        PyramidStep(6, 4, 3, norm=False, upsampling=kind),
    )
    other.load_state_dict({**other.state_dict(), **published.state_dict()})
    top, tap = torch.randn(1, 4, 6, 6), torch.randn(1, 6, 12, 12)
    with torch.no_grad():
        want, found = published(top, tap), other(top, tap)
    # behind the upsampling comes a 3x3
    torch.testing.assert_close(found[..., 2:-2, 2:-2], want[..., 2:-2, 2:-2])
    assert (found - want).abs().max() > 0.1 * want.std()
    assert published.smooth is None and other.smooth is not None


def test_the_two_others_are_one_function(network: MoveNet) -> None:
    torch.manual_seed(1)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        taps = network.backbone(image)
        bilinear, nearest, transposed = (
            with_upsampling(network, kind).features(taps) for kind in KINDS
        )
    torch.testing.assert_close(nearest, transposed, rtol=1e-5, atol=1e-5 * float(bilinear.std()))
    assert (nearest - bilinear).abs().max() > 0.01 * bilinear.std()


def test_there_and_back_is_the_network_itself(network: MoveNet) -> None:
    assert with_upsampling(network, "bilinear") is network
    other = network
    for kind in ("nearest", "transposed", "bilinear"):
        other = with_upsampling(other, kind)  # type: ignore[arg-type]
        assert other.settings == {**network.settings, "upsample": kind} and not other.training
    for (name, found), want in zip(
        other.state_dict().items(), network.state_dict().values(), strict=True
    ):
        assert torch.equal(found, want), name


@pytest.mark.parametrize("kind", OTHERS)
def test_training_leaves_the_fixed_weights_alone(network: MoveNet, kind: Upsampling) -> None:
    changed = with_upsampling(network, kind).train()
    before = {name: value.clone() for name, value in changed.state_dict().items()}
    optimizer = torch.optim.AdamW(changed.parameters(), lr=0.1, weight_decay=0.1)
    changed(torch.randn(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    same = {
        name for name, value in changed.state_dict().items() if torch.equal(value, before[name])
    }
    assert same == {
        f"pyramid.{i}.upsample.smooth.conv.{part}" for i in range(3) for part in ("weight", "bias")
    }


def test_checkpoints_from_before_there_were_three_are_bilinear(
    network: MoveNet, tmp_path: Path
) -> None:
    path = tmp_path / "old.ckpt"
    save_checkpoint(path, network, ST_13, Preprocessing(64))
    content: dict[str, Any] = torch.load(path, weights_only=True)
    del content[KEY]["network"]["upsample"]
    torch.save(content, path)
    assert (
        load_checkpoint(path).network.settings == network.settings
        and network.settings["upsample"] == "bilinear"
    )


@pytest.mark.parametrize(
    ("saved", "wanted"), [*pairwise(KINDS), ("transposed", "bilinear"), ("nearest", "nearest")]
)
def test_a_checkpoint_starts_any_way_of_upsampling(
    network: MoveNet, tmp_path: Path, saved: Upsampling, wanted: Upsampling
) -> None:
    save_checkpoint(tmp_path / "a.ckpt", with_upsampling(network, saved), ST_13, Preprocessing(64))
    assert load_checkpoint(tmp_path / "a.ckpt").network.settings["upsample"] == saved
    started = from_checkpoint(MoveNet(13, 0.35, upsample=wanted), ST_13, str(tmp_path / "a.ckpt"))
    assert started.settings["upsample"] == wanted
    state = started.state_dict()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


def test_others_are_refused() -> None:
    with pytest.raises(
        HeatposeError,
        match="Upsampling 'cubic' is unknown; choose one of bilinear, nearest, transposed",
    ):
        MoveNet(5, 0.35, upsample="cubic")  # type: ignore[arg-type]
