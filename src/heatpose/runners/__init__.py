"""One `predict` for a checkpoint, an ONNX file and any pose TFLite.

For whoever scores, draws or compares.
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
    """A model file, opened.

    Shape legend: B batch, S input side, K keypoints, H rows and W columns of a heatmap.
    """

    @property
    def name(self) -> str:
        """The file's name."""

    @property
    def path(self) -> Path:
        """Where it was opened."""

    @property
    def kind(self) -> str:
        """One of "checkpoint", "onnx" and "tflite"."""

    @property
    def keypoints(self) -> int:
        """K."""

    @property
    def skeleton(self) -> Skeleton | None:
        """What its channels are; None where neither the file nor the manifest beside it says so."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How its images were made in training.

        None where neither the file nor the manifest says so.
        """

    @property
    def input(self) -> InputReading:
        """How bytes become its input, and how that is known."""

    @property
    def assumed_output(self) -> str:
        """What is assumed about its output; empty where its form or the file tells."""

    @property
    def size(self) -> int:
        """Input side S."""

    @property
    def kernels(self) -> str:
        """What computes, for example "XNNPACK, 2 threads": int8 results depend on it."""

    def predict(self, images: NDArray[np.uint8], decode: str = "argmax") -> NDArray[np.float32]:
        """Poses of raw RGB images.

        Args:
            images: u8[B, S, S, 3], bytes 0..255.
            decode: A way of `heatpose.pose.codec.decode`; without effect on a model that decodes
                inside.

        Returns:
            f32[B, K, 3]: x and y as fractions of the input's width and height, and a score in [0,
                1].
        """

    def heatmaps(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The model's own maps f32[B, K, H, W], dequantised: logits or probabilities.

        Raises:
            HeatposeError: The model decodes inside and has none to give.
        """


@runtime_checkable
class Deferring(Protocol):
    """A runner whose network and decode can be run by two threads.

    So that the network goes on with the next image meanwhile.
    """

    def later(
        self, images: NDArray[np.uint8], decode: str = "argmax"
    ) -> Callable[[], NDArray[np.float32]]:
        """Runs the network now; the result makes `predict`'s poses out of what it gave.

        Whenever it is called and by whom.
        """


def open_runner(
    path: str | Path,
    *,
    threads: int | None = None,
    size: int | None = None,
    reference_kernels: bool = False,
    normalisation: Normalisation | None = None,
) -> PoseRunner:
    """Opens a model file by its ending.

    Args:
        path: `.ckpt` (also `.pt`, `.pth`), `.onnx` or `.tflite`.
        threads: CPU threads; all cores where None (a checkpoint: torch's own choice).
        size: Input side S for files that leave it open (checkpoints, ONNX with free sides); others
            refuse another one than theirs.
        reference_kernels: TFLite's plain loops, the definition of what an int8 operator computes,
            instead of the fast ones. Slow, and without effect on the other kinds, which have one
            set of kernels.
        normalisation: How bytes become a float input, for files that neither state it nor have a
            bundle that does; `runner.input.note` tells where it is not used.

    Raises:
        HeatposeError: No such file, no pose model, another size than the file's, or what runs this
            kind of file is not installed.
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
        raise HeatposeError(f"{threads} threads cannot compute anything; give 1 or more.")
    # Each runner is imported where it is used: one of torch, onnxruntime and LiteRT may be all
    # there is.
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
        f"'{path}' has an ending that no model has; give a .ckpt, .onnx or .tflite file."
    )
