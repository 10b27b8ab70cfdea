"""Values of `heatpose_model.h` and `app_config_block.h`, C99 that C++ takes as well."""

from __future__ import annotations

import re

from heatpose.deploy.model import DeployModel
from heatpose.deploy.targets import Target
from heatpose.deploy.templating import render
from heatpose.pose.skeleton import Skeleton
from heatpose.runners.outputs import Layout
from heatpose.tflite.graph import Quantization

SOURCES = ("postprocess.h", "postprocess.c")
Defines = list[tuple[str, object]]


def header_text(model: DeployModel) -> str:
    """`heatpose_model.h`: everything that an application must know about a model file."""
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
    """`app_config_block.h`: what ST's application has to be told about a model with heatmaps."""
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
    """Size, type and quantisation of the input, and what a byte means to the network."""
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
    """Shape and quantisation of the output, of the file's and of the int8 one that a tool gives."""
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
    """Real value = scale * (stored - zero point); 1 and 0 for a tensor that is not quantised."""
    if quantization is None:
        return [(f"{prefix}_SCALE", number(1.0)), (f"{prefix}_ZERO_POINT", 0)]
    return [
        (f"{prefix}_SCALE", number(float(quantization.scales[0]))),
        (f"{prefix}_ZERO_POINT", int(quantization.zero_points[0])),
    ]


def number(value: float) -> str:
    """A C float literal that reads back to the same float32: nine digits."""
    written = f"{value:.9g}"
    return f"{written}f" if re.search(r"[.e]", written) else f"{written}.0f"


def text(value: str) -> str:
    """A C string; anything but plain ASCII is escaped."""
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
    """A text that does not end a comment: one line of plain ASCII."""
    plain = " ".join(value.split()).encode("ascii", "replace").decode()
    return plain.replace("*/", "* /").replace("/*", "/ *")
