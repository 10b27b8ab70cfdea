"""First weights: channels rearranged for another skeleton, torchvision's ImageNet weights.

Checkpoints.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from heatpose.errors import HeatposeError
from heatpose.models import init as published
from heatpose.models.checkpoint import save_checkpoint
from heatpose.models.init import (
    PUBLISHED,
    Address,
    PublishedFile,
    from_checkpoint,
    from_imagenet,
    from_movenet,
    from_scratch,
    map_keypoints,
    published_file,
)
from heatpose.models.movenet import MoveNet
from heatpose.models.tflite_import import import_movenet
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
    """A file in the format of torchvision's, with random weights and statistics.

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


def test_a_checkpoint_serves_another_skeleton(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = distinct(17, norm=True)
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, network, COCO_17, Preprocessing(64))
    found, own = logits(from_checkpoint(MoveNet(13, 0.35), ST_13, str(path))), logits(network)
    for number, name in enumerate(ST_13.keypoints):
        source = "nose" if name == "head" else name
        torch.testing.assert_close(found[:, number], own[:, COCO_17.index(source)])
    assert capsys.readouterr().out == ""
    hands = replace(
        ST_13,
        keypoints=("left_wrist", "thumb"),
        sigmas=(0.06, 0.06),
        merge={},
        flip_pairs=(),
        edges=(),
    )
    from_checkpoint(MoveNet(2, 0.35), hands, str(path))
    assert "start at random: thumb." in capsys.readouterr().out
    paws = replace(hands, keypoints=("paw", "tail"))
    with pytest.raises(HeatposeError, match="has none of the keypoints"):
        from_checkpoint(MoveNet(2, 0.35), paws, str(path))


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


DATA = os.urandom(300_000)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache folder, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "heatpose"


def known(*addresses: Address, data: bytes = DATA) -> PublishedFile:
    """A file of these bytes at these addresses."""
    digest = hashlib.sha256(data).hexdigest()
    return PublishedFile("Somebody's network", "net.tflite", len(data), digest, addresses)


def packed(data: bytes, name: str = "./4.tflite") -> bytes:
    """A tar.gz as Kaggle packs it, with a second file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for entry_name, content in (("notes.txt", b"notes"), (name, data)):
            entry = tarfile.TarInfo(entry_name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def offer(server: Any) -> Callable[..., Address]:
    """Puts a file on the server; its address."""

    def offered(name: str, data: bytes, **settings: Any) -> Address:
        return Address(server.offer(name, data).url, **settings)

    return offered


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_what_is_published_is_complete() -> None:
    for file in PUBLISHED.values():
        assert re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size > 4_000_000
        hosts = ["tfhub.dev", "www.kaggle.com", "storage.googleapis.com"]
        assert [address.url.split("/")[2] for address in file.addresses] == hosts
        assert all(address.url.startswith("https://") for address in file.addresses)
    assert PUBLISHED["lightning"].sha256 != PUBLISHED["thunder"].sha256


def test_it_is_fetched_once_and_its_source_is_printed(
    server: Any, offer: Callable[..., Address], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = known(offer("a.tflite", DATA))
    assert published_file(file) == cache / "net.tflite" and kept(cache) == ["net.tflite"]
    said = capsys.readouterr().out
    assert (
        said == f"Somebody's network is fetched from {server.url}/a.tflite and kept as"
        f" '{cache}/net.tflite'.\n"
    )
    assert published_file(file).read_bytes() == DATA and len(server.requests) == 1
    assert capsys.readouterr().out == ""


def test_an_archive_is_unpacked_and_verified(
    server: Any, offer: Callable[..., Address], cache: Path
) -> None:
    file = known(offer("download", packed(DATA), packed=True))
    assert published_file(file).read_bytes() == DATA and kept(cache) == ["net.tflite"]


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_broken_transfer_goes_on(
    server: Any, offer: Callable[..., Address], cache: Path, is_packed: bool
) -> None:
    content = packed(DATA) if is_packed else DATA
    server.cuts = [150_000]
    assert published_file(known(offer("a", content, packed=is_packed))).read_bytes() == DATA
    (_, first), (_, second) = server.requests
    assert first is None and int(second.removeprefix("bytes=")[:-1]) > 80_000
    assert kept(cache) == ["net.tflite"]


def test_an_archive_whose_part_is_whole_is_fetched_anew(
    server: Any, offer: Callable[..., Address], cache: Path
) -> None:
    """Killed between the last byte and the name.

    A server of archives answers 416 to what is behind it.
    """
    content = packed(DATA)
    cache.mkdir(parents=True)
    (cache / "net.tflite.tar.gz.part").write_bytes(content)
    server.status = [416]
    assert published_file(known(offer("a", content, packed=True))).read_bytes() == DATA


def test_the_next_address_is_asked(
    server: Any, offer: Callable[..., Address], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = Address(f"{server.url}/gone.tflite")
    page = offer("page.html", b"<html>Sign in</html>")
    server.kinds["page.html"] = "text/html; charset=utf-8"
    long_page = offer("long.html", b"<html>" + b" " * 500_000)
    other = offer("other.tflite", os.urandom(len(DATA)))
    cut = offer("cut", packed(DATA)[:-1000], packed=True)
    text = offer("text", b"not an archive", packed=True)
    strange = offer("strange", packed(os.urandom(len(DATA))), packed=True)
    empty = offer("empty", packed(b"x"), packed=True)
    wrong = (gone, page, long_page, other, cut, text, strange, empty)
    good = offer("good.tflite", DATA)
    assert published_file(known(*wrong, good)).read_bytes() == DATA
    assert kept(cache) == ["net.tflite"] and "good.tflite" in capsys.readouterr().out
    with pytest.raises(HeatposeError) as refused:
        published_file(replace(known(*wrong), name="b.tflite"))
    said = str(refused.value)
    for words in (
        "404",
        "the server sends a web page instead of the file",
        "Content-Length is '500006' where '300000' is expected",
        "the file has the wrong checksum",
        "the archive is damaged",
        "the archive has no file of the known size",
    ):
        assert words in said
    assert f"download the file from {published.PAGE} and set init.path=FILE" in said
    assert "init=checkpoint init.path=st_movenet_17kpt_192" in said
    assert kept(cache) == ["net.tflite"]


def test_answers_without_a_length(server: Any, offer: Callable[..., Address], cache: Path) -> None:
    server.has_length = False
    assert published_file(known(offer("a", packed(DATA), packed=True))).read_bytes() == DATA
    (cache / "net.tflite").unlink()
    assert published_file(known(offer("b", DATA))).read_bytes() == DATA


def test_a_damaged_file_is_fetched_anew(
    server: Any, offer: Callable[..., Address], cache: Path
) -> None:
    file = known(offer("a.tflite", DATA))
    path = published_file(file)
    path.write_bytes(DATA[:-1] + b"x")
    os.truncate(path, len(DATA) - 1)
    assert published_file(file).read_bytes() == DATA
    path.write_bytes(bytes(len(DATA)))
    assert published_file(file).read_bytes() == DATA and len(server.requests) == 3


def test_without_a_network(offline: Path) -> None:
    with pytest.raises(HeatposeError) as refused:
        published_file(PUBLISHED["thunder"])
    said = str(refused.value)
    assert PUBLISHED["thunder"].addresses[0].url in said and said.count("Connection refused") == 3
    assert "init.path=FILE" in said and "\n" not in said


def test_a_cache_folder_that_takes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        HeatposeError, match="set XDG_CACHE_HOME to another folder, or init.path=FILE"
    ):
        published_file(known())


def test_the_cache_folder_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert published.cache_folder() == Path("/home/somebody/.cache/heatpose")


def test_the_fetched_file_is_imported(
    server: Any, offer: Callable[..., Address], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (files / "plain_float16.tflite").read_bytes()
    file = known(offer("download", packed(data), packed=True), data=data)
    monkeypatch.setitem(published.PUBLISHED, "lightning", file)  # type: ignore[misc]
    network = from_movenet(MoveNet(17, 0.35, norm=False), COCO_17)
    expected = import_movenet(files / "plain_float16.tflite").state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())
