"""Runners: one interface to predict poses with checkpoints, ONNX and TFLite files.

To add a runner for another kind of file:

1. Write a class in a module here with the attributes and methods of `PoseRunner`.
2. Open it by its suffix in `open_runner`, which imports its runtime only then.
3. Describe what it states about itself in `reading.describe_file`.

Shape legend: B batch, S input side, K keypoints, H rows and W columns of a heatmap.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.runners.normalisation import InputReading, Normalisation

CHECKPOINTS = (".ckpt", ".pt", ".pth")


class PoseRunner(Protocol):
    """An opened model file."""

    @property
    def name(self) -> str:
        """The file's name."""

    @property
    def path(self) -> Path:
        """Path of the file."""

    @property
    def kind(self) -> str:
        """One of "checkpoint", "onnx" and "tflite"."""

    @property
    def keypoints(self) -> int:
        """K."""

    @property
    def skeleton(self) -> Skeleton | None:
        """Skeleton of its channels; None if neither the file nor the manifest states it."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Preprocessing of its training; None if neither the file nor the manifest states it."""

    @property
    def input(self) -> InputReading:
        """Normalisation of its input, and the source of that information."""

    @property
    def assumed_output(self) -> str:
        """Assumption about its output; "" if its shape or the file determines it."""

    @property
    def includes_decode(self) -> bool:
        """Whether the model decodes its maps itself and so selects one of several people."""

    @property
    def size(self) -> int:
        """Input side S."""

    @property
    def kernels(self) -> str:
        """Kernels in use, for example "XNNPACK, 2 threads", on which int8 results depend."""

    def predict(self, images: NDArray[np.uint8], decode: str = "argmax") -> NDArray[np.float32]:
        """Poses of raw RGB images.

        Args:
            images: u8[B, S, S, 3], bytes 0..255.
            decode: A method of `heatpose.pose.codec.decode`; no effect on a model that includes its
                decode.

        Returns:
            f32[B, K, 3]: x and y as fractions of the input's width and height, and a score in [0,
            1].
        """

    def heatmaps(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The model's maps f32[B, K, H, W], dequantised: logits or probabilities.

        Raises:
            HeatposeError: The model includes its decode and does not output heatmaps.
        """


@runtime_checkable
class Deferring(Protocol):
    """A runner whose network and decode can be run in different threads, as a pipeline."""

    def later(
        self, images: NDArray[np.uint8], decode: str = "argmax"
    ) -> Callable[[], NDArray[np.float32]]:
        """Runs the network on u8[B, S, S, 3]; arguments as `PoseRunner.predict`.

        Returns:
            A function that decodes the output to f32[B, K, 3], later and in any thread.
        """


def open_runner(
    path: str | Path,
    *,
    threads: int | None = None,
    size: int | None = None,
    reference_kernels: bool = False,
    normalisation: Normalisation | None = None,
) -> PoseRunner:
    """Opens a model file by its suffix.

    Args:
        path: `.ckpt` (also `.pt`, `.pth`), `.onnx` or `.tflite`.
        threads: CPU threads; all cores if None (torch's default for a checkpoint).
        size: Input side S for files that leave it open (checkpoints, ONNX with free sides); an
            error for other files, unless it is their own.
        reference_kernels: Uses TFLite's reference kernels, which define the results of int8
            operators, instead of the fast ones. Slow, and no effect on other kinds of files.
        normalisation: Of a float input, if neither the file nor its bundle states it;
            `runner.input.note` reports if it is not used.

    Raises:
        HeatposeError: The file is missing, not a pose model, or of another size, or its runtime is
            not installed.
    """
    path = Path(path)
    if path.is_dir():
        raise HeatposeError(
            f"'{path}' is a folder; give one model file in it (.ckpt, .onnx or .tflite)."
        )
    if not path.is_file():
        raise HeatposeError(
            f"Model file '{path}' does not exist; give a .ckpt, .onnx or .tflite file."
        )
    if threads is not None and threads < 1:
        raise HeatposeError(f"threads must be 1 or more, got {threads}.")
    # Each runner is imported where it is used: only one of torch, onnxruntime and LiteRT may be
    # installed.
    suffix = path.suffix.lower()
    if suffix == ".tflite":
        from heatpose.runners.tflite_runner import TFLiteRunner

        return TFLiteRunner(
            path,
            threads=threads,
            size=size,
            reference_kernels=reference_kernels,
            normalisation=normalisation,
        )
    if suffix == ".onnx":
        from heatpose.runners.onnx_runner import OnnxRunner

        return OnnxRunner(path, threads=threads, size=size, normalisation=normalisation)
    if suffix in CHECKPOINTS:
        from heatpose.models.checkpoint import load_checkpoint
        from heatpose.runners.torch_runner import TorchRunner

        loaded = load_checkpoint(path)
        return TorchRunner(path, loaded, threads=threads, size=size, normalisation=normalisation)
    raise HeatposeError(
        f"'{path}' does not have the suffix of a model file; give a .ckpt, .onnx or .tflite file."
    )
