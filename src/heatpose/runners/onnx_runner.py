"""Runs an ONNX file through onnxruntime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.preprocessing import Preprocessing, check_resolution
from heatpose.runners.images import check_images, check_size, normalised
from heatpose.runners.manifest import read_manifest
from heatpose.runners.outputs import choose_output, heatmaps_of, poses_from_heatmaps, poses_of
from heatpose.runners.problems import first_line, no_pose_model


class OnnxRunner:
    """A `PoseRunner` for an ONNX file with one float input (1 or N, 3, S, S), normalised outside the graph.

    Args:
        path: The file.
        threads: CPU threads; all cores where None.
        size: Input side for a file that leaves it open.

    Raises:
        HeatposeError: onnxruntime is missing, the file is no ONNX, cannot be run, is no pose model, or has
            another size.
    """

    kind = "onnx"

    def __init__(self, path: Path, *, threads: int | None = None, size: int | None = None) -> None:
        self.path, self.name = path, path.name
        threads = threads or os.cpu_count() or 1
        self.kernels = f"onnxruntime cpu, {threads} threads"
        self._session = _session(path, threads)
        self._input, self._batch, self.size = _input_form(path, self._session, size)
        known = read_manifest(path)
        self._scaling = known.preprocessing or Preprocessing(self.size)
        # One empty image tells that the graph runs, and the real shapes where the file leaves them open.
        shapes = [values.shape for values in self._run(np.zeros((1, self.size, self.size, 3), np.uint8))]
        self._form = choose_output(path, shapes, self.size, channels_first=True)
        self.keypoints = self._form.keypoints
        known = known.checked(path, self.keypoints)
        self.skeleton, self.preprocessing = known.skeleton, known.preprocessing

    def heatmaps(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `PoseRunner.heatmaps`."""
        if self._form.decoded:
            raise HeatposeError(f"'{self.path}' decodes inside and has no heatmaps to give.")
        return heatmaps_of(self._output(images), self._form.layout)

    def predict(self, images: NDArray[np.uint8], decode: str = "argmax") -> NDArray[np.float32]:
        """See `PoseRunner.predict`."""
        if self._form.decoded:
            return poses_of(self._output(images), self._form.layout)
        return poses_from_heatmaps(self.heatmaps(images), decode, probabilities=None)

    def _output(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The pose's output for B images: f32, first dimension B."""
        check_images(images, self.size)
        step = self._batch or len(images)
        parts = [self._run(images[i : i + step])[self._form.position] for i in range(0, len(images), step)]
        values: NDArray[np.float32] = np.concatenate(parts).astype(np.float32)
        return values[: len(images)]  # without what filled up the last batch

    def _run(self, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """All outputs for at most one batch; a fixed batch is filled up with empty images."""
        missing = max(0, (self._batch or 0) - len(images))
        padded = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        nchw = np.ascontiguousarray(normalised(padded, self._scaling).transpose(0, 3, 1, 2))
        with _translated(self.path):
            outputs: list[NDArray[Any]] = self._session.run(None, {self._input: nchw})
        return outputs


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime  # part of the extra `export`
    except ImportError as error:
        raise HeatposeError("Running ONNX files needs onnxruntime: pip install 'heatpose[export]'.") from error
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
        state.EPFail, state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf,
        state.NoModel, state.NoSuchFile, state.NotImplemented, state.RuntimeException, UnicodeDecodeError,
    )  # fmt: skip
    try:
        yield
    except kinds as error:
        raise HeatposeError(f"'{path}' is no ONNX file that onnxruntime can run ({first_line(error)}).") from error


def _input_form(path: Path, session: Any, wanted: int | None) -> tuple[str, int | None, int]:
    """Name of the input, its batch (None where any will do) and its side."""
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
    fixed = {side for side in shape[2:] if isinstance(side, int)}
    if len(shape) != 4 or shape[1] != 3 or len(fixed) > 1:
        listed = ", ".join(f"{entry.type} {entry.shape}" for entry in inputs) or "nothing"
        raise no_pose_model(path, f"its input is {listed}, not one RGB image tensor(float) [1 or N, 3, S, S]")
    if not fixed and wanted is None:
        raise HeatposeError(f"'{path}' leaves the size of its input open; say which side to run it at.")
    side = int(next(iter(fixed), wanted or 0))
    check_size(path, side, wanted)
    check_resolution(side)
    return str(inputs[0].name), shape[0] if isinstance(shape[0], int) else None, side
