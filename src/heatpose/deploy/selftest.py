"""A self-test that travels with a model: a golden input, and what a PC computes from it.

The answer to "good on the PC, wrong on the board": `heatpose_selftest()` compares on the device and
names the first keypoint that differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatpose.deploy.c_header import number
from heatpose.deploy.model import DeployModel
from heatpose.deploy.targets import Target
from heatpose.deploy.templating import render
from heatpose.pose import codec

STEPS = 8
"""Steps of the int8 output that an NPU may differ by: its arithmetic rounds at other places."""
FILES = ("heatpose_selftest.h", "heatpose_selftest.c")
SCENE_SEED, SCENE = 0, 1
_PER_LINE = 24


@dataclass(frozen=True)
class Golden:
    """An input and what comes of it.

    Attributes:
        image: u8[S, S, 3], camera bytes.
        output: i8, in the layout of the file's output.
        pose: f32[K, 3], refined decode of `output`: x, y, score.
    """

    image: NDArray[np.uint8]
    output: NDArray[np.int8]
    pose: NDArray[np.float32]


def has_selftest(model: DeployModel, target: Target) -> bool:
    """Whether a package has one: int8 heatmaps in an application in C."""
    heatmaps = not model.decoded and model.int8_output is not None
    return heatmaps and target.flashing.kind == "neural_art"


def golden(model: DeployModel) -> Golden:
    """Runs the file on a rendered person.

    Raises:
        HeatposeError: LiteRT is missing, or the file cannot be run.
    """
    from heatpose.data.synthetic.dataset import SyntheticSettings, render_scene
    from heatpose.runners import open_runner
    from heatpose.runners.outputs import Layout

    quantization = model.int8_output
    assert quantization is not None
    scene = render_scene(SyntheticSettings(seed=SCENE_SEED), "val", SCENE)
    image = model.preprocessing.resize(np.asarray(scene.image.convert("RGB")))
    scale, zero_point = np.float64(quantization.scales[0]), int(quantization.zero_points[0])
    maps = open_runner(model.path, threads=1).heatmaps(image[None])[0].astype(np.float64)
    stored = np.clip(np.rint(maps / scale) + zero_point, -128, 127).astype(np.int8)
    real = ((stored.astype(np.int64) - zero_point) * scale).astype(np.float32)
    pose: NDArray[np.float32] = codec.decode(real[None], "refined")[0]
    last = model.layout is Layout.MAPS_LAST
    return Golden(image, stored.transpose(1, 2, 0) if last else stored, pose)


def selftest_texts(model: DeployModel) -> dict[str, str]:
    """The two C files by name."""
    made = golden(model)
    quantization = model.int8_output
    assert quantization is not None
    values = {
        "model_name": f"{model.stem}.tflite",
        "steps": STEPS,
        "scale": number(float(quantization.scales[0])),
        "zero_point": int(quantization.zero_points[0]),
        "image": list(_lines(made.image.ravel().tolist())),
        "output": list(_lines(made.output.ravel().tolist())),
        "pose": [[number(value) for value in row] for row in made.pose.tolist()],
    }
    return {name: render(name, **values) for name in FILES}


def _lines(values: Sequence[int]) -> Iterator[str]:
    """Numbers in rows of a readable length."""
    for start in range(0, len(values), _PER_LINE):
        yield ", ".join(str(value) for value in values[start : start + _PER_LINE])
