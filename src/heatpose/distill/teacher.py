"""The teacher of a distillation: settings, predictions for crops of instances, keypoint mapping.

Shape legend: B batch, K the student's and T the teacher's keypoints, h and w rows and columns of
the teacher's maps, S its input side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatpose.data.sample import Person, labelled_image
from heatpose.errors import HeatposeError
from heatpose.pose import geometry
from heatpose.pose.skeleton import Skeleton, named
from heatpose.runners import PoseRunner
from heatpose.runners.normalisation import Normalisation
from heatpose.runners.outputs import RANGE_SLACK, poses_from_heatmaps
from heatpose.runners.reading import reading_of


@dataclass(frozen=True)
class DistillSettings:
    """Entries of `conf/distill/`.

    Attributes:
        path: The teacher: a `.ckpt`, `.onnx` or `.tflite` pose model; None for none.
        size: Input side, for files that leave it open (checkpoints, some ONNX); None for the file's
            own.
        skeleton: The teacher's keypoints, for a file that does not state them: coco17, st13 or a
            YAML.
        normalisation: Of the teacher's input, for a file that does not state it; see
            `runners.normalisation.SYNTAX`.
        margin: Side of the square crop around each instance, relative to the longer side of its
            box; None for the whole image, stretched.
        mirror: Averages the predictions on the crop and its mirror image (flip test: Newell, Yang
            and Deng, ECCV 2016).
        weight: Of the term, relative to the loss on labels.
        temperature: Of both softmaxes; the term is multiplied by its square (Hinton, Vinyals and
            Dean 2015, section 2).
        spread: For a teacher without maps: factor on the standard deviation of the OKS kernel
            around its points, which is the target.
        fill: Unlabelled keypoints get the teacher's point in the loss on labels, weighted by its
            score.
        min_score: Points with a lower score are neither filled in nor merged into others. The map's
            term is weighted by the score instead.
        folder: Of the cached predictions.
        required: Whether a missing path is an error.

    Raises:
        HeatposeError: A value is out of its range.
    """

    path: str | None = None
    size: int | None = None
    skeleton: str | None = None
    normalisation: str | None = None
    margin: float | None = 1.0
    mirror: bool = False
    weight: float = 1.0
    temperature: float = 1.0
    spread: float = 1.0
    fill: bool = False
    min_score: float = 0.2
    folder: str = "data_cache/teachers"
    required: bool = False

    def __post_init__(self) -> None:
        positive = {"temperature": self.temperature, "spread": self.spread}
        for name, value in positive.items():
            if not value > 0:
                raise HeatposeError(
                    f"distill.{name}={value} is not possible; use a number above 0, 1 by default."
                )
        if self.margin is not None and self.margin < 1:
            raise HeatposeError(
                f"distill.margin={self.margin} would cut the person; use 1 or more, or null for the"
                " whole image."
            )
        if self.weight < 0 or not 0 <= self.min_score <= 1:
            raise HeatposeError(
                f"distill.weight={self.weight} has to be 0 or more, and"
                f" distill.min_score={self.min_score} within [0, 1]."
            )

    def check(self) -> None:
        """Checks the settings before anything slow begins.

        Raises:
            HeatposeError: The path is missing or does not exist, or a setting is invalid.
        """
        if self.path is None and self.required:
            raise HeatposeError(
                "A run with a teacher needs distill.path=FILE: a stronger pose model as .ckpt,"
                " .onnx or .tflite."
            )
        if self.path is not None and not Path(self.path).is_file():
            raise HeatposeError(
                f"Teacher '{self.path}' does not exist; set distill.path to a .ckpt, .onnx or"
                " .tflite file."
            )
        self.names()
        self.values()

    def names(self) -> Skeleton | None:
        """The configured skeleton, or None.

        Raises:
            HeatposeError: The name is unknown.
        """
        return None if self.skeleton is None else named(self.skeleton)

    def values(self) -> Normalisation | None:
        """The configured normalisation, or None.

        Raises:
            HeatposeError: It cannot be parsed.
        """
        return None if self.normalisation is None else Normalisation.parse(self.normalisation)


FLOOR = 1e-8
"""Minimum probability of a map's cell."""
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Prediction:
    """A teacher's predictions for B instances.

    Attributes:
        maps: f32[B, K, h, w] logits, 0 at each map's highest cell; None if the model includes its
            decode.
        points: f32[B, K, 2] x, y as fractions of the teacher's input.
        scores: f32[B, K] in [0, 1].
    """

    maps: NDArray[np.float32] | None
    points: NDArray[np.float32]
    scores: NDArray[np.float32]


class Teacher:
    """A runner, and the mapping of its channels to the student's keypoints.

    Args:
        runner: The model.
        skeleton: The student's.
        min_score: Points with a lower score are not merged with others.
        mirror: Averages with the predictions on the mirror image.
        own: The model's skeleton, if its file does not state it; assumed if None.

    Raises:
        HeatposeError: The model lacks one of the keypoints.
    """

    def __init__(
        self,
        runner: PoseRunner,
        skeleton: Skeleton,
        min_score: float = 0.2,
        mirror: bool = False,
        own: Skeleton | None = None,
    ) -> None:
        if mirror:
            skeleton.require_flip_pairs("distill.mirror=false")
        self.runner, self.reading = runner, reading_of(runner, own)
        self.mirror, self.flip_order = mirror, skeleton.flip_order
        self.sources = sources(runner, skeleton, self.reading.skeleton)
        self.min_score = min_score
        self.gives_maps = _gives_maps(runner)

    def predict(self, images: NDArray[np.uint8]) -> Prediction:
        """Predictions for u8[B, S, S, 3] images."""
        prediction = self._predict_once(images)
        if self.mirror:
            return mean_prediction(
                prediction,
                mirrored(
                    self._predict_once(np.ascontiguousarray(images[:, :, ::-1])), self.flip_order
                ),
            )
        return prediction

    def _predict_once(self, images: NDArray[np.uint8]) -> Prediction:
        if not self.gives_maps:
            poses = self.runner.predict(images)
            return self._merged(None, poses[..., :2], poses[..., 2])
        maps = self.runner.heatmaps(images)
        poses = poses_from_heatmaps(maps, "refined", probabilities=None)
        return self._merged(as_logits(maps), poses[..., :2], poses[..., 2])

    def _merged(
        self,
        maps: NDArray[np.float32] | None,
        points: NDArray[np.float32],
        scores: NDArray[np.float32],
    ) -> Prediction:
        """Maps the teacher's T keypoints to the student's K.

        A merged keypoint is the mean of its sources with a sufficient score, or of all if there are
        none.
        """
        heads = [s[0] for s in self.sources]
        new = Prediction(
            None if maps is None else maps[:, heads].copy(),
            points[:, heads].copy(),
            scores[:, heads].copy(),
        )
        for k, channels in ((k, s) for k, s in enumerate(self.sources) if len(s) > 1):
            for b in range(len(points)):
                used = [c for c in channels if scores[b, c] >= self.min_score] or channels
                new.points[b, k], new.scores[b, k] = points[b, used].mean(0), scores[b, used].mean()
                if maps is not None and new.maps is not None:
                    new.maps[b, k] = _moved_together(maps[b, used], points[b, used])
        return new


def mirrored(prediction: Prediction, flip_order: Sequence[int]) -> Prediction:
    """Predictions on mirrored crops, transformed into the frame of the crops.

    Args:
        prediction: On mirrored crops.
        flip_order: Of the student's skeleton.
    """
    points = prediction.points[:, flip_order]
    points[..., 0] = 1 - points[..., 0]
    return Prediction(
        None if prediction.maps is None else prediction.maps[:, flip_order, :, ::-1],
        points,
        prediction.scores[:, flip_order],
    )


def mean_prediction(one: Prediction, other: Prediction) -> Prediction:
    """Merges two predictions on the same crops.

    The mean of both distributions with its point and the mean score; without maps, for each
    keypoint the point with the higher score.
    """
    if one.maps is None or other.maps is None:
        surer = (one.scores >= other.scores)[..., None]
        return Prediction(
            None, np.where(surer, one.points, other.points), np.maximum(one.scores, other.scores)
        )
    total = sum(
        np.exp(maps) / np.exp(maps).sum((-1, -2), keepdims=True) for maps in (one.maps, other.maps)
    )
    maps = as_logits(total / 2)
    return Prediction(
        maps,
        poses_from_heatmaps(maps, "refined", probabilities=None)[..., :2],
        (one.scores + other.scores) / 2,
    )


def sources(runner: PoseRunner, skeleton: Skeleton, own: Skeleton) -> list[list[int]]:
    """The teacher's channels for each of the student's keypoints.

    The one of the same name, else the existing ones of the keypoint's merge rule.

    Raises:
        HeatposeError: A keypoint has none.
    """
    names = list(own.keypoints)
    found = []
    for name in skeleton.keypoints:
        wanted = (
            [name]
            if name in names
            else [source for source in skeleton.merge.get(name, ()) if source in names]
        )
        if not wanted:
            raise HeatposeError(
                f"Teacher '{runner.path}' does not have keypoint '{name}' of skeleton "
                f"'{skeleton.name}' (it has {names}); choose another teacher."
            )
        found.append([names.index(source) for source in wanted])
    return found


def _gives_maps(runner: PoseRunner) -> bool:
    try:
        runner.heatmaps(np.zeros((1, runner.size, runner.size, 3), np.uint8))
    except HeatposeError:
        return False  # it includes its decode; `predict` reports any other error as well
    return True


def as_logits(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Converts a model's heatmaps to logits of a softmax over each map, 0 at the highest cell.

    Maps that sum to 1 are the output of a softmax and are inverted by the logarithm; other maps
    within [0, 1] are the output of a sigmoid; all others are logits.

    Args:
        maps: f32[..., h, w].

    Returns:
        f32[..., h, w], at most 0.
    """
    logits = maps.astype(np.float32)
    if maps.min() >= -RANGE_SLACK and maps.max() <= 1 + RANGE_SLACK:
        p = np.clip(logits, FLOOR, 1 - 1e-6)
        is_softmax = np.abs(maps.sum((-1, -2)) - 1).max() < 0.1
        logits = np.log(p) if is_softmax else np.log(p) - np.log1p(-p)
    result: NDArray[np.float32] = (logits - logits.max((-1, -2), keepdims=True)).astype(np.float32)
    return result


def _moved_together(maps: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits f32[h, w] of the mean of several maps' distributions.

    Each is shifted by whole cells, so that its point is on the mean of all points.
    """
    distributions = np.exp(maps) / np.exp(maps).sum((-1, -2), keepdims=True)
    rows, columns = maps.shape[1:]
    steps = np.rint((points.mean(0) - points) * (columns, rows)).astype(int)
    total = np.zeros(maps.shape[1:], np.float32)
    for distribution, (right, down) in zip(distributions, steps, strict=True):
        moved = np.roll(distribution, (down, right), (0, 1))
        moved[: max(down, 0)] = moved[rows + min(down, 0) :] = 0  # wrapped around the edge
        moved[:, : max(right, 0)] = moved[:, columns + min(right, 0) :] = 0
        total += moved
    logits: NDArray[np.float32] = np.log(np.maximum(total / max(float(total.max()), FLOOR), FLOOR))
    return logits


def view_box(person: Person, margin: float | None) -> Box:
    """The teacher's crop of an instance.

    Args:
        person: The instance.
        margin: Side of the crop relative to the longer side of the box; None for the whole image.

    Returns:
        Left, top, right, bottom in whole image pixels; may extend beyond the image.
    """
    if margin is None:
        return 0, 0, person.width, person.height
    x, y, width, height = person.box
    side = max(2, round(margin * max(width, height)))
    left, top = round(x + width / 2 - side / 2), round(y + height / 2 - side / 2)
    return left, top, left + side, top + side


def view_matrix(box: Box) -> geometry.Matrix:
    """f64[2, 3]: image pixels -> fractions of the crop."""
    left, top, right, bottom = box
    return geometry.region((left, top, right - left, bottom - top), 1)


def show(person: Person, box: Box, size: int) -> NDArray[np.uint8]:
    """The crop as u8[S, S, 3]: bilinear, antialiased; black beyond the image."""
    from PIL import Image

    image = Image.fromarray(labelled_image(person))
    return np.asarray(image.crop(box).resize((size, size), Image.Resampling.BILINEAR))
