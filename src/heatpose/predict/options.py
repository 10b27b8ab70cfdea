"""What is asked of a prediction, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatpose.pose.draw import draw_pose
from heatpose.predict.beside import distances, side_by_side
from heatpose.predict.estimator import Estimator


@dataclass(frozen=True)
class Drawing:
    """What is drawn.

    Attributes:
        estimators: The model, or two that are drawn side by side.
        threshold: Keypoints with a lower score are not drawn.
        draw: False writes the keypoints alone.
    """

    estimators: Sequence[Estimator]
    threshold: float = 0.2
    draw: bool = True

    def image(
        self, image: NDArray[np.uint8], poses: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.uint8]:
        """u8[H, W, 3] and a pose for each model -> the drawn image."""
        if len(poses) == 1:
            return draw_pose(image, poses[0], self.estimators[0].skeleton, threshold=self.threshold)
        return side_by_side(image, poses, self.estimators, self.threshold)


@dataclass(frozen=True)
class VideoOptions:
    """How videos and cameras are treated.

    Attributes:
        smooth: Filters the keypoints over time.
        crop: Looks at the surroundings of the person of the frame before.
        images: Writes the frames as images instead of an .mp4.
        limit: Stops after so many frames of each.
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
    """What became of the sources.

    Attributes:
        images: Images that were predicted.
        turned: Those of them that have an EXIF orientation tag.
        frames: Video or camera -> its frames that were predicted.
        drawn: The images and videos written, in the order of the sources.
        results: The json files with all keypoints.
        skipped: Images and videos that could not be read.
        cut: Sentences about videos that end too early.
        apart: Keypoint -> distances in pixels where both of two models see it.
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
        """Takes note of how far apart two models are on an image of shape (H, W, 3)."""
        if len(poses) == 2:
            for entry in distances(poses, drawing.estimators, shape, drawing.threshold):
                if entry.seen:
                    self.apart.setdefault(entry.name, []).append(entry.pixels)

    def add(self, other: PredictSummary) -> None:
        """Takes in what became of further sources."""
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
        """What happened, a line each for the images.

        Every video and every source that was skipped.
        """
        lines = []
        if self.images:
            did, json = "Drew" if self.drawn else "Predicted", self.results[0]
            lines.append(
                f"{did} {self.images} images into {json.parent}; keypoints are in {json.name}."
            )
        if self.turned:
            frame = "read upright, with keypoints in pixels of the upright image"
            lines.append(f"{self.turned} images have an EXIF orientation tag: {frame}.")
        lines += [f"{frames} frames of {name}." for name, frames in self.frames.items()]
        lines += self._wrote()
        lines += self._apart()
        lines += self.cut
        lines += [f"Skipped: {skipped.reason}" for skipped in self.skipped]
        return "\n".join(lines).encode("utf-8", "replace").decode()  # file names need not be text

    def _wrote(self) -> list[str]:
        """Of videos, where an image's name does not say where its image is."""
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
