"""A teacher that can be understood.

It looks for a red, a green and a blue dot, in the file format of real ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatpose.data.sample import Person
from heatpose.pose.skeleton import Skeleton

DOTS = Skeleton("dots", ["red", "green", "blue"], [0.08, 0.08, 0.1], flip_pairs=[["red", "green"]])
SIZE = 96
POSE = [0.25, 0.5, 0.9, 0.75, 0.5, 0.4, 0.5, 0.125, 0.7]
"""x, y, score of the three dots, as the decoded teacher says of every image."""


def _write(folder: Path, kind: str, skeleton: Skeleton, size: int) -> Path:
    """`kind` "maps": the mean of each colour over 4x4 pixels, 8 times as a logit.

    "pose": `POSE`, whatever the image.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    keypoints = len(skeleton)
    if kind == "maps":
        nodes = [
            helper.make_node(
                "AveragePool", ["image"], ["mean"], kernel_shape=[4, 4], strides=[4, 4]
            ),
            helper.make_node("Mul", ["mean", "scale"], ["out"]),
        ]
        constants, shape = {"scale": np.float32(8)}, [1, keypoints, size // 4, size // 4]
    else:
        nodes = [
            helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
            helper.make_node("Add", ["zero", "pose"], ["out"]),
        ]
        constants, shape = (
            {"nothing": np.zeros((1, 1), np.float32), "pose": np.array([POSE], np.float32)},
            [1, 3 * keypoints],
        )
    graph = helper.make_graph(
        nodes,
        "dots",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    folder.mkdir(parents=True)
    path = folder / "teacher.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path
    )
    (folder / "manifest.json").write_text(json.dumps({"skeleton": skeleton.to_dict()}))
    return path


@pytest.fixture(scope="session")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a teacher: `teachers("maps" or "pose", skeleton=, size=)`."""
    root = tmp_path_factory.mktemp("teachers")

    def write(kind: str, skeleton: Skeleton = DOTS, size: int = SIZE) -> Path:
        folder = root / f"{kind}-{skeleton.name}-{size}"
        return folder / "teacher.onnx" if folder.exists() else _write(folder, kind, skeleton, size)

    return write


@pytest.fixture(scope="session")
def dotted(tmp_path_factory: pytest.TempPathFactory) -> list[Person]:
    """Nine people who are a red, a green and a blue dot each, anywhere within their box.

    On images of different shapes.
    """
    folder = tmp_path_factory.mktemp("dotted")
    random = np.random.default_rng(0)
    instances = []
    for i in range(9):
        width, height = (220, 150) if i % 2 else (140, 200)
        box = (30.0 + 3 * i, 20.0 + 2 * i, 60.0, 80.0)
        points = (np.array(box[:2]) + random.uniform(0.15, 0.85, (3, 2)) * box[2:]).astype(
            np.float32
        )
        y, x = np.mgrid[:height, :width] + 0.5
        blobs = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 5.0**2)) for px, py in points]
        path = folder / f"{i}.png"
        Image.fromarray((255 * np.stack(blobs, -1)).astype(np.uint8)).save(path)
        labelled = np.array([True, i % 3 != 0, True])
        points[~labelled] = 0
        instances.append(
            Person(
                path,
                i,
                i,
                width,
                height,
                points,
                labelled,
                box,
                4000.0,
                True,
                np.zeros((0, 4), np.float32),
            )
        )
    return instances
