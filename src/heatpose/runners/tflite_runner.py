"""Runs TFLite files by LiteRT, and derives the meaning of their input and output.

Supported are Heatpose's, Google's, ST's and other files with the same inputs and outputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.bundles.facts import tflite_facts
from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.runners.normalisation import (
    BYTES,
    SIGNED,
    UNIT,
    Arithmetic,
    InputReading,
    Normalisation,
)
from heatpose.runners.outputs import (
    RANGE_SLACK,
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
from heatpose.tflite.graph import Graph, Tensor
from heatpose.tflite.lint import INTEGER_IMAGES, RAW_BYTES, takes_raw_bytes
from heatpose.tflite.reader import read_graph

_INTEGERS = ("int8", "uint8", "int16", "int32", "int64")


class TFLiteRunner:
    """A `PoseRunner` for a TFLite file, whose batch size is 1.

    One image uses all threads. Of several images each thread runs its share on an interpreter of
    its own, which needs less processor time than all threads on each image.

    Args:
        path: The file.
        threads: CPU threads; all cores if None.
        size: An error unless it is the file's own.
        reference_kernels: Uses TFLite's reference kernels without XNNPACK.
        normalisation: Of the input, if neither the file nor its bundle determines it.

    Raises:
        HeatposeError: LiteRT is missing, or the file is not a TFLite file, cannot be run, is not a
            pose model, or has another size.
    """

    kind = "tflite"

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        size: int | None = None,
        reference_kernels: bool = False,
        normalisation: Normalisation | None = None,
    ) -> None:
        self.path, self.name = path, path.name
        graph = read_graph(path)
        self._input = input_encoding(path, graph)
        self.size = self._input.size
        check_size(path, self.size, size)
        self._threads = threads or os.cpu_count() or 1
        # The content, not the path: a change of a memory-mapped file would end the process.
        self._open = partial(_interpreter, path.read_bytes(), reference_kernels)
        self._of_threads: list[Any] = []
        with _translated(path):
            self._interpreter = self._open(self._threads)
            self.kernels = _kernels(self._interpreter, self._threads, reference_kernels)
            # the interpreter resolves shapes that the file leaves open
            shapes = [
                tuple(entry["shape"].tolist()) for entry in self._interpreter.get_output_details()
            ]
        self._spec = choose_output(path, shapes, self.size)
        self._output = graph.tensors[graph.outputs[self._spec.position]]
        if self._spec.decoded and gives_classes(graph, self._output.index):
            raise no_pose_model(path, "it ends in a softmax over classes")
        if self._output.dtype in _INTEGERS and self._output.quantization is None:
            raise no_scale(path, self._output.name, self._output.dtype)
        self.keypoints = self._spec.keypoints
        self.includes_decode = self._spec.decoded
        known = tflite_facts(path).checked(path, self.keypoints)
        self.skeleton, self.preprocessing = known.skeleton, known.preprocessing
        self.input = read_input(graph, self._input, known.preprocessing, normalisation)
        seen = gives_probabilities(graph, self._output.index)
        self._probabilities = known.probabilities if seen is None else seen
        self.assumed_output = self._spec.assumed(known)

    def heatmaps(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `PoseRunner.heatmaps`."""
        if self._spec.decoded:
            raise HeatposeError(f"'{self.path}' includes its decode and does not output heatmaps.")
        check_images(images, self.size)
        return np.concatenate(
            [heatmaps_of(self._real(each), self._spec.layout) for each in self._stored(images)]
        )

    def predict(self, images: NDArray[np.uint8], decode: str = "argmax") -> NDArray[np.float32]:
        """See `PoseRunner.predict`."""
        return self.later(images, decode)()

    def later(
        self, images: NDArray[np.uint8], decode: str = "argmax"
    ) -> Callable[[], NDArray[np.float32]]:
        """See `Deferring.later`."""
        check_images(images, self.size)
        stored = self._stored(images)
        return lambda: np.concatenate([self._pose(self._real(values), decode) for values in stored])

    def _pose(self, values: NDArray[np.float32], decode: str) -> NDArray[np.float32]:
        """The pose f32[1, K, 3] of an output."""
        if self._spec.decoded:
            return poses_of(values, self._spec.layout)
        return poses_from_heatmaps(
            heatmaps_of(values, self._spec.layout), decode, self._probabilities
        )

    def _stored(self, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """The outputs with the poses for u8[B, S, S, 3], quantised; copies."""
        workers = min(self._threads, len(images))
        if workers < 2:
            return [self._invoke(self._interpreter, image) for image in images]
        with _translated(self.path):
            while len(self._of_threads) < workers:
                self._of_threads.append(self._open(1))

        def share(worker: int) -> list[NDArray[Any]]:
            interpreter = self._of_threads[worker]
            return [self._invoke(interpreter, image) for image in images[worker::workers]]

        with ThreadPoolExecutor(workers) as pool:
            shares = list(pool.map(share, range(workers)))
        return [shares[i % workers][i // workers] for i in range(len(images))]

    def _invoke(self, interpreter: Any, image: NDArray[np.uint8]) -> NDArray[Any]:
        interpreter.set_tensor(self._input.index, self._input.fill(image, self.input))
        try:
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise HeatposeError(
                f"'{self.path}' stopped while it ran ({first_line(error)})."
            ) from error
        stored: NDArray[Any] = interpreter.get_tensor(self._output.index)
        return stored

    def _real(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        return replace(self._output, data=stored, shape=stored.shape).dequantized()


def _interpreter(content: bytes, reference_kernels: bool, threads: int) -> Any:
    try:
        # part of the extra `export`
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise HeatposeError(
            "Running TFLite files needs ai-edge-litert: pip install 'heatpose[export]'."
        ) from error
    resolver = OpResolverType.BUILTIN_REF if reference_kernels else OpResolverType.AUTO
    interpreter = Interpreter(
        model_content=content, num_threads=threads, experimental_op_resolver_type=resolver
    )
    interpreter.allocate_tensors()
    return interpreter


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Converts LiteRT's errors to `HeatposeError`; undecodable names are `ValueError`s."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise HeatposeError(f"'{path}' cannot be run by LiteRT ({first_line(error)}).") from error


def _kernels(interpreter: Any, threads: int, reference_kernels: bool) -> str:
    """Kernels in use; XNNPACK's delegation is known after the allocation."""
    if reference_kernels:
        return "TFLite reference kernels"
    delegated = any(entry["op_name"] == "DELEGATE" for entry in interpreter._get_ops_details())
    return f"{'XNNPACK' if delegated else 'TFLite built-in kernels'}, {threads} threads"


ARITHMETIC = {"ADD", "SUB", "MUL", "DIV"}
SAME_VALUES = {"CAST", "QUANTIZE", "DEQUANTIZE", "RESHAPE", "TRANSPOSE", "PAD", "PADV2"}
"""Operators that change the format or the position of values but not the values."""
SAME_RANGE = SAME_VALUES | {"RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"}
INPUT_DTYPES = ("uint8", "int8", "int32", "int64", "float32")


@dataclass(frozen=True)
class InputEncoding:
    """How a file's input encodes an image.

    Attributes:
        index: Of its tensor.
        size: Side S.
        dtype: One of `INPUT_DTYPES`.
        scale: Real units per step of a quantised input; 0 for others.
        zero_point: Of a quantised input; 0 for others.
    """

    index: int
    size: int
    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    def fill(self, image: NDArray[np.uint8], reading: InputReading) -> NDArray[Any]:
        """Encodes u8[S, S, 3] RGB as (1, S, S, 3) in the dtype of the input."""
        batch = image[None]
        if not reading.raw:
            values = reading.normalisation.apply(batch)
            return values if self.dtype == "float32" else self._quantised(values)
        if self.dtype == "int8":
            return (batch.astype(np.int16) - 128).astype(np.int8)
        return batch.astype(self.dtype)

    def _quantised(self, values: NDArray[np.float32]) -> NDArray[Any]:
        limits = np.iinfo(self.dtype)
        stored = np.rint(values / np.float32(self.scale)) + self.zero_point
        result: NDArray[Any] = stored.clip(limits.min, limits.max).astype(self.dtype)
        return result


def input_encoding(path: Path, graph: Graph) -> InputEncoding:
    """Recognises the graph's input.

    Raises:
        HeatposeError: The input is not one square RGB image whose side is a multiple of 32.
    """
    tensors = [graph.tensors[i] for i in graph.inputs]
    if len(tensors) != 1 or not _is_image(tensors[0]):
        listed = ", ".join(f"{tensor.dtype} {tensor.shape}" for tensor in tensors) or "nothing"
        wanted = (
            "one RGB image (1, S, S, 3) with S a multiple of 32, as one of"
            f" {', '.join(INPUT_DTYPES)}"
        )
        raise no_pose_model(path, f"its input is {listed}, not {wanted}")
    tensor = tensors[0]
    encoding = InputEncoding(tensor.index, tensor.shape[1], tensor.dtype)
    scale, zero = _quantised(tensor) or (0.0, 0)
    return replace(encoding, scale=scale, zero_point=zero)


def _quantised(tensor: Tensor) -> tuple[float, int] | None:
    """Scale and zero point of an int8 or uint8 tensor; None if they are not usable."""
    if tensor.quantization is None or tensor.dtype not in INTEGER_IMAGES:
        return None
    scale, zero = float(tensor.quantization.scales[0]), int(tensor.quantization.zero_points[0])
    return (scale, zero) if np.isfinite(scale) and scale > 0 else None


def _meaning(dtype: str, scale: float, zero_point: int) -> Normalisation | None:
    """Normalisation of raw bytes by a scale and zero point; None if it is not a usual one."""
    zero = zero_point + (128 if dtype == "int8" else 0)
    usual = zip((SIGNED, UNIT, BYTES), RAW_BYTES, strict=True)
    return next((n for n, known in usual if takes_raw_bytes(scale, zero, known[:2])), None)


def read_input(
    graph: Graph,
    encoding: InputEncoding,
    stated: Preprocessing | None,
    given: Normalisation | None = None,
) -> InputReading:
    """Determines the normalisation of the input.

    For an integer input it follows from its scale and zero point, or from the graph. For a float
    input it is the one stated by the file or its bundle, else the user's, else that of the graph's
    first arithmetic.

    Args:
        graph: The file's.
        encoding: Of its input.
        stated: Preprocessing of the training, if the file or its bundle states it.
        given: By the user.
    """
    if encoding.dtype != "float32":
        return _integer_reading(encoding, stated, given)
    if stated is not None:
        return InputReading(Normalisation.of(stated), "stated").fixed_against(given)
    if given is not None:
        return InputReading(given, "given")
    if (meant := _quantised_at_once(graph)) is not None:
        return InputReading(meant, "computed", "the scale and zero point after the input")
    # Arithmetic that is not affine is assumed to normalise raw bytes.
    return _first_arithmetic(graph).reading(BYTES if normalises_inside(graph) else SIGNED)


def _quantised_at_once(graph: Graph) -> Normalisation | None:
    """The normalisation of a float input that the first operator quantises; None if not usual."""
    readers = graph.consumers(graph.inputs[0])
    if len(readers) != 1 or readers[0].name != "QUANTIZE":
        return None
    tensor = graph.tensors[readers[0].outputs[0]]
    found = _quantised(tensor)
    return None if found is None else _meaning(tensor.dtype, *found)


def _integer_reading(
    encoding: InputEncoding, stated: Preprocessing | None, given: Normalisation | None
) -> InputReading:
    if stated is not None:
        return InputReading(Normalisation.of(stated), "stated", raw=True).fixed_against(given)
    if not encoding.scale:
        reason = f"the {encoding.dtype} input without a scale"
        return InputReading(BYTES, "computed", reason, raw=True).fixed_against(given)
    meant = _meaning(encoding.dtype, encoding.scale, encoding.zero_point)
    if meant is not None:
        reason = "the input's scale and zero point"
        return InputReading(meant, "computed", reason, raw=True).fixed_against(given)
    if given is not None:
        return InputReading(given, "given")
    low = (np.iinfo(encoding.dtype).min - encoding.zero_point) * encoding.scale
    meant = Normalisation.parse(f"{low!r}..{low + 255 * encoding.scale!r}")
    return InputReading(meant, "assumed", "the input's scale is not a usual one", raw=True)


def _first_arithmetic(graph: Graph) -> Arithmetic:
    """The arithmetic of the first operators; the identity if the graph branches."""
    found, tensor = Arithmetic(), graph.inputs[0]
    while True:
        readers = graph.consumers(tensor)
        if len(readers) != 1 or readers[0].name not in SAME_VALUES | ARITHMETIC:
            return found
        (reader,) = readers
        if reader.name in ARITHMETIC:
            first = reader.inputs[0] != tensor
            other = graph.resolve_constant(reader.inputs[0 if first else 1])
            constant = None if other is None else other.astype(np.float64)
            plain = reader.options.get("activation", "NONE") == "NONE"
            if not plain or not found.take(reader.name, constant, first):
                return Arithmetic()
        tensor = reader.outputs[0]


def _is_image(tensor: Tensor) -> bool:
    if len(tensor.shape) != 4 or tensor.dtype not in INPUT_DTYPES:
        return False
    batch, rows, columns, channels = tensor.shape
    return batch == 1 and channels == 3 and rows == columns and rows > 0 and rows % 32 == 0


def normalises_inside(graph: Graph) -> bool:
    """Whether the first operator on the graph's input is arithmetic, not a convolution."""
    tensor = graph.inputs[0]
    while True:
        readers = graph.consumers(tensor)
        if any(reader.name in ARITHMETIC for reader in readers):
            return True
        carriers = [reader for reader in readers if reader.name in SAME_VALUES]
        if not carriers:
            return False
        tensor = carriers[0].outputs[0]


def gives_probabilities(graph: Graph, output: int) -> bool | None:
    """Whether the values of an output tensor are probabilities.

    Returns:
        True if they are the output of a sigmoid or softmax, or their quantisation is limited to [0,
        1]; None if only the values can decide.
    """
    tensors, operator = _way_back(graph, output)
    in_range = operator in ("LOGISTIC", "SOFTMAX") or any(_unit_range(tensor) for tensor in tensors)
    return True if in_range else None


def gives_classes(graph: Graph, output: int) -> bool:
    """Whether an output is that of a softmax: as (1, N) it is a classification, not a pose."""
    return _way_back(graph, output)[1] == "SOFTMAX"


def _way_back(graph: Graph, output: int) -> tuple[list[Tensor], str]:
    """The tensors with an output's values in other formats, and the operator that computed them."""
    tensors = [graph.tensors[output]]
    producer = graph.producer(output)
    while producer is not None and producer.name in SAME_RANGE and producer.inputs:
        tensors.append(graph.tensors[producer.inputs[0]])
        producer = graph.producer(producer.inputs[0])
    return tensors, "" if producer is None else producer.name


def _unit_range(tensor: Tensor) -> bool:
    """Whether all values that the tensor's quantisation can represent are in [0, 1]."""
    if tensor.quantization is None or tensor.dtype not in ("uint8", "int8", "int16"):
        return False
    limits = np.iinfo(tensor.dtype)
    ends = np.array([limits.min, limits.max])[:, None] - tensor.quantization.zero_points
    real = ends * tensor.quantization.scales
    return bool(real.min() >= -RANGE_SLACK and real.max() <= 1 + RANGE_SLACK)
