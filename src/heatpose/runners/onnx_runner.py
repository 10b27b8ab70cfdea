"""Runs an ONNX file through onnxruntime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.bundles.embedded import onnx_facts
from heatpose.errors import HeatposeError
from heatpose.runners.normalisation import Normalisation
from heatpose.runners.onnx_forms import find_input, output_scale, read_input
from heatpose.runners.outputs import (
    check_images,
    choose_output,
    first_line,
    heatmaps_of,
    no_scale,
    poses_from_heatmaps,
    poses_of,
)
from heatpose.tflite.inspect import load_onnx


class OnnxRunner:
    """A `PoseRunner` for an ONNX file with one image as input, see `onnx_forms.find_input`.

    Args:
        path: The file.
        threads: CPU threads; all cores where None.
        size: Input side for a file that leaves it open.
        normalisation: Of a float input, where neither the file nor its bundle states it.

    Raises:
        HeatposeError: onnxruntime is missing, the file is no ONNX, cannot be run, is no pose model,
            or has another size.
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
        # One empty image tells that the graph runs, and the real shapes where the file leaves them
        # open.
        first = self._run(np.zeros((1, self.size, self.size, 3), np.uint8))
        shapes = [values.shape for values in first]
        nchw = not self._input.channels_last
        self._form = choose_output(path, shapes, self.size, channels_first=nchw)
        self._scale = self._output_scale(model, first[self._form.position].dtype)
        self.keypoints = self._form.keypoints
        known = known.checked(path, self.keypoints)
        self.skeleton, self.preprocessing = known.skeleton, known.preprocessing
        self._probabilities, self.assumed_output = known.probabilities, self._form.assumed(known)

    def heatmaps(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `PoseRunner.heatmaps`."""
        if self._form.decoded:
            raise HeatposeError(f"'{self.path}' decodes inside and has no heatmaps to give.")
        return heatmaps_of(self._output(images), self._form.layout)

    def predict(self, images: NDArray[np.uint8], decode: str = "argmax") -> NDArray[np.float32]:
        """See `PoseRunner.predict`."""
        if self._form.decoded:
            return poses_of(self._output(images), self._form.layout)
        return poses_from_heatmaps(self.heatmaps(images), decode, self._probabilities)

    def _output(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The pose's output for B images: f32, first dimension B."""
        check_images(images, self.size)
        step = self._input.batch or len(images)
        parts = [
            self._run(images[i : i + step])[self._form.position]
            for i in range(0, len(images), step)
        ]
        scale, zero = self._scale
        stored = np.concatenate(parts).astype(np.float32)
        values: NDArray[np.float32] = (stored - zero) * np.float32(scale)
        return values[: len(images)]  # without what filled up the last batch

    def _output_scale(self, model: Any, dtype: np.dtype[Any]) -> tuple[float, int]:
        """What makes real values of the output; 1 and 0 for floats.

        Raises:
            HeatposeError: Integers without a scale: scores could not be told.
        """
        if dtype.kind == "f":
            return 1.0, 0
        name = self._session.get_outputs()[self._form.position].name
        found = output_scale(model, name)
        if found is None:
            raise no_scale(self.path, name, str(dtype))
        return found

    def _run(self, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """All outputs for at most one batch; a fixed batch is filled up with empty images."""
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
    options.log_severity_level = 3  # errors only: its warnings are about optimisations
    with _translated(path):
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turns onnxruntime's errors, which have no common base, into one sentence."""
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
            f"'{path}' is no ONNX file that onnxruntime can run ({first_line(error)})."
        ) from error


def _dtype(kind: str) -> str:
    """onnxruntime's "tensor(float)" -> numpy's "float32"; others as they are."""
    names = {"float": "float32", "double": "float64"}
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return names.get(inner, inner)
