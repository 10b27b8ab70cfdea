"""The keypoints of one person by a teacher, and whether it is sure of them.

The teacher runs on the image and on its mirror image. Where both runs place a keypoint at the same
spot with a sufficient score, the mean of the two is the label; elsewhere there is none.

Shape legend: K keypoints, H and W rows and columns of an image, S the teacher's input side.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, sqrt
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.predict.estimator import Estimator, Region, next_region, require_torso, whole

NOBODY = "no person found"
UNSURE = "too few sure keypoints"
DISAGREES = "teacher disagrees with its mirror image"
SMALL = "person too small"

LOOKS = 2
"""Runs that look for the person before the labels are made: the whole image, then the crop."""
BOX_CROP = 1.25
"""Side of the crop around a given box, in sides of the box."""
SIDES, TOP, BOTTOM = 0.10, 0.20, 0.13
"""A person's box reaches so far beyond the outermost keypoints, as shares of the mean of their
extents along x and y: medians over 5,295 people of COCO with four labelled keypoints or more, for
whom such boxes have a median IoU of 0.78 with the labelled ones."""

Box = tuple[float, float, float, float]
Entry = dict[str, Any]
"""Plain values of one candidate: `reason` (why there is no label, None where there is one), `bbox`
(x, y, width, height in image pixels, None where unknown), and with a label `keypoints` (x, y, v of
COCO), `keypoint_scores`, `score`; `unsure` and `disagreeing` count the keypoints left out."""


@dataclass(frozen=True)
class LabelSettings:
    """When a keypoint and a person are labelled.

    Attributes:
        min_score: Both runs score the keypoint above this.
        max_distance: The two places of a keypoint differ by no more than this share of the crop's
            side.
        min_keypoints: A person with fewer such keypoints is left out.
        min_side: A person with a smaller box is left out; square root of the area, in pixels.

    Raises:
        HeatposeError: A number is out of its range.
    """

    min_score: float = 0.3
    max_distance: float = 0.04
    min_keypoints: int = 4
    min_side: float = 36.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_score < 1 or not 0 < self.max_distance <= 1:
            raise HeatposeError(
                f"A score of {self.min_score} or distance of {self.max_distance} is out of range; "
                "use a score in [0, 1), 0.3 by default, and a distance in (0, 1], 0.04 by default."
            )
        if self.min_keypoints < 1 or self.min_side < 0:
            raise HeatposeError(
                f"{self.min_keypoints} keypoints or a side of {self.min_side} is out of range; "
                "use 1 keypoint or more, 4 by default, and 0 pixels or more, 36 by default."
            )


class Labeller:
    """A teacher and its settings; several threads may use it at once.

    Args:
        teacher: The model.
        settings: When a keypoint is labelled.
    """

    def __init__(self, teacher: Estimator, settings: LabelSettings) -> None:
        self.teacher, self.settings = teacher, settings
        self._one_at_a_time = Lock()  # the model has threads of its own; images are cut beside it
        try:
            require_torso(teacher.skeleton)
            self.looks = LOOKS
        except HeatposeError:
            self.looks = 0  # the crop is made from shoulders and hips

    def find(self, image: NDArray[np.uint8]) -> Region:
        """The crop around the most prominent person of u8[H, W, 3], as the teacher sees it."""
        height, width = image.shape[:2]
        region = whole(width, height)
        for _ in range(self.looks):
            (pose,) = self._predict(self.teacher.resize(region.cut(image))[None])
            pose = region.to_image(pose, width, height)
            before, region = region, next_region(pose, self.teacher.skeleton, width, height)
            if region == before:
                break
        return region

    def label(self, image: NDArray[np.uint8], box: Box | None = None) -> Entry:
        """The labels of one person of u8[H, W, 3]: the one in `box`, else the most prominent."""
        height, width = image.shape[:2]
        region = self.find(image) if box is None else around(box)
        poses = self._both_ways(region.cut(image))
        points = poses[..., :2].astype(np.float64) * region.side + (region.left, region.top)
        return self._scored(points, poses[..., 2], region.side, (width, height), box)

    def _both_ways(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        """f32[2, K, 3] x, y as fractions of the crop, score: of the crop and its mirror image."""
        resized = self.teacher.resize(crop)
        pair = np.stack([resized, resized[:, ::-1]])
        straight, mirrored = self._predict(pair)
        mirrored = mirrored[list(self.teacher.skeleton.flip_order)]
        mirrored[:, 0] = 1 - mirrored[:, 0]
        return np.stack([straight, mirrored])

    def _predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Poses f32[B, K, 3] of u8[B, S, S, 3]; what is not a number becomes 0."""
        with self._one_at_a_time:
            poses = self.teacher.runner.predict(images, self.teacher.decode)
        return np.nan_to_num(poses)

    def _scored(
        self,
        points: NDArray[np.float64],
        scores: NDArray[np.float32],
        side: int,
        extent: tuple[int, int],
        box: Box | None,
    ) -> Entry:
        """The entry for two answers: points f64[2, K, 2] in image pixels, scores f32[2, K]."""
        wanted, mean = self.settings, points.mean(0)
        inside = ((mean >= 0) & (mean <= extent)).all(-1)
        sure = inside & (scores.min(0) > wanted.min_score)
        distance = np.linalg.norm(points[0] - points[1], axis=-1)
        labelled = sure & (distance <= wanted.max_distance * side)
        found = box or (box_of(mean[labelled], extent) if labelled.any() else None)
        least = min(wanted.min_keypoints, len(mean))
        reason = None
        if not (scores > wanted.min_score).any():
            reason = NOBODY
        elif sure.sum() < least:
            reason = UNSURE
        elif labelled.sum() < least:
            reason = DISAGREES
        elif found is None or sqrt(found[2] * found[3]) < wanted.min_side:
            reason = SMALL
        entry: Entry = {"reason": reason, "bbox": _rounded(box if reason else found)}
        return entry if reason else entry | _keypoints(mean, scores.mean(0), sure, labelled)


def _keypoints(
    points: NDArray[np.float64],
    scores: NDArray[np.float32],
    sure: NDArray[np.bool_],
    labelled: NDArray[np.bool_],
) -> Entry:
    """COCO's x, y, v, zero where there is no label, and the scores of all."""
    triples = np.concatenate([points.round(2), np.full((len(points), 1), 2)], 1)
    triples[~labelled] = 0
    flat = [int(value) if i % 3 == 2 else float(value) for i, value in enumerate(triples.ravel())]
    return {
        "keypoints": flat,
        "keypoint_scores": [round(float(score), 4) for score in scores],
        "score": round(float(scores[labelled].mean()), 4),
        "unsure": int((~sure).sum()),
        "disagreeing": int((sure & ~labelled).sum()),
    }


def around(box: Box) -> Region:
    """The square about a box, a little larger than its longer side."""
    x, y, width, height = box
    side = max(2, round(BOX_CROP * max(width, height)))
    return Region(floor(x + (width - side) / 2), floor(y + (height - side) / 2), side)


def box_of(points: NDArray[np.float64], extent: tuple[int, int]) -> Box:
    """The box of the whole person out of keypoints f64[N, 2], N at least 1, within the image.

    Args:
        points: In image pixels.
        extent: Width and height of the image.
    """
    low, high = points.min(0), points.max(0)
    scale = float((high - low).mean())
    low = np.clip(low - (SIDES * scale, TOP * scale), 0, extent)
    high = np.clip(high + (SIDES * scale, BOTTOM * scale), 0, extent)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


def _rounded(box: Box | None) -> list[float] | None:
    return None if box is None else [round(value, 2) for value in box]
