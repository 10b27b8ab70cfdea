"""Image files that are missing, broken or of another size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from heatpose.data.report import check_images


@pytest.fixture
def entries(tmp_path: Path) -> dict[int, dict[str, Any]]:
    """Forty good JPEG files and their entries."""
    images = {}
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (30 + i, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg", quality=90)
        images[i] = {"id": i, "file_name": f"{i}.jpg", "width": 50, "height": 30 + i}
    return images


def test_good_files_have_no_findings(entries: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    check = check_images(entries, tmp_path, entries)
    assert (check.listed, check.decoded, check.good) == (40, 40, True)


def test_every_fault_is_found_and_named(entries: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "3.jpg").unlink()
    for name, share in (("5.jpg", 0.5), ("6.jpg", 0.97), ("7.jpg", 0.0)):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: int(share * len(data))])
    (tmp_path / "8.jpg").write_text("no image")
    entries[9]["width"] = 49
    Image.new("RGB", (30, 50)).save(tmp_path / "0.jpg")  # turned by 90 degrees
    check = check_images(entries, tmp_path, entries)
    assert check.missing == ["3.jpg"]
    assert set(check.unreadable) == {"5.jpg", "6.jpg", "7.jpg", "8.jpg"}
    assert all(why and "\n" not in why for why in check.unreadable.values())
    assert set(check.wrong_size) == {"0.jpg", "9.jpg"}
    assert check.wrong_size["9.jpg"].startswith("50x39, but its labels are for 49x39")
    assert "30x50, but its labels are for 50x30: an orientation tag" in check.wrong_size["0.jpg"]
    assert check.decoded == 39 and not check.good


def test_only_the_asked_ones_are_decoded_but_all_are_looked_for(
    entries: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "1.jpg").write_text("no image")
    (tmp_path / "2.jpg").unlink()
    check = check_images(entries, tmp_path, [3, 4])
    assert (check.decoded, check.missing, check.unreadable) == (2, ["2.jpg"], {})
    assert check_images(entries, tmp_path, []).decoded == 0


def test_a_name_that_no_file_can_have_is_missing(
    entries: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    """Found by spoiled labels."""
    long = {**next(iter(entries.values())), "file_name": "A" * 5000}
    check = check_images({1: long}, tmp_path, [1])
    assert check.missing == ["A" * 5000] and not check.decoded


def test_what_is_done_to_pixels_is_counted(tmp_path: Path) -> None:
    """16 bits of which few are used, transparency and several frames are told.

    They are not faults.
    """
    ramp = np.arange(600, dtype=np.uint16).reshape(20, 30)
    for bits in (10, 12, 14, 16):
        values = (ramp.astype(np.uint32) * (2**bits - 1) // 599).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"{bits}.png")
    Image.new("RGBA", (30, 20)).save(tmp_path / "clear.png")
    frames = [Image.new("L", (30, 20), value) for value in (0, 200)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "integers.tif")
    names = sorted(path.name for path in tmp_path.iterdir())
    entries = {i: {"file_name": name, "width": 30, "height": 20} for i, name in enumerate(names)}
    check = check_images(entries, tmp_path, entries)
    assert check.notes == {
        "with 16 bits a channel, scaled to 8": ["10.png", "12.png", "14.png", "16.png"],
        "dark: 10 of 16 bits are used; multiply by 64": ["10.png"],
        "dark: 12 of 16 bits are used; multiply by 16": ["12.png"],
        "with transparency, composited on white": ["clear.png"],
        "with several frames or pages, of which the first is used": ["film.gif"],
    }
    assert list(check.unreadable) == ["integers.tif"] and not check.wrong_size
