"""What the tests of the deployment package share.

Importing mode is `importlib`, so the helpers beside the tests are loaded by their path.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13
from tests.conftest import MadeOnce, load_module

HERE = Path(__file__).parent

load_module(HERE / "st_reports.py")

SIZE, KEYPOINTS = 64, 13


def _network(tf: Any) -> Callable[[Any], Any]:
    """A pose network in small: strided, depthwise and pointwise convolutions, a resize, a sum.

    A sigmoid: f32[1, 16, 16, 13].
    """
    rng = np.random.default_rng(3)
    stem, depthwise, project, lateral, head = (
        tf.constant(rng.normal(0, 0.3, shape), tf.float32)
        for shape in (
            (3, 3, 3, 8),
            (3, 3, 8, 1),
            (1, 1, 8, 12),
            (1, 1, 8, 12),
            (1, 1, 12, KEYPOINTS),
        )
    )

    def network(image: Any) -> Any:
        fine = tf.nn.relu6(
            tf.nn.conv2d(
                tf.nn.relu6(tf.nn.conv2d(image, stem, 2, "SAME")),
                tf.repeat(stem[..., :1, :], 8, 2),
                2,
                "SAME",
            )
        )
        deep = tf.nn.conv2d(
            tf.nn.relu6(tf.nn.depthwise_conv2d(fine, depthwise, [1, 2, 2, 1], "SAME")),
            project,
            1,
            "SAME",
        )
        deep = tf.compat.v1.image.resize_bilinear(
            deep, (SIZE // 4, SIZE // 4), half_pixel_centers=True
        )
        return tf.sigmoid(
            tf.nn.conv2d(deep + tf.nn.conv2d(fine, lateral, 1, "SAME"), head, 1, "SAME")
        )

    return network


def _images() -> Iterator[list[NDArray[np.float32]]]:
    rng = np.random.default_rng(5)
    for _ in range(8):
        image = rng.uniform(-1, 1, (1, SIZE, SIZE, 3)).astype(np.float32)
        image[0, 0, 0, :2] = -1, 1
        yield [image]


@pytest.fixture(scope="session")
def tflite_files(made_once: MadeOnce) -> dict[str, Path]:
    """The small network as "float32", "int8_pc", "int8_pt" (uint8 in, float32 out) and "int8_out".

    (per channel, uint8 in, int8 out).
    """
    return {path.stem: path for path in made_once("deploy_files", _write_all).iterdir()}


def _write_all(folder: Path) -> None:
    tf = pytest.importorskip("tensorflow", reason="the export extra is not installed")
    network = _network(tf)
    for name in ("float32", "int8_pc", "int8_pt", "int8_out"):
        concrete = tf.function(network).get_concrete_function(
            tf.TensorSpec((1, SIZE, SIZE, 3), tf.float32, name="image")
        )
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
        if name != "float32":
            converter.optimizations, converter.representative_dataset = (
                [tf.lite.Optimize.DEFAULT],
                _images,
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type, converter.inference_output_type = (
                tf.uint8,
                tf.int8 if name == "int8_out" else tf.float32,
            )
            converter._experimental_disable_per_channel = name == "int8_pt"
        (folder / f"{name}.tflite").write_bytes(converter.convert())


@pytest.fixture(scope="session")
def pose_tflite(tflite_files: dict[str, Path]) -> Path:
    """uint8 in, int8 heatmaps out, one scale per channel."""
    return tflite_files["int8_out"]


@pytest.fixture
def bundle(tflite_files: dict[str, Path], tmp_path: Path) -> Path:
    """A bundle as an export leaves it: float, per-channel and per-tensor files, and a manifest."""
    folder = tmp_path / "exports" / "tiny"
    folder.mkdir(parents=True)
    files = {}
    for artefact in ("float32", "int8_pc", "int8_pt"):
        content = tflite_files[artefact].read_bytes()
        (folder / f"pose_64_{artefact}.tflite").write_bytes(content)
        files[f"pose_64_{artefact}.tflite"] = {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    checks = [
        {
            "name": "flatbuffer",
            "artefact": "int8_pt",
            "passed": False,
            "sentence": "Two operators are not as expected.",
        }
    ]
    manifest = {
        "format": 1,
        "name": "tiny",
        "skeleton": ST_13.to_dict(),
        "preprocessing": Preprocessing(SIZE).to_dict(),
        "files": files,
        "gates": checks,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., Path]:
    """Installs the stand-in for ST Edge AI Core.

    `install(folder="4.0", mode="hang", version="4.0.0")` gives its installation folder.
    """

    def installed(folder: str = "tool", **behaviour: object) -> Path:
        root = tmp_path / "STEdgeAI" / folder
        system = root / "Utilities" / ("mac" if sys.platform == "darwin" else "linux")
        system.mkdir(parents=True)
        (system / "stedgeai").write_text(
            f"#!/bin/sh\nSTAND_IN='{json.dumps(behaviour)}' exec '{sys.executable}'"
            f" '{HERE / 'stand_in.py'}' \"$@\"\n"
        )
        (system / "stedgeai").chmod(0o755)
        if behaviour.get("compiler", True):
            (system / "atonn").write_text("")
        return root

    return installed
