"""Are the image files of a label file there, whole, and of the size that the labels say?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heatpose.data.transfer import progress_bar
from heatpose.image_files import (
    UNREADABLE,
    Orientation,
    is_transparent,
    open_image,
    orientation_of,
    rgb_bytes,
    sixteen_bits,
    size_problem,
)

if TYPE_CHECKING:
    from PIL import Image


@dataclass
class ImageCheck:
    """What was found out about image files.

    Attributes:
        listed: Images in the label file.
        decoded: Images whose file was decoded; 0 when only their presence was asked for.
        missing: Names of files that are not there.
        unreadable: Name -> why it cannot be decoded.
        wrong_size: Name -> the file's size and the labels' size.
        notes: What is worth knowing and not a fault -> names.
    """

    listed: int = 0
    decoded: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    wrong_size: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """True when nothing is wrong."""
        return not (self.missing or self.unreadable or self.wrong_size)


def check_images(images: Mapping[int, Mapping[str, Any]], folder: Path, decode: Iterable[int]) -> ImageCheck:
    """Looks for all images of a label file and decodes some of them, on all cores, with a progress bar.

    Args:
        images: Image id -> entry with `file_name`, `width`, `height`.
        folder: Folder of the files.
        decode: Ids of the images to decode.
    """
    check = ImageCheck(listed=len(images))
    names = (str(entry["file_name"]) for entry in images.values())
    check.missing = [name for name in names if not os.path.isfile(folder / name)]  # a name that no file can have is missing, too: pathlib would raise
    absent = set(check.missing)
    entries = [images[image_id] for image_id in decode if str(images[image_id]["file_name"]) not in absent]
    if not entries:
        return check
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_bar("images") as progress:
        files = pool.map(
            lambda entry: _decode(folder / str(entry["file_name"])), entries
        )  # Pillow decodes without the GIL
        for entry, found in progress.track(
            zip(entries, files, strict=True), total=len(entries), description="decoding"
        ):
            name, labelled = str(entry["file_name"]), (int(entry["width"]), int(entry["height"]))
            if isinstance(found, str):
                check.unreadable[name] = found
            elif not any(found.orientation.fits(labelled)):
                problem = size_problem(found.orientation, labelled)
                check.wrong_size[name] = problem.removeprefix("is ")
            for note in () if isinstance(found, str) else found.notes:
                check.notes.setdefault(note, []).append(name)
    check.decoded = len(entries)
    return check


@dataclass(frozen=True)
class _Found:
    """An image that decodes to its end."""

    orientation: Orientation
    notes: list[str]


def _decode(path: Path) -> _Found | str:
    """What an image that decodes to its end is like, or what is wrong with it."""
    try:
        with open_image(path) as image:
            orientation = orientation_of(image)
            size = image.size
            image.draft(
                "RGB", (size[0] // 8, size[1] // 8)
            )  # a JPEG is read to its end, but in an eighth of the size
            rgb_bytes(image)
            return _Found(orientation, list(_notes(image)))
    except UNREADABLE as error:
        return " ".join(str(error).replace(str(path), path.name).split())


def _notes(image: Image.Image) -> Iterator[str]:
    """What is done to a decoded image, and what makes it unlike a photograph."""
    if is_transparent(image):
        yield "with transparency, composited on white"
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's: previews
        yield "with several frames or pages, of which the first is used"
    if bits := sixteen_bits(image):
        yield f"with {bits} bits a channel, scaled to 8"
        used = int(np.asarray(image).max()).bit_length()
        if used <= bits - 3:  # less than an eighth of the range
            yield f"dark: {used} of {bits} bits are used; multiply by {2 ** (bits - used)}"
