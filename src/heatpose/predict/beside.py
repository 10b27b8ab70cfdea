"""Two models' poses of one image side by side, with the distance of each keypoint below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatpose.pose.draw import SHEET_BACKGROUND, contact_sheet, draw_pose, text_block
from heatpose.predict.estimator import Estimator

PANEL = (420, 1280)
"""Pixels of a panel's longer side, at least and at most.

Other images are scaled, so that the caption can be read.
"""


@dataclass(frozen=True)
class Distance:
    """How far apart two models place the keypoint `name`.

    Attributes:
        pixels: Of the image.
        seen: Both scores reach the threshold.
    """

    name: str
    pixels: float
    seen: bool


def distances(
    poses: Sequence[NDArray[np.float32]],
    estimators: Sequence[Estimator],
    shape: tuple[int, ...],
    threshold: float,
) -> list[Distance]:
    """Distances of the keypoints that both skeletons have.

    Args:
        poses: Two f32[K, 3], fractions of the image and score.
        estimators: Their models.
        shape: The image's (H, W, 3).
        threshold: Of the score.
    """
    first, second = (estimator.skeleton for estimator in estimators)
    extent = np.array([shape[1], shape[0]], np.float64)
    found = []
    for name in first.keypoints:
        if name in second.keypoints:
            a, b = poses[0][first.index(name)], poses[1][second.index(name)]
            pixels = float(np.linalg.norm((a[:2] - b[:2]) * extent))
            found.append(Distance(name, pixels, bool(min(a[2], b[2]) >= threshold)))
    return found


def labels_of(estimators: Sequence[Estimator]) -> list[str]:
    """File names; with the folder where the names are equal."""
    paths = [estimator.runner.path for estimator in estimators]
    same = len({path.name for path in paths}) < len(paths)
    return [f"{path.parent.name}/{path.name}" if same else path.name for path in paths]


def side_by_side(
    image: NDArray[np.uint8],
    poses: Sequence[NDArray[np.float32]],
    estimators: Sequence[Estimator],
    threshold: float,
) -> NDArray[np.uint8]:
    """The image twice, each with one model's skeleton and the model's name.

    And below the distances in pixels of the image.

    Args:
        image: u8[H, W, 3].
        poses: Two f32[K, 3].
        estimators: Their models.
        threshold: Keypoints with a lower score are not drawn, and their distances stand in
            brackets.

    Returns:
        u8[H', W', 3]; of one size for images of one size and the same models.
    """
    panels = [
        draw_pose(_fitted(image), pose, estimator.skeleton, threshold=threshold)
        for pose, estimator in zip(poses, estimators, strict=True)
    ]
    sheet = contact_sheet(panels, 2, captions=labels_of(estimators))
    apart = distances(poses, estimators, image.shape, threshold)
    block = text_block(_title(apart), _cells(apart), sheet.shape[1], columns=4)
    joined: NDArray[np.uint8] = np.concatenate([sheet, block])
    # video codecs want even sides
    return np.pad(
        joined,
        ((0, joined.shape[0] % 2), (0, joined.shape[1] % 2), (0, 0)),
        constant_values=SHEET_BACKGROUND,
    )


def _title(apart: Sequence[Distance]) -> str:
    seen = [entry.pixels for entry in apart if entry.seen]
    mean = f", {np.mean(seen):.1f} on average" if seen else ""
    return f"distance in pixels{mean} (in brackets: a score below the threshold)"


def _cells(apart: Sequence[Distance]) -> list[str]:
    return [
        f"{entry.name} {entry.pixels:.1f}" if entry.seen else f"({entry.name} {entry.pixels:.1f})"
        for entry in apart
    ]


def _fitted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    longer = max(image.shape[:2])
    side = min(max(longer, PANEL[0]), PANEL[1])
    if side == longer:
        return image
    width, height = (
        max(1, round(length * side / longer)) for length in (image.shape[1], image.shape[0])
    )
    return np.array(Image.fromarray(image).resize((width, height)))
