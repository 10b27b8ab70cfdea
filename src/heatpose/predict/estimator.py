"""Where to look on the next frame: MoveNet's crop around the person of the frame before.

The rule of Google's tutorial (tensorflow.org/hub/tutorials/movenet, `determine_crop_region`): a
square about the middle of the hips whose half side is

    min(max(1.9 * torso reach, 1.2 * body reach), distance to the farthest side of the image)

where a reach is the largest distance of a keypoint from the middle along x or y, the torso's over
shoulders and hips, the body's over all keypoints with a score of at least 0.2. Without a shoulder
and a hip of that score, and where the square's half side is more than half of the image's longer
one, the whole image is looked at again, made square by black bars.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.predict.frames import Frame
from heatpose.runners import Deferring, PoseRunner

LEAST_SCORE = 0.2
TORSO_REACH, BODY_REACH = 1.9, 1.2
SHOULDERS, HIPS = ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip")


@dataclass(frozen=True)
class Region:
    """A square of whole pixels, which may reach beyond the image."""

    left: int
    top: int
    side: int

    def cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """u8[H, W, 3] -> u8[side, side, 3], black beyond the image."""
        height, width = image.shape[:2]
        right, bottom = self.left + self.side, self.top + self.side
        if self.left >= 0 and self.top >= 0 and right <= width and bottom <= height:
            inside: NDArray[np.uint8] = image[self.top : bottom, self.left : right]
            return inside
        square = np.zeros((self.side, self.side, 3), np.uint8)
        x0, y0, x1, y1 = max(self.left, 0), max(self.top, 0), min(right, width), min(bottom, height)
        square[y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left] = image[y0:y1, x0:x1]
        return square

    def to_image(self, pose: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
        """A pose in fractions of the square -> the same in fractions of the image; f32[K, 3]."""
        points = (pose[:, :2] * self.side + (self.left, self.top)) / (width, height)
        moved: NDArray[np.float32] = np.concatenate([points, pose[:, 2:]], 1).astype(np.float32)
        return moved


def whole(width: int, height: int) -> Region:
    """The smallest square around the image, in its middle."""
    side = max(width, height)
    return Region((width - side) // 2, (height - side) // 2, side)


def next_region(pose: NDArray[np.float32], skeleton: Skeleton, width: int, height: int) -> Region:
    """The square to look at on the frame after `pose`.

    Args:
        pose: f32[K, 3] x, y as fractions of the image, score.
        skeleton: With shoulders and hips.
        width: Of the image in pixels.
        height: Of the image in pixels.
    """
    shoulders, hips = (
        [skeleton.index(name) for name in SHOULDERS],
        [skeleton.index(name) for name in HIPS],
    )
    seen = pose[:, 2] >= LEAST_SCORE
    if not (seen[shoulders].any() and seen[hips].any()):
        return whole(width, height)
    points = pose[:, :2] * (width, height)
    middle = points[hips].mean(0)
    reach = np.abs(points - middle).max(1)
    half = max(TORSO_REACH * reach[shoulders + hips].max(), BODY_REACH * reach[seen].max())
    half = min(half, max(middle[0], width - middle[0], middle[1], height - middle[1]))
    if not half <= max(width, height) / 2:  # a model that gives no numbers lands here as well
        return whole(width, height)
    left, top = np.floor(middle - half).astype(int)
    return Region(int(left), int(top), max(1, round(2 * float(half))))


def require_torso(skeleton: Skeleton) -> None:
    """Refuses a skeleton that the rule cannot be used with.

    Raises:
        HeatposeError: It lacks a shoulder or a hip.
    """
    missing = [name for name in (*SHOULDERS, *HIPS) if name not in skeleton.keypoints]
    if missing:
        raise HeatposeError(
            f"Skeleton '{skeleton.name}' has no {', '.join(missing)}, which the crop of a video is"
            " made from; leave out --crop."
        )


MIN_CUTOFF = 1.0
"""Hz, of a keypoint at rest. Lower: less jitter, more lag."""
BETA = 10.0
"""Hz per person size per second. Higher: less lag in motion."""
SPEED_CUTOFF = 1.0
"""Hz, of the speed; the paper's value."""
LONGEST_GAP_S = 0.5
"""After a longer pause, a filter starts anew: what it remembers is elsewhere by now."""
Array = NDArray[np.floating[Any]]


def alpha(cutoff: Array | float, dt: float) -> NDArray[np.float64]:
    """Weight of a new value in a first-order low-pass filter of `cutoff` Hz.

    `dt` seconds after the last one.
    """
    return np.asarray(1 / (1 + 1 / (2 * np.pi * np.asarray(cutoff, np.float64) * dt)))


class OneEuro:
    """Filters K points of one person, each for itself.

    Speeds are measured in person sizes, so that the same constants suit every resolution and
    distance.
    """

    def __init__(
        self, min_cutoff: float = MIN_CUTOFF, beta: float = BETA, speed_cutoff: float = SPEED_CUTOFF
    ) -> None:
        self.min_cutoff, self.beta, self.speed_cutoff = min_cutoff, beta, speed_cutoff
        self._seconds: float | None = None
        self._points = self._speed = np.zeros((0, 2))
        self._known = np.zeros(0, np.bool_)

    def __call__(
        self, points: Array, seconds: float, seen: NDArray[np.bool_], size: float
    ) -> NDArray[np.float64]:
        """The next frame.

        Args:
            points: f[K, 2] in pixels.
            seconds: Time of the frame.
            seen: bool[K]. A point that is not seen is passed on as it is, and its filter starts
                anew where it comes back.
            size: Of the person, in pixels: what a speed is divided by.

        Returns:
            f64[K, 2] in pixels.
        """
        values = np.asarray(points, np.float64)
        dt = None if self._seconds is None else seconds - self._seconds
        if dt is None or dt > LONGEST_GAP_S:
            out, speed = values, np.zeros_like(values)
        elif dt <= 0:  # a file whose times stand still says nothing about speeds
            return np.where((self._known & seen)[:, None], self._points, values)
        else:
            out, speed = self._filtered(values, dt, max(size, 1e-6))
            fresh = ~(self._known & seen)[:, None]
            out, speed = np.where(fresh, values, out), np.where(fresh, 0.0, speed)
        self._seconds, self._points, self._speed, self._known = seconds, out, speed, seen
        return out

    def _filtered(
        self, values: NDArray[np.float64], dt: float, size: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        speed = self._speed + alpha(self.speed_cutoff, dt) * (
            (values - self._points) / dt - self._speed
        )
        cutoff = self.min_cutoff + self.beta * np.linalg.norm(speed, axis=1, keepdims=True) / size
        return self._points + alpha(cutoff, dt) * (values - self._points), speed


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
