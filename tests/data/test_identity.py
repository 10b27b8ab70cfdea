"""Which image is which: by the file, never by a name alone."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatpose.data.identity import same_images
from heatpose.data.sample import Person
from tests.data.labelled import photo


def person(
    path: Path, image_id: int = 1, box: tuple[float, float, float, float] = (9, 9, 40, 60)
) -> Person:
    """Someone on a photograph of 96 by 80."""
    return Person(
        image_path=path,
        image_id=image_id,
        annotation_id=1,
        width=96,
        height=80,
        box=box,
        area=100,
        alone=True,
        keypoints=np.zeros((1, 2), np.float32),
        labelled=np.ones(1, bool),
        others=np.zeros((0, 4), np.float32),
    )


def saved(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(seed, 96, 80)).save(path)
    return path


def test_frames_of_different_videos_are_different_images(tmp_path: Path) -> None:
    """Equal names, equal ids, equal boxes, and equal sizes in bytes."""
    frames = {name: tmp_path / name / "frame_000000.bmp" for name in ("a", "b", "val")}
    for seed, path in enumerate(frames.values()):
        saved(path, seed)
    assert len({path.stat().st_size for path in frames.values()}) == 1
    trained = [person(frames["a"]), person(frames["b"], 2)]
    assert same_images(trained, [person(frames["val"])]) == set()


def test_the_same_file_is_found_by_whatever_path(tmp_path: Path) -> None:
    path = saved(tmp_path / "a" / "1.png", 0)
    (tmp_path / "link.png").symlink_to(path)
    for way in (tmp_path / "link.png", tmp_path / "a" / ".." / "a" / "1.png"):
        assert same_images([person(way, 5)], [person(path, 7)]) == {way}


@pytest.mark.parametrize("name", ["1.png", "renamed.png"])
def test_a_copy_is_found_whatever_its_name(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "val" / "1.png", 0)
    copy, other = tmp_path / "train" / name, saved(tmp_path / "train" / "2.png", 1)
    shutil.copy(path, copy)
    assert same_images([person(copy, 5), person(other, 6)], [person(path, 7)]) == {copy}


def test_a_file_that_differs_at_its_end_is_another(tmp_path: Path) -> None:
    head = os.urandom(1 << 17)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(head + name.encode())
    assert same_images([person(tmp_path / "a", 1)], [person(tmp_path / "b", 2)]) == set()


def test_an_image_that_was_compressed_again_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "val" / "1.png", 0)
    small = tmp_path / "1.jpg"
    Image.open(path).resize((48, 40)).save(small, quality=70)
    half = replace(person(small, 5, (4.5, 4.5, 20, 30)), width=48, height=40)
    assert same_images([half], [person(path, 7)]) == {small}  # by its name
    renamed = small.rename(tmp_path / "2.jpg")
    # by its id
    assert same_images([replace(half, image_path=renamed, image_id=7)], [person(path, 7)]) == {
        renamed
    }
    elsewhere = replace(half, image_path=renamed, image_id=7, box=(20, 4, 20, 30))
    # a fixed camera sees someone walk by
    assert same_images([elsewhere], [person(path, 7)]) == set()


def test_black_frames_are_not_the_same_image(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (96, 80)).save(tmp_path / name)
    trained, scored = person(tmp_path / "a" / "1.png"), person(tmp_path / "b" / "2.png")
    assert same_images([trained], [scored]) == set()


def test_a_missing_image_is_no_copy(tmp_path: Path) -> None:
    path = saved(tmp_path / "1.png", 0)
    assert same_images([person(tmp_path / "none.png", 5)], [person(path, 7)]) == set()
    assert same_images([], [person(path)]) == same_images([person(path)], []) == set()
