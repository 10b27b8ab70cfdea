"""Decoding of image files, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatpose.data.sample import load_image
from heatpose.errors import HeatposeError

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture
def jpeg(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).save(path, quality=95)
    return path


def test_a_png_is_decoded_to_its_bytes(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png", 64, 48)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, PIXELS)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture = Image.fromarray(PIXELS).convert(mode)
    picture.save(path)
    image = load_image(path)
    assert image.shape == (48, 64, 3)
    np.testing.assert_array_equal(image, np.asarray(picture.convert("RGB")))


def test_the_labels_frame_is_that_of_the_stored_pixels(tmp_path: Path) -> None:
    """COCO's labels ignore the EXIF orientation, so the decoder must too."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees for display
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg", 64, 48).shape == (48, 64, 3)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_a_truncated_jpeg_is_one_sentence(jpeg: Path, share: float) -> None:
    data = jpeg.read_bytes()
    jpeg.write_bytes(data[: int(share * len(data))])
    with pytest.raises(HeatposeError, match=r"a\.jpg' cannot be decoded"):
        load_image(jpeg)


def test_text_a_folder_and_a_missing_file_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no image")
    for path, message in (
        (tmp_path / "a.jpg", "cannot be decoded"),
        (tmp_path, "cannot be decoded"),
        (tmp_path / "none.jpg", "is missing"),
    ):
        with pytest.raises(HeatposeError, match=message):
            load_image(path)


@pytest.mark.parametrize("size", [(48, 64), (64, 47), (63, 48)])
def test_an_image_of_another_size_than_labelled_is_refused(jpeg: Path, size: tuple[int, int]) -> None:
    with pytest.raises(HeatposeError, match=rf"is 64x48, but its labels are for {size[0]}x{size[1]}"):
        load_image(jpeg, *size)
