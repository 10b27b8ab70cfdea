"""Poses for image files and folders: drawn pictures, and one file of keypoints in COCO's results format."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.preprocessing import Preprocessing
from heatpose.runners import PoseRunner
from heatpose.skeleton import Skeleton
from heatpose.viz import draw_pose

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
RESULTS = "predictions.json"
JPEG_QUALITY = 92
LONGEST_STEM = 180  # bytes of UTF-8; file systems allow 255 for a whole name


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class PredictSummary:
    """What became of the sources.

    Attributes:
        drawn: The pictures written, in the order of the sources.
        results: The json with all keypoints.
        skipped: Images that could not be read.
    """

    drawn: list[Path]
    results: Path
    skipped: list[Skipped]

    def __str__(self) -> str:
        """What happened, a line each for the pictures and for every image that was skipped."""
        lines = [f"Drew {len(self.drawn)} images into {self.results.parent}; keypoints are in {self.results.name}."]
        lines += [f"Skipped: {skipped.reason}" for skipped in self.skipped]
        return "\n".join(lines).encode("utf-8", "replace").decode()  # file names need not be text


def predict_sources(
    runner: PoseRunner,
    sources: Sequence[Path],
    out: Path,
    skeleton: Skeleton,
    decode: str = "refined",
    sampling: str | None = None,
    threshold: float = 0.2,
) -> PredictSummary:
    """Finds the person on every image; writes `<stem>_pose.jpg` (or `.png`) and `predictions.json`.

    Each entry of the json is one of COCO's results (`image_id`, `category_id`, `keypoints` as x, y, score in
    image pixels, `score`) with `file_name` and `keypoint_names` added. The image id is the file's name where
    all names are different numbers (as COCO's are), else its place in the list.

    Args:
        runner: The model.
        sources: Image files, and folders that are searched with everything below them.
        out: Folder to write into; made where it does not exist.
        skeleton: What the model's channels are.
        decode: A way of `heatpose.codec.decode`.
        sampling: How images are resized; where None as in training, or bilinear where that is not known.
        threshold: Keypoints with a lower score are not drawn. The json has all of them.

    Raises:
        HeatposeError: A source does not exist, there is no image, none of them could be read, `out` cannot be
            written or is one of the sources, or the skeleton has another number of keypoints than the model.
    """
    if len(skeleton) != runner.keypoints:
        raise HeatposeError(
            f"'{runner.path}' has {runner.keypoints} keypoints, but skeleton '{skeleton.name}' has "
            f"{len(skeleton)}; give the skeleton that the model was trained with."
        )
    known = runner.preprocessing or Preprocessing(runner.size, "bilinear")
    preprocessing = replace(known, size=runner.size, sampling=sampling or known.sampling)
    images = find_images(sources, out)
    names = _picture_names(images, out)
    ids, entries, drawn, skipped = _image_ids(images), [], [], []
    for i, path in enumerate(_progress(images)):
        try:
            image = load_upright(path)
        except HeatposeError as error:
            skipped.append(Skipped(path, str(error)))
            continue
        pose = runner.predict(preprocessing.resize(image)[None], decode)[0]
        _make_folder(out)  # not before there is something to put into it
        _save_picture(out / names[i], draw_pose(image, pose, skeleton, threshold=threshold))
        drawn.append(out / names[i])
        entries.append(_entry(ids[i], path, pose, image.shape, skeleton))
    if not drawn:
        raise HeatposeError(f"None of the {len(images)} images could be read; the first: {skipped[0].reason}")
    results = out / RESULTS
    _write_whole(results, lambda part: part.write_text(json.dumps(entries, indent=1), encoding="utf-8"))
    return PredictSummary(drawn, results, skipped)


def find_images(sources: Sequence[Path], out: Path | None = None) -> list[Path]:
    """The images among the sources, each once: files as they are, folders with all below them.

    Args:
        sources: Files and folders.
        out: A folder below a source that is passed over: it holds pictures drawn before.

    Raises:
        HeatposeError: A source does not exist, `out` is a source itself, or there is no image.
    """
    found: dict[Path, Path] = {}
    for source in sources:
        if not source.exists():
            raise HeatposeError(f"'{source}' does not exist; give image files or folders.")
        if out is not None and source.is_dir() and source.resolve() == out.resolve():
            raise HeatposeError(f"'{out}' holds the images themselves; give another folder for the results.")
        for path in [source] if not source.is_dir() else _walk(source, out):
            found.setdefault(path.resolve(), path)
    if not found:
        looked = ", ".join(f"'{source}'" for source in sources) or "no source"
        raise HeatposeError(f"There is no image in {looked}; images end in {', '.join(SUFFIXES)}.")
    return list(found.values())


def _walk(folder: Path, out: Path | None) -> list[Path]:
    skipped = None if out is None else out.resolve()
    images = []
    for parent, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if Path(parent, name).resolve() != skipped)
        images += [Path(parent, name) for name in sorted(names) if Path(name).suffix.lower() in SUFFIXES]
    return images


def load_upright(path: Path) -> NDArray[np.uint8]:
    """Decodes an image to RGB u8[H, W, 3], turned as its EXIF orientation says.

    COCO's labels are for the stored, unturned pixels: labelled images are read by
    `heatpose.data.sample.load_image`.

    Raises:
        HeatposeError: No image, truncated, or not readable.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            try:
                upright = ImageOps.exif_transpose(file)
            except (SyntaxError, TypeError, ValueError, KeyError, struct.error):
                upright = file  # the EXIF block is damaged; if the pixels are too, the next line says so
            return np.array(upright.convert("RGB"))
    except UnidentifiedImageError as error:
        raise HeatposeError(f"'{path}' is no image.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise HeatposeError(f"'{path}' cannot be decoded ({error}).") from error


def _picture_names(images: Sequence[Path], out: Path) -> list[str]:
    """A file name in `out` for each image, none twice and none an image itself: equal stems are numbered."""
    # Compared without case: on some file systems A_pose.png and a_pose.png are one file.
    taken = {path.name.casefold() for path in images if path.resolve().parent == out.resolve()}
    names = []
    for path in images:
        stem = _short(path.stem)
        suffix = ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
        name, number = f"{stem}_pose{suffix}", 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}_pose{suffix}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _short(stem: str) -> str:
    encoded = os.fsencode(stem)
    return stem if len(encoded) <= LONGEST_STEM else encoded[:LONGEST_STEM].decode("utf-8", "ignore")


def _image_ids(images: Sequence[Path]) -> list[int]:
    stems = [path.stem for path in images]
    if all(stem.isascii() and stem.isdigit() and len(stem) < 16 for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(stems) + 1))


def _entry(image_id: int, path: Path, pose: NDArray[np.float32], shape: tuple[int, ...], skeleton: Skeleton) -> dict[str, Any]:
    """One of COCO's results; `shape` is the image's (H, W, 3)."""
    points = pose * np.array([shape[1], shape[0], 1], np.float32)
    return {
        "image_id": image_id,
        "file_name": path.as_posix(),
        "category_id": 1,
        "keypoints": [round(value, 4) for value in points.reshape(-1).tolist()],
        "keypoint_names": list(skeleton.keypoints),
        "score": round(float(pose[:, 2].mean()), 4),
    }


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeatposeError(f"Folder '{folder}' cannot be made ({error.strerror}); give another one.") from error


def _save_picture(path: Path, image: NDArray[np.uint8]) -> None:
    from PIL import Image

    kind = "JPEG" if path.suffix == ".jpg" else "PNG"
    _write_whole(path, lambda part: Image.fromarray(image).save(part, kind, quality=JPEG_QUALITY))


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a temporary sibling and renames it, so that a file is whole or absent."""
    part = path.with_name(f".{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise HeatposeError(f"'{path}' cannot be written ({error.strerror or error}).") from error


def _progress(images: Sequence[Path]) -> Iterable[Path]:
    """The images, with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import track

    return track(images, "predicting", console=Console(stderr=True), transient=True)
