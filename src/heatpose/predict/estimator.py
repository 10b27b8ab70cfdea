"""A model with all that turns an image into a pose: its preprocessing, decode, skeleton.

And one that follows a person through a video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.predict.frames import Frame
from heatpose.predict.tracking import OneEuro, Region, next_region, require_torso, whole
from heatpose.runners import Deferring, PoseRunner

Answer = Callable[[], NDArray[np.float32]]
"""Gives the pose f32[K, 3], once, when it is called."""


@dataclass(frozen=True)
class Estimator:
    """Images in, poses out.

    Attributes:
        runner: The model.
        skeleton: What its K channels are.
        preprocessing: How an image becomes its input.
        decode: A way of `heatpose.pose.codec.decode`.
        assumed: Of `runners.reading.Reading`: what the results note.
    """

    runner: PoseRunner
    skeleton: Skeleton
    preprocessing: Preprocessing
    decode: str
    assumed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        runner: PoseRunner,
        skeleton: Skeleton,
        decode: str = "refined",
        sampling: str | None = None,
        assumed: Mapping[str, str] | None = None,
    ) -> Estimator:
        """For a model whose images are resized as in training.

        Or bilinear where that is not known, unless `sampling` says how.

        Raises:
            HeatposeError: The skeleton has another number of keypoints than the model.
        """
        if len(skeleton) != runner.keypoints:
            raise HeatposeError(
                f"'{runner.path}' has {runner.keypoints} keypoints, but skeleton '{skeleton.name}'"
                f" has {len(skeleton)}; give the skeleton that the model was trained with."
            )
        known = runner.preprocessing or Preprocessing(runner.size, "bilinear")
        preprocessing = replace(known, size=runner.size, sampling=sampling or known.sampling)
        return cls(runner, skeleton, preprocessing, decode, assumed or {})

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """u8[H, W, 3] -> the model's input u8[S, S, 3]."""
        return self.preprocessing.resize(image)

    def pose_of(self, resized: NDArray[np.uint8]) -> NDArray[np.float32]:
        """u8[S, S, 3] -> f32[K, 3]: x and y as fractions of the image, score."""
        return self.ask(resized)()

    def ask(self, resized: NDArray[np.uint8]) -> Answer:
        """Runs the network on u8[S, S, 3].

        What is left to do is done by whoever asks the answer for the pose of `pose_of`.
        """
        if isinstance(self.runner, Deferring):
            poses = self.runner.later(resized[None], self.decode)
            return lambda: poses()[0]
        pose: NDArray[np.float32] = self.runner.predict(resized[None], self.decode)[0]
        return lambda: pose


class Tracker:
    """Follows one person through the frames of one video.

    `prepare`, `ask` and `follow`, each with the frames in their order.

    The three share nothing, so that each can have a thread of its own.

    Args:
        estimator: The model.
        smooth: Filters the keypoints over time.
        crop: Looks at the surroundings of the person of the frame before instead of the whole
            frame.
        threshold: Keypoints with a lower score are not filtered.

    Raises:
        HeatposeError: A crop is asked for, but the skeleton has no shoulders and hips.
    """

    def __init__(self, estimator: Estimator, smooth: bool, crop: bool, threshold: float) -> None:
        if crop:
            require_torso(estimator.skeleton)
        self.estimator, self.crop, self.threshold = estimator, crop, threshold
        self._region: Region | None = None
        self._filter = OneEuro() if smooth else None

    def prepare(self, frame: Frame) -> NDArray[np.uint8] | None:
        """The model's input u8[S, S, 3] for a frame.

        As far as it can be made before the poses of the frames before it; of a crop that is
        nothing.
        """
        return None if self.crop else self.estimator.resize(frame.image)

    def ask(self, frame: Frame, prepared: NDArray[np.uint8] | None) -> Answer:
        """Runs the network on the next frame, which `prepare` has seen.

        Of a crop the whole pose is needed at once: it says where to look next.
        """
        if prepared is not None:
            return self.estimator.ask(prepared)
        pose = self._cropped(frame.image)
        return lambda: pose

    def follow(self, frame: Frame, answer: Answer) -> NDArray[np.float32]:
        """The pose on the next frame: f32[K, 3] x, y as fractions of the frame, score."""
        return answer() if self._filter is None else self._smoothed(answer(), frame, self._filter)

    def _cropped(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = image.shape[:2]
        region = self._region or whole(width, height)
        pose = region.to_image(
            self.estimator.pose_of(self.estimator.resize(region.cut(image))), width, height
        )
        self._region = next_region(pose, self.estimator.skeleton, width, height)
        return pose

    def _smoothed(
        self, pose: NDArray[np.float32], frame: Frame, one_euro: OneEuro
    ) -> NDArray[np.float32]:
        extent = np.array([frame.image.shape[1], frame.image.shape[0]], np.float64)
        points, seen = pose[:, :2] * extent, pose[:, 2] >= self.threshold
        size = float(np.ptp(points[seen], axis=0).max()) if seen.any() else 0.0
        filtered = one_euro(points, frame.seconds, seen, size) / extent
        result: NDArray[np.float32] = np.concatenate([filtered, pose[:, 2:]], 1).astype(np.float32)
        return result
