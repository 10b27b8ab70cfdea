"""The backbone against torchvision's MobileNetV2: the same layers, another padding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from heatpose.models.layers import scaled_channels
from heatpose.models.mobilenetv2 import MobileNetV2


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


def test_stride_one_layers_compute_what_torchvisions_do() -> None:
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
