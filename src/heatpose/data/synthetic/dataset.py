"""A rendered data set with exact labels in the official COCO layout, for runs without a download.

`figure` makes posed and clothed bodies, `render` draws them and their surroundings; this module
places and labels them and writes the files. An image depends only on the settings and its number.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatpose.data.synthetic.figure import Part, Points, Pose, dress, random_pose
from heatpose.data.synthetic.render import (
    OVERSAMPLING,
    Canvas,
    background,
    occlude,
    outlines,
    photograph,
)
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17
from heatpose.utils.files import sha256_of_json

FORMAT_VERSION = 1
"""To be raised with every change of the images or labels; part of the folder's name."""

_SPLITS = ("train", "val")
_ASPECTS = ((4, 3), (3, 4), (1, 1))
_FIRST_VAL_ID = 1_000_001


@dataclass(frozen=True)
class SyntheticSettings:
    """Settings of the rendered data set.

    Attributes:
        train_images: Number of training images.
        val_images: Number of evaluation images, each with exactly one person, as in the benchmark's
            selection.
        seed: Of the rendering.
        short_side: Shorter side of an image in pixels; the aspect is 4:3, 3:4 or 1:1, at random.
        several_people: Fraction of the training images with two or three persons.
        quality: JPEG quality, 1 to 95.
    """

    train_images: int = 1200
    val_images: int = 200
    seed: int = 0
    short_side: int = 240
    several_people: float = 0.2
    quality: int = 90

    def __post_init__(self) -> None:
        if not (0 < self.train_images < _FIRST_VAL_ID and self.val_images > 0):
            raise HeatposeError(
                f"Synthetic data needs train_images from 1 to {_FIRST_VAL_ID - 1} and val_images"
                f" from 1; got {self.train_images} and {self.val_images}."
            )
        sizes = self.seed >= 0 and self.short_side >= 64
        if not (sizes and 0 <= self.several_people <= 1 and 1 <= self.quality <= 95):
            raise HeatposeError(
                "Synthetic data needs seed >= 0, short_side >= 64, several_people within 0..1 and"
                f" quality within 1..95; got {self.seed}, {self.short_side},"
                f" {self.several_people} and {self.quality}."
            )

    @property
    def folder_name(self) -> str:
        """Name of the folder of these images, by a hash of the settings."""
        return f"synthetic_{sha256_of_json({'format': FORMAT_VERSION, **asdict(self)})[:12]}"


@dataclass(frozen=True)
class Scene:
    """One rendered image.

    Attributes:
        image: RGB.
        annotations: A COCO annotation per person, without the ids.
        silhouettes: Per person, bool[H * OVERSAMPLING, W * OVERSAMPLING], without occlusion.
        owner: u8 of the same shape, see `render.Canvas`.
    """

    image: Image.Image
    annotations: list[dict[str, Any]]
    silhouettes: list[NDArray[np.bool_]]
    owner: NDArray[np.uint8]


def build_synthetic(
    root: Path, settings: SyntheticSettings = SyntheticSettings(), progress: bool = True
) -> Path:
    """Renders a data set, unless it was rendered with the same settings before.

    Args:
        root: Parent folder; created if missing.
        settings: Of the data set.
        progress: Whether to show a progress bar.

    Returns:
        A folder inside `root` with `annotations/person_keypoints_{train,val}2017.json`,
        `train2017/` and `val2017/`. It is complete: it is written under another name and renamed at
        the end.

    Raises:
        HeatposeError: The folder cannot be written.
    """
    target = Path(root) / settings.folder_name
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=root, prefix=".synthetic_", ignore_cleanup_errors=True
        ) as temporary:
            unfinished = Path(temporary) / target.name
            _write(unfinished, settings, progress)
            _move(unfinished, target)
    except OSError as error:
        raise HeatposeError(
            f"Synthetic data cannot be written to '{root}' ({error}); choose a folder with space"
            " and access."
        ) from error
    return target


def render_scene(settings: SyntheticSettings, split: str, number: int) -> Scene:
    """Renders image `number` (from 0) of a split, "train" or "val"."""
    # One random stream per concern: a change of the clothes does not change the backgrounds.
    seeds = np.random.SeedSequence([settings.seed, _SPLITS.index(split), number]).spawn(4)
    layout, scene, instances, camera = (np.random.default_rng(seed) for seed in seeds)
    several = split == "train" and layout.random() < settings.several_people
    count = int(layout.integers(2, 4)) if several else 1
    across, down = (4, 3) if several else _ASPECTS[int(layout.integers(len(_ASPECTS)))]
    unit = settings.short_side / min(across, down)
    canvas = Canvas(background(scene, round(across * unit), round(down * unit)))
    placed, silhouettes = _populate(canvas, count, layout, instances)
    boxes = [_box(silhouette) for silhouette in silhouettes]
    if scene.random() < 0.12:
        occlude(scene, canvas, boxes[0])
    areas = [float(silhouette.sum()) / OVERSAMPLING**2 for silhouette in silhouettes]
    annotations = [
        {**_keypoints(canvas, *one, number=i), "bbox": list(boxes[i]), "area": areas[i]}
        | {"category_id": 1, "iscrowd": 0, "segmentation": []}
        for i, one in enumerate(placed)
    ]
    return Scene(photograph(camera, canvas.finished()), annotations, silhouettes, canvas.owner)


def _populate(
    canvas: Canvas, count: int, layout: np.random.Generator, instances: np.random.Generator
) -> tuple[list[tuple[Pose, Points]], list[NDArray[np.bool_]]]:
    """Draws persons side by side.

    Returns:
        For each its pose and keypoints f64[17, 2], and the silhouettes.
    """
    slope = np.deg2rad(layout.uniform(200, 340))
    light = np.array([np.cos(slope), np.sin(slope)])
    width = canvas.size[0] / count
    placed, silhouettes = [], []
    for i in range(count):
        pose = random_pose(instances)
        parts = dress(pose, instances)
        slot = (width * i, width) if count == 1 else (width * (i - 0.1), width * 1.2)
        close = count == 1 and layout.random() < 0.08
        scale, offset = _place(layout, pose, parts, slot, canvas.size[1], close)
        silhouettes.append(canvas.draw_person(parts, scale, offset, i, light))
        joints = np.array([pose.points[name][:2] for name in COCO_17.keypoints])
        placed.append((pose, joints * scale + offset))
    return placed, silhouettes


def _place(
    rng: np.random.Generator,
    pose: Pose,
    parts: Sequence[Part],
    slot: tuple[float, float],
    height: int,
    close: bool,
) -> tuple[float, Points]:
    """Scale and offset that place a body into a column of the image.

    Args:
        rng: Random generator.
        pose: Of the person.
        parts: Of the body.
        slot: The column's x and width.
        height: Of the image.
        close: Whether the body is larger than the image and cut off below.
    """
    rims = outlines(
        np.array([part.start[:2] for part in parts]),
        np.array([part.end[:2] for part in parts]),
        np.array([part.radii for part in parts]),
    )
    low, high = rims.min((0, 1)), rims.max((0, 1))
    extent = high - low
    x, width = slot
    head_up = pose.points["skull"][1] < low[1] + 0.2 * extent[1]
    if close and head_up:
        scale = rng.uniform(1.15, 1.6) * height / extent[1]
        anchor = np.array([(pose.points["neck"][0] + pose.points["pelvis"][0]) / 2, low[1]])
        place = np.array([x + rng.uniform(0.38, 0.62) * width, rng.uniform(0.02, 0.1) * height])
        return scale, place - anchor * scale
    scale = rng.uniform(0.78, 1.0) * 0.97 * min(width / extent[0], height / extent[1])
    slack = np.array([width, height]) - extent * scale
    return scale, np.array([x, 0.0]) + rng.uniform(0.1, 0.9, 2) * slack - low * scale


def _box(silhouette: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Smallest box (x, y, w, h) around a silhouette, in image pixels."""
    left, top, right, bottom = Image.fromarray(silhouette).getbbox() or (0, 0, 0, 0)
    n = OVERSAMPLING
    return left / n, top / n, (right - left) / n, (bottom - top) / n


def _keypoints(canvas: Canvas, pose: Pose, keypoints: Points, number: int) -> dict[str, Any]:
    flat: list[float] = []
    for name, point in zip(COCO_17.keypoints, keypoints, strict=True):
        x, y = (round(float(value), 3) for value in point)
        inside = 0 <= x < canvas.size[0] and 0 <= y < canvas.size[1]
        flat += (
            [x, y, 2 if canvas.visible(pose, name, point, number) else 1] if inside else [0, 0, 0]
        )
    return {"keypoints": flat, "num_keypoints": sum(v > 0 for v in flat[2::3])}


def _write(folder: Path, settings: SyntheticSettings, progress: bool) -> None:
    (folder / "annotations").mkdir(parents=True)
    jobs = [
        (split, number)
        for split in _SPLITS
        for number in range(getattr(settings, f"{split}_images"))
    ]
    labels = {split: _empty_labels(split) for split in _SPLITS}
    for split in _SPLITS:
        (folder / f"{split}2017").mkdir()
    for split, number in _track(jobs, progress):
        scene = render_scene(settings, split, number)
        image_id = number + (1 if split == "train" else _FIRST_VAL_ID)
        file_name = f"{image_id:012d}.jpg"
        scene.image.save(folder / f"{split}2017" / file_name, quality=settings.quality)
        width, height = scene.image.size
        image = {"id": image_id, "file_name": file_name, "width": width, "height": height}
        labels[split]["images"].append(image)
        labels[split]["annotations"] += [
            {"id": image_id * 10 + i, "image_id": image_id, **one}
            for i, one in enumerate(scene.annotations)
        ]
    for split, content in labels.items():
        path = folder / "annotations" / f"person_keypoints_{split}2017.json"
        path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _empty_labels(split: str) -> dict[str, Any]:
    person = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(COCO_17.keypoints),
        "skeleton": [[a + 1, b + 1] for a, b in COCO_17.edge_indices],
    }
    info = {"description": f"Rendered people, {split}", "version": str(FORMAT_VERSION)}
    return {"info": info, "licenses": [], "images": [], "annotations": [], "categories": [person]}


def _track(jobs: Sequence[tuple[str, int]], progress: bool) -> Iterable[tuple[str, int]]:
    if not progress:
        return jobs
    from heatpose.utils.progress import track  # here, so that reading the labels loads no rich

    return track(jobs, "Rendering images")


def _move(unfinished: Path, target: Path) -> None:
    try:
        os.replace(unfinished, target)
    except OSError:
        if not target.is_dir():  # another process has rendered the same images
            raise
