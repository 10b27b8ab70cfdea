"""Inputs (images, videos, folders, cameras) and outputs (names, COCO results, drawings)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.bundles.bundle import MANIFEST
from heatpose.errors import HeatposeError
from heatpose.utils.files import output_file, write_json_output
from heatpose.utils.image_files import PHONE_SUFFIXES, SUFFIXES

if TYPE_CHECKING:
    from heatpose.predict.estimator import Estimator


VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif")


@dataclass(frozen=True)
class Sources:
    """Inputs of a prediction, without duplicates.

    Attributes:
        images: Image files.
        videos: Video files.
        cameras: Camera numbers of the operating system.
    """

    images: list[Path]
    videos: list[Path]
    cameras: list[int]


def find_sources(sources: Sequence[Path], out: Path | None = None) -> Sources:
    """Classifies sources as images, videos and cameras; folders are searched recursively.

    Args:
        sources: Files, folders, and integers (cameras, unless a file has that name).
        out: Output folder, excluded from the search.

    Raises:
        HeatposeError: A source does not exist, `out` is a source itself, or nothing is found.
    """
    images: dict[Path, Path] = {}
    videos: dict[Path, Path] = {}
    cameras: dict[int, None] = {}
    for source in sources:
        if _is_camera(source):
            cameras[int(str(source))] = None
            continue
        for path in _files(source, out):
            found = videos if path.suffix.lower() in VIDEO_SUFFIXES else images
            found.setdefault(path.resolve(), path)
    if not (images or videos or cameras):
        looked = ", ".join(f"'{source}'" for source in sources) or "no source"
        raise HeatposeError(
            f"There is no image or video in {looked}; images end in {', '.join(SUFFIXES)}, videos"
            f" in {', '.join(VIDEO_SUFFIXES)}."
        )
    return Sources(list(images.values()), list(videos.values()), list(cameras))


def is_source(path: Path) -> bool:
    """Whether a path looks like a source: a camera, a folder of images, an image or a video.

    A bundle's folder does not.
    """
    if path.is_dir():
        return not (path / MANIFEST).is_file()
    known = (*SUFFIXES, *PHONE_SUFFIXES, *VIDEO_SUFFIXES)
    return _is_camera(path) or path.suffix.lower() in known


def _is_camera(source: Path) -> bool:
    text = str(source)
    return text.isascii() and text.isdigit() and not source.exists()


def _files(source: Path, out: Path | None) -> list[Path]:
    if not source.exists():
        raise HeatposeError(
            f"'{source}' does not exist; give image files, video files, folders, or the number of a"
            " camera."
        )
    if not source.is_dir():
        return [source]
    if out is not None and source.resolve() == out.resolve():
        raise HeatposeError(
            f"'{out}' holds the images themselves; give another folder for the results."
        )
    return _walk(source, out)


def _walk(folder: Path, out: Path | None) -> list[Path]:
    skipped = None if out is None else out.resolve()
    known = (*SUFFIXES, *PHONE_SUFFIXES, *VIDEO_SUFFIXES)
    found: list[Path] = []
    for parent, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if Path(parent, name).resolve() != skipped)
        paths = (Path(parent, name) for name in sorted(names))
        found += [path for path in paths if path.suffix.lower() in known]
    return found


RESULTS = "predictions.json"
BESIDE = "predictions_beside.json"
JPEG_QUALITY = 92
LONGEST_STEM = 180  # bytes of UTF-8; file systems allow 255 for a whole name


class Names:
    """Unique file names in the output folder; equal stems are numbered.

    Args:
        out: Output folder.
        sources: Files that must not be overwritten.
    """

    def __init__(self, out: Path, sources: Iterable[Path]) -> None:
        # Case-insensitive: on some file systems A_pose.png and a_pose.png are the same file.
        self._taken = {
            path.name.casefold() for path in sources if path.resolve().parent == out.resolve()
        }

    def of(self, stem: str, *endings: str) -> list[str]:
        """`<stem><ending>` for each ending, with a common number if one of the names is taken."""
        stem, number = _short(stem), 1
        names = [stem + ending for ending in endings]
        while any(name.casefold() in self._taken for name in names):
            number += 1
            names = [f"{stem}_{number}{ending}" for ending in endings]
        self._taken.update(name.casefold() for name in names)
        return names


def _short(stem: str) -> str:
    encoded = os.fsencode(stem)
    return (
        stem if len(encoded) <= LONGEST_STEM else encoded[:LONGEST_STEM].decode("utf-8", "ignore")
    )


def image_ids(images: Sequence[Path]) -> list[int]:
    """File names as ids if all are different numbers (as in COCO), else 1, 2, ..."""
    stems = [path.stem for path in images]
    if all(stem.isascii() and stem.isdigit() and len(stem) < 16 for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(stems) + 1))


def entry(
    image_id: int,
    source: str,
    pose: NDArray[np.float32],
    shape: tuple[int, ...],
    estimator: Estimator,
    seconds: float | None = None,
) -> dict[str, Any]:
    """An entry in COCO's results format.

    Args:
        image_id: Image id or frame number.
        source: Name of the file or camera.
        pose: f32[K, 3]: normalised x, y, and score.
        shape: (H, W, 3) of the image.
        estimator: Model, whose assumed values are noted.
        seconds: Time of a frame; None for images.
    """
    points = pose * np.array([shape[1], shape[0], 1], np.float32)
    return {
        "image_id": image_id,
        "file_name": source,
        **({} if seconds is None else {"seconds": round(seconds, 4)}),
        "category_id": 1,
        "keypoints": [round(value, 4) for value in points.reshape(-1).tolist()],
        "keypoint_names": list(estimator.skeleton.keypoints),
        "score": round(float(pose[:, 2].mean()), 4),
        **({"assumed": dict(estimator.assumed)} if estimator.assumed else {}),
    }


def orientation_entry(tag: int) -> dict[str, Any]:
    """Additional keys for an image file with an EXIF orientation tag."""
    return {} if tag == 1 else {"exif_orientation": tag, "keypoints_frame": "upright"}


def write_entries(path: Path, entries: Sequence[dict[str, Any]]) -> Path:
    """Writes COCO's results and returns the path.

    Raises:
        HeatposeError: The path cannot be written.
    """
    write_json_output(path, entries)
    return path


def make_folder(folder: Path) -> None:
    """Creates a folder with its parents.

    Raises:
        HeatposeError: The folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeatposeError(
            f"Folder '{folder}' cannot be created ({error.strerror}); give another one."
        ) from error


def save_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes u8[H, W, 3] as JPEG if the suffix is .jpg, else as PNG.

    Raises:
        HeatposeError: The path cannot be written.
    """
    from PIL import Image

    kind = "JPEG" if path.suffix == ".jpg" else "PNG"
    with output_file(path) as part:
        Image.fromarray(image).save(part, kind, quality=JPEG_QUALITY)
