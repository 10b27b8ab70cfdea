"""Image files that are missing, broken or of another size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from heatpose.data.image_check import check_images


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
    assert check.wrong_size == {"9.jpg": "50x39, labels 49x39", "0.jpg": "30x50, labels 50x30"}
    assert check.decoded == 39 and not check.good


def test_only_the_asked_ones_are_decoded_but_all_are_looked_for(
    entries: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "1.jpg").write_text("no image")
    (tmp_path / "2.jpg").unlink()
    check = check_images(entries, tmp_path, [3, 4])
    assert (check.decoded, check.missing, check.unreadable) == (2, ["2.jpg"], {})
    assert check_images(entries, tmp_path, []).decoded == 0


def test_a_name_that_no_file_can_have_is_missing(entries: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    """Found by spoiled labels."""
    long = {**next(iter(entries.values())), "file_name": "A" * 5000}
    check = check_images({1: long}, tmp_path, [1])
    assert check.missing == ["A" * 5000] and not check.decoded
