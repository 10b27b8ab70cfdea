"""Training and hold-out instances: every person counted, every remedy tried."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from heatpose.data.sample import Person
from heatpose.data.selection import (
    HIDDEN,
    LIMIT,
    NOT_PROMINENT,
    TrainingRules,
    explain_empty,
    same_images,
    split_instances,
)
from tests.data.labelled import photo

BESIDE = np.array([[110, 0, 90, 160]], np.float32)
AROUND = np.array([[0, 0, 190, 150]], np.float32)


def someone(
    name: str,
    box: tuple[float, float, float, float] = (10, 10, 80, 100),
    labelled: int = 13,
    **changes: Any,
) -> Person:
    person = Person(
        image_path=Path("images") / name,
        image_id=1,
        annotation_id=1,
        width=200,
        height=160,
        box=box,
        area=9.0,
        keypoints=np.full((13, 2), 50, np.float32),
        labelled=np.arange(13) < labelled,
        alone=True,
        others=np.zeros((0, 4), np.float32),
    )
    return replace(person, **changes)


def group(name: str, count: int = 40, **changes: Any) -> list[Person]:
    return [someone(f"{name}{i}.png", **changes) for i in range(count)]


PLAIN, POOR, SMALL = (
    group("plain", 400),
    group("poor", labelled=2),
    group("small", box=(10, 10, 20, 30)),
)
SEVERAL = group("beside", 200, alone=False, others=BESIDE)
WITHIN = group("within", box=(60, 40, 45, 45), alone=False, others=AROUND)
EVERYONE = [*PLAIN, *POOR, *SMALL, *SEVERAL, *WITHIN]


def test_every_person_is_in_a_part_or_left_out_for_a_reason() -> None:
    split = split_instances(
        EVERYONE, TrainingRules(held_out=0.2, select="alone", limit=300, size=64)
    )
    dropped = split.audit.dropped
    assert dropped["fewer labelled keypoints than data.module.min_keypoints=3"] == len(POOR)
    assert dropped["box smaller than data.module.min_side=36 pixels"] == len(SMALL)
    assert dropped[HIDDEN] == len(WITHIN)
    assert dropped["not selected by data.module.select=alone"] + dropped[NOT_PROMINENT] == len(
        SEVERAL
    )
    rest = len(PLAIN) - len(split.validation) - 300
    assert len(split.train) == 300 and dropped[LIMIT] == rest > 0
    assert len(split.train) + len(split.validation) + sum(dropped.values()) == len(EVERYONE)
    assert split.audit.kept == len(split.train) + len(split.validation)
    numbers = [int(number) for number in re.findall(r"\((\d+)\)", split.summary)]
    assert numbers == list(dropped.values())
    assert (
        f"300 of {len(EVERYONE)} instances to train on, {len(split.validation)} held out"
        in split.summary
    )


def test_nothing_left_out_is_not_listed() -> None:
    split = split_instances(PLAIN, TrainingRules())
    assert (
        not split.audit.dropped
        and "left out" not in split.summary
        and explain_empty(split, PLAIN, TrainingRules()) is None
    )


NOBODY: dict[str, tuple[Sequence[Person], TrainingRules, str]] = {
    "eight images": (
        PLAIN[:8],
        TrainingRules(held_out=1e-3),
        "None of the 8 images with usable instances is held out",
    ),
    "two images": (
        PLAIN[:2],
        TrainingRules(),
        "None of the 2 images with usable instances is held out",
    ),
    "all held out": (
        PLAIN[:8],
        TrainingRules(held_out=0.999),
        "No instance is left to train on, 8 are held out",
    ),
    "small": (SMALL, TrainingRules(), "None of the 40 instances can be trained on"),
    "poor": (POOR, TrainingRules(), "None of the 40 instances can be trained on"),
    "small and poor": (
        [*group("both", labelled=1, box=(9, 9, 9, 9))],
        TrainingRules(),
        "None of the 40 instances",
    ),
    "several": (
        group("beside", 6, alone=False, others=BESIDE),
        TrainingRules(select="alone", size=64),
        "No instance is left|None of",
    ),
}


@pytest.mark.parametrize("what", NOBODY)
def test_the_remedy_of_an_empty_part_works(what: str) -> None:
    instances, rules, message = NOBODY[what]
    message_here = explain_empty(split_instances(instances, rules), instances, rules)
    assert message_here is not None and re.match(message, message_here) and "\n" not in message_here
    changes = dict(
        re.findall(
            r"data\.module\.(\w+)=([\w.]+)", message_here.rpartition("; set ")[2].rstrip(".")
        )
    )
    assert changes
    values = {name: value if name == "select" else float(value) for name, value in changes.items()}
    again = split_instances(instances, replace(rules, **values))  # type: ignore[arg-type]
    assert again.train and again.validation


@pytest.mark.parametrize("instances", [[], PLAIN[:1], WITHIN, [PLAIN[0], PLAIN[0]]])
def test_without_a_remedy_more_images_are_asked_for(instances: Sequence[Person]) -> None:
    rules = TrainingRules()
    message = explain_empty(split_instances(instances, rules), instances, rules)
    assert message is not None and message.endswith("; add images of other people.")
    more = [*instances, *PLAIN]
    assert explain_empty(split_instances(more, rules), more, rules) is None


def test_a_share_has_as_many_digits_as_it_needs() -> None:
    close = sorted(group("many", 20000), key=lambda p: TrainingRules().drop_reason(p) or "")[:20000]
    for count in (3, 30, 3000):
        instances = close[:count]
        rules = TrainingRules(held_out=1e-9)
        message = explain_empty(split_instances(instances, rules), instances, rules)
        assert message is not None
        share = float(message.rpartition("held_out=")[2].rstrip("."))
        again = split_instances(instances, replace(rules, held_out=share))
        assert again.train and again.validation and 0 < share < 1


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


def test_a_missing_image_is_not_a_copy(tmp_path: Path) -> None:
    path = saved(tmp_path / "1.png", 0)
    assert same_images([person(tmp_path / "none.png", 5)], [person(path, 7)]) == set()
    assert same_images([], [person(path)]) == same_images([person(path)], []) == set()
