"""Options and summary of a prediction; drawing of one model or of two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatpose.pose.draw import SHEET_BACKGROUND, contact_sheet, draw_pose, text_block
from heatpose.predict.estimator import Estimator

PANEL = (420, 1280)
"""Minimum and maximum of a panel's longer side in pixels; other images are scaled."""


@dataclass(frozen=True)
class Distance:
    """Distance between two models' predictions of a keypoint.

    Attributes:
        name: Keypoint.
        pixels: Distance in image pixels.
        seen: Whether both scores reach the threshold.
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
        poses: Two f32[K, 3]: normalised x, y, and score.
        estimators: Their models.
        shape: (H, W, 3) of the image.
        threshold: Score threshold.
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
    """File names of the models, with their folder if the names are equal."""
    paths = [estimator.runner.path for estimator in estimators]
    same = len({path.name for path in paths}) < len(paths)
    return [f"{path.parent.name}/{path.name}" if same else path.name for path in paths]


def side_by_side(
    image: NDArray[np.uint8],
    poses: Sequence[NDArray[np.float32]],
    estimators: Sequence[Estimator],
    threshold: float,
) -> NDArray[np.uint8]:
    """Draws the poses of two models side by side, with names above and distances below.

    Args:
        image: u8[H, W, 3].
        poses: Two f32[K, 3].
        estimators: Their models.
        threshold: Keypoints with a lower score are not drawn; their distances are in brackets.

    Returns:
        u8[H', W', 3], whose size depends only on the image's size and the models.
    """
    panels = [
        draw_pose(_fitted(image), pose, estimator.skeleton, threshold=threshold)
        for pose, estimator in zip(poses, estimators, strict=True)
    ]
    sheet = contact_sheet(panels, 2, captions=labels_of(estimators))
    apart = distances(poses, estimators, image.shape, threshold)
    block = text_block(_title(apart), _cells(apart), sheet.shape[1], columns=4)
    joined: NDArray[np.uint8] = np.concatenate([sheet, block])
    # video codecs need even sides
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


@dataclass(frozen=True)
class Drawing:
    """Models and drawing options.

    Attributes:
        estimators: One model, or two that are drawn side by side.
        threshold: Keypoints with a lower score are not drawn.
        draw: False writes only the keypoints.
    """

    estimators: Sequence[Estimator]
    threshold: float = 0.2
    draw: bool = True

    def image(
        self, image: NDArray[np.uint8], poses: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.uint8]:
        """Draws a pose f32[K, 3] of each model on u8[H, W, 3]."""
        if len(poses) == 1:
            return draw_pose(image, poses[0], self.estimators[0].skeleton, threshold=self.threshold)
        return side_by_side(image, poses, self.estimators, self.threshold)


@dataclass(frozen=True)
class VideoOptions:
    """Options for videos and cameras.

    Attributes:
        smooth: Filter the keypoints over time.
        crop: Crop each frame around the person of the previous one.
        images: Write the frames as images instead of an .mp4.
        limit: Maximum number of frames of each.
    """

    smooth: bool = True
    crop: bool = False
    images: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class Skipped:
    """A source that could not be read, and why."""

    path: Path
    reason: str


@dataclass
class PredictSummary:
    """Summary of a prediction.

    Attributes:
        images: Number of predicted images.
        turned: Number of images with an EXIF orientation tag.
        frames: Video or camera -> number of predicted frames.
        drawn: Written images and videos, in the order of the sources.
        results: Written JSON files.
        skipped: Images and videos that could not be read.
        cut: Sentences on truncated videos.
        apart: Keypoint -> distances in pixels where both models' scores reach the threshold.
    """

    images: int = 0
    turned: int = 0
    frames: dict[str, int] = field(default_factory=dict)
    drawn: list[Path] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    apart: dict[str, list[float]] = field(default_factory=dict)

    def compare(
        self, drawing: Drawing, poses: Sequence[NDArray[np.float32]], shape: tuple[int, ...]
    ) -> None:
        """Adds the distances between two models on an image of shape (H, W, 3)."""
        if len(poses) == 2:
            for entry in distances(poses, drawing.estimators, shape, drawing.threshold):
                if entry.seen:
                    self.apart.setdefault(entry.name, []).append(entry.pixels)

    def add(self, other: PredictSummary) -> None:
        """Adds the summary of further sources."""
        self.images += other.images
        self.turned += other.turned
        self.drawn += other.drawn
        self.results += other.results
        self.skipped += other.skipped
        self.cut += other.cut
        self.frames.update(other.frames)
        for name, pixels in other.apart.items():
            self.apart.setdefault(name, []).extend(pixels)

    def __str__(self) -> str:
        """One line each for the images, every video and every skipped source."""
        lines = []
        if self.images:
            did, json = "Drew" if self.drawn else "Predicted", self.results[0]
            lines.append(
                f"{did} {self.images} image{'' if self.images == 1 else 's'} into {json.parent};"
                f" keypoints are in {json}."
            )
        if self.turned:
            frame = "read upright, with keypoints in pixels of the upright image"
            lines.append(f"{self.turned} images have an EXIF orientation tag: {frame}.")
        lines += [f"{frames} frames of {name}." for name, frames in self.frames.items()]
        lines += self._wrote()
        lines += self._apart()
        lines += self.cut
        lines += [f"Skipped: {skipped.reason}" for skipped in self.skipped]
        return "\n".join(lines).encode("utf-8", "replace").decode()  # names may not be UTF-8

    def _wrote(self) -> list[str]:
        """Written videos and JSON files, if there are videos."""
        if not self.frames:
            return []
        listed = [
            path for path in (*self.drawn, *self.results) if path.suffix not in (".jpg", ".png")
        ]
        return [f"Wrote {', '.join(str(path) for path in listed)}."]

    def _apart(self) -> list[str]:
        means = {name: float(np.mean(pixels)) for name, pixels in self.apart.items()}
        if not means:
            return []
        mean = float(np.mean([pixels for listed in self.apart.values() for pixels in listed]))
        worst = sorted(means, key=lambda name: -means[name])[:3]
        return [
            f"The models are {mean:.1f} px apart on average, most at"
            f" {', '.join(f'{name} ({means[name]:.1f})' for name in worst)}."
        ]
