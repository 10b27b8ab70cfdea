"""What a prediction leaves behind: names, COCO results, files that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.utils.files import output_file, write_json_output

if TYPE_CHECKING:
    from heatpose.predict.estimator import Estimator

RESULTS = "predictions.json"
BESIDE = "predictions_beside.json"
JPEG_QUALITY = 92
LONGEST_STEM = 180  # bytes of UTF-8; file systems allow 255 for a whole name


class Names:
    """File names in the results' folder, none twice and none of a source itself.

    Equal stems are numbered.

    Args:
        out: The folder.
        sources: Files that must not be written over.
    """

    def __init__(self, out: Path, sources: Iterable[Path]) -> None:
        # Compared without case: on some file systems A_pose.png and a_pose.png are one file.
        self._taken = {
            path.name.casefold() for path in sources if path.resolve().parent == out.resolve()
        }

    def of(self, stem: str, *endings: str) -> list[str]:
        """`<stem><ending>` for each ending, all with the same number where one of them is taken."""
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
    """The files' names where all are different numbers (as COCO's are), else 1, 2, ..."""
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
    """One of COCO's results.

    Args:
        image_id: Of the image, or the number of the frame.
        source: Name of the file, or of the camera.
        pose: f32[K, 3] as fractions of the image, score.
        shape: The image's (H, W, 3).
        estimator: The model; what was assumed about it is noted in each entry.
        seconds: Time of a frame.
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
    """What is added to the entry of an image file with an EXIF orientation tag."""
    return {} if tag == 1 else {"exif_orientation": tag, "keypoints_frame": "upright"}


def write_entries(path: Path, entries: Sequence[dict[str, Any]]) -> Path:
    """Writes COCO's results and returns the path.

    Raises:
        HeatposeError: The path cannot be written.
    """
    write_json_output(path, entries)
    return path


def make_folder(folder: Path) -> None:
    """Makes a folder with its parents.

    Raises:
        HeatposeError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeatposeError(
            f"Folder '{folder}' cannot be made ({error.strerror}); give another one."
        ) from error


def save_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes u8[H, W, 3] as JPEG where the path ends in .jpg, else as PNG.

    Raises:
        HeatposeError: The path cannot be written.
    """
    from PIL import Image

    kind = "JPEG" if path.suffix == ".jpg" else "PNG"
    with output_file(path) as part:
        Image.fromarray(image).save(part, kind, quality=JPEG_QUALITY)
