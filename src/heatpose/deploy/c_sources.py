"""C sources of the deployment package: model header, application configuration, self-test.

C99 that also compiles as C++. The self-test compares the output on the board with that of a PC for
a golden input and prints the first keypoint that differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatpose.deploy.model import DeployModel
from heatpose.deploy.targets import Target
from heatpose.deploy.templating import render
from heatpose.pose import codec
from heatpose.pose.skeleton import Skeleton
from heatpose.runners.outputs import Layout
from heatpose.tflite.graph import Quantization

SOURCES = ("postprocess.h", "postprocess.c")
Defines = list[tuple[str, object]]


def header_text(model: DeployModel) -> str:
    """Content of `heatpose_model.h`: constants of a model file."""
    skeleton = model.skeleton
    return render(
        "heatpose_model.h",
        identity=[
            ("HEATPOSE_MODEL_FILE", text(f"{model.stem}.tflite")),
            ("HEATPOSE_MODEL_SHA256", text(model.sha256)),
        ],
        input=_input(model),
        output=_output(model),
        decoded=model.decoded,
        threshold=number(model.threshold.value),
        threshold_source=comment(model.threshold.source),
        names=[text(name) for name in skeleton.keypoints],
        sigmas=[number(sigma) for sigma in skeleton.sigmas],
        edges=skeleton.edge_indices,
        flips=[(skeleton.index(a), skeleton.index(b)) for a, b in skeleton.flip_pairs],
    )


def app_config_text(model: DeployModel, target: Target, model_name: str) -> str:
    """Content of `app_config_block.h`: settings of ST's application for a heatmap model."""
    rows, columns = model.grid
    edges = [(a, b, _colour(model.skeleton, a, b)) for a, b in model.skeleton.edge_indices]
    return render(
        "app_config_block.h",
        application=target.application,
        model_name=model_name,
        size=model.size,
        rows=rows,
        columns=columns,
        keypoints=model.keypoints,
        threshold=number(model.threshold.value),
        threshold_source=comment(model.threshold.source),
        edges=edges,
    )


def _colour(skeleton: Skeleton, a: int, b: int) -> str:
    """One colour for each side of the body."""
    left = {skeleton.index(pair[0]) for pair in skeleton.flip_pairs}
    right = {skeleton.index(pair[1]) for pair in skeleton.flip_pairs}
    if {a, b} & left and not {a, b} & right:
        return "ORANGE"
    return "BLUE" if {a, b} & right and not {a, b} & left else "GREEN"


def _input(model: DeployModel) -> Defines:
    """Size, type, quantisation and preprocessing of the input."""
    how, tensor = model.preprocessing, model.input
    bytes_each = {"uint8": 1, "int8": 1, "float32": 4}.get(tensor.dtype, 4)
    return [
        ("HEATPOSE_INPUT_SIZE", model.size),
        ("HEATPOSE_INPUT_CHANNELS", 3),
        ("HEATPOSE_INPUT_BYTES", model.size * model.size * 3 * bytes_each),
        *_dtype("HEATPOSE_INPUT", tensor.dtype),
        *_scale("HEATPOSE_INPUT", tensor.quantization),
        ("HEATPOSE_INPUT_NEAREST", int(how.sampling == "nearest")),
        ("HEATPOSE_INPUT_DIVISOR", number(how.divisor)),
        ("HEATPOSE_INPUT_SHIFT", number(how.shift)),
    ]


def _output(model: DeployModel) -> Defines:
    """Shape and quantisation of the file's output and of the tool's int8 output."""
    tensor = model.output
    values: Defines = [("HEATPOSE_KEYPOINTS", model.keypoints)]
    values += _dtype("HEATPOSE_OUTPUT", tensor.dtype)
    values += _scale("HEATPOSE_OUTPUT", tensor.quantization)
    if tensor.dtype != "int8" and model.int8_output is not None:  # --output-data-type int8
        values += _scale("HEATPOSE_OUTPUT_INT8", model.int8_output)
    if model.decoded:
        first = int(model.layout is Layout.POSE_YX)
        return [*values, ("HEATPOSE_OUTPUT_IS_POSE", 1), ("HEATPOSE_POSE_Y_FIRST", first)]
    rows, columns = model.grid
    sides = "HEATPOSE_MAP_ROWS, HEATPOSE_MAP_COLUMNS, HEATPOSE_KEYPOINTS, HEATPOSE_CHANNELS_LAST"
    return [
        *values,
        ("HEATPOSE_OUTPUT_IS_POSE", 0),
        ("HEATPOSE_MAP_ROWS", rows),
        ("HEATPOSE_MAP_COLUMNS", columns),
        ("HEATPOSE_STRIDE", model.size // rows),
        ("HEATPOSE_CHANNELS_LAST", int(model.layout is Layout.MAPS_LAST)),
        ("HEATPOSE_GIVES_PROBABILITIES", int(bool(model.probabilities))),
        ("HEATPOSE_SHAPE", f"{{{sides}}}"),
    ]


def _dtype(prefix: str, dtype: str) -> Defines:
    return [
        (f"{prefix}_{name.upper()}", int(dtype == name)) for name in ("uint8", "int8", "float32")
    ]


def _scale(prefix: str, quantization: Quantization | None) -> Defines:
    """Real value = scale * (stored - zero point); 1 and 0 for a float tensor."""
    if quantization is None:
        return [(f"{prefix}_SCALE", number(1.0)), (f"{prefix}_ZERO_POINT", 0)]
    return [
        (f"{prefix}_SCALE", number(float(quantization.scales[0]))),
        (f"{prefix}_ZERO_POINT", int(quantization.zero_points[0])),
    ]


def number(value: float) -> str:
    """A C float literal with nine digits, which round-trips float32."""
    written = f"{value:.9g}"
    return f"{written}f" if re.search(r"[.e]", written) else f"{written}.0f"


def text(value: str) -> str:
    """A C string literal; other characters than ASCII are escaped."""
    escaped = "".join(
        (
            c
            if " " <= c <= "~" and c not in '"\\?'
            else "".join(f"\\{byte:03o}" for byte in c.encode())
        )
        for c in value
    )
    return f'"{escaped}"'


def comment(value: str) -> str:
    """Text for a C comment: one line of ASCII without comment marks."""
    plain = " ".join(value.split()).encode("ascii", "replace").decode()
    return plain.replace("*/", "* /").replace("/*", "/ *")


STEPS = 8
"""Tolerance of the int8 output on an NPU, in quantisation steps: its rounding differs."""
FILES = ("heatpose_selftest.h", "heatpose_selftest.c")
SCENE_SEED, SCENE = 0, 1
_PER_LINE = 24


@dataclass(frozen=True)
class Golden:
    """Golden input and its results on a PC.

    Attributes:
        image: u8[S, S, 3], camera bytes.
        output: i8, in the layout of the file's output.
        pose: f32[K, 3] x, y, score, refined decode of `output`.
    """

    image: NDArray[np.uint8]
    output: NDArray[np.int8]
    pose: NDArray[np.float32]


def has_selftest(model: DeployModel, target: Target) -> bool:
    """Whether the package has a self-test: int8 heatmaps and a C application."""
    heatmaps = not model.decoded and model.int8_output is not None
    return heatmaps and target.flashing.kind == "neural_art"


def golden(model: DeployModel) -> Golden:
    """Runs the file on a rendered image.

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
    """File name -> content of the self-test."""
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
    """Numbers as lines of C initialisers."""
    for start in range(0, len(values), _PER_LINE):
        yield ", ".join(str(value) for value in values[start : start + _PER_LINE])
