"""Images for `pose_app.py`: files, cameras, a window. Copied into the package as a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.utils.image_files import SUFFIXES, load_image

CachedImage = NDArray[np.uint8]


def images(sources: Sequence[Path]) -> Iterator[tuple[str, CachedImage]]:
    """Names and u8[H, W, 3] of all images among files and folders."""
    for source in sources:
        folder = source.is_dir()
        found = (
            sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
            if folder
            else [source]
        )
        if not found:
            raise HeatposeError(
                f"'{source}' holds no images ({', '.join(SUFFIXES)}); give another folder, or"
                " files."
            )
        for path in found:
            yield path.name, load_image(path)


def camera(source: str) -> Iterator[tuple[str, CachedImage]]:
    """Images of a camera, until it ends.

    Args:
        source: A number, a device (`/dev/video3`), or a GStreamer pipeline that ends in `appsink`.

    Raises:
        HeatposeError: OpenCV is missing, or there is no such camera.
    """
    cv2 = opencv("A camera")
    if "!" in source:
        device = cv2.VideoCapture(source, cv2.CAP_GSTREAMER)
        remedy = "OpenCV must be built with GStreamer; try the pipeline with gst-launch-1.0"
    else:
        device = cv2.VideoCapture(int(source) if source.isdecimal() else source)
        remedy = "`ls /dev/video*` lists them; the MIPI camera of an STM32MP25 needs a pipeline"
    if not device.isOpened():
        raise HeatposeError(f"There is no camera '{source}'; {remedy}.")
    number = 0
    while (read := device.read())[0]:
        yield f"frame_{number:06d}.png", np.ascontiguousarray(read[1][..., ::-1])
        number += 1


def opencv(what: str) -> Any:
    """OpenCV.

    Raises:
        HeatposeError: It is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        text = f"{what} needs OpenCV for Python; on a PC `pip install opencv-python`."
        raise HeatposeError(text) from error
    return cv2


def show(drawn: CachedImage) -> bool:
    """Shows an image in a window; False when the user has pressed q or Escape.

    Raises:
        HeatposeError: There is no display, or OpenCV has no windows.
    """
    cv2 = opencv("A window")
    try:
        cv2.imshow("pose", drawn[..., ::-1])
        return (cv2.waitKey(1) & 0xFF) not in (ord("q"), 27)
    except cv2.error as error:
        text = "There is no window to draw in; leave out --window and keep the images with --out."
        raise HeatposeError(text) from error
