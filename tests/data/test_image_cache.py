"""Decoded images on the disk.

The same bytes as the files', whole or absent, built once by whoever comes first.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatpose.data import image_cache as cache
from heatpose.data.image_cache import ImageCache, ImageFiles, choose_images, open_cache
from heatpose.data.sample import Person
from heatpose.errors import HeatposeError


def someone(path: Path, width: int, height: int) -> Person:
    return Person(
        path,
        1,
        1,
        width,
        height,
        np.zeros((1, 2), np.float32),
        np.ones(1, np.bool_),
        (0, 0, 9, 9),
        81.0,
        True,
        np.zeros((0, 4), np.float32),
    )


@pytest.fixture
def instances(tmp_path: Path) -> list[Person]:
    """Six images of different sizes, on the first of which are two people."""
    random, found = np.random.default_rng(0), []
    for number in range(6):
        width, height = 30 + 7 * number, 61 - 5 * number
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        found.append(someone(path, width, height))
    return [*found, found[0]]


def folders(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if not path.name.endswith(".lock"))


def test_images_are_those_of_the_files(instances: list[Person], tmp_path: Path) -> None:
    kept = open_cache(instances, tmp_path / "kept", None)
    for person in instances:
        image = kept.image(person)
        np.testing.assert_array_equal(image.pixels, np.asarray(Image.open(person.image_path)))
        assert image.scale == (1.0, 1.0) and not image.pixels.flags.writeable
    assert (kept.folder / cache.PIXELS).stat().st_size == sum(
        3 * p.width * p.height for p in instances[:6]
    )


def test_long_short_sides_are_reduced_and_the_scale_is_kept(
    instances: list[Person], tmp_path: Path
) -> None:
    kept = open_cache(instances, tmp_path / "kept", 40)
    for person in instances:
        image = kept.image(person)
        height, width = image.pixels.shape[:2]
        if min(person.width, person.height) <= 40:
            assert (width, height) == (person.width, person.height)
            continue
        assert min(width, height) == 40
        assert image.scale == (width / person.width, height / person.height)
        exact = np.asarray(Image.open(person.image_path)).astype(float)
        assert image.pixels.astype(float).mean() == pytest.approx(exact.mean(), abs=1)
        assert image.pixels.std() < exact.std()  # averaged, not picked


def test_a_cache_is_built_once_and_again_when_something_changes(
    instances: list[Person], tmp_path: Path
) -> None:
    place = tmp_path / "kept"
    first = open_cache(instances, place, None).folder
    stamp = (first / cache.INDEX).stat().st_mtime_ns
    assert (
        open_cache(instances[::-1], place, None).folder == first
        and (first / cache.INDEX).stat().st_mtime_ns == stamp
    )
    assert open_cache(instances, place, 40).folder != first
    assert open_cache(instances[:3], place, None).folder != first
    os.utime(instances[2].image_path, ns=(1, 1))
    assert open_cache(instances, place, None).folder != first
    assert len(folders(place)) == 4


def test_runs_that_spell_the_paths_otherwise_share_a_cache(
    instances: list[Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absolute in one run and relative in the next, as a command line may give them."""
    whole = open_cache(instances, tmp_path / "kept", None)
    monkeypatch.chdir(tmp_path)
    relative = [replace(person, image_path=Path(person.image_path.name)) for person in instances]
    again = open_cache(relative, tmp_path / "kept", None)
    assert again.folder == whole.folder
    for person in relative:
        pixels = again.image(person).pixels
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(person.image_path)))


def test_only_images_that_are_decoded_otherwise_now_make_another_cache(
    instances: list[Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file may be labelled upright in one label file and as stored in another."""
    plain = cache.cache_key(instances, None)
    turned = [replace(instances[0], reading=reading) for reading in ("upright", "stored")]
    keys = [cache.cache_key([*instances[1:6], person], None) for person in turned]
    assert len({plain, *keys}) == 3
    monkeypatch.setattr(cache, "DECODE_VERSION", cache.DECODE_VERSION + 1)
    assert cache.cache_key(instances, None) == plain
    assert cache.cache_key([*instances[1:6], turned[0]], None) not in keys


def test_a_cache_holds_the_upright_image_or_the_stored_one(tmp_path: Path) -> None:
    pixels, exif = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8), Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    for reading, expected in (("upright", pixels[::-1, ::-1]), ("stored", pixels)):
        person = replace(someone(tmp_path / "a.png", 30, 20), reading=reading)
        kept = open_cache([person], tmp_path / "kept", None)
        np.testing.assert_array_equal(kept.image(person).pixels, expected)


def test_concurrent_processes_share_one_build(
    instances: list[Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds, build = [], cache._build
    monkeypatch.setattr(
        cache, "_build", lambda *args: (builds.append(1), time.sleep(0.2), build(*args))
    )
    with ThreadPoolExecutor(4) as pool:
        caches = list(pool.map(lambda _: open_cache(instances, tmp_path / "kept", None), range(4)))
    assert len(builds) == 1 and len({kept.folder for kept in caches}) == 1


KILLED = """
import os, pathlib, pickle, sys, time
from heatpose.data import image_cache as cache
people = pickle.load(open(sys.argv[1], "rb"))
decode = cache._decode
def slowly(person, side):
    if person is people[4]:
        print("half", flush=True)
        time.sleep(60)
    return decode(person, side)
cache._decode = slowly
cache.AT_ONCE = 2
cache.open_cache(people, pathlib.Path(sys.argv[2]), None)
"""


def test_a_killed_build_does_not_block_the_next(instances: list[Person], tmp_path: Path) -> None:
    place, given = tmp_path / "kept", tmp_path / "people.pickle"
    given.write_bytes(pickle.dumps(instances))
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(given), str(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"half\n"
        child.send_signal(signal.SIGKILL)
    (left,) = folders(place)
    assert left.endswith(".part")
    kept = open_cache(instances, place, None)
    np.testing.assert_array_equal(
        kept.image(instances[5]).pixels, ImageFiles().image(instances[5]).pixels
    )
    assert folders(place) == [kept.folder.name]


def test_a_bad_image_is_named_and_leaves_nothing(instances: list[Person], tmp_path: Path) -> None:
    instances[3].image_path.write_bytes(b"no image")
    with pytest.raises(HeatposeError, match=r"'.*3\.png' cannot be decoded"):
        open_cache(instances, tmp_path / "kept", None)
    assert folders(tmp_path / "kept") == []
    instances[3].image_path.unlink()
    with pytest.raises(HeatposeError, match=r"'.*3\.png' is missing"):
        open_cache(instances, tmp_path / "kept", None)
    with pytest.raises(HeatposeError, match="do not belong together"):
        open_cache([replace(instances[0], width=31)], tmp_path / "kept", None)


def test_too_little_room_is_reported_before_anything_is_written(
    instances: list[Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "shutil.disk_usage", lambda folder: type("Usage", (), {"free": 500_010_000})()
    )
    with pytest.raises(
        HeatposeError,
        match=(
            r"0\.5 GB free .* set data\.cache=FOLDER on another disk, a smaller data\.short_side,"
            r" or data\.cache=off"
        ),
    ):
        open_cache(instances, tmp_path / "kept", None)
    assert folders(tmp_path / "kept") == []


def test_auto_decodes_each_time_where_there_is_no_room(
    instances: list[Person],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10_000})())
    assert isinstance(choose_images("auto", None, instances, instances), ImageFiles)
    assert "Images are decoded in every epoch" in capsys.readouterr().err
    assert not (tmp_path / cache.FOLDER).exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    kept = choose_images("auto", None, instances, instances)
    assert (
        isinstance(kept, ImageCache)
        and kept.folder.parent.resolve() == (tmp_path / cache.FOLDER).resolve()
    )
    assert isinstance(choose_images("off", None, instances, instances), ImageFiles)


def test_a_run_with_few_people_builds_few_and_uses_all_where_they_are(
    instances: list[Person], tmp_path: Path
) -> None:
    place = str(tmp_path / "kept")
    few = choose_images(place, None, instances, instances[:2])
    assert isinstance(few, ImageCache) and len(few.rows) == 2
    everyone = choose_images(place, None, instances, instances)
    assert choose_images(place, None, instances, instances[:2]).folder == everyone.folder  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / cache.INDEX).write_text("{"),
        lambda folder: (folder / cache.PIXELS).write_bytes(b"half"),
    ],
)
def test_a_damaged_cache_is_refused(
    instances: list[Person], tmp_path: Path, damage: object
) -> None:
    folder = open_cache(instances, tmp_path / "kept", None).folder
    damage(folder)  # type: ignore[operator]
    with pytest.raises(HeatposeError, match="remove the folder and run again"):
        open_cache(instances, tmp_path / "kept", None)


def test_a_cache_can_be_sent_to_a_loader_process(instances: list[Person], tmp_path: Path) -> None:
    kept = open_cache(instances, tmp_path / "kept", None)
    kept.image(instances[0])
    sent = pickle.dumps(kept)
    assert len(sent) < 5000  # its index, not its images
    np.testing.assert_array_equal(
        pickle.loads(sent).image(instances[1]).pixels, kept.image(instances[1]).pixels
    )
