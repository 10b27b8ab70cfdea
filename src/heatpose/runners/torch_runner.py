"""Runs a checkpoint's network on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from heatpose.models.checkpoint import LoadedCheckpoint
from heatpose.models.decode import decode_maps
from heatpose.models.movenet import PoseMaps
from heatpose.runners.normalisation import InputReading, Normalisation
from heatpose.runners.outputs import check_images, poses_from_heatmaps


class TorchRunner:
    """A `PoseRunner` for a checkpoint.

    The score of a heatmap network is the sigmoid of its logits; four heads use MoveNet's decode.

    Args:
        path: Of the checkpoint.
        loaded: The checkpoint.
        threads: torch's CPU threads during inference; its default if None.
        size: Another resolution than the checkpoint's, a multiple of 32.
        normalisation: Not used; noted if it differs from the checkpoint's.

    Raises:
        HeatposeError: `size` is not a multiple of 32.
    """

    kind = "checkpoint"

    def __init__(
        self,
        path: Path,
        loaded: LoadedCheckpoint,
        *,
        threads: int | None = None,
        size: int | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        self.path, self.name = path, path.name
        self.preprocessing = (
            loaded.preprocessing if size is None else replace(loaded.preprocessing, size=size)
        )
        self.size = self.preprocessing.size
        self.skeleton = loaded.skeleton
        self.keypoints = loaded.network.keypoints
        self.includes_decode = loaded.network.four_heads
        own = InputReading(Normalisation.of(self.preprocessing), "stated")
        self.input = own.fixed_against(normalisation)
        self.assumed_output = ""
        self.kernels = f"torch cpu, {threads or torch.get_num_threads()} threads"
        self._threads = threads
        # channels-last is about 1.3 times as fast as torch's default layout
        self._network = loaded.network.eval().to(memory_format=torch.channels_last)

    def heatmaps(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits f32[B, K, S/4, S/4] of the heatmap head; see `PoseRunner.heatmaps`."""
        with self._maps(images) as maps:
            logits = maps.heatmaps if isinstance(maps, PoseMaps) else maps
            values: NDArray[np.float32] = logits.float().contiguous().numpy()
        return values

    def predict(self, images: NDArray[np.uint8], decode: str = "argmax") -> NDArray[np.float32]:
        """See `PoseRunner.predict`. A network with four heads always uses its own decode."""
        if not self.includes_decode:
            return poses_from_heatmaps(self.heatmaps(images), decode, probabilities=False)
        with self._maps(images) as maps:
            poses: NDArray[np.float32] = decode_maps(maps).numpy()
        return poses

    @contextmanager
    def _maps(self, images: NDArray[np.uint8]) -> Iterator[Any]:
        """The network's output for u8[B, S, S, 3], within torch's inference mode."""
        check_images(images, self.size)
        with torch.inference_mode(), _threads(self._threads):
            # channels-last
            inputs = self.preprocessing.normalise(torch.tensor(images).permute(0, 3, 1, 2))
            yield self._network(inputs)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Sets torch's global thread count, and restores it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
