"""Which images of one list are images of another: judged by the files, never by a name alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatpose.data.sample import Person
from heatpose.utils.image_files import load_image

HEAD = 1 << 16
"""Bytes of a file that are compared before all of it is read."""
THUMBNAIL = 16
"""Side of the images that are compared."""
ALIKE = 6.0
"""Mean difference in grey levels below which two thumbnails show the same image."""
FLAT = 2.0
"""Standard deviation in grey levels below which a thumbnail is too flat to be recognised."""
SAME_PLACE = 0.9
"""Intersection over union above which two boxes, as fractions of their images, are the same."""


def same_images(instances: Sequence[Person], others: Sequence[Person]) -> set[Path]:
    """Image paths of `instances` that show an image of `others`.

    They do where it is the same file or a copy of it, whatever the names. An image that was resized
    or compressed again is found where the id or the file's name is equal, someone has the same box
    on both, and the images are alike; names and ids repeat in any two data sets, and prove nothing.

    Args:
        instances: Whose images are in question.
        others: Whose images are looked for.

    Raises:
        HeatposeError: An image that has to be compared cannot be read.
    """
    mine = {person.image_path: _resolved(person.image_path) for person in instances}
    theirs = {_resolved(person.image_path) for person in others}
    found = {path for path, file in mine.items() if file in theirs}
    names = {path.stem for path in theirs}
    for path in _copies([path for path in mine if path not in found], theirs):
        if path.stem in names or not _blank(path):  # black frames of two videos are equal, too
            found.add(path)
    pairs = _pairs([person for person in instances if person.image_path not in found], others)
    with ThreadPoolExecutor(2) as pool:
        alike = pool.map(lambda pair: _alike(*pair), pairs)
        return found | {pair[0] for pair, same in zip(pairs, alike, strict=True) if same}


def _resolved(path: Path) -> Path:
    """The file behind links; the path itself where its name cannot be that of a file."""
    try:
        return path.resolve()
    except (OSError, ValueError):  # a loop of links; a null byte, or half of a surrogate pair
        return path


def _copies(paths: Collection[Path], others: Collection[Path]) -> set[Path]:
    """Those of `paths` with the content of one of the others.

    Few of them are read: sizes differ.
    """
    keys: tuple[Callable[[Path], Hashable], ...] = (_size, _head, _digest)
    for key in keys:
        left, right = ({path: key(path) for path in side} for side in (paths, others))
        common = (set(left.values()) & set(right.values())) - {None}
        paths, others = (
            [path for path, value in side.items() if value in common] for side in (left, right)
        )
    return set(paths)


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # a missing image has a sentence of its own where it is decoded
        return None


def _head(path: Path) -> Hashable:
    with path.open("rb") as file:
        return _size(path), hashlib.sha256(file.read(HEAD)).digest()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _pairs(instances: Sequence[Person], others: Sequence[Person]) -> list[tuple[Path, Path]]:
    """Images that may be the same one, resized or compressed again."""
    known: dict[Hashable, list[Person]] = {}
    for other in others:
        for key in (other.image_id, other.image_path.stem):
            known.setdefault(key, []).append(other)
    pairs = {
        (person.image_path, other.image_path): None
        for person in instances
        for key in (person.image_id, person.image_path.stem)
        for other in known.get(key, ())
        if _overlap(person, other) >= SAME_PLACE
    }
    return list(pairs)


def _overlap(a: Person, b: Person) -> float:
    """Intersection over union of two boxes as fractions of their images."""
    (left, top, right, bottom), (x0, y0, x1, y1) = _corners(a), _corners(b)
    across, down = min(right, x1) - max(left, x0), min(bottom, y1) - max(top, y0)
    both = max(across, 0.0) * max(down, 0.0)
    union = (right - left) * (bottom - top) + (x1 - x0) * (y1 - y0) - both
    return both / union if union > 0 else 0.0


def _corners(person: Person) -> tuple[float, float, float, float]:
    x, y, width, height = person.box
    across, down = person.width, person.height
    return x / across, y / down, (x + width) / across, (y + height) / down


def _alike(a: Path, b: Path) -> bool:
    first, second = _thumbnail(a), _thumbnail(b)
    shows_something = min(first.std(), second.std()) > FLAT
    return bool(shows_something and np.abs(first - second).mean() < ALIKE)


def _blank(path: Path) -> bool:
    """True for an image of one colour, which shows nothing that could be recognised."""
    pixels = load_image(path)
    return bool((pixels == pixels[0, 0]).all())


def _thumbnail(path: Path) -> NDArray[np.float32]:
    """f32[16, 16] grey levels 0..255 of the whole image."""
    from PIL import Image

    image = Image.fromarray(load_image(path)).convert("L")
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, np.float32)
