"""What is to be predicted: image files, video files, folders of both, cameras."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from heatpose.bundles.bundle import MANIFEST
from heatpose.errors import HeatposeError
from heatpose.utils.image_files import PHONE_SUFFIXES, SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif")


@dataclass(frozen=True)
class Sources:
    """What was found.

    Attributes:
        images: Files, each once.
        videos: Files, each once.
        cameras: Numbers, as the operating system counts them.
    """

    images: list[Path]
    videos: list[Path]
    cameras: list[int]


def find_sources(sources: Sequence[Path], out: Path | None = None) -> Sources:
    """Sorts the sources: folders are searched with all below them.

    A whole number that is no file is a camera, other files are images or videos.

    Args:
        sources: Files, folders, numbers.
        out: A folder below a source that is passed over: it holds what was drawn before.

    Raises:
        HeatposeError: A source does not exist, `out` is a source itself, or there is neither image,
            video nor camera.
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
