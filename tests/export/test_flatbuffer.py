"""The reader against the interpreter's own reading, and on broken and hostile files."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import tflite

from heatpose.errors import HeatposeError
from heatpose.tflite.reader import Graph, Operator, read_graph

SHARED = Path(os.environ.get("HEATPOSE_SHARED", Path(__file__).parents[2] / ".." / "shared"))
LIGHTNING = SHARED / "models" / "movenet_singlepose_lightning_int8_4.tflite"
POSE_LIKE = ("float32", "float16", "int8_pc", "int8_pt", "int8_out", "float_io")
ARTEFACTS = (*POSE_LIKE, "awkward", "awkward_int8", "lightning")


@pytest.fixture(params=ARTEFACTS)
def model(request: pytest.FixtureRequest, small_models: dict[str, Path]) -> Path:
    """Each small model, and the published MoveNet where it is at hand."""
    if request.param == "lightning" and not LIGHTNING.is_file():
        pytest.skip(f"{LIGHTNING} is not here; set HEATPOSE_SHARED")
    return small_models.get(request.param, LIGHTNING)


@pytest.fixture
def interpreter(model: Path) -> Any:
    """The reference: the interpreter with its built-in kernels.

    So that no delegate rewrites the graph.
    """
    litert = pytest.importorskip(
        "ai_edge_litert.interpreter", reason="the export extra is not installed"
    )
    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    reference = litert.Interpreter(
        str(model), experimental_op_resolver_type=plain, experimental_preserve_all_tensors=True
    )
    reference.allocate_tensors()
    return reference


def test_tensors_are_the_interpreters(model: Path, interpreter: Any) -> None:
    graph = read_graph(model)
    details = {d["index"]: d for d in interpreter.get_tensor_details()}
    assert len(details) >= len(graph.tensors) > 10
    for tensor in graph.tensors:
        detail, quantization = (
            details[tensor.index],
            details[tensor.index]["quantization_parameters"],
        )
        assert (tensor.name, tensor.shape) == (detail["name"], tuple(detail["shape"]))
        assert tensor.dtype == np.dtype(detail["dtype"]).name
        if tensor.quantization is None:
            assert quantization["scales"].size == 0
        else:
            np.testing.assert_array_equal(tensor.quantization.scales, quantization["scales"])
            zeros = np.broadcast_to(quantization["zero_points"], tensor.quantization.scales.shape)
            np.testing.assert_array_equal(tensor.quantization.zero_points, zeros)
            assert tensor.quantization.axis == quantization["quantized_dimension"]
    assert list(graph.inputs) == [d["index"] for d in interpreter.get_input_details()]
    assert list(graph.outputs) == [d["index"] for d in interpreter.get_output_details()]


def test_operators_are_the_interpreters(model: Path, interpreter: Any) -> None:
    graph = read_graph(model)
    details = interpreter._get_ops_details()
    assert [o.name for o in graph.operators] == [d["op_name"] for d in details]
    assert [list(o.inputs) for o in graph.operators] == [list(d["inputs"]) for d in details]
    assert [list(o.outputs) for o in graph.operators] == [list(d["outputs"]) for d in details]


def test_constants_are_the_interpreters(model: Path, interpreter: Any) -> None:
    constants = [tensor for tensor in read_graph(model).tensors if tensor.data is not None]
    assert len(constants) > 5
    for tensor in constants:
        np.testing.assert_array_equal(np.asarray(tensor.data), interpreter.get_tensor(tensor.index))


def _only(graph: Graph, name: str) -> Operator:
    (operator,) = (o for o in graph.operators if o.name == name)
    return operator


def test_options(small_models: dict[str, Path]) -> None:
    graph = read_graph(small_models["int8_pc"])
    convolutions = [o.options for o in graph.operators if o.name == "CONV_2D"]
    stem = {"stride": (2, 2), "padding": "SAME", "activation": "RELU6", "dilation": (1, 1)}
    assert convolutions[0] == stem
    assert convolutions.count(stem | {"stride": (1, 1), "activation": "NONE"}) == 3
    assert _only(graph, "DEPTHWISE_CONV_2D").options == stem | {"depth_multiplier": 1}
    assert _only(graph, "RESIZE_BILINEAR").options == {
        "half_pixel_centers": True,
        "align_corners": False,
    }
    assert _only(graph, "ADD").options == {"activation": "NONE"}
    assert _only(graph, "LOGISTIC").options == {}
    awkward = read_graph(small_models["awkward"])
    assert _only(awkward, "CONV_2D").options["padding"] == "VALID"
    up = {"stride": (2, 2), "padding": "SAME", "activation": "NONE"}
    assert _only(awkward, "TRANSPOSE_CONV").options == up


def _reads_or_refuses(path: Path, content: bytes) -> bool:
    """Whether a file is read; any exception but HeatposeError, or seconds of work.

    Fails the test.
    """
    path.write_bytes(content)
    start, graph = time.perf_counter(), None
    with contextlib.suppress(HeatposeError):
        graph = read_graph(path)
    if graph is not None:
        for tensor in graph.tensors:
            graph.resolve_constant(tensor.index)
    assert time.perf_counter() - start < 5
    return graph is not None


@pytest.mark.parametrize("artefact", ["int8_pc", "float16"])
def test_truncated_files_are_refused(
    small_models: dict[str, Path], tmp_path: Path, artefact: str
) -> None:
    content = small_models[artefact].read_bytes()
    lengths = [*range(0, 64, 3), *range(64, len(content) - 64, 67)]
    assert not any(
        _reads_or_refuses(tmp_path / "cut.tflite", content[:length]) for length in lengths
    )


@pytest.mark.parametrize("artefact", ["int8_pc", "float16"])
def test_flipped_bytes_are_read_or_refused(
    small_models: dict[str, Path], tmp_path: Path, artefact: str
) -> None:
    rng, content = np.random.default_rng(11), small_models[artefact].read_bytes()
    hostile = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(content), len(content) - 4)
    outcomes = []
    for trial in range(300):
        broken = bytearray(content)
        if trial % 2:
            struct.pack_into(
                "<I", broken, int(rng.integers(8, len(content) - 4)) & ~3, rng.choice(hostile)
            )
        else:
            for place in rng.integers(8, len(content), rng.choice([1, 3, 10])):
                broken[place] ^= rng.integers(1, 256)
        outcomes.append(_reads_or_refuses(tmp_path / "flipped.tflite", bytes(broken)))
    assert 30 < sum(outcomes) < 270  # both happen, or the flips miss the structure


def _vector(builder: Any, values: list[int], prepend: Any) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        prepend(value)
    return int(builder.EndVector())


def _hand_made(
    tensors: int = 2, name_length: int = 4, code: int = tflite.BuiltinOperator.TANH, reads: int = 0
) -> bytes:
    """A valid frame around one operator, with as many list entries as asked for, all one tensor."""
    b = flatbuffers.Builder(1 << 16)
    name, custom = b.CreateString("x" * name_length), b.CreateString("Swirl")
    shape = _vector(b, [1, 4], b.PrependInt32)
    tflite.TensorStart(b)
    tflite.TensorAddName(b, name)
    tflite.TensorAddShape(b, shape)
    entries = _vector(b, [tflite.TensorEnd(b)] * tensors, b.PrependUOffsetTRelative)
    source, target = _vector(b, [reads], b.PrependInt32), _vector(b, [1], b.PrependInt32)
    tflite.OperatorStart(b)
    tflite.OperatorAddInputs(b, source)
    tflite.OperatorAddOutputs(b, target)
    operators = _vector(b, [tflite.OperatorEnd(b)], b.PrependUOffsetTRelative)
    inputs = _vector(b, [0], b.PrependInt32)
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, entries)
    tflite.SubGraphAddOperators(b, operators)
    tflite.SubGraphAddInputs(b, inputs)
    tflite.SubGraphAddOutputs(b, target)
    graphs = _vector(b, [tflite.SubGraphEnd(b)], b.PrependUOffsetTRelative)
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddBuiltinCode(b, code)
    tflite.OperatorCodeAddCustomCode(b, custom)
    codes = _vector(b, [tflite.OperatorCodeEnd(b)], b.PrependUOffsetTRelative)
    tflite.BufferStart(b)
    buffers = _vector(b, [tflite.BufferEnd(b)], b.PrependUOffsetTRelative)
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddSubgraphs(b, graphs)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddBuffers(b, buffers)
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    return bytes(b.Output())


def test_operator_names_of_hand_made_files(tmp_path: Path) -> None:
    path = tmp_path / "hand.tflite"
    for code, name in [
        (tflite.BuiltinOperator.TANH, "TANH"),
        (tflite.BuiltinOperator.CUSTOM, "Swirl"),
    ]:
        path.write_bytes(_hand_made(code=code))
        graph = read_graph(path)
        assert [(o.name, o.inputs, o.outputs, o.options) for o in graph.operators] == [
            (name, (0,), (1,), {})
        ]
        assert [t.name for t in graph.tensors] == ["xxxx", "xxxx"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tensors": 500_000}, "500000 tensors"),
        ({"tensors": 15_000, "name_length": 5_000}, "lists are too long"),
        ({"reads": 1}, "reads a tensor that is not written before"),
        ({"reads": 7}, "refers to a tensor that does not exist"),
        ({"code": tflite.BuiltinOperator.CONV_2D}, "has no options"),
        ({"code": tflite.BuiltinOperator.DEQUANTIZE, "reads": -1}, "lacks an input"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, settings: dict[str, int], reason: str) -> None:
    path = tmp_path / "hostile.tflite"
    path.write_bytes(_hand_made(**settings))
    start = time.perf_counter()
    with pytest.raises(HeatposeError, match=reason):
        read_graph(path)
    assert time.perf_counter() - start < 10


def test_a_missing_constant_can_be_let_through_but_no_loop(tmp_path: Path) -> None:
    path = tmp_path / "missing.tflite"
    path.write_bytes(_hand_made(tensors=3, reads=2))
    with pytest.raises(HeatposeError, match="is not written before"):
        read_graph(path)
    graph = read_graph(path, complete=False)
    assert graph.constant(2) is None and graph.producer(2) is None
    path.write_bytes(_hand_made(reads=1))  # the operator's own output
    with pytest.raises(HeatposeError, match="is not written before"):
        read_graph(path, complete=False)


def test_other_files_than_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match="does not exist"):
        read_graph(tmp_path / "missing.tflite")
    with pytest.raises(HeatposeError, match="is not a file"):
        read_graph(tmp_path)
    other = tmp_path / "other.tflite"
    for content in (b"", b"PK\x03\x04 a zip archive", b"\x1c\0\0\0TFL3"):
        other.write_bytes(content)
        with pytest.raises(HeatposeError, match="is not a readable TFLite file"):
            read_graph(other)


def test_import_is_light() -> None:
    heavy = "{'tensorflow', 'torch', 'onnx', 'tflite', 'ai_edge_litert'}"
    code = f"import sys, heatpose.tflite.inspect; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
