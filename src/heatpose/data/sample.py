"""What a labelled person is, before and after decoding the image."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Person:
    """One labelled person and where the picture is; nothing decoded yet.

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
        alone: True when this is the only person annotation of its image.
        others: f32[M, 4] boxes (x, y, w, h) of the image's other person annotations.
        file_name: The image's name below the folder of its data set, which may hold folders; the last
            part of the path where it is not given.
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

    @property
    def name(self) -> str:
        """What the image is called wherever its data set lies."""
        return self.file_name or self.image_path.name

    @property
    def folder(self) -> Path:
        """The data set's folder of images, below which `name` is."""
        return self.image_path.parents[len(Path(self.name).parts) - 1]


@dataclass(frozen=True)
class Sample:
    """A person with the decoded image: u8[H, W, 3] RGB."""

    image: NDArray[np.uint8]
    person: Person


FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
"""What is decoded, whatever a file's name ends in: other decoders of Pillow start programs (EPS) or are rarely used and little tested."""
UNREADABLE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError, RuntimeError, MemoryError, struct.error,
)  # fmt: skip
"""What Pillow's decoders raise on damaged files."""
MOST_PIXELS = 100_000_000
"""Of an image; a larger one would take more than a gigabyte to decode."""


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Opens an image file; nothing but its header is read yet.

    Raises:
        OSError, ValueError, SyntaxError: It is missing, no image of `FORMATS`, damaged or larger than `MOST_PIXELS`; Pillow decides which.
    """
    from PIL import Image

    if path.exists() and not path.is_file():
        raise OSError("it is no file")  # reading a pipe would wait for ever
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, about oddities that the caller's sentence need not repeat
        try:
            opened = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise ValueError(str(error)) from error
        with opened as file:
            width, height = file.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"{width}x{height} is more than {MOST_PIXELS // 10**6} million pixels")
            yield file


def load_image(path: Path, width: int | None = None, height: int | None = None) -> NDArray[np.uint8]:
    """Decodes an image file to RGB u8[H, W, 3].

    Args:
        path: The file.
        width: The width that the labels assume, checked when given.
        height: The height that the labels assume.

    Raises:
        HeatposeError: The file is missing, truncated, no image, or has another size than its labels say.
    """
    try:
        with open_image(path) as file:
            image = np.asarray(file.convert("RGB"))
    except FileNotFoundError as error:
        raise HeatposeError(f"Image '{path}' is missing; check the image folder.") from error
    except UNREADABLE as error:
        raise HeatposeError(f"Image '{path}' cannot be decoded ({error}); replace it or remove it from the labels.") from error
    if (width, height) != (None, None) and image.shape[:2] != (height, width):
        raise HeatposeError(f"Image '{path}' is {image.shape[1]}x{image.shape[0]}, but its labels are for {width}x{height}; the two do not belong together.")
    return image
