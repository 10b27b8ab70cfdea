"""Reads videos and cameras frame by frame and writes drawn frames, by OpenCV.

OpenCV's wheel is Apache-2.0 with an LGPL FFmpeg; PyAV's wheels contain FFmpeg with GPL encoders.
It is installed by the extras `video` and `export`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.predict.files import make_folder, save_image
from heatpose.utils.files import temporary_sibling

USUAL_RATE = 30.0
HIGHEST_RATE = 1000.0


class UnreadableVideo(HeatposeError):
    """A video or camera without readable frames."""


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        number: Number from 0.
        seconds: Time since the first frame.
        image: u8[H, W, 3] RGB.
    """

    number: int
    seconds: float
    image: NDArray[np.uint8]


def _opencv() -> Any:
    # Silences FFmpeg and OpenCV, which write to stderr; must be set before they are loaded.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise UnreadableVideo(
            f"Videos and cameras need OpenCV ({error}): pip install 'heatpose[video]'."
        ) from error
    cv2.setLogLevel(0)
    return cv2


class Video:
    """An opened video file or camera, iterable once; must be closed.

    Args:
        source: Path of a file, or a camera's number.

    Attributes:
        name: Path, or "camera N".
        live: Whether it is a camera.
        rate: Frames per second; 30 if unknown.
        expected: Number of frames in the file's header, accurate to one or two; None if unknown and
            for cameras.
        read: Number of frames read so far.

    Raises:
        UnreadableVideo: OpenCV is missing, the camera does not exist, or the file cannot be
            decoded.
    """

    def __init__(self, source: Path | int) -> None:
        self._cv2 = _opencv()
        self.live = isinstance(source, int)
        self.name = f"camera {source}" if isinstance(source, int) else source.as_posix()
        self._capture = (
            self._cv2.VideoCapture(source)
            if isinstance(source, int)
            else self._cv2.VideoCapture(str(source), self._cv2.CAP_FFMPEG)
        )
        self.read = 0
        self._first: Any
        grabbed, self._first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not grabbed:
            self.close()
            raise UnreadableVideo(self._absent(source))
        rate = float(self._capture.get(self._cv2.CAP_PROP_FPS))
        self.rate = rate if 0 < rate <= HIGHEST_RATE else USUAL_RATE
        count = self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT)
        self.expected = int(count) if not self.live and 0 < count < 1e9 else None

    def _absent(self, source: Path | int) -> str:
        if isinstance(source, int):
            return (
                f"Camera {source} does not exist or gives no image; the first one is 0, and another"
                " program may be using it."
            )
        if not os.access(source, os.R_OK):
            return f"'{source}' cannot be read; check its permissions."
        return (
            f"'{source}' cannot be decoded as a video: it may be truncated, empty, or of an unknown"
            " format."
        )

    def __iter__(self) -> Iterator[Frame]:
        image, seconds = self._first, 0.0
        first = self._time()
        while image is not None:
            yield Frame(self.read, seconds, self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB))
            self.read += 1
            image = self._capture.read()[1]
            later = self._time() - first
            # a file may have no usable times
            seconds = later if later > seconds else seconds + 1 / self.rate

    def _time(self) -> float:
        """Time of the last frame read, in seconds."""
        return (
            time.monotonic()
            if self.live
            else float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1000
        )

    @property
    def missing(self) -> int:
        """Expected frames that could not be read; 0 within the inaccuracy of headers."""
        absent = (self.expected or 0) - self.read
        return absent if absent > max(2, 0.02 * (self.expected or 0)) else 0

    def close(self) -> None:
        """Releases the file or camera."""
        self._capture.release()


class Sink(Protocol):
    """Output of drawn frames."""

    @property
    def path(self) -> Path:
        """Final file or folder."""

    def write(self, number: int, image: NDArray[np.uint8]) -> None:
        """Writes the next frame, u8[H, W, 3]; all frames have the same size."""

    def finish(self) -> None:
        """Renames the temporary output to `path`."""

    def discard(self) -> None:
        """Removes unfinished output."""


class Mp4:
    """Writes an .mp4 with MPEG-4 video, the codec that every OpenCV wheel supports.

    Args:
        path: Output file.
        rate: Frames per second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self._rate, self._part = path, rate, temporary_sibling(path)
        self._cv2 = _opencv()
        self._writer: Any = None
        self._frames = 0

    def write(self, number: int, image: NDArray[np.uint8]) -> None:
        """See `Sink`.

        Raises:
            HeatposeError: The file cannot be written.
        """
        del number  # given by the position in the file
        if self._writer is None:
            make_folder(self.path.parent)
            code = self._cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = self._cv2.VideoWriter(
                str(self._part),
                self._cv2.CAP_FFMPEG,
                code,
                self._rate,
                (image.shape[1], image.shape[0]),
            )
            if not self._writer.isOpened():
                raise HeatposeError(
                    f"'{self.path}' cannot be written; give another folder, or --frames for"
                    " images instead of a video."
                )
        self._writer.write(self._cv2.cvtColor(image, self._cv2.COLOR_RGB2BGR))
        self._frames += 1

    def finish(self) -> None:
        """See `Sink`.

        Raises:
            HeatposeError: Frames are missing in the file.
        """
        if self._writer is None:
            return
        self._writer.release()
        if self._written() < self._frames:  # the writer does not report a full disk
            raise HeatposeError(
                f"'{self.path}' could not be written completely; make room on the disk."
            )
        try:
            os.replace(self._part, self.path)
        except OSError as error:
            raise HeatposeError(f"'{self.path}' cannot be written ({error.strerror}).") from error

    def _written(self) -> int:
        capture = self._cv2.VideoCapture(str(self._part), self._cv2.CAP_FFMPEG)
        frames = int(capture.get(self._cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        return frames

    def discard(self) -> None:
        """See `Sink`."""
        if self._writer is not None:
            self._writer.release()
        with contextlib.suppress(OSError):  # missing, or below a file
            self._part.unlink(missing_ok=True)


class ImageStore:
    """Writes a folder with a JPEG per frame, named by its number; replaces an older folder.

    Args:
        path: Output folder.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._part = path, temporary_sibling(path)

    def write(self, number: int, image: NDArray[np.uint8]) -> None:
        """See `Sink`.

        Raises:
            HeatposeError: The image cannot be written.
        """
        make_folder(self._part)
        save_image(self._part / f"{number:06d}.jpg", image)

    def finish(self) -> None:
        """See `Sink`.

        Raises:
            HeatposeError: The folder cannot be renamed.
        """
        try:
            if self._part.is_dir():
                shutil.rmtree(self.path, ignore_errors=True)
                os.replace(self._part, self.path)
        except OSError as error:
            raise HeatposeError(
                f"Folder '{self.path}' cannot be written ({error.strerror})."
            ) from error

    def discard(self) -> None:
        """See `Sink`."""
        shutil.rmtree(self._part, ignore_errors=True)
