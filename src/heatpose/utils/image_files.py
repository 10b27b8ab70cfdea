"""Image files -> RGB bytes; all image files are opened here.

To add a format: add Pillow's name of it to `FORMATS` and its suffixes to `SUFFIXES`.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Suffixes of image files that are found in folders."""
PHONE_SUFFIXES = (".heic", ".heif", ".avif")
"""Suffixes that are found as well and rejected with an error that names the remedy."""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
"""Accepted for any suffix; Pillow's other decoders start programs (EPS) or are rarely used."""
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OverflowError,
    RuntimeError,
    MemoryError,
    struct.error,
)
"""Exceptions of Pillow's decoders on damaged files."""
MOST_PIXELS = 100_000_000
"""Limit of an image; decoding a larger one would take more than a gigabyte."""
DECODE_VERSION = 2
"""Part of cache names for images that older versions decoded differently."""
ORIENTATION = 0x0112
"""The EXIF tag."""
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF
_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_PHONE_BRANDS = (b"hei", b"hev", b"mif", b"msf", b"avi")


class Unsupported(ValueError):
    """An intact image that cannot be used; the message contains the remedy."""


@dataclass(frozen=True)
class Orientation:
    """EXIF orientation and stored size of an image file.

    Attributes:
        tag: EXIF orientation, 1 (stored upright) to 8.
        stored: (width, height) of the stored pixels.
    """

    tag: int
    stored: tuple[int, int]

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        return self.stored[::-1] if self.tag >= 5 else self.stored

    def fits(self, labelled: tuple[int, int]) -> tuple[bool, bool]:
        """Whether labels for (width, height) fit the upright image, and the stored pixels."""
        return labelled == self.upright, labelled == self.stored


@dataclass(frozen=True)
class DecodedImage:
    """u8[H, W, 3] RGB and the file's EXIF orientation (1 if it has none)."""

    pixels: NDArray[np.uint8]
    orientation: int


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Opens an image file and reads its header.

    Raises:
        OSError, ValueError, SyntaxError: The file is missing, not of `FORMATS`, damaged or larger
            than `MOST_PIXELS`; the type depends on Pillow.
    """
    from PIL import Image, UnidentifiedImageError

    if path.exists() and not path.is_file():
        raise OSError("it is not a file")  # reading a pipe would block
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caller reports errors in its own words
        try:
            opened = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise _too_large() from error
        except UnidentifiedImageError as error:
            raise _unidentified(path) from error
        with opened as file:
            if file.size[0] * file.size[1] > MOST_PIXELS:
                raise _too_large()
            yield file


def _too_large() -> Unsupported:
    limit = f"more than {MOST_PIXELS // 10**6} million pixels"
    return Unsupported(f"has {limit}: reduce it, for instance with `magick IN -resize 25% OUT`")


def _unidentified(path: Path) -> Exception:
    """The error for a file of unknown format; HEIC and AVIF, written by phones, have their own."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:11] in _PHONE_BRANDS:
        how = "for instance with `magick IN OUT.jpg`, or set the phone to write JPEG"
        return Unsupported(f"is HEIC or AVIF, which is not decoded: convert it to JPEG, {how}")
    return ValueError(f"it is not one of {', '.join(FORMATS)}")


def orientation_of(image: Image.Image) -> Orientation:
    """Orientation from the header of an opened image; damaged EXIF data counts as none."""
    try:
        tag = image.getexif().get(ORIENTATION, 1)
    except UNREADABLE:
        tag = 1
    tag = tag if isinstance(tag, int) and 1 <= tag <= 8 else 1
    # Pillow rotates TIFF on loading and reports the upright size before.
    swapped = tag >= 5 and image.format == "TIFF"
    return Orientation(tag, image.size[::-1] if swapped else image.size)


def decode_image(
    path: Path, labelled: tuple[int, int] | None = None, stored: bool = False
) -> DecodedImage:
    """Decodes an image file to RGB bytes, rotated upright by its EXIF orientation.

    Args:
        path: Image file.
        labelled: (width, height) that the labels assume. If they fit the stored pixels alone, those
            are returned without rotation.
        stored: Always return the stored pixels.

    Raises:
        HeatposeError: The file is missing, truncated, not an image, has an unsupported pixel type
            (`rgb_bytes`), or its size differs from that of its labels.
    """
    try:
        with open_image(path) as file:
            orientation = orientation_of(file)
            pixels, turned = rgb_bytes(file), file.format == "TIFF"
    except FileNotFoundError as error:
        raise HeatposeError(f"Image '{path}' is missing; check the image folder.") from error
    except Unsupported as error:
        raise HeatposeError(f"Image '{path}' {error}.") from error
    except UNREADABLE as error:
        why = f"cannot be decoded ({error}); replace it or remove it"
        raise HeatposeError(f"Image '{path}' {why}.") from error
    if labelled is not None:
        upright_fits, stored_fits = orientation.fits(labelled)
        if not (stored_fits if stored else upright_fits or stored_fits):
            raise HeatposeError(f"Image '{path}' {size_problem(orientation, labelled)}.")
        stored = stored or not upright_fits
    if stored == turned:  # Pillow returns TIFF upright, other formats as stored
        pixels = _turn(pixels, _back(orientation.tag) if stored else orientation.tag)
    return DecodedImage(pixels, orientation.tag)


def load_image(
    path: Path, width: int | None = None, height: int | None = None, stored: bool = False
) -> NDArray[np.uint8]:
    """Pixels of an image file, u8[H, W, 3] RGB; see `decode_image`.

    Args:
        path: Image file.
        width: Width that the labels assume; checked if `height` is given as well.
        height: Height that the labels assume.
        stored: As `decode_image`.

    Raises:
        HeatposeError: As `decode_image`.
    """
    labelled = None if width is None or height is None else (width, height)
    return decode_image(path, labelled, stored).pixels


def size_problem(orientation: Orientation, labelled: tuple[int, int]) -> str:
    """Error text for labels of (width, height) that fit an image in no orientation."""
    (width, height), (x, y) = orientation.stored, labelled
    text = f"is {width}x{height}, but its labels are for {x}x{y}"
    if orientation.tag != 1:
        both = "neither as stored nor as its EXIF orientation turns it"
        return f"{text}, which fits it {both}; the two do not belong together"
    if (width, height) == (y, x):
        lost = "an orientation tag was probably removed after labelling"
        return f"{text}: {lost}; rotate the image by 90 degrees, as it was labelled"
    return f"{text}; the two do not belong together"


def rgb_bytes(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels of an opened image as RGB, u8[H, W, 3]; of several frames or pages the first.

    16-bit grey is scaled by its full range, round(v / 257). For 16-bit colour Pillow returns the
    high byte, at most one level less. Float grey in [0, 1] is scaled by 255. Transparent pixels are
    composited on white, as viewers and labelling tools show them. Colour profiles are not applied.

    Raises:
        Unsupported: 32-bit integers, or floats outside [0, 1].
        OSError, ValueError, ...: `UNREADABLE`, from Pillow's decoder.
    """
    from PIL import Image

    image.load()  # np.asarray would hide decoding errors
    if bits := sixteen_bits(image):
        top, values = 2**bits - 1, np.asarray(image).astype(np.uint32)
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            values = top - values  # Pillow inverts 8-bit images only
        return _grey((values * 255 + top // 2) // top)
    if image.mode == "I":
        kind = "32-bit or signed integer pixels, whose range the file does not state"
        raise Unsupported(f"has {kind}: save it with 8 or 16 unsigned bits a channel")
    if image.mode == "F":
        return _grey(_from_float(np.asarray(image)))
    if is_transparent(image):
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def sixteen_bits(image: Image.Image) -> int:
    """Bits per pixel of a grey image with more than 8 (16; 12 in some TIFF); 0 for any other."""
    if image.mode == "I" and image.format == "PNG":  # Pillow before 13
        return 16
    if not image.mode.startswith("I;16"):
        return 0
    tags: Any = getattr(image, "tag_v2", {})
    return int(tags.get(_BITS_PER_SAMPLE, (16,))[0])


def is_transparent(image: Image.Image) -> bool:
    """Whether pixels can be transparent: an alpha channel, or a transparent colour."""
    return image.mode in _ALPHA or "transparency" in image.info


def _from_float(values: NDArray[np.float32]) -> NDArray[np.float64]:
    if not (values.min() >= 0 and values.max() <= 1):  # false for NaN, too
        found = f"has float pixels from {values.min():g} to {values.max():g}"
        raise Unsupported(f"{found}: scale them to [0, 1], or save it with 8 or 16 bits a channel")
    scaled: NDArray[np.float64] = np.rint(255 * values.astype(np.float64))
    return scaled


def _grey(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def _turn(pixels: NDArray[np.uint8], tag: int) -> NDArray[np.uint8]:
    """Applies an EXIF orientation to stored pixels."""
    if tag >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if tag in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if tag in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _back(tag: int) -> int:
    """The inverse orientation."""
    return {6: 8, 8: 6}.get(tag, tag)
