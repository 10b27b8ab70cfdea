"""Decoding of image files: every kind of pixel, orientation, and files that cannot be used."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from heatpose.errors import HeatposeError
from heatpose.utils.image_files import decode_image, load_image

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (48, 64, 3), np.uint8)
DEEP = RANDOM.integers(0, 65536, (48, 64), np.uint16)


@pytest.fixture
def jpeg(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).save(path, quality=95)
    return path


def tagged(path: Path, tag: int, pixels: np.ndarray = PIXELS, **options: object) -> Path:
    """Stored pixels with an EXIF orientation tag."""
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


def deep_png(path: Path, values: np.ndarray, colour: int) -> Path:
    """A PNG of 16 bits a channel, written by hand: Pillow writes grey ones only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    return path


# --- plain files: the bytes that Pillow gives --------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        *((".png", mode) for mode in ("RGB", "L", "LA", "RGBA", "P", "1")),
        *((".jpg", mode) for mode in ("RGB", "L", "CMYK")),
        *((".tif", mode) for mode in ("RGB", "L", "LA", "RGBA", "P", "1", "CMYK")),
    ],
)
def test_plain_pixels_equal_pillows(suffix: str, mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    path = tmp_path / f"a{suffix}"
    image.save(path)
    expected = np.asarray(Image.open(path).convert("RGB"))
    decoded = load_image(path, 64, 48)
    assert decoded.dtype == np.uint8 and decoded.flags.writeable
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 2}, {"quality": 30}])
def test_every_kind_of_jpeg_equals_pillows(options: dict[str, int], tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", **options)  # type: ignore[arg-type]
    expected = np.asarray(Image.open(tmp_path / "a.jpg"))
    np.testing.assert_array_equal(load_image(tmp_path / "a.jpg"), expected)


# --- 16 bits, integers and floats --------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_by_its_full_range(suffix: str, tmp_path: Path) -> None:
    values = DEEP.copy()
    values[0, :6] = 0, 65535, 128, 129, 257, 65278
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    image = load_image(tmp_path / f"a{suffix}", 64, 48)
    expected = np.floor(values.astype(np.float64) / 257 + 0.5)
    np.testing.assert_array_equal(image, np.dstack([expected] * 3))
    assert image[0, :6, 0].tolist() == [0, 255, 0, 1, 1, 254]


def test_8_bit_grey_comes_back_from_16_bits(tmp_path: Path) -> None:
    grey = PIXELS[..., 0]
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    np.testing.assert_array_equal(load_image(tmp_path / "8.png"), load_image(tmp_path / "16.png"))


def test_16_bit_colour_is_at_most_one_level_off(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 65536, (48, 64, 3), np.uint16)
    values[0, 0], values[0, 1] = 0, 65535
    image = load_image(deep_png(tmp_path / "a.png", values, 2))
    assert np.abs(image - values / 257).max() <= 1
    assert image[0, 0].tolist() == [0, 0, 0] and image[0, 1].tolist() == [255, 255, 255]


def grey_tiff(path: Path, packed: bytes, bits: int, photometric: int) -> Path:
    """A TIFF of one row of four grey pixels, by hand."""
    entries = [
        (256, 4), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1),
        (278, 1), (279, len(packed)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", key, 4, 1, value) for key, value in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed
    path.write_bytes(head + struct.pack("<H", len(entries)) + table + b"\0\0\0\0")
    return path


def test_12_bit_tiff_is_scaled_by_its_own_range(tmp_path: Path) -> None:
    """Two values in three bytes."""
    packed = bytes.fromhex("".join(f"{value:03x}" for value in (0, 4095, 2048, 1)))
    path = grey_tiff(tmp_path / "a.tif", packed, 12, 1)
    assert load_image(path)[0, :, 0].tolist() == [0, 255, 128, 0]


def test_16_bit_tiff_whose_zero_is_white_is_not_a_negative(tmp_path: Path) -> None:
    packed = struct.pack("<4H", 0, 65535, 257, 32896)
    path = grey_tiff(tmp_path / "a.tif", packed, 16, 0)
    assert load_image(path)[0, :, 0].tolist() == [255, 0, 254, 127]
    eight = grey_tiff(tmp_path / "b.tif", bytes([0, 255, 1, 128]), 8, 0)
    np.testing.assert_array_equal(load_image(eight), load_image(path))


def test_floats_of_0_to_1_are_scaled(tmp_path: Path) -> None:
    values = RANDOM.random((48, 64), np.float32)
    values[0, :2] = 0, 1
    Image.fromarray(values).save(tmp_path / "a.tif")
    image = load_image(tmp_path / "a.tif")
    assert np.abs(image[..., 1] - 255.0 * values).max() <= 0.5001
    assert image[0, :2, 0].tolist() == [0, 255]


@pytest.mark.parametrize("worst", [1.01, -0.01, 255.0, np.nan, np.inf])
def test_other_floats_are_refused_and_scaling_is_the_remedy(worst: float, tmp_path: Path) -> None:
    values = np.full((48, 64), 0.5, np.float32)
    values[3, 4] = worst
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(HeatposeError, match=r"a\.tif' has float pixels .*: scale them to \[0, 1\]"):
        load_image(tmp_path / "a.tif")
    low, high = np.nanmin(values), max(1.0, float(np.nanmax(values[np.isfinite(values)])))
    scaled = np.clip(np.nan_to_num(values, posinf=1) / high, max(low, 0), 1)
    Image.fromarray(scaled.astype(np.float32)).save(tmp_path / "a.tif")
    assert load_image(tmp_path / "a.tif").shape == (48, 64, 3)


def test_32_bit_integers_are_refused_and_16_bits_are_the_remedy(tmp_path: Path) -> None:
    Image.fromarray(DEEP.astype(np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(HeatposeError, match="32-bit or signed .*save it with 8 or 16 unsigned"):
        load_image(tmp_path / "a.tif")
    Image.fromarray(DEEP).save(tmp_path / "a.tif")
    assert load_image(tmp_path / "a.tif").shape == (48, 64, 3)


# --- transparency and several frames -----------------------------------------------------------


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    alpha = RANDOM.integers(0, 256, (48, 64, 1), np.uint8)
    Image.fromarray(np.concatenate([PIXELS, alpha], 2)).save(tmp_path / "a.png")
    share = alpha / 255
    expected = PIXELS * share + 255 * (1 - share)
    assert np.abs(load_image(tmp_path / "a.png") - expected).max() <= 1


def test_grey_with_alpha_and_transparent_colours_are_composited_on_white(tmp_path: Path) -> None:
    grey = np.full((4, 6), 100, np.uint8)
    half = np.dstack([grey, np.where(np.arange(6) < 3, 0, 255).astype(np.uint8) + 0 * grey])
    Image.fromarray(half, "LA").save(tmp_path / "la.png")
    two = Image.fromarray((np.arange(24).reshape(4, 6) % 6 >= 3).astype(np.uint8), "P")
    two.putpalette([9, 9, 9, 100, 100, 100])
    two.save(tmp_path / "p.png", transparency=0)
    two.save(tmp_path / "p.gif", transparency=0)
    colour = np.where(np.arange(6)[None, :, None] < 3, 9, 100) + np.zeros((4, 6, 3))
    Image.fromarray(colour.astype(np.uint8)).save(tmp_path / "rgb.png", transparency=(9, 9, 9))
    for name in ("la.png", "p.png", "p.gif", "rgb.png"):
        image = load_image(tmp_path / name)
        assert (image[:, :3] == 255).all() and (image[:, 3:] == 100).all(), name


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_the_first_of_several_frames_is_decoded(name: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), (value, value, value)) for value in (40, 90, 200)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert np.abs(load_image(tmp_path / name).astype(int) - 40).max() <= 2


# --- orientation -------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_the_upright_image_is_that_of_pillow(tag: int, suffix: str, tmp_path: Path) -> None:
    path = tagged(tmp_path / f"a{suffix}", tag)
    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file))
    decoded = decode_image(path)
    assert decoded.orientation == tag
    np.testing.assert_array_equal(decoded.pixels, expected)
    height, width = expected.shape[:2]
    np.testing.assert_array_equal(load_image(path, width, height), expected)


@pytest.mark.parametrize("tag", range(2, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_stored_pixels_come_back_where_they_are_labelled(
    tag: int, suffix: str, tmp_path: Path
) -> None:
    path = tagged(tmp_path / f"a{suffix}", tag)
    np.testing.assert_array_equal(load_image(path, 64, 48, stored=True), PIXELS)
    if tag >= 5:  # the size tells
        np.testing.assert_array_equal(load_image(path, 64, 48), PIXELS)
        with pytest.raises(HeatposeError, match="neither as stored nor as its EXIF orientation"):
            load_image(path, 48, 64, stored=True)


def test_16_bits_are_turned_too(tmp_path: Path) -> None:
    path = tagged(tmp_path / "a.png", 6, DEEP)
    expected = np.rot90(load_image(path, 64, 48), -1)
    np.testing.assert_array_equal(load_image(path), expected)


@pytest.mark.parametrize("tag", [0, 9, 4000])
def test_an_orientation_that_does_not_exist_counts_as_none(tag: int, tmp_path: Path) -> None:
    decoded = decode_image(tagged(tmp_path / "a.png", tag))
    assert decoded.orientation == 1
    np.testing.assert_array_equal(decoded.pixels, PIXELS)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(40))
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").shape == (48, 64, 3)


@pytest.mark.parametrize("size", [(64, 47), (63, 48)])
def test_another_size_than_labelled_is_refused(jpeg: Path, size: tuple[int, int]) -> None:
    labelled = rf"is 64x48, but its labels are for {size[0]}x{size[1]}; the two do not belong"
    with pytest.raises(HeatposeError, match=labelled):
        load_image(jpeg, *size)
    path = tagged(jpeg, 6)
    with pytest.raises(HeatposeError, match="neither as stored nor as its EXIF orientation turns"):
        load_image(path, *size)


def test_a_lost_orientation_is_named_and_rotating_is_the_remedy(jpeg: Path) -> None:
    with pytest.raises(HeatposeError, match="orientation tag was probably removed .*; rotate"):
        load_image(jpeg, 48, 64)
    Image.open(jpeg).rotate(90, expand=True).save(jpeg)
    assert load_image(jpeg, 48, 64).shape == (64, 48, 3)


# --- files that cannot be used -----------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_one_sentence(share: float, progressive: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).save(path, quality=95, progressive=progressive)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(HeatposeError, match=r"a\.jpg' cannot be decoded"):
        load_image(path)


def test_text_a_folder_and_a_missing_file_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("not an image")
    for path, message in (
        (tmp_path / "a.jpg", "cannot be decoded .it is not one of JPEG, PNG"),
        (tmp_path, "cannot be decoded .it is not a file"),
        (tmp_path / "none.jpg", "is missing"),
    ):
        with pytest.raises(HeatposeError, match=message):
            load_image(path)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"avif"])
def test_heic_has_its_own_sentence_and_jpeg_is_the_remedy(brand: bytes, tmp_path: Path) -> None:
    path = tmp_path / "IMG_0001.jpg"  # renamed, as happens
    path.write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(500))
    with pytest.raises(HeatposeError, match=r"IMG_0001.* is HEIC or AVIF.*convert it to JPEG"):
        load_image(path)
    Image.fromarray(PIXELS).save(path, "JPEG")
    assert load_image(path).shape == (48, 64, 3)


@pytest.mark.parametrize("limit", [1000, 100])
def test_large_images_are_refused_and_reducing_is_the_remedy(
    limit: int, jpeg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the limit of the project, and by Pillow's own, which is checked before."""
    monkeypatch.setattr("heatpose.utils.image_files.MOST_PIXELS", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit * 10)
    with pytest.raises(HeatposeError, match="more than 0 million pixels: reduce it"):
        load_image(jpeg)
    Image.fromarray(PIXELS).resize((16, 12)).save(jpeg)
    assert load_image(jpeg).shape == (12, 16, 3)
