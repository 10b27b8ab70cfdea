"""The One Euro filter: little lag while a keypoint moves, little jitter while it rests.

Casiez, Roussel and Vogel, "1 Euro Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive Systems", CHI 2012. A first-order low-pass
filter whose cutoff frequency rises with the speed, which is itself low-pass filtered:

    cutoff = MIN_CUTOFF + BETA * |speed|        alpha(cutoff, dt) = 1 / (1 + 1 / (2 pi cutoff dt))        out += alpha * (value - out)

Shape legend: K keypoints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """Weight of a new value in a first-order low-pass filter of `cutoff` Hz, `dt` seconds after the last one."""
    return np.asarray(1 / (1 + 1 / (2 * np.pi * np.asarray(cutoff, np.float64) * dt)))


class OneEuro:
    """Filters K points of one person, each for itself.

    Speeds are measured in person sizes, so that the same constants suit every resolution and distance.
    """

    def __init__(self, min_cutoff: float = MIN_CUTOFF, beta: float = BETA, speed_cutoff: float = SPEED_CUTOFF) -> None:
        self.min_cutoff, self.beta, self.speed_cutoff = min_cutoff, beta, speed_cutoff
        self._seconds: float | None = None
        self._points = self._speed = np.zeros((0, 2))
        self._known = np.zeros(0, np.bool_)

    def __call__(self, points: Array, seconds: float, seen: NDArray[np.bool_], size: float) -> NDArray[np.float64]:
        """The next frame.

        Args:
            points: f[K, 2] in pixels.
            seconds: Time of the frame.
            seen: bool[K]. A point that is not seen is passed on as it is, and its filter starts anew where it comes back.
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

    def _filtered(self, values: NDArray[np.float64], dt: float, size: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        speed = self._speed + alpha(self.speed_cutoff, dt) * ((values - self._points) / dt - self._speed)
        cutoff = self.min_cutoff + self.beta * np.linalg.norm(speed, axis=1, keepdims=True) / size
        return self._points + alpha(cutoff, dt) * (values - self._points), speed
