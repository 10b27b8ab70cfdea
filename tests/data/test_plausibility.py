"""Numbers of the right shape that mean something else.

Refused, and right once the remedy is applied.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heatpose.data.coco import instances, read_labels
from heatpose.data.plausibility import CLIPPED, OUTSIDE
from heatpose.data.sample import Person
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17
from tests.data.labelled import HEIGHT, WIDTH, labels, write

Entry = dict[str, Any]


def kept(content: Entry, folder: Path) -> list[Person]:
    return instances(read_labels(write(content, folder / "labels.json")), folder, COCO_17)[0]


def moved(entry: Entry, x: Callable[[float], float], y: Callable[[float], float]) -> None:
    """Changes all coordinates of the keypoints."""
    entry["keypoints"][0::3] = [x(value) for value in entry["keypoints"][0::3]]
    entry["keypoints"][1::3] = [y(value) for value in entry["keypoints"][1::3]]


def corners(entry: Entry) -> None:
    x, y, w, h = entry["bbox"]
    entry["bbox"] = [x, y, x + w, y + h]


def sides(entry: Entry) -> None:
    x, y, right, bottom = entry["bbox"]
    entry["bbox"] = [x, y, round(right - x, 2), round(bottom - y, 2)]


def centres(entry: Entry) -> None:
    x, y, w, h = entry["bbox"]
    entry["bbox"] = [x + w / 2, y + h / 2, w, h]


def from_centres(entry: Entry) -> None:
    x, y, w, h = entry["bbox"]
    entry["bbox"] = [x - w / 2, y - h / 2, w, h]


def fractions(entry: Entry) -> None:
    moved(entry, lambda x: x / WIDTH, lambda y: y / HEIGHT)


def pixels(entry: Entry) -> None:
    moved(entry, lambda x: x * WIDTH, lambda y: y * HEIGHT)


def small_box(entry: Entry) -> None:
    entry["bbox"] = [entry["bbox"][i] / (WIDTH, HEIGHT)[i % 2] for i in range(4)]


def large_box(entry: Entry) -> None:
    entry["bbox"] = [entry["bbox"][i] * (WIDTH, HEIGHT)[i % 2] for i in range(4)]


def exchange(entry: Entry) -> None:
    points = entry["keypoints"]
    points[0::3], points[1::3] = points[1::3], points[0::3]


def far_away(entry: Entry) -> None:
    entry["bbox"] = [2000, 2000, 50, 50]


def without_box(entry: Entry) -> None:
    del entry["bbox"]


def twice_as_large(entry: Entry) -> None:
    moved(entry, lambda x: 2 * x, lambda y: 2 * y)
    entry["bbox"] = [2 * value for value in entry["bbox"]]


def half_as_large(entry: Entry) -> None:
    moved(entry, lambda x: x / 2, lambda y: y / 2)
    entry["bbox"] = [value / 2 for value in entry["bbox"]]


WRONG: dict[str, tuple[Callable[[Entry], None], Callable[[Entry], None], str]] = {
    "corners": (
        corners,
        sides,
        "boxes reach beyond the image .* look like two corners; .* subtract x and y",
    ),
    "centres": (
        centres,
        from_centres,
        "look like its centre; subtract half of the width and height",
    ),
    "fractions": (fractions, pixels, "all between 0 and 1; give pixels, x times the image's width"),
    "box of fractions": (small_box, large_box, "'bbox' is all between 0 and 1; give pixels"),
    "exchanged": (exchange, exchange, "x and y of the keypoints look exchanged; write x, y, v"),
    "far away": (
        far_away,
        without_box,
        "boxes reach beyond the image .* or leave it out to have it made",
    ),
    "another scale": (
        twice_as_large,
        half_as_large,
        "beyond the image|outside the image; give pixels of the image",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_all_annotations_mean_something_else(what: str, tmp_path: Path) -> None:
    spoil, remedy, message = WRONG[what]
    content = labels()
    expected = [person.keypoints.tolist() for person in kept(content, tmp_path)]
    for entry in content["annotations"]:
        spoil(entry)
    with pytest.raises(HeatposeError, match=message) as caught:
        kept(content, tmp_path)
    message_here = str(caught.value)
    assert (
        "\n" not in message_here
        and "labels.json', annotation 1" in message_here
        and ".png')" in message_here
    )
    for entry in content["annotations"]:
        remedy(entry)
    found = kept(content, tmp_path)
    assert len(found) == 12
    for person, points in zip(found, expected, strict=True):
        assert abs(person.keypoints - points).max() < 0.02


@pytest.mark.parametrize("what", ["fractions", "box of fractions", "far away"])
def test_one_of_many_is_named(what: str, tmp_path: Path) -> None:
    spoil, _, message = WRONG[what]
    content = labels()
    spoil(content["annotations"][6])
    with pytest.raises(
        HeatposeError, match=rf"annotation 107 \(image '7\.png'\): .*{message[:20]}"
    ):
        kept(content, tmp_path)


def test_corners_of_one_of_two_exports_are_found(tmp_path: Path) -> None:
    content = labels(40)
    for entry in content["annotations"][30:]:
        corners(entry)
    with pytest.raises(HeatposeError, match="boxes reach beyond the image"):
        kept(content, tmp_path)


def test_a_small_overhang_is_clipped_and_counted(tmp_path: Path) -> None:
    content = labels(12)
    content["annotations"][0]["bbox"] = [-4, 10, 200, HEIGHT - 4]
    content["annotations"][1]["bbox"] = [-0.5, 0, WIDTH + 1, HEIGHT]  # rounding
    for entry in content["annotations"][:2]:
        entry["keypoints"] = [50, 60, 2, 0, 0, 0, WIDTH + 5, 60, 1] + [90, 100, 2] * 14
    found = read_labels(write(content, tmp_path / "labels.json"))
    first, second = instances(found, tmp_path, COCO_17)[0][:2]
    assert first.box == (0, 10, 196, HEIGHT - 10) and second.box == (-0.5, 0, WIDTH + 1, HEIGHT)
    assert found.assumed == {CLIPPED: 1, OUTSIDE: 2}


def test_whole_people_with_boxes_drawn_beyond_the_border_are_right(tmp_path: Path) -> None:
    """Annotators guess the part that cannot be seen: a few such boxes are no corners."""
    content = labels(24)
    for entry in content["annotations"][:4]:
        entry["bbox"] = [200, 20, 150, 200]
        entry["keypoints"] = [260, 100, 2, 315, 150, 2] + [300, 90, 2] * 15
    assert [person.box for person in kept(content, tmp_path)[:4]] == [(200, 20, 120, 200)] * 4


@pytest.mark.parametrize("keypoints", [1, 2])
def test_few_keypoints_near_the_corner_are_no_fractions(keypoints: int, tmp_path: Path) -> None:
    content = labels()
    content["annotations"][0]["keypoints"] = [0.5, 0.7, 2] * keypoints + [0, 0, 0] * (
        17 - keypoints
    )
    assert len(kept(content, tmp_path)) == 12


def test_a_crowds_box_is_nobodys(tmp_path: Path) -> None:
    content = labels()
    content["annotations"][0].update(iscrowd=1, bbox=[0, 0, 3 * WIDTH, 9], keypoints=[0, 0, 0] * 17)
    assert len(kept(content, tmp_path)) == 11


def test_real_labels_are_plausible(shared: Path) -> None:
    for part in (
        "coco_val_dev/person_keypoints_val2017.json",
        "coco_train_small/person_keypoints_train2017.json",
    ):
        assert read_labels(shared / "data" / part).assumed == {}
