"""Runs a TFLite file through LiteRT.

Ours, Google's, ST's, whatever has the same inputs and outputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.bundles.embedded import tflite_facts
from heatpose.errors import HeatposeError
from heatpose.runners.normalisation import Normalisation
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
from heatpose.runners.tflite_forms import gives_classes, gives_probabilities, input_form, read_input
from heatpose.tflite.reader import read_graph

_INTEGERS = ("int8", "uint8", "int16", "int32", "int64")


class TFLiteRunner:
    """A `PoseRunner` for a TFLite file.

    Images go through one by one, because the file's batch is 1.

    Args:
        path: The file.
        threads: CPU threads; all cores where None.
        size: Refused unless it is the file's own.
        reference_kernels: TFLite's reference kernels without XNNPACK.
        normalisation: Of the input, where neither the file nor its bundle fixes it.

    Raises:
        HeatposeError: LiteRT is missing, the file is no TFLite, cannot be run, is no pose model, or
            has another size.
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
        self._input = input_form(path, graph)
        self.size = self._input.size
        check_size(path, self.size, size)
        threads = threads or os.cpu_count() or 1
        with _translated(path):
            self._interpreter = _interpreter(path, threads, reference_kernels)
            self.kernels = _kernels(self._interpreter, threads, reference_kernels)
            # The interpreter knows shapes that the file leaves open.
            shapes = [
                tuple(entry["shape"].tolist()) for entry in self._interpreter.get_output_details()
            ]
        self._form = choose_output(path, shapes, self.size)
        self._output = graph.tensors[graph.outputs[self._form.position]]
        if self._form.decoded and gives_classes(graph, self._output.index):
            raise no_pose_model(path, "it ends in a softmax over classes")
        if self._output.dtype in _INTEGERS and self._output.quantization is None:
            raise no_scale(path, self._output.name, self._output.dtype)
        self.keypoints = self._form.keypoints
        known = tflite_facts(path).checked(path, self.keypoints)
        self.skeleton, self.preprocessing = known.skeleton, known.preprocessing
        self.input = read_input(graph, self._input, known.preprocessing, normalisation)
        seen = gives_probabilities(graph, self._output.index)
        self._probabilities = known.probabilities if seen is None else seen
        self.assumed_output = self._form.assumed(known)

    def heatmaps(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `PoseRunner.heatmaps`."""
        if self._form.decoded:
            raise HeatposeError(f"'{self.path}' decodes inside and has no heatmaps to give.")
        check_images(images, self.size)
        return np.concatenate(
            [heatmaps_of(self._run(image), self._form.layout) for image in images]
        )

    def predict(self, images: NDArray[np.uint8], decode: str = "argmax") -> NDArray[np.float32]:
        """See `PoseRunner.predict`."""
        return self.later(images, decode)()

    def later(
        self, images: NDArray[np.uint8], decode: str = "argmax"
    ) -> Callable[[], NDArray[np.float32]]:
        """See `Deferring.later`."""
        check_images(images, self.size)
        stored = [self._stored(image) for image in images]
        return lambda: np.concatenate([self._pose(self._real(values), decode) for values in stored])

    def _pose(self, values: NDArray[np.float32], decode: str) -> NDArray[np.float32]:
        """f32[1, K, 3] out of the output."""
        if self._form.decoded:
            return poses_of(values, self._form.layout)
        return poses_from_heatmaps(
            heatmaps_of(values, self._form.layout), decode, self._probabilities
        )

    def _run(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The pose's output for u8[S, S, 3], as real values."""
        return self._real(self._stored(image))

    def _stored(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """The pose's output for u8[S, S, 3], as the file stores it; a copy."""
        self._interpreter.set_tensor(self._input.index, self._input.fill(image, self.input))
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise HeatposeError(
                f"'{self.path}' stopped while it ran ({first_line(error)})."
            ) from error
        stored: NDArray[Any] = self._interpreter.get_tensor(self._output.index)
        return stored

    def _real(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        return replace(self._output, data=stored, shape=stored.shape).dequantized()


def _interpreter(path: Path, threads: int, reference_kernels: bool) -> Any:
    try:
        # part of the extra `export`
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise HeatposeError(
            "Running TFLite files needs ai-edge-litert: pip install 'heatpose[export]'."
        ) from error
    resolver = OpResolverType.BUILTIN_REF if reference_kernels else OpResolverType.AUTO
    # The bytes, not the path: a file that changes while it is mapped into memory would end the
    # process.
    interpreter = Interpreter(
        model_content=path.read_bytes(), num_threads=threads, experimental_op_resolver_type=resolver
    )
    interpreter.allocate_tensors()
    return interpreter


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turns LiteRT's errors into one sentence.

    Names in a file that are no text are `ValueError`s too.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise HeatposeError(f"'{path}' cannot be run by LiteRT ({first_line(error)}).") from error


def _kernels(interpreter: Any, threads: int, reference_kernels: bool) -> str:
    """What will compute; whether XNNPACK took the graph, or most of it.

    Is known after the allocation.
    """
    if reference_kernels:
        return "TFLite reference kernels"
    delegated = any(entry["op_name"] == "DELEGATE" for entry in interpreter._get_ops_details())
    return f"{'XNNPACK' if delegated else 'TFLite built-in kernels'}, {threads} threads"
