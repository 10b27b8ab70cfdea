"""A teacher that finds coloured dots, as an ONNX file, and images of people who are such dots.

Each pair of keypoints has a colour of its own, the nose has one. The left one of a pair is the one
further to the right on the image, as on a person seen from the front; so the teacher gives the same
answer for a mirrored image, which no colour per keypoint would. The places are known from drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from heatpose.pose.skeleton import COCO_17

SIZE, RADIUS, TORSO = 256, 7, 60.0
COLOURS = np.array(
    [
        (1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1),
        (1, 0, -1), (-1, 0, 1),
    ]
)  # fmt: skip
"""Nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; black is beside the image."""
RIGHT_HALF = {
    "eye": (0.25, -1.8), "ear": (0.55, -1.6), "shoulder": (0.5, -1.0), "elbow": (0.85, -0.5),
    "wrist": (1.0, 0.1), "hip": (0.35, 0.0), "knee": (0.4, 0.9), "ankle": (0.45, 1.8),
}  # fmt: skip
"""Places about the middle of the hips, in torso lengths."""
OF_COLOUR = [0, *(1 + k // 2 for k in range(16))]
"""Keypoint -> its colour: in COCO's order, left and right of a pair follow each other."""

Person = NDArray[np.float64]
DrawPerson = Callable[..., Person]
MakeTeacher = Callable[..., Path]


@pytest.fixture
def draw_person() -> DrawPerson:
    """`draw_person(path, centre, torso=, missing=, size=)` writes an image of a person.

    Returns f64[17, 2], the keypoints in image pixels; those in `missing` are not drawn.
    """

    def draw(
        path: Path,
        *centres: tuple[float, float],
        torso: float = TORSO,
        missing: Sequence[int] = (),
        size: tuple[int, int] = (480, 360),
    ) -> Person:
        random = np.random.default_rng(0)
        noise = random.integers(118, 138, (size[1], size[0], 3), np.uint8)
        image = Image.fromarray(noise)
        instances = [_places(centre, torso) for centre in centres]
        canvas, radius = ImageDraw.Draw(image), RADIUS * torso / TORSO
        for places in instances:
            for k, (x, y) in enumerate(places):
                if k not in missing:
                    colour = tuple(int(v) for v in np.rint(127.5 * (COLOURS[OF_COLOUR[k]] + 1)))
                    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return np.array(instances)[0] if len(instances) == 1 else np.array(instances)

    return draw


def _places(centre: tuple[float, float], torso: float) -> Person:
    places = [(0.0, -1.6)]
    for x, y in RIGHT_HALF.values():
        places += [(x, y), (-x, y)]
    return np.array(places) * torso + centre


@pytest.fixture
def make_teacher(tmp_path: Path) -> MakeTeacher:
    """`make_teacher(shift=, names=)` writes the teacher.

    `shift` moves the maps of the keypoints in `names` (of all by default) so many cells of 1/64 of
    the input to the right: a mistake that a mirrored image does not share.
    """
    onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
    pytest.importorskip("onnxruntime", reason="the export extra is not installed")

    def make(shift: int = 0, names: Sequence[str] = COCO_17.keypoints) -> Path:
        helper, numpy_helper = onnx.helper, onnx.numpy_helper
        colours = COLOURS[OF_COLOUR]
        # 8 - 24 |x - c|^2 as a convolution of x and x^2
        weight = np.concatenate([48 * colours, np.full((17, 3), -24.0)], 1)[..., None, None]
        bias = 8 - 24 * (colours**2).sum(1)
        side = np.array([0, *[1, -1] * 8])
        ramp = side[:, None, None] * np.linspace(-0.5, 0.5, SIZE // 4)
        moving = np.zeros((17, 1, 1, 2 * abs(shift) + 1))
        for k, name in enumerate(COCO_17.keypoints):
            moving[k, 0, 0, abs(shift) - (shift if name in names else 0)] = 1
        constants = {
            "weight": weight,
            "bias": bias,
            "ramp": ramp[None],
            "moving": moving,
            "low": -8.0,
            "high": 8.0,
            "most": 1.6,
            "times": 2.5,
        }
        pads = [0, abs(shift), 0, abs(shift)]
        nodes = [
            helper.make_node("Mul", ["image", "image"], ["squared"]),
            helper.make_node("Concat", ["image", "squared"], ["both"], axis=1),
            helper.make_node("Conv", ["both", "weight", "bias"], ["near"]),
            helper.make_node("Clip", ["near", "low", "high"], ["clipped"]),
            helper.make_node(
                "AveragePool", ["clipped"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]
            ),
            # All cells within a dot are equal, so that the side decides between the two dots.
            helper.make_node("Clip", ["pooled", "low", "most"], ["flat"]),
            helper.make_node("Mul", ["flat", "times"], ["steep"]),
            helper.make_node("Add", ["steep", "ramp"], ["sided"]),
            helper.make_node("Conv", ["sided", "moving"], ["maps"], group=17, pads=pads),
        ]
        grid = SIZE // 4
        kind = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            "dots",
            [helper.make_tensor_value_info("image", kind, ["N", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("maps", kind, ["N", 17, grid, grid])],
            [
                numpy_helper.from_array(np.asarray(value, np.float32), name)
                for name, value in constants.items()
            ],
        )
        opset = [helper.make_opsetid("", 17)]
        path = tmp_path / f"dots_{shift}_{len(names)}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
        return path

    return make
