"""Decoded images on the disk.

Written once, read by every epoch, process and member of a sweep without decoding.

A cache is one flat file of RGB bytes, mapped into memory, and an index that says where each image
begins.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heatpose.data.download import require_room
from heatpose.data.sample import Person, labelled_image
from heatpose.errors import HeatposeError
from heatpose.utils.image_files import DECODE_VERSION
from heatpose.utils.progress import progress

VERSION = 2
FOLDER = Path("data_cache") / "pictures"
"""Where `data.cache=auto` keeps caches, below the working folder."""
PIXELS, INDEX = "pixels.u8", "index.json"
AT_ONCE = 64
"""Images that are decoded and not yet written, at most: what a build holds in memory."""


@dataclass(frozen=True)
class CachedImage:
    """A decoded image.

    Attributes:
        pixels: u8[H, W, 3] RGB; not to be written to.
        scale: Kept over original width and height; (1, 1) where the image is as it is in its
            file.
    """

    pixels: NDArray[np.uint8]
    scale: tuple[float, float] = (1.0, 1.0)


class ImageStore(Protocol):
    """Where views get their pixels."""

    def image(self, person: Person) -> CachedImage:
        """The image that someone is on."""


class ImageFiles:
    """Decodes the file each time."""

    def image(self, person: Person) -> CachedImage:
        """See `Images`."""
        return CachedImage(labelled_image(person))


class ImageCache:
    """Decoded images, mapped into memory. Processes that read one share the kernel's copy of it.

    Args:
        folder: Of a finished cache.

    Raises:
        HeatposeError: The folder holds no whole cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            self.sides = np.array(index["sides"], np.int64).reshape(-1, 2)
            self.rows = {str(name): row for row, name in enumerate(index["pictures"])}
            found = (folder / PIXELS).stat().st_size
        except (OSError, ValueError, KeyError) as error:
            raise HeatposeError(
                f"The image cache '{folder}' is damaged ({error}); remove the folder and run again."
            ) from error
        self.ends = np.cumsum(3 * self.sides.prod(1))
        if not len(self.ends) or found != self.ends[-1]:
            raise HeatposeError(
                f"The image cache '{folder}' has {found} bytes and should have"
                f" {self.ends[-1:].sum()}; remove the folder and run again."
            )
        self._bytes: NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bytes": None}  # a worker maps the file itself

    def image(self, person: Person) -> CachedImage:
        """The kept image; nothing is read before its pixels are used."""
        if self._bytes is None:
            self._bytes = np.memmap(self.folder / PIXELS, np.uint8, "r").view(np.ndarray)
        row = self.rows[os.path.abspath(person.image_path)]
        width, height = self.sides[row].tolist()
        end = int(self.ends[row])
        pixels = self._bytes[end - 3 * width * height : end].reshape(height, width, 3)
        return CachedImage(pixels, (width / person.width, height / person.height))


def open_cache(instances: Sequence[Person], place: Path, short_side: int | None) -> ImageCache:
    """The cache of these people's images; builds it where it is not there.

    Whoever comes while another process builds it waits and shares the result. A build that was
    killed leaves nothing that is taken for a cache.

    Args:
        instances: Their images are kept.
        place: Folder of caches; each has a folder of its own in it, named by a hash of the image
            files (path, size, time of change) and `short_side`.
        short_side: Images with a longer short side, in pixels, are reduced to it; None keeps all
            as they are.

    Raises:
        HeatposeError: An image is missing or cannot be decoded, or the disk has too little room.
    """
    # Imported here: only a run that trains builds caches.
    from filelock import FileLock

    images = {str(person.image_path): person for person in instances}
    folder = place / cache_key(images.values(), short_side)
    if folder.is_dir():
        return ImageCache(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / f"{folder.name}.lock"):
            if not folder.is_dir():
                _build(list(images.values()), folder, short_side)
    except OSError as error:
        reason = error.strerror or error
        raise HeatposeError(
            f"The image cache '{place}' cannot be written ({reason}); set data.cache=FOLDER, or"
            " off to decode each time."
        ) from error
    return ImageCache(folder)


def choose_images(
    cache: str, short_side: int | None, everyone: Sequence[Person], needed: Sequence[Person]
) -> ImageStore:
    """Where a run gets its pixels.

    Args:
        cache: "off", "auto" (below `FOLDER`, unless it would take more than half of the room that
            is left) or a folder of caches.
        short_side: As `open_cache`.
        everyone: Of the source. Runs share a cache of all of them, whatever they choose.
        needed: Those that this run needs at least: all that is built for a run with few of them.

    Raises:
        HeatposeError: As `open_cache`.
    """
    if cache == "off":
        return ImageFiles()
    place = FOLDER if cache == "auto" else Path(cache).expanduser()
    wanted = everyone if is_built(everyone, place, short_side) else needed
    if cache == "auto" and not is_built(wanted, place, short_side):
        room, size = shutil.disk_usage(Path.cwd()).free, bytes_needed(wanted, short_side)
        if 2 * size > room:
            why = (
                f"a cache would take {size / 1e9:.0f} of the {room / 1e9:.0f} GB that are free;"
                " data.cache=FOLDER makes one elsewhere"
            )
            print(f"Images are decoded in every epoch: {why}.", file=sys.stderr)
            return ImageFiles()
    return open_cache(wanted, place, short_side)


def bytes_needed(instances: Iterable[Person], short_side: int | None) -> int:
    """Size of the cache of these people's images."""
    sides = {
        str(person.image_path): kept_size(person.width, person.height, short_side)
        for person in instances
    }
    return sum(3 * width * height for width, height in sides.values())


def is_built(instances: Iterable[Person], place: Path, short_side: int | None) -> bool:
    """True where `open_cache` would have nothing to do."""
    return (place / cache_key(instances, short_side)).is_dir()


def cache_key(instances: Iterable[Person], short_side: int | None) -> str:
    """Hexadecimal name of the cache of these people's images; another one when a file changes.

    Images that an earlier version decoded differently make another one, too.

    Raises:
        HeatposeError: A file is missing.
    """
    digest = hashlib.sha256(json.dumps([VERSION, short_side]).encode())
    readings = {str(person.image_path): person.reading for person in instances}
    for name, reading in sorted(readings.items()):
        try:
            found = os.stat(name)
        except OSError as error:
            raise HeatposeError(f"Image '{name}' is missing; check the image folder.") from error
        digest.update(f"{os.path.abspath(name)}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
        digest.update(f"{DECODE_VERSION} {reading}\0".encode() if reading else b"")
    return digest.hexdigest()[:24]


def kept_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height that an image is kept with."""
    factor = 1.0 if short_side is None else min(1.0, short_side / min(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _build(instances: Sequence[Person], folder: Path, short_side: int | None) -> None:
    """Decodes all images on all cores into a folder beside the cache's place.

    And moves it there.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # of a killed build: the lock says that nobody is at it
    sides = [kept_size(person.width, person.height, short_side) for person in instances]
    needed = bytes_needed(instances, short_side)
    require_room(
        folder.parent,
        needed,
        "set data.cache=FOLDER on another disk, a smaller data.short_side, or data.cache=off",
    )
    part.mkdir()
    try:
        description = f"Decoding into {folder.parent} ({needed / 1e9:.2f} GB)"
        with (
            (part / PIXELS).open("wb") as file,
            progress(description, len(instances)) as advance,
        ):
            for pixels in _decoded(instances, sides):
                file.write(pixels.data)
                advance(1)
            file.flush()
            os.fsync(file.fileno())
        # Absolute, as in the folder's name: other spellings of a path share the cache.
        names = [os.path.abspath(person.image_path) for person in instances]
        index = {"short_side": short_side, "pictures": names, "sides": sides}
        (part / INDEX).write_text(json.dumps(index), encoding="utf-8")
        os.rename(part, folder)
    except BaseException:  # the room is given back, also to someone who stops it
        shutil.rmtree(part, ignore_errors=True)
        raise


def _decoded(
    instances: Sequence[Person], sides: Sequence[tuple[int, int]]
) -> Iterator[NDArray[np.uint8]]:
    """Images in order, decoded in parallel.

    (Pillow does it without the interpreter's lock), a bounded number ahead.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(instances), AT_ONCE):
            yield from pool.map(
                _decode, instances[start : start + AT_ONCE], sides[start : start + AT_ONCE]
            )


def _decode(person: Person, side: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = labelled_image(person)
    if side == (person.width, person.height):
        return np.ascontiguousarray(pixels)
    from PIL import Image

    return np.ascontiguousarray(Image.fromarray(pixels).resize(side, Image.Resampling.BOX))
