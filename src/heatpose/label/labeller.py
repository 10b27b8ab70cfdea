"""Pseudo-labels of one instance from a teacher's predictions, and given boxes.

The teacher runs on a crop and on its mirror image. A keypoint is labelled with the mean of both
predictions if their scores are sufficient, they agree, and their maps have no second peak.

Shape legend: K keypoints, H and W rows and columns of an image, S the teacher's input side.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, sqrt
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.pose.codec import second_peak
from heatpose.predict.estimator import Estimator, Region, next_region, require_torso, whole
from heatpose.runners.outputs import poses_from_heatmaps, scores_of

NOBODY = "no person found"
UNSURE = "too few sure keypoints"
AMBIGUOUS = "second peaks: probably several people"
DISAGREES = "teacher disagrees with its mirror image"
SMALL = "person too small"

LOOKS = 2
"""Maximum number of runs that locate the instance before labelling: whole image, then crop."""
BOX_CROP = 1.25
"""Side of the crop around a given box, relative to its longer side."""
SIDES, TOP, BOTTOM = 0.10, 0.20, 0.13
"""Margins between the outermost keypoints and the box, relative to the mean of their extents along
x and y. Medians over 5,295 instances of COCO with at least four labelled keypoints, whose boxes by
this rule have a median IoU of 0.78 with the labelled ones.
"""

PEAK_DISTANCE = 0.15
"""Minimum distance of a second peak from the highest cell, relative to the crop's side. 0.06, 0.1
and 0.15 select labels of the same quality.
"""

Box = tuple[float, float, float, float]
Entry = dict[str, Any]
"""Plain values of one candidate: `reason` (why it is not labelled, else None), `bbox` (x, y, width,
height in image pixels, None if unknown), and for labelled ones `keypoints` (x, y, v of COCO),
`keypoint_scores`, `score`; `unsure`, `ambiguous` and `disagreeing` count keypoints left out.
"""


@dataclass(frozen=True)
class LabelSettings:
    """Conditions for a keypoint and an instance to be labelled.

    Attributes:
        min_score: Both predictions of a keypoint have a higher score, in [0, 1).
        max_distance: Maximum distance of the two predictions, relative to the side of the crop, in
            (0, 1].
        min_keypoints: Instances with fewer labelled keypoints are left out.
        min_side: Instances with a smaller box are left out; square root of its area, in pixels.
        max_second_peak: Maximum score of a cell of the keypoint's map that is at least
            `PEAK_DISTANCE` from the highest, relative to the highest, in (0, 1]; 1 accepts any.
            Maps alone do not tell which peak belongs to which person, so that labels would mix
            people. No effect on a teacher that includes its decode, such as MoveNet.

    Raises:
        HeatposeError: A value is out of its range.
    """

    min_score: float = 0.3
    max_distance: float = 0.04
    min_keypoints: int = 4
    min_side: float = 36.0
    max_second_peak: float = 0.5

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
        if not 0 < self.max_second_peak <= 1:
            raise HeatposeError(
                f"A second peak of {self.max_second_peak} is out of range; use a share of "
                "the first in (0, 1], 0.5 by default."
            )


class Labeller:
    """A teacher and its settings; thread-safe.

    Args:
        teacher: The model.
        settings: Conditions for a label.
    """

    def __init__(self, teacher: Estimator, settings: LabelSettings) -> None:
        self.teacher, self.settings = teacher, settings
        self._lock = Lock()  # the model is multi-threaded itself; images are cropped in parallel
        try:
            require_torso(teacher.skeleton)
            self.looks = LOOKS
        except HeatposeError:
            self.looks = 0  # crops are derived from shoulders and hips

    def find(self, image: NDArray[np.uint8]) -> Region:
        """The crop around the most prominent instance of an image u8[H, W, 3], by the teacher."""
        height, width = image.shape[:2]
        region = whole(width, height)
        for _ in range(self.looks):
            (pose,), _ = self._predict(self.teacher.resize(region.cut(image))[None])
            pose = region.to_image(pose, width, height)
            before, region = region, next_region(pose, self.teacher.skeleton, width, height)
            if region == before:
                break
        return region

    def label(self, image: NDArray[np.uint8], box: Box | None = None) -> Entry:
        """Labels one instance of an image.

        Args:
            image: u8[H, W, 3] RGB.
            box: Of the instance; None for the most prominent one.
        """
        height, width = image.shape[:2]
        region = self.find(image) if box is None else around(box)
        poses, ambiguous = self._both_ways(region.cut(image))
        points = poses[..., :2].astype(np.float64) * region.side + (region.left, region.top)
        return self._scored(points, poses[..., 2], ambiguous, region.side, (width, height), box)

    def _both_ways(self, crop: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Predictions on the crop and its mirror image.

        Returns:
            f32[2, K, 3] x, y, score in the crop's frame, and bool[K], whether a keypoint has a
            second peak in either.
        """
        resized = self.teacher.resize(crop)
        (straight, mirrored), seconds = self._predict(np.stack([resized, resized[:, ::-1]]))
        other_side = list(self.teacher.skeleton.flip_order)
        mirrored = mirrored[other_side]
        mirrored[:, 0] = 1 - mirrored[:, 0]
        return np.stack([straight, mirrored]), seconds[0] | seconds[1][other_side]

    def _predict(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Poses f32[B, K, 3] of u8[B, S, S, 3], NaN replaced by 0; bool[B, K], a second peak."""
        runner, decode = self.teacher.runner, self.teacher.decode
        if runner.includes_decode:
            with self._lock:
                poses = np.nan_to_num(runner.predict(images, decode))
            return poses, np.zeros(poses.shape[:2], bool)
        with self._lock:
            maps = np.nan_to_num(runner.heatmaps(images))
        poses = poses_from_heatmaps(maps, decode, None)
        seconds = scores_of(second_peak(maps, PEAK_DISTANCE), maps, None)
        return poses, seconds > self.settings.max_second_peak * poses[..., 2]

    def _scored(
        self,
        points: NDArray[np.float64],
        scores: NDArray[np.float32],
        ambiguous: NDArray[np.bool_],
        side: int,
        extent: tuple[int, int],
        box: Box | None,
    ) -> Entry:
        """The entry of two predictions.

        Args:
            points: f64[2, K, 2] in image pixels.
            scores: f32[2, K].
            ambiguous: bool[K].
            side: Of the crop, in image pixels.
            extent: Width and height of the image.
            box: If given.
        """
        wanted, mean = self.settings, points.mean(0)
        inside = ((mean >= 0) & (mean <= extent)).all(-1)
        sure = inside & (scores.min(0) > wanted.min_score)
        clear = sure & ~ambiguous
        distance = np.linalg.norm(points[0] - points[1], axis=-1)
        labelled = clear & (distance <= wanted.max_distance * side)
        found = box or (box_of(mean[labelled], extent) if labelled.any() else None)
        least = min(wanted.min_keypoints, len(mean))
        reason = None
        if not (scores > wanted.min_score).any():
            reason = NOBODY
        elif sure.sum() < least:
            reason = UNSURE
        elif clear.sum() < least:
            reason = AMBIGUOUS
        elif labelled.sum() < least:
            reason = DISAGREES
        elif found is None or sqrt(found[2] * found[3]) < wanted.min_side:
            reason = SMALL
        entry: Entry = {"reason": reason, "bbox": _rounded(box if reason else found)}
        if reason:
            return entry
        left_out = {
            "unsure": int((~sure).sum()),
            "ambiguous": int((sure & ambiguous).sum()),
            "disagreeing": int((clear & ~labelled).sum()),
        }
        return entry | _keypoints(mean, scores.mean(0), labelled) | left_out


def _keypoints(
    points: NDArray[np.float64],
    scores: NDArray[np.float32],
    labelled: NDArray[np.bool_],
) -> Entry:
    """COCO's x, y, v, zero for unlabelled keypoints, and the scores of all."""
    triples = np.concatenate([points.round(2), np.full((len(points), 1), 2)], 1)
    triples[~labelled] = 0
    flat = [int(value) if i % 3 == 2 else float(value) for i, value in enumerate(triples.ravel())]
    return {
        "keypoints": flat,
        "keypoint_scores": [round(float(score), 4) for score in scores],
        "score": round(float(scores[labelled].mean()), 4),
    }


def around(box: Box) -> Region:
    """The square crop around a box in image pixels, of `BOX_CROP` times its longer side."""
    x, y, width, height = box
    side = max(2, round(BOX_CROP * max(width, height)))
    return Region(floor(x + (width - side) / 2), floor(y + (height - side) / 2), side)


def box_of(points: NDArray[np.float64], extent: tuple[int, int]) -> Box:
    """Estimates the box of an instance from its keypoints, clipped to the image.

    Args:
        points: f64[N, 2] in image pixels, N >= 1.
        extent: Width and height of the image.
    """
    low, high = points.min(0), points.max(0)
    scale = float((high - low).mean())
    low = np.clip(low - (SIDES * scale, TOP * scale), 0, extent)
    high = np.clip(high + (SIDES * scale, BOTTOM * scale), 0, extent)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


def _rounded(box: Box | None) -> list[float] | None:
    return None if box is None else [round(value, 2) for value in box]


PERSON = "person"
VOC_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class ImageBoxes:
    """Boxes of the instances of one image.

    Attributes:
        boxes: x, y, width, height in pixels, in the order of the file.
        size: Width and height of the image in the file; None if not stated.
    """

    boxes: list[Box] = field(default_factory=list)
    size: tuple[int, int] | None = None

    def to_json(self) -> list[Any]:
        """Plain values."""
        return [self.boxes, self.size]


def read_boxes(path: Path) -> dict[str, ImageBoxes]:
    """Reads boxes: name of an image in the file -> its boxes, without crowds.

    Args:
        path: A COCO JSON with `bbox` entries, or a folder of Pascal VOC XML, searched recursively.

    Raises:
        HeatposeError: There is neither, a file is damaged, or there is no box of class "person".
    """
    if path.is_dir():
        files = sorted(path.rglob("*.xml"))
        if not files:
            raise HeatposeError(
                f"'{path}' has no XML file; give a folder of Pascal VOC XML files or a COCO json."
            )
        found = _grouped(entry for file in files for entry in _voc(file))
    else:
        found = _grouped(_coco(path))
    if not any(entry.boxes for entry in found.values()):
        raise HeatposeError(f"'{path}' has no box called '{PERSON}'; give boxes of people.")
    return found


def match(boxes: Mapping[str, ImageBoxes], files: Sequence[str]) -> dict[str, ImageBoxes]:
    """Assigns boxes to image files: file -> its boxes.

    Images are matched by their path below the folder, else by a unique file name, with or without
    its suffix.

    Args:
        boxes: From `read_boxes`.
        files: Paths of the images below their folder, with forward slashes.

    Raises:
        HeatposeError: No box belongs to any of the images.
    """
    by_name: dict[str, list[str]] = {}
    for file in files:
        for name in {PurePosixPath(file).name, PurePosixPath(file).stem}:
            by_name.setdefault(name, []).append(file)
    known, matched = set(files), {}
    for name, entry in boxes.items():
        candidates = [name] if name in known else by_name.get(PurePosixPath(name).name, [])
        if len(candidates) == 1:
            matched[candidates[0]] = entry
    if not matched:
        raise HeatposeError(
            f"None of the boxes' images, for example '{next(iter(boxes))}', is among the "
            f"{len(files)} images, for example '{files[0]}'; give the boxes of these images."
        )
    return matched


Named = tuple[str, tuple[int, int] | None, Box | None]


def _grouped(found: Iterator[Named]) -> dict[str, ImageBoxes]:
    grouped: dict[str, ImageBoxes] = {}
    for name, size, box in found:
        entry = grouped.setdefault(name, ImageBoxes(size=size))
        if box is not None:
            entry.boxes.append(box)
    return grouped


def _coco(path: Path) -> Iterator[Named]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        kinds = {entry["id"]: str(entry.get("name")) for entry in content.get("categories", [])}
        instances = {i for i, name in kinds.items() if name == PERSON or len(kinds) == 1}
        images = {entry["id"]: entry for entry in content["images"]}
        for entry in images.values():
            yield str(entry["file_name"]), _size(entry.get("width"), entry.get("height")), None
        for annotation in content["annotations"]:
            if annotation.get("category_id") in instances and not annotation.get("iscrowd"):
                name = str(images[annotation["image_id"]]["file_name"])
                yield name, None, _box(annotation["bbox"])
    except OSError as error:
        raise HeatposeError(
            f"'{path}' cannot be read ({error.strerror}); give a COCO json or a folder of XML."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HeatposeError(
            f"'{path}' is not a COCO json with boxes ({type(error).__name__}: {error}); "
            "give one, or a folder of Pascal VOC XML files."
        ) from error


def _voc(path: Path) -> Iterator[Named]:
    """Boxes of a Pascal VOC file, which has the first and last pixel of a box, counted from 1."""
    try:
        root = ElementTree.parse(path).getroot()
        name = root.findtext("filename") or path.stem
        size = _size(root.findtext("size/width"), root.findtext("size/height"))
        yield name, size, None
        for entry in root.iter("object"):
            if (entry.findtext("name") or "").strip() == PERSON:
                corners = (float(entry.findtext(f"bndbox/{k}", "")) for k in VOC_CORNERS)
                left, top, right, bottom = corners
                sides = right - left + 1, bottom - top + 1
                yield name, size, _box((left - 1, top - 1, *sides))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise HeatposeError(f"'{path}' is not a Pascal VOC XML ({error}); remove it.") from error


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    return (int(width), int(height)) if width and height and int(width) and int(height) else None


def _box(values: Sequence[Any]) -> Box:
    x, y, width, height = (float(value) for value in values)
    return x, y, width, height


def usable(box: Box, width: int, height: int) -> bool:
    """Whether a box is finite and overlaps an image of this size."""
    x, y, w, h = box
    finite = bool(np.isfinite(box).all())
    return finite and w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0
