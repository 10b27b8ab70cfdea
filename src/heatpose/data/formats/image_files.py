"""Which file on this disk an export means, and how large it is."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from heatpose.errors import HeatposeError
from heatpose.utils.image_files import SUFFIXES, UNREADABLE, Orientation, open_image, orientation_of

ROBOFLOW_COPY = re.compile(r"\.rf\.[0-9A-Za-z]{16,}(?=\.\w+$)")
"""What Roboflow adds to the name of each augmented copy of an image."""


def original_name(name: str) -> str:
    """The name that all of Roboflow's augmented copies of an image share; any other as it is."""
    return ROBOFLOW_COPY.sub("", name)


class ImageFinder:
    """Finds image files below a folder by the names that an export has for them.

    Exports name files by URLs, by paths on the annotator's machine, or by a bare name. The longest
    end of such a path that exists below the folder is the file; else the one file of that name
    in any subfolder.

    Args:
        folder: Of the images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._named: dict[str, list[Path]] | None = None

    def find(self, *names: str) -> Path | None:
        """The file that goes by one of these names; None where there is none.

        Raises:
            HeatposeError: Several files below the folder have that name.
        """
        for name in names:
            if name and os.path.isfile(self.folder / name) and ".." not in Path(name).parts:
                return self.folder / name
            parts = [
                p for p in PurePosixPath(name.replace("\\", "/")).parts if p not in ("/", "..")
            ]
            for first in range(len(parts)):
                path = self.folder.joinpath(*parts[first:])
                if os.path.isfile(path):  # unlike pathlib's, False for names that no file can have
                    return path
        for name in names:
            found = self._by_name().get(name.replace("\\", "/").rsplit("/", 1)[-1], [])
            if len(found) > 1:
                raise HeatposeError(
                    f"The labels name '{name}', and both '{found[0]}' and '{found[1]}' go by it; "
                    "give the folder of the one that was labelled as the image folder."
                )
            if found:
                return found[0]
        return None

    def _by_name(self) -> dict[str, list[Path]]:
        if self._named is None:
            self._named = {}
            for path in image_files(self.folder):
                self._named.setdefault(path.name, []).append(path)
        return self._named


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, sorted by path."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(parent, name) for name in names if name.lower().endswith(SUFFIXES)]
    return sorted(found)


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height of the upright image in pixels, from its header; None if unreadable."""
    found = _orientation(path)
    return None if found is None else found.upright


def orientations(paths: Sequence[Path]) -> list[Orientation | None]:
    """Sizes and orientation tags of many files at a time; None for those that are unreadable."""
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(_orientation, paths))


def _orientation(path: Path) -> Orientation | None:
    try:
        with open_image(path) as image:
            return orientation_of(image)
    except UNREADABLE:
        return None
