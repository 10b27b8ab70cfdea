"""Checkpoints: the round trip, and every way in which a file can be none."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import (
    KEY,
    load_checkpoint,
    save_checkpoint,
    weights_hash,
)
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17, ST_13

Content = dict[str, Any]


@pytest.fixture(scope="module")
def network() -> MoveNet:
    torch.manual_seed(0)
    network = MoveNet(13, 0.35, pyramid=(32, 24, 16, 16), head_channels=32)
    network.train()(torch.randn(4, 3, 64, 64))  # so that the running statistics are not trivial
    return network


@pytest.fixture
def path(network: MoveNet, tmp_path: Path) -> Path:
    path = tmp_path / "new" / "a.ckpt"
    save_checkpoint(
        path,
        network,
        ST_13,
        Preprocessing(96, "bilinear"),
        run="test",
        epoch=3,
        data={"kind": "coco"},
    )
    return path


def test_comes_back_as_it_was(path: Path, network: MoveNet) -> None:
    loaded = load_checkpoint(path)
    assert loaded.skeleton == ST_13 and loaded.preprocessing == Preprocessing(96, "bilinear")
    assert loaded.metadata == {"run": "test", "epoch": 3, "data": {"kind": "coco"}}
    assert loaded.network.settings == network.settings and not loaded.network.training
    for (name, found), want in zip(
        loaded.network.state_dict().items(), network.state_dict().values(), strict=True
    ):
        assert torch.equal(found, want), name
    # nothing half-written beside it
    assert [entry.name for entry in path.parent.iterdir()] == ["a.ckpt"]


def test_half_rounds_convolutions_and_keeps_the_rest(network: MoveNet, tmp_path: Path) -> None:
    whole, half, again = (tmp_path / f"{name}.ckpt" for name in ("whole", "half", "again"))
    save_checkpoint(whole, network, ST_13, Preprocessing(96))
    save_checkpoint(half, network, ST_13, Preprocessing(96), half=True, run="test")
    assert half.stat().st_size < 0.62 * whole.stat().st_size
    loaded = load_checkpoint(half)
    assert loaded.metadata == {"run": "test"}
    for (name, found), value in zip(
        loaded.network.state_dict().items(), network.state_dict().values(), strict=True
    ):
        wanted = value.half().float() if value.dim() > 1 else value
        assert torch.equal(found, wanted) and found.dtype == value.dtype, name
    save_checkpoint(again, loaded.network, ST_13, Preprocessing(96), half=True)
    hashes = [weights_hash(load_checkpoint(path).network) for path in (whole, half, again)]
    assert hashes[0] == weights_hash(network) != hashes[1] == hashes[2]
    other = MoveNet(**network.settings)
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        next(iter(other.parameters()))[0] = 1e6
    with pytest.raises(HeatposeError, match="float16 cannot hold"):
        save_checkpoint(tmp_path / "large.ckpt", other, ST_13, Preprocessing(96), half=True)
    assert not (tmp_path / "large.ckpt").exists()


def test_a_description_without_heads_has_the_heatmap_head(path: Path, network: MoveNet) -> None:
    """Checkpoints from before there were four."""
    loaded = load_checkpoint(rewritten(path, lambda c: c[KEY]["network"].pop("heads")))
    assert loaded.network.settings == network.settings and not loaded.network.four_heads


def test_four_heads_come_back(tmp_path: Path) -> None:
    network = MoveNet(13, 0.35, heads="all")
    save_checkpoint(tmp_path / "four.ckpt", network, ST_13, Preprocessing(64))
    loaded = load_checkpoint(tmp_path / "four.ckpt")
    assert loaded.network.four_heads and loaded.network.settings == network.settings
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            loaded.network.state_dict().values(), network.state_dict().values(), strict=True
        )
    )


def test_a_failed_save_keeps_the_old_file(
    path: Path, network: MoveNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(content: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(HeatposeError, match="cannot be written"):
        save_checkpoint(path, network, ST_13, Preprocessing(64))
    assert path.read_bytes() == before


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.evidence,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("where", ["pickle", "torch", "beside the weights"])
def test_code_in_a_file_is_refused_and_does_not_run(where: str, path: Path, tmp_path: Path) -> None:
    evidence, bad = tmp_path / "ran", tmp_path / "bad.ckpt"
    content: Any = Runs(evidence)
    if where == "beside the weights":
        content = {**torch.load(path, weights_only=True), "extra": content}
    if where == "pickle":
        bad.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, bad)
    with pytest.raises(HeatposeError, match=r"bad\.ckpt' is not a readable checkpoint") as caught:
        load_checkpoint(bad)
    assert not evidence.exists() and "\n" not in str(caught.value)
    if where == "pickle":
        pickle.loads(bad.read_bytes())
        assert evidence.exists()  # the trap is a real one


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_one_sentence(share: float, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(HeatposeError, match="is not a readable checkpoint") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"hello, this is text\n" * 50, b"\x00" * 1000, b"PK\x03\x04 no zip", b"\x80\x02}q\x00."],
)
def test_a_file_of_another_kind_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(
        HeatposeError, match="is not a readable checkpoint|but not a Heatpose checkpoint"
    ) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(HeatposeError, match="does not exist; give the .ckpt file"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {}},
        {KEY: {"format": 1}},
        {KEY: "text", "state_dict": {}},
        torch.zeros(3),
        [1, 2],
        MoveNet(3, 0.35).state_dict(),
    ],
)
def test_a_torch_file_that_is_not_a_heatpose_checkpoint(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(
        HeatposeError, match=r"a\.pt' is a torch file but not a Heatpose checkpoint"
    ):
        load_checkpoint(tmp_path / "a.pt")


def rewritten(path: Path, change: Callable[[Content], object]) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


CHANGES: dict[str, Callable[[Content], object]] = {
    "no network": lambda c: c[KEY].pop("network"),
    "no skeleton": lambda c: c[KEY].pop("skeleton"),
    "no preprocessing": lambda c: c[KEY].pop("preprocessing"),
    "unknown setting": lambda c: c[KEY]["network"].update(depth=3),
    "settings are text": lambda c: c[KEY].update(network="wide"),
    "no sigmas": lambda c: c[KEY]["skeleton"].pop("sigmas"),
    "another width": lambda c: c[KEY]["network"].update(width=0.5),
    "a weight less": lambda c: c["state_dict"].pop("network.top.conv.weight"),
    "a weight more": lambda c: c["state_dict"].update({"network.extra": torch.zeros(1)}),
    "a weight of another shape": (
        lambda c: c["state_dict"].update({"network.top.conv.weight": torch.zeros(3)})
    ),
    "no weights": lambda c: c["state_dict"].clear(),
    "weights are text": lambda c: c.update(state_dict="none"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_parts_that_do_not_fit_are_one_sentence(
    change: Callable[[Content], object], path: Path
) -> None:
    with pytest.raises(HeatposeError, match="does not fit its own description") as caught:
        load_checkpoint(rewritten(path, change))
    assert "\n" not in str(caught.value)


def test_a_bad_resolution_is_one_sentence(path: Path) -> None:
    with pytest.raises(HeatposeError, match="Resolution 100 is not a positive multiple of 32"):
        load_checkpoint(rewritten(path, lambda c: c[KEY]["preprocessing"].update(size=100)))


def test_a_skeleton_of_another_length_is_refused(path: Path) -> None:
    with pytest.raises(
        HeatposeError, match="has 13 heatmaps, but its skeleton 'coco17' has 17 keypoints"
    ):
        load_checkpoint(rewritten(path, lambda c: c[KEY].update(skeleton=COCO_17.to_dict())))


def test_weights_of_something_else_are_left_alone(path: Path) -> None:
    """Lightning stores the loss's and the average's state beside the network's."""

    def change(c):
        return c["state_dict"].update({"loss.sigmas": torch.zeros(3), "net": torch.zeros(1)})

    assert load_checkpoint(rewritten(path, change)).network.keypoints == 13
