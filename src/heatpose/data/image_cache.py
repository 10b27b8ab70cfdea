"""A cache of decoded images on the disk.

It is written once and read by every epoch, process and sweep run without decoding. A cache is one
flat file of RGB bytes, mapped into memory, and an index of the images' sizes and names.
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
"""Folder of the caches of `data.cache=auto`, below the working folder."""
PIXELS, INDEX = "pixels.u8", "index.json"
AT_ONCE = 64
"""Maximum number of images that are decoded and not yet written, which bounds the memory."""


@dataclass(frozen=True)
class CachedImage:
    """A decoded image.

    Attributes:
        pixels: u8[H, W, 3] RGB; read-only.
        scale: Cached over original width and height; (1, 1) for the original size.
    """

    pixels: NDArray[np.uint8]
    scale: tuple[float, float] = (1.0, 1.0)


class ImageStore(Protocol):
    """Gives the pixels of training samples."""

    def image(self, person: Person) -> CachedImage:
        """The image of an instance."""


class ImageFiles:
    """Decodes the image file on every access."""

    def image(self, person: Person) -> CachedImage:
        """See `ImageStore`."""
        return CachedImage(labelled_image(person))


class ImageCache:
    """Decoded images, mapped into memory; processes share the pages of the kernel's page cache.

    Args:
        folder: Of a complete cache.

    Raises:
        HeatposeError: The cache is damaged.
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
        return {**self.__dict__, "_bytes": None}  # every process maps the file itself

    def image(self, person: Person) -> CachedImage:
        """The cached image, as a view of the mapped file."""
        if self._bytes is None:
            self._bytes = np.memmap(self.folder / PIXELS, np.uint8, "r").view(np.ndarray)
        row = self.rows[os.path.abspath(person.image_path)]
        width, height = self.sides[row].tolist()
        end = int(self.ends[row])
        pixels = self._bytes[end - 3 * width * height : end].reshape(height, width, 3)
        return CachedImage(pixels, (width / person.width, height / person.height))


def open_cache(instances: Sequence[Person], place: Path, short_side: int | None) -> ImageCache:
    """Opens the cache of the instances' images; builds it if it is missing.

    A process that needs a cache while another one builds it waits for the result. A killed build
    leaves no cache behind.

    Args:
        instances: Their images are cached.
        place: Folder of caches. Each is a folder in it, named by `cache_key`.
        short_side: Images with a longer short side, in pixels, are reduced to it; None keeps all at
            their size.

    Raises:
        HeatposeError: An image is missing or cannot be decoded, or the disk has too little space.
    """
    # Imported here: only a training builds caches.
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
    """Chooses where a run gets its pixels.

    Args:
        cache: "off", "auto" (below `FOLDER`, unless the cache would take more than half of the free
            space) or a folder of caches.
        short_side: As in `open_cache`.
        everyone: All instances of the source. Runs with different selections share a cache of all.
        needed: Instances of this run. Only their images are cached, unless a cache of all exists.

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
    """Bytes of the cache of the instances' images."""
    sides = {
        str(person.image_path): kept_size(person.width, person.height, short_side)
        for person in instances
    }
    return sum(3 * width * height for width, height in sides.values())


def is_built(instances: Iterable[Person], place: Path, short_side: int | None) -> bool:
    """Whether the cache exists."""
    return (place / cache_key(instances, short_side)).is_dir()


def cache_key(instances: Iterable[Person], short_side: int | None) -> str:
    """Hexadecimal name of the cache of the instances' images.

    It depends on the path, size and modification time of each file, on `short_side`, and for images
    that are not plain on the version of the decoder.

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
    """Width and height of an image in the cache, in pixels."""
    factor = 1.0 if short_side is None else min(1.0, short_side / min(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _build(instances: Sequence[Person], folder: Path, short_side: int | None) -> None:
    """Decodes all images on all cores into a temporary folder, which is then renamed."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # of a killed build: this process holds the lock
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
        # Absolute, as in the key: different spellings of a path share the cache.
        names = [os.path.abspath(person.image_path) for person in instances]
        index = {"short_side": short_side, "pictures": names, "sides": sides}
        (part / INDEX).write_text(json.dumps(index), encoding="utf-8")
        os.rename(part, folder)
    except BaseException:  # frees the space, also when interrupted
        shutil.rmtree(part, ignore_errors=True)
        raise


def _decoded(
    instances: Sequence[Person], sides: Sequence[tuple[int, int]]
) -> Iterator[NDArray[np.uint8]]:
    """Images in order, decoded in parallel (Pillow releases the GIL), a bounded number ahead."""
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
