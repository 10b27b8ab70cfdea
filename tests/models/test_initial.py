"""First weights: channels rearranged for another skeleton, torchvision's ImageNet weights.

Checkpoints.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import save_checkpoint
from heatpose.models.init import (
    from_checkpoint,
    from_imagenet,
    from_movenet,
    from_scratch,
    map_keypoints,
)
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def logits(network: MoveNet) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = network.eval()(IMAGES)
    return result


def distinct(keypoints: int, norm: bool) -> MoveNet:
    """A network whose heatmaps all differ."""
    torch.manual_seed(0)
    network = MoveNet(keypoints, 0.35, norm=norm)
    output = network.head.output
    with torch.no_grad():
        output.conv.weight.normal_(std=0.3)
        vectors = (
            (output.norm.weight, output.norm.bias, output.norm.running_mean)
            if norm
            else (output.conv.bias,)
        )
        for vector in vectors:
            assert isinstance(vector, torch.Tensor)
            vector.normal_()
    return network


@pytest.mark.parametrize("norm", [True, False])
def test_body_channels_are_copied_and_the_head_starts_as_the_nose(norm: bool) -> None:
    network = distinct(17, norm)
    before = logits(network)
    mapped = map_keypoints(network, COCO_17, ST_13)
    assert mapped.keypoints == 13 and mapped.settings == {**network.settings, "keypoints": 13}
    wanted = [COCO_17.index("nose" if name == "head" else name) for name in ST_13.keypoints]
    torch.testing.assert_close(logits(mapped), before[:, wanted])
    torch.testing.assert_close(logits(network), before)  # the given network is left as it is


def test_a_reordered_skeleton_takes_its_channels_along() -> None:
    order = list(reversed(range(13)))
    turned = replace(
        ST_13,
        keypoints=[ST_13.keypoints[k] for k in order],
        sigmas=[ST_13.sigmas[k] for k in order],
    )
    network = distinct(13, norm=False)
    torch.testing.assert_close(
        logits(map_keypoints(network, ST_13, turned)), logits(network)[:, order]
    )


def test_a_keypoint_the_network_does_not_know_starts_at_random() -> None:
    network = distinct(17, norm=False)
    target = Skeleton("cut", ("left_knee", "tail", "nose"), (0.1, 0.1, 0.1))
    torch.manual_seed(1)
    mapped = map_keypoints(network, COCO_17, target)
    before, after = logits(network), logits(mapped)
    torch.testing.assert_close(
        after[:, [0, 2]], before[:, [COCO_17.index("left_knee"), COCO_17.index("nose")]]
    )
    assert all((after[:, 1] - before[:, k]).abs().max() > 0.1 for k in range(17))
    bias = mapped.head.output.conv.bias
    assert bias is not None and bias[1].item() == pytest.approx(-4.6)  # of a fresh network


@pytest.mark.parametrize("norm", [True, False])
def test_vectors_go_along_in_pairs(norm: bool) -> None:
    torch.manual_seed(0)
    network = MoveNet(17, 0.35, norm=norm, heads="all")
    with torch.no_grad():
        for head in network.heads().values():
            head.output.conv.weight.normal_(std=0.3)
    mapped = map_keypoints(network, COCO_17, ST_13)
    with torch.inference_mode():
        before, after = network.eval()(IMAGES), mapped.eval()(IMAGES)
    rows = [COCO_17.index("nose" if name == "head" else name) for name in ST_13.keypoints]
    pairs = [2 * row + axis for row in rows for axis in (0, 1)]
    assert mapped.settings == {**network.settings, "keypoints": 13}
    torch.testing.assert_close(after.centre, before.centre)
    torch.testing.assert_close(after.heatmaps, before.heatmaps[:, rows])
    torch.testing.assert_close(after.regression, before.regression[:, pairs])
    torch.testing.assert_close(after.offset, before.offset[:, pairs])


def test_the_same_keypoints_need_no_mapping() -> None:
    network = distinct(17, norm=True)
    assert map_keypoints(network, COCO_17, replace(COCO_17, name="mine", edges=())) is network
    assert from_scratch(network, COCO_17) is network


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A file in the form of torchvision's, with random weights and statistics.

    And the network it came from.
    """
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = models.mobilenet_v2(weights=None, num_classes=10)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
    path = tmp_path_factory.mktemp("imagenet") / "mobilenet_v2-random.pth"
    torch.save(theirs.state_dict(), path)
    return path, theirs.eval()


def layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]


def test_imagenet_weights_land_in_their_layers(imagenet: tuple[Path, Any]) -> None:
    path, theirs = imagenet
    torch.manual_seed(2)
    network = MoveNet(13)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert from_imagenet(network, ST_13, str(path)) is network
    for found, want in zip(layers(network.eval().backbone), layers(theirs.features), strict=True):
        channels = found.in_channels if isinstance(found, nn.Conv2d) else found.num_features
        if isinstance(found, nn.Conv2d) and found.kernel_size == (3, 3):
            assert torch.equal(found.weight, want.weight)  # type: ignore[arg-type]  # they pad differently
            continue
        x = torch.randn(1, int(channels), 4, 4)  # type: ignore[arg-type]
        with torch.inference_mode():
            assert torch.equal(found(x), want(x))
    for name, value in network.state_dict().items():
        assert name.startswith("backbone.") or torch.equal(value, before[name]), name


@pytest.mark.parametrize("options", [{"width": 0.5}, {"norm": False}])
def test_imagenet_weights_exist_for_one_width_with_norm(
    options: dict[str, Any], imagenet: tuple[Path, Any]
) -> None:
    with pytest.raises(
        HeatposeError, match=r"for width 1\.0 with batch norm only; set model\.width=1\.0"
    ):
        from_imagenet(MoveNet(13, **options), ST_13, str(imagenet[0]))


def test_imagenet_files_that_are_none_are_one_sentence(
    imagenet: tuple[Path, Any], tmp_path: Path
) -> None:
    text, single, cut, other = (
        tmp_path / f"{name}.pth" for name in ("text", "single", "cut", "other")
    )
    text.write_text("no weights")
    torch.save(torch.zeros(3), single)
    state = imagenet[1].state_dict()
    torch.save(
        {name: value for name, value in state.items() if not name.startswith("features.4.")}, cut
    )
    torch.save({**state, "features.4.conv.0.0.weight": torch.zeros(3, 3, 1, 1)}, other)
    for path, message in (
        (text, "could not be read"),
        (single, "could not be read"),
        (tmp_path / "none.pth", "could not be read .*none.pth.*set init.path"),
        (cut, "have 98 layers where MobileNetV2 has 104"),
        (other, "do not fit MobileNetV2"),
    ):
        with pytest.raises(HeatposeError, match=message) as caught:
            from_imagenet(MoveNet(13), ST_13, str(path))
        assert "\n" not in str(caught.value)


def test_a_checkpoint_is_taken_as_it_is(tmp_path: Path) -> None:
    network = distinct(13, norm=True)
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, network, ST_13, Preprocessing(64))
    torch.testing.assert_close(
        logits(from_checkpoint(MoveNet(13, 0.35), ST_13, str(path))), logits(network)
    )
    for wanted, skeleton, message in (
        (MoveNet(17, 0.35), COCO_17, "has 13 keypoints"),
        (
            MoveNet(13, 0.5),
            ST_13,
            r"has width 0\.35, but model\.width is 0\.5; set model\.width=0\.35, .*=scratch",
        ),
        (
            MoveNet(13, 0.35, heads="all"),
            ST_13,
            r"has heads heatmap, but model\.heads is all; set model\.heads=heatmap",
        ),
    ):
        with pytest.raises(HeatposeError, match=message):
            from_checkpoint(wanted, skeleton, str(path))


@pytest.mark.usefixtures("offline")
def test_weights_without_a_path_are_one_sentence() -> None:
    with pytest.raises(HeatposeError, match=r"needs init\.path=FILE\.ckpt"):
        from_checkpoint(MoveNet(13, 0.35), ST_13)
    with pytest.raises(HeatposeError, match=r"cannot be fetched .* set init\.path=FILE"):
        from_movenet(MoveNet(13, 0.35), ST_13)
    with pytest.raises(
        HeatposeError, match="init.variant=storm is unknown; choose lightning or th"
    ):
        from_movenet(MoveNet(13, 0.35), ST_13, variant="storm")
