"""Checkpoints: against the network called directly, and a decode in plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import save_checkpoint
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13
from heatpose.runners import PoseRunner, open_runner


@pytest.fixture(scope="module")
def network() -> MoveNet:
    torch.manual_seed(0)
    network = MoveNet(13, width=0.25)
    norm = network.head.output.norm
    assert isinstance(norm, torch.nn.BatchNorm2d)
    torch.nn.init.normal_(norm.bias)  # logits on both sides of zero
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(network: MoveNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    save_checkpoint(path, network, ST_13, Preprocessing(64, "bilinear"))
    return path


def _images(size: int, count: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_describes_the_file(checkpoint: Path) -> None:
    runner: PoseRunner = open_runner(checkpoint)
    assert (runner.name, runner.kind, runner.keypoints, runner.size) == (
        "best.ckpt",
        "checkpoint",
        13,
        64,
    )
    assert runner.skeleton == ST_13 and runner.preprocessing == Preprocessing(64, "bilinear")
    assert "torch cpu" in runner.kernels


def test_heatmaps_are_the_networks_logits(checkpoint: Path, network: MoveNet) -> None:
    images = _images(64)
    with torch.no_grad():
        logits = network(torch.from_numpy(images.transpose(0, 3, 1, 2) / 127.5 - 1).float())
    np.testing.assert_allclose(open_runner(checkpoint).heatmaps(images), logits.numpy(), atol=1e-4)


def test_poses_are_the_peaks(checkpoint: Path) -> None:
    images = _images(64)
    runner = open_runner(checkpoint)
    heatmaps, poses = runner.heatmaps(images), runner.predict(images)
    assert poses.shape == (3, 13, 3) and poses.dtype == np.float32
    for b, k in np.ndindex(3, 13):
        row, column = divmod(int(heatmaps[b, k].argmax()), 16)
        score = 1 / (1 + np.exp(-heatmaps[b, k, row, column]))
        np.testing.assert_allclose(
            poses[b, k], [(column + 0.5) / 16, (row + 0.5) / 16, score], rtol=1e-5
        )


def test_a_size_replaces_the_checkpoints(checkpoint: Path) -> None:
    runner = open_runner(checkpoint, size=96)
    assert runner.size == 96 and runner.preprocessing == Preprocessing(96, "bilinear")
    assert runner.heatmaps(_images(96, 1)).shape == (1, 13, 24, 24)
    for size in (100, 0, -32):
        with pytest.raises(HeatposeError, match=f"Resolution {size}"):
            open_runner(checkpoint, size=size)


def test_leaves_torchs_threads_alone(checkpoint: Path) -> None:
    before = torch.get_num_threads()
    runner = open_runner(checkpoint, threads=before + 1)
    runner.predict(_images(64, 1))
    assert torch.get_num_threads() == before and f"{before + 1} threads" in runner.kernels


def test_refuses_files_that_are_not_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("hello")
    with pytest.raises(HeatposeError, match="is not a readable checkpoint"):
        open_runner(path)
