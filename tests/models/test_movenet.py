"""The pose network: shapes, size, and what its parts compute."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from heatpose.errors import HeatposeError
from heatpose.models.layers import ConvBlock, scaled_channels
from heatpose.models.movenet import STRIDE, MobileNetV2, MoveNet, PoseMaps, PyramidStep


@pytest.mark.parametrize("width", [0.35, 1.0, 1.75])
@pytest.mark.parametrize("size", [32, 64, 96, 160])
def test_taps_have_their_strides_and_channels(size: int, width: float) -> None:
    backbone = MobileNetV2(width).eval()
    with torch.inference_mode():
        taps = backbone(torch.zeros(2, 3, size, size))
    channels = [scaled_channels(c, width) for c in (24, 32, 64)] + [1280]
    assert [tuple(tap.shape) for tap in taps] == [
        (2, c, size // s, size // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)
    ]
    assert backbone.channels == channels


def test_taps_are_movenets() -> None:
    """The last outputs with 24, 32 and 64 channels.

    The additions of blocks 2, 5 and 9 in Google's file.
    """
    torch.manual_seed(0)
    backbone = MobileNetV2().eval()
    x = torch.randn(1, 3, 64, 64)
    last = {}
    with torch.inference_mode():
        taps = backbone(x)
        for layer in backbone.features:
            x = layer(x)
            last[x.shape[1]] = x
    for tap, channels in zip(taps, (24, 32, 64, 1280), strict=True):
        assert torch.equal(tap, last[channels])


@pytest.mark.parametrize("width", [0.35, 0.75, 1.0, 1.4])
def test_layers_are_torchvisions(width: float) -> None:
    models = pytest.importorskip("torchvision.models")
    theirs = models.MobileNetV2(width_mult=width).features
    ours = MobileNetV2(width, last_channels=theirs[-1][0].out_channels)

    def layers(network: nn.Module) -> list[tuple[object, ...]]:
        return [
            (
                (tuple(m.weight.shape), m.stride, m.groups)
                if isinstance(m, nn.Conv2d)
                else ("norm", m.num_features)
            )
            for m in network.modules()
            if isinstance(m, nn.Conv2d | nn.BatchNorm2d)
        ]

    assert layers(ours) == layers(theirs)
    count = [sum(p.numel() for p in network.parameters()) for network in (ours, theirs)]
    assert count[0] == count[1]


def test_stride_one_layers_compute_the_same_as_torchvisions() -> None:
    """With stride 1 the two paddings agree.

    With shared weights a stage without stride gives the same numbers.
    """
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = models.mobilenet_v2(weights=None).features.eval()
    ours = MobileNetV2().eval()
    ours.load_state_dict(
        # in the order of the layers
        dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    )
    for place, channels in ((3, 24), (5, 32), (9, 64), (11, 64), (17, 160)):
        x = torch.randn(2, channels, 12, 12)
        with torch.inference_mode():
            torch.testing.assert_close(ours.features[place](x), theirs[place](x))


@pytest.mark.parametrize("width", [0.35, 0.5, 1.0])
@pytest.mark.parametrize(("keypoints", "size"), [(1, 32), (5, 96), (13, 64), (17, 160)])
def test_gives_one_map_of_logits_per_keypoint(keypoints: int, size: int, width: float) -> None:
    network = MoveNet(keypoints, width).eval()
    with torch.inference_mode():
        logits = network(torch.zeros(2, 3, size, size))
    assert (
        logits.shape == (2, keypoints, size // STRIDE, size // STRIDE)
        and logits.dtype == torch.float32
    )


@pytest.mark.parametrize("size", range(32, 289, 32))
def test_takes_every_multiple_of_32(size: int) -> None:
    network = MoveNet(3, 0.35, norm=False).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, size, size)).shape == (1, 3, size // 4, size // 4)


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_has_the_size_of_movenet_lightning() -> None:
    """2.3 million parameters, counted by hand over the layers of the published graph with its
    biases.
    """
    backbone = [(3, 32, 3, 1)]
    channels = 32
    for t, c, n, _ in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for _ in range(n):
            hidden = t * channels
            backbone += [(channels, hidden, 1, 1)] if t > 1 else []
            backbone += [(hidden, hidden, 3, hidden), (hidden, c, 1, 1)]
            channels = c
    backbone += [(320, 1280, 1, 1)]
    pyramid = [(1280, 64, 1, 1)]
    for tap, (inputs, outputs) in zip((64, 32, 24), pairwise((64, 32, 24, 24)), strict=True):
        pyramid += [(tap, inputs, 1, 1), (inputs, inputs, 3, inputs), (inputs, outputs, 1, 1)]
    head = [(24, 24, 3, 24), (24, 96, 1, 1), (96, 17, 1, 1)]
    by_hand = sum(i * o * k * k // groups + o for i, o, k, groups in (*backbone, *pyramid, *head))
    assert count(MoveNet(17, norm=False)) == by_hand == 2_303_577
    assert len(MoveNet(17).conv_blocks()) == len(backbone) + len(pyramid) + len(head) == 65


def test_a_map_starts_near_a_hundredth_everywhere() -> None:
    """Most cells hold no keypoint: a first loss far from that would be spent on learning it."""
    torch.manual_seed(0)
    images = torch.rand(4, 3, 64, 64) * 2 - 1
    for norm in (True, False):
        network = MoveNet(13, 0.35, norm=norm).train()
        with torch.no_grad():
            scores = network(images).sigmoid()
        assert 0.002 < scores.median() < 0.05


@pytest.mark.parametrize("norm", [True, False])
def test_settings_build_the_same_network_again(norm: bool) -> None:
    network = MoveNet(
        5, 0.5, norm=norm, last_channels=640, pyramid=(48, 24, 16, 16), head_channels=32
    )
    again = MoveNet(**network.settings)
    again.load_state_dict(network.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(again.eval()(image), network.eval()(image))
    assert again.settings == network.settings


@pytest.mark.parametrize("norm", [True, False])
def test_four_heads_share_everything_before_them(norm: bool) -> None:
    network = MoveNet(5, 0.35, norm=norm, heads="all").eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        maps = network(images)
        features = network.features(network.backbone(images))
        for name, head in network.heads().items():
            torch.testing.assert_close(
                getattr(maps, "heatmaps" if name == "heatmap" else name), head(features)
            )
    assert isinstance(maps, PoseMaps) and [m.shape for m in maps] == [
        (2, c, 16, 24) for c in (1, 10, 5, 10)
    ]
    assert len(network.conv_blocks()) == 65 + 9 and network.four_heads


def test_the_further_heads_change_nothing_about_the_first() -> None:
    """Names and first weights are those of the network with one head.

    Its checkpoints go on being read.
    """
    torch.manual_seed(3)
    alone = MoveNet(5, 0.35)
    torch.manual_seed(3)
    state = MoveNet(5, 0.35, heads="all").state_dict()
    assert all(torch.equal(state[name], value) for name, value in alone.state_dict().items())
    assert {name.partition(".")[0] for name in set(state) - set(alone.state_dict())} == {
        "centre",
        "regression",
        "offset",
    }
    assert not alone.four_heads and list(alone.heads()) == ["heatmap"]


def test_vectors_start_near_nothing_and_scores_near_a_hundredth() -> None:
    torch.manual_seed(0)
    network = MoveNet(5, 0.35, heads="all").train()
    with torch.no_grad():
        maps = network(torch.rand(4, 3, 64, 64) * 2 - 1)
    assert 0.002 < maps.centre.sigmoid().median() < 0.05
    assert maps.offset.abs().median() < 1 and maps.regression.abs().median() < 1


def test_other_heads_are_refused() -> None:
    with pytest.raises(
        HeatposeError, match="heads 'centre' is unknown; choose heads=heatmap or heads=all"
    ):
        MoveNet(5, 0.35, heads="centre")  # type: ignore[arg-type]


def upsampled(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice as large by bilinear interpolation between pixel centres, the border repeated.

    [H, W] -> [2H, 2W].
    """
    rows, columns = x.shape
    result = np.zeros((2 * rows, 2 * columns))
    for v, u in np.ndindex(*result.shape):
        y, z = (
            np.clip((v + 0.5) / 2 - 0.5, 0, rows - 1),
            np.clip((u + 0.5) / 2 - 0.5, 0, columns - 1),
        )
        top, left = int(y), int(z)
        for row, share in ((top, 1 - (y - top)), (min(top + 1, rows - 1), y - top)):
            result[v, u] += share * (
                (1 - (z - left)) * x[row, left] + (z - left) * x[row, min(left + 1, columns - 1)]
            )
    return result


def test_a_pyramid_step_is_upsample_add_depthwise_pointwise() -> None:
    torch.manual_seed(0)
    step = PyramidStep(tap=6, inputs=4, outputs=3, norm=False)
    top, tap = torch.randn(1, 4, 3, 5), torch.randn(1, 6, 6, 10)
    larger = torch.from_numpy(np.stack([upsampled(map_) for map_ in top[0].double().numpy()]))[
        None
    ].float()
    blocks = [step.lateral, step.depthwise, step.pointwise]
    assert all(isinstance(block, ConvBlock) for block in blocks)
    with torch.no_grad():
        want = step.pointwise(step.depthwise(larger + step.lateral(tap)))
        found = step(top, tap)
    torch.testing.assert_close(found, want)
    assert found.min() == 0  # ReLU at its end


def test_every_weight_reaches_the_logits() -> None:
    torch.manual_seed(0)
    network = MoveNet(4, 0.35).train()
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    idle = [
        name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()
    ]
    assert not idle
