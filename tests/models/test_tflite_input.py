"""The preprocessing inside a TFLite file.

What LiteRT feeds to the first convolution decides what is right.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from heatpose.models.tflite_walk import LayerMismatch, first_convolution, input_scale
from heatpose.tflite.reader import read_graph
from tests.conftest import MadeOnce

NAMES = {
    "right": [
        "division",
        "multiplication",
        "each_channel",
        "negated",
        "list_of_images",
        "squeezed",
        "flat",
        "in_integers",
    ],
    "wrong": ["unit_range", "imagenet", "one_channel", "layout", "clipped", "channels", "constant"],
}


@pytest.fixture(scope="module")
def preprocessed(made_once: MadeOnce) -> Path:
    if find_spec("tensorflow") is None:
        pytest.skip("the export extra is not installed")
    return made_once("preprocessing_files", _make)


def _make(folder: Path) -> None:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    program = Path(__file__).with_name("make_preprocessing_files.py")
    command = [sys.executable, str(program), str(folder)]
    result = subprocess.run(command, env={**os.environ, **quiet}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def cases(kind: str) -> list[str]:
    return [
        f"{kind}_{name}_{artefact}" for name in NAMES[kind] for artefact in ("float32", "float16")
    ]


def at_the_stem(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Bytes, and what LiteRT's own kernels make of them in front of the convolution."""
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    kernels = interpreters.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = interpreters.Interpreter(
        str(path), experimental_preserve_all_tensors=True, experimental_op_resolver_type=kernels
    )
    interpreter.allocate_tensors()
    image = np.random.default_rng(1).integers(
        0, 256, interpreter.get_input_details()[0]["shape"], np.uint8
    )
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    graph = read_graph(path)
    stem = next(operator for operator in graph.operators if operator.name == "CONV_2D")
    return image, interpreter.get_tensor(stem.inputs[0])


@pytest.mark.parametrize("name", cases("right"))
def test_any_order_of_operators_that_gives_minus_one_to_one_is_accepted(
    preprocessed: Path, name: str
) -> None:
    path = preprocessed / f"{name}.tflite"
    image, fed = at_the_stem(path)
    graph = read_graph(path)
    scale = input_scale(graph, "file")
    # The converter moves factors into the weights of the convolution; what is left must be their
    # inverse.
    np.testing.assert_allclose(
        fed, scale * (image / 127.5 - 1), rtol=0, atol=0.02 * np.abs(scale).max()
    )
    assert first_convolution(graph, "file")[0].name == "CONV_2D"


@pytest.mark.parametrize("name", cases("wrong"))
def test_everything_else_is_refused_at_the_input(preprocessed: Path, name: str) -> None:
    path = preprocessed / f"{name}.tflite"
    image, fed = at_the_stem(path)
    assert np.abs(fed - (image / 127.5 - 1)).max() > 0.05
    with pytest.raises(LayerMismatch) as caught:
        input_scale(read_graph(path), "file")
    assert (
        caught.value.layer == "input"
        and str(caught.value).endswith(".")
        and "\n" not in str(caught.value)
    )
