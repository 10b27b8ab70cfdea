"""Which runner a file gets, and what the manifest beside it adds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13, Skeleton
from heatpose.runners import open_runner

COLOURS = Skeleton("colours", ("red", "green", "blue"), (0.1, 0.1, 0.1))


@pytest.fixture
def bundle(tflite_files: Path, tmp_path: Path) -> Path:
    shutil.copy(tflite_files / "float_logits.tflite", tmp_path / "m.tflite")
    return tmp_path


def _manifest(bundle: Path, **entries: Any) -> Path:
    (bundle / "manifest.json").write_text(json.dumps(entries))
    return bundle / "m.tflite"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is a folder"),
        ("missing.tflite", "does not exist"),
        ("notes.txt", "does not have the suffix of a model"),
    ],
)
def test_refuses_other_files_than_models(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(HeatposeError, match=said):
        open_runner(tmp_path / name)


def test_refuses_no_threads(bundle: Path) -> None:
    with pytest.raises(HeatposeError, match="threads must be 1 or more, got 0"):
        open_runner(bundle / "m.tflite", threads=0)


def test_the_manifest_gives_the_channels(bundle: Path) -> None:
    preprocessing = Preprocessing(192, "bilinear")
    path = _manifest(bundle, skeleton=COLOURS.to_dict(), preprocessing=preprocessing.to_dict())
    runner = open_runner(path)
    assert (
        runner.skeleton == COLOURS and runner.preprocessing == preprocessing and runner.size == 64
    )


def test_the_manifests_scaling_is_used(bundle: Path, blocks: NDArray[np.uint8]) -> None:
    """The same network on bytes / 63.75 - 2, which is twice the usual.

    Logits -4 + 2 * 8 at the blocks.
    """
    path = _manifest(bundle, preprocessing=Preprocessing(64, divisor=63.75, shift=2).to_dict())
    np.testing.assert_allclose(open_runner(path).heatmaps(blocks).max(), 12, atol=1e-3)


@pytest.mark.parametrize("content", ["[]", "{}", '{"name": "a web page"}'])
def test_another_softwares_manifest_is_ignored(content: str, bundle: Path) -> None:
    (bundle / "manifest.json").write_text(content)
    assert open_runner(bundle / "m.tflite").skeleton is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"skeleton": 3}',
        '{"skeleton": {"name": "x"}}',
        '{"preprocessing": {"size": "big"}}',
        "\udc80",
    ],
)
def test_a_damaged_manifest_is_refused(content: str, bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(HeatposeError):
        open_runner(bundle / "m.tflite")


def test_a_manifest_for_other_keypoints_is_refused(bundle: Path) -> None:
    with pytest.raises(
        HeatposeError, match=r"has 3 keypoints, but the manifest.json beside it describes 13"
    ):
        open_runner(_manifest(bundle, skeleton=ST_13.to_dict()))


def test_importing_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'tensorflow', 'onnxruntime', 'ai_edge_litert', 'matplotlib', 'PIL', 'rich'}"
    code = f"import sys, heatpose.predict; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
