"""What a labelled person is, before and after decoding the image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatpose.utils.image_files import load_image


@dataclass(frozen=True)
class Person:
    """One labelled person and where the image is; nothing decoded yet.

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
        file_name: The image's name below the folder of its data set, which may hold folders; the
            last part of the path where it is not given.
        reading: "" for a plain image, which has always been decoded as it is now; else "upright" or
            "stored" where it has an orientation tag, "converted" where its pixels are not 8-bit or
            are transparent (`data.orientation`).
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


def labelled_image(person: Person) -> NDArray[np.uint8]:
    """Decodes the image that someone is on, the way round that the labels were made for.

    Returns:
        u8[H, W, 3] RGB, H and W as labelled.

    Raises:
        HeatposeError: As `image_files.decode_image`.
    """
    stored = person.reading == "stored"
    return load_image(person.image_path, person.width, person.height, stored)
