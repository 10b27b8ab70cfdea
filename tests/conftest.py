"""What several test modules share: rendered people, and a small checkpoint that knows where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from heatpose.data.sources import SyntheticSource
from heatpose.data.synthetic import SyntheticSettings, build_synthetic
from heatpose.preprocessing import Preprocessing
from heatpose.skeleton import ST_13

TRAIN_IMAGES, VAL_IMAGES = 40, 12


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in COCO 2017 layout with 40 training and 12 evaluation pictures of rendered people.

    `SyntheticSource(str(synthetic_root.parent), 40, 12)` finds it there without rendering again.
    """
    settings = SyntheticSettings(train_images=TRAIN_IMAGES, val_images=VAL_IMAGES)
    return build_synthetic(tmp_path_factory.mktemp("synthetic"), settings, progress=False)


@pytest.fixture(scope="session")
def tiny_checkpoint(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights: 13 keypoints, width 0.35, 64 pixels, "trained" on `synthetic_root`."""
    # Imported here: tests of what needs no torch start without its seconds.
    import torch

    from heatpose.models.checkpoint import save_checkpoint
    from heatpose.models.movenet import MoveNet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny_checkpoint") / "best.ckpt"
    data = SyntheticSource(str(synthetic_root.parent), TRAIN_IMAGES, VAL_IMAGES).describe()
    save_checkpoint(path, MoveNet(13, width=0.35), ST_13, Preprocessing(64), model="tiny", data=data)
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the real data and models; the test is skipped where it is absent."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("HEATPOSE_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: '{folder}' is no folder (set HEATPOSE_SHARED)")
    return folder
