"""A labelled instance, how its image is decoded, and the audit of a label file.

Cameras and telephones store the pixels as the sensor gives them and write an EXIF orientation tag.
Browsers and current labelling tools show, and label, the upright image; others ignore the tag. The
size in the label file decides for a quarter turn, and cannot for a half turn, a mirrored or a
square image: those follow the other images of the label file, and are read upright if there are
none.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.utils.image_files import (
    UNREADABLE,
    Orientation,
    is_transparent,
    load_image,
    open_image,
    orientation_of,
)


@dataclass(frozen=True)
class Person:
    """One labelled instance and the path of its image; the image is not decoded.

    Attributes:
        image_path: The image file.
        image_id: COCO image id.
        annotation_id: COCO annotation id.
        width: Image width in pixels.
        height: Image height in pixels.
        keypoints: f32[K, 2] (x, y) in image pixels, continuous frame; zero where not labelled.
        labelled: bool[K], COCO's v >= 1.
        box: (x, y, w, h) in image pixels.
        area: Segmentation area in square pixels (COCO's `area`).
        alone: True if this is the only person annotation of its image.
        others: f32[M, 4] boxes (x, y, w, h) of the image's other person annotations.
        file_name: Path of the image below the folder of its data set; "" for the last part of
            `image_path`.
        reading: "" for a plain image; "upright" or "stored" for one with an orientation tag,
            "converted" for one whose pixels are transparent or not 8-bit. Part of the key of an
            image cache, because versions of Heatpose differ in the decoding of such images.
    """

    image_path: Path
    image_id: int
    annotation_id: int
    width: int
    height: int
    keypoints: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    box: tuple[float, float, float, float]
    area: float
    alone: bool
    others: NDArray[np.float32]
    file_name: str = ""
    reading: str = ""

    @property
    def name(self) -> str:
        """Path of the image below the folder of its data set, with which messages name it."""
        return self.file_name or self.image_path.name

    @property
    def folder(self) -> Path:
        """Image folder of the data set; `name` is relative to it."""
        return self.image_path.parents[len(Path(self.name).parts) - 1]


@dataclass(frozen=True)
class Sample:
    """A person with the decoded image: u8[H, W, 3] RGB."""

    image: NDArray[np.uint8]
    person: Person


def labelled_image(person: Person) -> NDArray[np.uint8]:
    """Decodes the image of an instance in the orientation that the labels were made for.

    Returns:
        u8[H, W, 3] RGB, H and W as labelled.

    Raises:
        HeatposeError: As `load_image`.
    """
    stored = person.reading == "stored"
    return load_image(person.image_path, person.width, person.height, stored)


UPRIGHT, STORED, CONVERTED = "upright", "stored", "converted"
_FITS = ((True, False), (False, True), (True, True))


@dataclass
class Readings:
    """How images with an orientation tag are read.

    Attributes:
        upright: Names of those read upright.
        stored: Names of those read as stored, because the labels were made on the stored pixels.
        assumed: Names of those read upright although both orientations fit and no other image
            decides.
    """

    upright: list[str] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def findings(self) -> dict[str, list[str]]:
        """Rows of the report of `heatpose data`: finding -> names."""
        return {
            "with an EXIF orientation tag, read upright": self.upright,
            "of these, upright is assumed (both ways have the labels' size)": self.assumed,
            "with an EXIF orientation tag, read as stored": self.stored,
        }

    def summary(self, name: object) -> str | None:
        """One line on how images with a tag are read; None if there are none.

        Args:
            name: Of the label file or part.
        """
        total = len(self.upright) + len(self.stored)
        if not total:
            return None
        text = f"{len(self.upright)} are read upright, {len(self.stored)} as stored"
        if self.assumed:
            text += f" ({len(self.assumed)} upright by assumption: heatpose data)"
        return f"'{name}': {total} images have an EXIF orientation tag; {text}."


@dataclass(frozen=True)
class _Header:
    """Header of an image file that is not plain."""

    orientation: Orientation
    converted: bool


def read_orientations(instances: Sequence[Person], labels: Path) -> tuple[list[Person], Readings]:
    """Decides from the images' headers how each image of a label file is read.

    Args:
        instances: Of one label file.
        labels: The label file, for messages.

    Returns:
        The instances, with `reading` set if the image is not plain, and the decisions.

    Raises:
        HeatposeError: Some images fit only upright and some only as stored, which leaves those
            undecided that fit both ways.
    """
    images = {person.image_path: person for person in instances}
    with ThreadPoolExecutor(8) as pool:
        headers = zip(images, pool.map(_header, images), strict=True)
        special = {path: header for path, header in headers if header is not None}
    if not special:
        return list(instances), Readings()
    sizes = {path: (images[path].width, images[path].height) for path in special}
    readings, found = _decide(special, sizes, labels)
    return [replace(p, reading=readings.get(p.image_path, "")) for p in instances], found


def _decide(
    headers: Mapping[Path, _Header], sizes: Mapping[Path, tuple[int, int]], labels: Path
) -> tuple[dict[Path, str], Readings]:
    ways: dict[tuple[bool, bool], list[Path]] = {}
    for path, header in headers.items():
        if header.orientation.tag != 1:
            ways.setdefault(header.orientation.fits(sizes[path]), []).append(path)
    upright, stored, either = (ways.get(fits, []) for fits in _FITS)
    if upright and stored and either:
        raise HeatposeError(_contradiction(labels, upright, stored, either))
    as_stored = [*stored, *(either if stored else [])]
    as_upright = [*upright, *([] if stored else either)]
    assumed = [] if upright or stored else either
    readings = {path: CONVERTED for path, header in headers.items() if header.converted}
    readings |= {path: STORED for path in as_stored} | {path: UPRIGHT for path in as_upright}
    return readings, Readings(
        *([p.name for p in paths] for paths in (as_upright, as_stored, assumed))
    )


def _contradiction(
    labels: Path, upright: list[Path], stored: list[Path], either: list[Path]
) -> str:
    first, second, third = (f"{len(p)} ('{p[0].name}')" for p in (upright, stored, either))
    return (
        f"Label file '{labels}': of the images with an EXIF orientation tag, {first} are labelled "
        f"upright and {second} as stored, and {third} fit both ways; save the latter upright and "
        "without the tag (`magick IN -auto-orient OUT`), or remove the tag where the labels are "
        "for the stored pixels (`exiftool -Orientation= FILE`)."
    )


def _header(path: Path) -> _Header | None:
    """None for a plain file, and for one that cannot be read."""
    try:
        if _is_bare_jpeg(path):
            return None
        with open_image(path) as image:
            orientation = orientation_of(image)
            converted = is_transparent(image) or image.mode.startswith(("I", "F"))
            return _Header(orientation, converted) if converted or orientation.tag != 1 else None
    except UNREADABLE:
        return None  # reported where it is decoded


def _is_bare_jpeg(path: Path) -> bool:
    """True for a JPEG without EXIF or XMP; ten times as fast as opening it with Pillow."""
    with path.open("rb") as file:
        if file.read(2) != b"\xff\xd8":
            return False
        while True:
            segment = file.read(4)
            if len(segment) < 4 or segment[0] != 0xFF or segment[1] in (0xFF, 0xE1):
                return False
            if segment[1] == 0xDA:  # start of scan
                return True
            file.seek(int.from_bytes(segment[2:], "big") - 2, 1)


@dataclass
class Audit:
    """Counts of what was read from label files, kept, dropped and assumed.

    Attributes:
        images: Images in the files.
        annotations: Person annotations in the files.
        kept: Instances kept.
        dropped: Reason -> number of annotations.
        examples: Reason -> the first few image ids.
        assumed: What was filled in, corrected or ignored -> count.
        readings: How the images with an orientation tag are read.
    """

    images: int = 0
    annotations: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[int]] = field(default_factory=dict)
    assumed: Counter[str] = field(default_factory=Counter)
    readings: Readings = field(default_factory=Readings)

    def drop(self, reason: str, image_id: int) -> None:
        """Counts one dropped annotation."""
        self.dropped[reason] += 1
        self.examples.setdefault(reason, [])
        if len(self.examples[reason]) < 5 and image_id not in self.examples[reason]:
            self.examples[reason].append(image_id)

    @property
    def reasons(self) -> str:
        """What was left out and assumed, with counts; "" if nothing."""
        parts = (("left out", self.dropped), ("assumed", self.assumed))
        return "; ".join(f"{name}: {_listed(counts)}" for name, counts in parts if counts)

    def summary(self, name: object, use: str) -> str | None:
        """One line with all counts; None if nothing was left out or assumed.

        Args:
            name: Of the label file or part.
            use: What the kept instances are: "usable", "scored".
        """
        counts = f"{self.kept} of {self.annotations} person annotations {use}"
        return f"{name}: {counts}; {self.reasons}." if self.reasons else None


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in counts.items())


def print_once(line: str | None) -> None:
    """Prints a line on stderr, once per process and only in the first of several processes."""
    if line is not None:
        _print(line)


@cache
def _print(line: str) -> None:
    # Imported here: reading labels does not need it.
    from heatpose.utils.process import is_first_process

    if is_first_process():
        print(line, file=sys.stderr)
