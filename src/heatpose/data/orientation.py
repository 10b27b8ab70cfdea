"""Which way round labelled images are read: upright, or as their pixels are stored.

Cameras and telephones store the pixels as the sensor gives them and write an EXIF orientation tag.
Browsers and current labelling tools show, and label, the upright image; others ignore the tag. The
size in the label file tells which it was for a quarter turn, and not for a half turn, a mirrored or
a square image: those follow the other images of the label file, and are read upright where there
are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from heatpose.data.sample import Person
from heatpose.errors import HeatposeError
from heatpose.utils.image_files import (
    UNREADABLE,
    Orientation,
    is_transparent,
    open_image,
    orientation_of,
)

UPRIGHT, STORED, CONVERTED = "upright", "stored", "converted"
_FITS = ((True, False), (False, True), (True, True))


@dataclass
class Readings:
    """How the images with an orientation tag are read.

    Attributes:
        upright: Names of those read upright.
        stored: Names of those read as stored, because labels were made on the stored pixels.
        assumed: Names of those read upright that fit both ways, where no other image decides.
    """

    upright: list[str] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def findings(self) -> dict[str, list[str]]:
        """What `heatpose data` shows: finding -> names."""
        return {
            "with an EXIF orientation tag, read upright": self.upright,
            "of these, upright is assumed (both ways have the labels' size)": self.assumed,
            "with an EXIF orientation tag, read as stored": self.stored,
        }

    def account(self, name: object) -> str | None:
        """One line that says what was decided; None where no image has a tag.

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
    """What the header of an image file says about how it is read."""

    orientation: Orientation
    converted: bool


def read_orientations(instances: Sequence[Person], labels: Path) -> tuple[list[Person], Readings]:
    """Decides how each image of a label file is read. Headers are read; pixels are not decoded.

    Args:
        instances: Of one label file.
        labels: The label file, for messages.

    Returns:
        The people, with `reading` set where the image is not plain, and the count.

    Raises:
        HeatposeError: Some images fit only upright and some only as stored, so that it is not
            known which way those are labelled that fit both ways.
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
    """True for a JPEG without EXIF or XMP: a tenth of the time that Pillow takes to open it."""
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
