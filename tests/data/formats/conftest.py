"""Images for hand-written labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeImage = Callable[..., Path]


@pytest.fixture
def make_image(tmp_path: Path) -> MakeImage:
    """`make_image(name, width, height, orientation)`: an image file below `tmp_path`."""

    def make(
        name: str, width: int = 200, height: int = 100, orientation: int | None = None
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if orientation:
            exif[0x0112] = orientation
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path, exif=exif)
        return path

    return make
