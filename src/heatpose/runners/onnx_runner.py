"""Runs ONNX files by onnxruntime on the CPU, and derives the meaning of their input."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.bundles.facts import onnx_facts
from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing, check_resolution
from heatpose.runners.normalisation import BYTES, SIGNED, Arithmetic, InputReading, Normalisation
from heatpose.runners.outputs import (
    check_images,
    check_size,
    choose_output,
    first_line,
    heatmaps_of,
    no_pose_model,
    no_scale,
    poses_from_heatmaps,
    poses_of,
)
from heatpose.tflite.inspect import load_onnx


class OnnxRunner:
    """A `PoseRunner` for an ONNX file with one image as input (`find_input`).

    Args:
        path: The file.
        threads: CPU threads; all cores if None.
        size: Input side for a file that leaves it open.
        normalisation: Of a float input, if neither the file nor its bundle states it.

    Raises:
        HeatposeError: onnxruntime is missing, or the file is not an ONNX file, cannot be run, is
            not a pose model, or has another size.
    """

    kind = "onnx"

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        size: int | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        self.path, self.name = path, path.name
        threads = threads or os.cpu_count() or 1
        self.kernels = f"onnxruntime cpu, {threads} threads"
        self._session = _session(path, threads)
        ports = [(port.name, _dtype(port.type), port.shape) for port in self._session.get_inputs()]
        self._input = find_input(path, ports, size)
        self.size = self._input.size
        known = onnx_facts(path, self._session.get_modelmeta().custom_metadata_map)
        model = load_onnx(path, path.read_bytes())
        self.input = read_input(model, self._input, known.preprocessing, normalisation)
        # A run on one empty image checks the graph, and gives shapes that the file leaves open.
        first = self._run(np.zeros((1, self.size, self.size, 3), np.uint8))
        shapes = [values.shape for values in first]
        nchw = not self._input.channels_last
        self._spec = choose_output(path, shapes, self.size, channels_first=nchw)
        self._scale = self._output_scale(model, first[self._spec.position].dtype)
        self.keypoints = self._spec.keypoints
        self.includes_decode = self._spec.decoded
        known = known.checked(path, self.keypoints)
        self.skeleton, self.preprocessing = known.skeleton, known.preprocessing
        self._probabilities, self.assumed_output = known.probabilities, self._spec.assumed(known)

    def heatmaps(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `PoseRunner.heatmaps`."""
        if self._spec.decoded:
            raise HeatposeError(f"'{self.path}' includes its decode and does not output heatmaps.")
        return heatmaps_of(self._output(images), self._spec.layout)

    def predict(self, images: NDArray[np.uint8], decode: str = "argmax") -> NDArray[np.float32]:
        """See `PoseRunner.predict`."""
        if self._spec.decoded:
            return poses_of(self._output(images), self._spec.layout)
        return poses_from_heatmaps(self.heatmaps(images), decode, self._probabilities)

    def _output(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The output with the pose for B images: f32[B, ...], dequantised."""
        check_images(images, self.size)
        step = self._input.batch or len(images)
        parts = [
            self._run(images[i : i + step])[self._spec.position]
            for i in range(0, len(images), step)
        ]
        scale, zero = self._scale
        stored = np.concatenate(parts).astype(np.float32)
        values: NDArray[np.float32] = (stored - zero) * np.float32(scale)
        return values[: len(images)]  # without the padding of the last batch

    def _output_scale(self, model: Any, dtype: np.dtype[Any]) -> tuple[float, int]:
        """Scale and zero point of the output; 1 and 0 for floats.

        Raises:
            HeatposeError: The output has integers without a scale.
        """
        if dtype.kind == "f":
            return 1.0, 0
        name = self._session.get_outputs()[self._spec.position].name
        found = output_scale(model, name)
        if found is None:
            raise no_scale(self.path, name, str(dtype))
        return found

    def _run(self, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """All outputs for at most one batch; a fixed batch size is padded with empty images."""
        missing = max(0, (self._input.batch or 0) - len(images))
        padded = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        values = self._input.fill(padded, self.input)
        with _translated(self.path):
            outputs: list[NDArray[Any]] = self._session.run(None, {self._input.name: values})
        return outputs


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime  # part of the extra `export`
    except ImportError as error:
        raise HeatposeError(
            "Running ONNX files needs onnxruntime: pip install 'heatpose[export]'."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: the warnings are about optimisations
    with _translated(path):
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Converts onnxruntime's errors, which have no common base class, to `HeatposeError`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
        UnicodeDecodeError,
    )
    try:
        yield
    except kinds as error:
        raise HeatposeError(
            f"'{path}' is not an ONNX file that onnxruntime can run ({first_line(error)})."
        ) from error


def _dtype(kind: str) -> str:
    """Converts onnxruntime's "tensor(float)" to numpy's "float32"; other types alike."""
    names = {"float": "float32", "double": "float64"}
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return names.get(inner, inner)


FLOATS = ("float32", "float16", "float64")
INTEGERS = ("uint8", "int32", "int64")
_MOVES = {"Cast", "Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Pad"}
_ARITHMETIC = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV"}


@dataclass(frozen=True)
class OnnxInput:
    """The input of a file.

    Attributes:
        name: As in the file.
        dtype: One of `FLOATS` and `INTEGERS`.
        batch: Fixed batch size; None if open.
        size: Side S.
        channels_last: (N, S, S, 3) instead of (N, 3, S, S).
    """

    name: str
    dtype: str
    batch: int | None
    size: int
    channels_last: bool

    def fill(self, images: NDArray[np.uint8], reading: InputReading) -> NDArray[Any]:
        """Converts u8[B, S, S, 3] RGB to the dtype and layout of the input."""
        values = images if reading.raw else reading.normalisation.apply(images)
        ordered = values if self.channels_last else values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(ordered, self.dtype)


def find_input(
    path: Path, inputs: Sequence[tuple[str, str, Sequence[object]]], wanted: int | None
) -> OnnxInput:
    """Recognises the input.

    Args:
        path: The file, for messages.
        inputs: Name, dtype and shape of each; entries of a shape that are not positive integers are
            open.
        wanted: Input side for a file that leaves it open.

    Raises:
        HeatposeError: The input is not one RGB image, or its side is open and `wanted` is None, or
            differs from `wanted`.
    """
    name, dtype, shape = inputs[0] if len(inputs) == 1 else ("", "", [])
    sides = [side if isinstance(side, int) and side > 0 else None for side in shape]
    last = len(sides) == 4 and sides[1] != 3 and sides[3] == 3
    fixed = {side for side in (sides[1:3] if last else sides[2:]) if side is not None}
    if (
        len(sides) != 4
        or not (last or sides[1] == 3)
        or len(fixed) > 1
        or dtype not in FLOATS + INTEGERS
    ):
        listed = ", ".join(f"{kind} {list(dims)}" for _, kind, dims in inputs) or "nothing"
        shapes = f"(1 or N, 3, S, S) or (1 or N, S, S, 3), as one of {', '.join(FLOATS + INTEGERS)}"
        raise no_pose_model(path, f"its input is {listed}, not one RGB image {shapes}")
    if not fixed and wanted is None:
        raise HeatposeError(
            f"'{path}' leaves the size of its input open; give the side to run it at."
        )
    side = int(next(iter(fixed), wanted or 0))
    check_size(path, side, wanted)
    check_resolution(side)
    return OnnxInput(name, dtype, sides[0], side, last)


def read_input(
    model: Any,
    encoding: OnnxInput,
    stated: Preprocessing | None,
    given: Normalisation | None = None,
) -> InputReading:
    """Determines the normalisation of the input; as `tflite_runner.read_input`.

    Args:
        model: The `ModelProto`.
        encoding: Of its input.
        stated: Preprocessing of the training, if the file or its bundle states it.
        given: By the user.
    """
    if encoding.dtype in INTEGERS:
        reading = InputReading(BYTES, "computed", f"the {encoding.dtype} input", raw=True)
        return reading.fixed_against(given)
    if stated is not None:
        return InputReading(Normalisation.of(stated), "stated").fixed_against(given)
    if given is not None:
        return InputReading(given, "given")
    return _first_arithmetic(model, encoding.name).reading(SIGNED)


def _first_arithmetic(model: Any, tensor: str) -> Arithmetic:
    """The arithmetic of the first nodes; the identity if the graph branches."""
    constants = _constants(model)
    found = Arithmetic()
    for _ in range(len(model.graph.node)):
        readers = [node for node in model.graph.node if tensor in node.input]
        if len(readers) != 1 or readers[0].op_type not in _MOVES | _ARITHMETIC.keys():
            return found
        (node,) = readers
        if node.op_type in _ARITHMETIC:
            first = node.input[0] != tensor
            constant = constants.get(node.input[0 if first else 1])
            values = None if constant is None else _array(constant)
            if not found.take(_ARITHMETIC[node.op_type], values, first):
                return Arithmetic()
        tensor = node.output[0]
    return found


def output_scale(model: Any, output: str) -> tuple[float, int] | None:
    """Scale and zero point of the QuantizeLinear that writes an output; None if there is none."""
    constants = _constants(model)
    for node in model.graph.node:
        if output in node.output and node.op_type == "QuantizeLinear" and len(node.input) == 3:
            numbers = [_array(constants[name]) for name in node.input[1:] if name in constants]
            if len(numbers) == 2 and all(n is not None and n.size == 1 for n in numbers):
                scale, zero = (float(n.reshape(())) for n in numbers if n is not None)
                return scale, int(zero)
    return None


def _constants(model: Any) -> dict[str, Any]:
    """The graph's constants: name -> `TensorProto`."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        values = [a.t for a in node.attribute if a.name == "value" and a.HasField("t")]
        if node.op_type == "Constant" and values:
            found[node.output[0]] = values[0]
    return found


def _array(tensor: Any) -> NDArray[np.float64] | None:
    """Values of a small constant; None if it is large, in another file, or damaged."""
    from onnx import numpy_helper

    if np.prod(tensor.dims, dtype=np.float64) > 3 or tensor.HasField("data_location"):
        return None
    try:
        return np.asarray(numpy_helper.to_array(tensor), np.float64)
    except (ValueError, TypeError, KeyError):
        return None
