"""How far an int8 file's keypoints are from its float file's, and on which pictures most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.export.parity import OutputUse, PixelDrift, output_use, pixel_drift, pose_drift
from heatpose.image_files import load_image
from heatpose.predict.sources import find_sources
from heatpose.preprocessing import Preprocessing
from heatpose.runners import PoseRunner, open_runner
from heatpose.skeleton import Skeleton
from heatpose.viz import contact_sheet, draw_pose

_SHOWN = 320  # longest side of a picture on the sheet


@dataclass(frozen=True)
class Drift:
    """Of one int8 file.

    Attributes:
        total: Distances in pixels of the input.
        outputs: Per keypoint: ties, dead maps, range; empty for files that decode inside.
        files: The pictures.
        distances: f32[N] mean over the keypoints, in pixels of the input.
        poses: The float file's and the int8 file's, f32[N, K, 3] each.
        images: u8[N, S, S, 3] as both got them.
    """

    total: PixelDrift
    outputs: dict[str, OutputUse]
    files: list[Path]
    distances: NDArray[np.float32]
    poses: tuple[NDArray[np.float32], NDArray[np.float32]]
    images: NDArray[np.uint8]


def drift_of(float_file: Path, int8_file: Path, sources: Sequence[Path], skeleton: Skeleton, limit: int) -> Drift:
    """Runs both files over pictures.

    Args:
        float_file: TFLite, float32.
        int8_file: TFLite, int8.
        sources: Pictures and folders.
        skeleton: What the channels are.
        limit: At most so many pictures, evenly spread over those that are found.

    Raises:
        HeatposeError: There is no picture, or a file is no pose model.
    """
    runners = [open_runner(path) for path in (float_file, int8_file)]
    size = runners[0].size
    found = find_sources(sources).images
    if not found:
        raise HeatposeError("There is no picture among the sources; give images or folders of images.")
    files = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(limit, len(found))).astype(int))]
    preprocessing = runners[0].preprocessing or Preprocessing(size)
    images = np.stack([preprocessing.resize(load_image(path)) for path in files])
    names = skeleton.keypoints
    try:
        exact, rounded = (_maps(runner, images) for runner in runners)
    except HeatposeError:  # decoded inside
        poses = (runners[0].predict(images), runners[1].predict(images))
        total, outputs = pose_drift(*poses, size=size, names=names), {}
    else:
        poses = (runners[0].predict(images, "refined"), runners[1].predict(images, "refined"))
        total, outputs = pixel_drift(exact, rounded, size=size, names=names), output_use(rounded, names)
    distances = size * np.linalg.norm((poses[0] - poses[1])[..., :2], axis=-1).mean(-1)
    return Drift(total, outputs, files, distances.astype(np.float32), poses, images)


def _maps(runner: PoseRunner, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate([runner.heatmaps(image[None]) for image in images])


def worst_sheet(drift: Drift, skeleton: Skeleton, count: int = 10, threshold: float = 0.1) -> NDArray[np.uint8]:
    """The pictures where the keypoints moved most, each with the float file's skeleton and the int8 file's, u8[H, W, 3]."""
    worst = np.argsort(-drift.distances, kind="stable")[:count]
    tiles, captions = [], []
    for i in worst:
        picture = load_image(drift.files[i])
        step = max(1, max(picture.shape[:2]) // _SHOWN)
        small = np.ascontiguousarray(picture[::step, ::step])
        tiles += [draw_pose(small, poses[i], skeleton, threshold=threshold) for poses in drift.poses]
        captions += [f"float  {drift.files[i].name}", f"int8: {drift.distances[i]:.1f} px away"]
    return contact_sheet(tiles, columns=4, captions=captions)
