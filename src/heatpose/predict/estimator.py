"""Pose estimation on images, and tracking of one person in videos (crop, One Euro filter).

The crop follows Google's tutorial (tensorflow.org/hub/tutorials/movenet, `determine_crop_region`):
a square around the hip centre whose half side is

    min(max(1.9 * torso reach, 1.2 * body reach), distance to the farthest side of the image)

A reach is the largest distance of a keypoint from the centre along x or y: for the torso over
shoulders and hips, for the body over all keypoints with a score >= 0.2. Without a shoulder and a
hip of that score, or if the half side exceeds half of the image's longer side, the whole image is
used, padded to a square with black.
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
    """A square in whole pixels, which may extend beyond the image."""

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
        """Converts a pose f32[K, 3] from normalised square to normalised image coordinates."""
        points = (pose[:, :2] * self.side + (self.left, self.top)) / (width, height)
        moved: NDArray[np.float32] = np.concatenate([points, pose[:, 2:]], 1).astype(np.float32)
        return moved


def whole(width: int, height: int) -> Region:
    """The smallest square around the image, centred on it."""
    side = max(width, height)
    return Region((width - side) // 2, (height - side) // 2, side)


def next_region(pose: NDArray[np.float32], skeleton: Skeleton, width: int, height: int) -> Region:
    """Crop region of the next frame.

    Args:
        pose: f32[K, 3]: normalised x, y, and score.
        skeleton: Keypoint set with shoulders and hips.
        width: Image width in pixels.
        height: Image height in pixels.
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
    if not half <= max(width, height) / 2:  # also true for NaN
        return whole(width, height)
    left, top = np.floor(middle - half).astype(int)
    return Region(int(left), int(top), max(1, round(2 * float(half))))


def require_torso(skeleton: Skeleton) -> None:
    """Checks that a skeleton has the keypoints of the crop rule.

    Raises:
        HeatposeError: A shoulder or a hip is missing.
    """
    missing = [name for name in (*SHOULDERS, *HIPS) if name not in skeleton.keypoints]
    if missing:
        raise HeatposeError(
            f"Skeleton '{skeleton.name}' has no {', '.join(missing)}, which cropping needs; leave"
            " out --crop."
        )


MIN_CUTOFF = 1.0
"""Cutoff of a keypoint at rest, Hz. Lower: less jitter, more lag."""
BETA = 10.0
"""Cutoff increase with speed, Hz per (person size per second). Higher: less lag in motion."""
SPEED_CUTOFF = 1.0
"""Cutoff of the speed, Hz; the value of the paper (Casiez et al., CHI 2012)."""
LONGEST_GAP_S = 0.5
"""Gap in seconds above which the filter is reset."""
Array = NDArray[np.floating[Any]]


def alpha(cutoff: Array | float, dt: float) -> NDArray[np.float64]:
    """Smoothing factor of a first-order low-pass filter (Casiez et al., CHI 2012).

    Args:
        cutoff: f[...] or a number, in Hz, > 0.
        dt: Time between two samples, in seconds, > 0.

    Returns:
        f64[...] in (0, 1): weight of the new sample.
    """
    return np.asarray(1 / (1 + 1 / (2 * np.pi * np.asarray(cutoff, np.float64) * dt)))


class OneEuro:
    """One Euro filter (Casiez et al., CHI 2012) of K points, each filtered independently.

    Speeds are divided by the person's size, so that the constants are independent of resolution
    and distance.
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
        """Filters the next frame.

        Args:
            points: f[K, 2] in pixels.
            seconds: Time of the frame.
            seen: bool[K]. Points not seen are returned unfiltered, and their filter is reset.
            size: Size of the person in pixels.

        Returns:
            f64[K, 2] in pixels.
        """
        values = np.asarray(points, np.float64)
        dt = None if self._seconds is None else seconds - self._seconds
        if dt is None or dt > LONGEST_GAP_S:
            out, speed = values, np.zeros_like(values)
        elif dt <= 0:  # frames without increasing times have no speed
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


PendingPose = Callable[[], NDArray[np.float32]]
"""Deferred result; returns the pose f32[K, 3] and may be called once."""


@dataclass(frozen=True)
class Estimator:
    """A model with skeleton, preprocessing and decoding.

    Attributes:
        runner: Model.
        skeleton: Its K keypoints.
        preprocessing: Conversion of an image to the input.
        decode: Method of `heatpose.pose.codec.decode`.
        assumed: Assumed values (`runners.reading.Reading`), noted in the results.
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
        """Creates an estimator.

        Args:
            runner: Model.
            skeleton: Its K keypoints.
            decode: Method of `heatpose.pose.codec.decode`.
            sampling: "nearest" or "bilinear"; None for that of training, else bilinear.
            assumed: Assumed values.

        Raises:
            HeatposeError: The numbers of keypoints of skeleton and model differ.
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
        """Resizes u8[H, W, 3] to the model's input u8[S, S, 3]."""
        return self.preprocessing.resize(image)

    def pose_of(self, resized: NDArray[np.uint8]) -> NDArray[np.float32]:
        """u8[S, S, 3] -> f32[K, 3]: normalised x, y, and score."""
        return self.run(resized)()

    def run(self, resized: NDArray[np.uint8]) -> PendingPose:
        """Runs the network on u8[S, S, 3]; calling the result decodes the pose of `pose_of`."""
        if isinstance(self.runner, Deferring):
            poses = self.runner.later(resized[None], self.decode)
            return lambda: poses()[0]
        pose: NDArray[np.float32] = self.runner.predict(resized[None], self.decode)[0]
        return lambda: pose


class Tracker:
    """Tracks one person through a video.

    `prepare`, `run` and `follow` are each called with the frames in order. They share no state, so
    that each can run in its own thread.

    Args:
        estimator: Model.
        smooth: Filter the keypoints over time.
        crop: Crop each frame around the person of the previous one.
        threshold: Keypoints with a lower score are not filtered.

    Raises:
        HeatposeError: `crop` is set, but the skeleton has no shoulders and hips.
    """

    def __init__(self, estimator: Estimator, smooth: bool, crop: bool, threshold: float) -> None:
        if crop:
            require_torso(estimator.skeleton)
        self.estimator, self.crop, self.threshold = estimator, crop, threshold
        self._region: Region | None = None
        self._filter = OneEuro() if smooth else None

    def prepare(self, frame: Frame) -> NDArray[np.uint8] | None:
        """The model's input u8[S, S, 3]; None with `crop`, which needs the previous pose."""
        return None if self.crop else self.estimator.resize(frame.image)

    def run(self, frame: Frame, prepared: NDArray[np.uint8] | None) -> PendingPose:
        """Runs the network on the next frame.

        With `crop` the pose is decoded immediately, because it determines the next crop.
        """
        if prepared is not None:
            return self.estimator.run(prepared)
        pose = self._cropped(frame.image)
        return lambda: pose

    def follow(self, frame: Frame, pending: PendingPose) -> NDArray[np.float32]:
        """Pose on the next frame, f32[K, 3]: normalised x, y, and score."""
        return pending() if self._filter is None else self._smoothed(pending(), frame, self._filter)

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
