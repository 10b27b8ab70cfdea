"""Annotations as tools write them.

Filled in and counted, or one sentence that names them and whose remedy works.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatpose.data.annotation_rules import CLIPPED, CORNER, NO_AREA, NO_BBOX, NO_KEYPOINTS, OUTSIDE
from heatpose.data.coco import (
    CROWD,
    NO_KEYPOINT,
    CocoLabels,
    benchmark_instances,
    instances,
    read_labels,
)
from heatpose.data.sample import Person
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17
from tests.data.labelled import HEIGHT, WIDTH, labels, write

Content = dict[str, Any]


def read(content: Content, folder: Path) -> CocoLabels:
    return read_labels(write(content, folder / "labels.json"))


def kept(content: Content, folder: Path) -> list[Person]:
    return instances(read(content, folder), folder, COCO_17)[0]


def refused(content: Content, folder: Path, message: str) -> None:
    with pytest.raises(HeatposeError, match=message) as caught:
        read(content, folder)
    assert "labels.json" in str(caught.value) and "\n" not in str(caught.value)


THIRD = r"annotation 103 \(image '3\.png'\) "


@pytest.mark.parametrize("given", ["absent", None, [], [0, 0, 0, 0]])
def test_a_missing_box_is_made_from_the_keypoints(given: Any, tmp_path: Path) -> None:
    content = labels()
    for entry in content["annotations"]:
        if given == "absent":
            del entry["bbox"]
        else:
            entry["bbox"] = given
    content["annotations"][0]["keypoints"] = [30, 40, 2, 110, 200, 1] + [0, 0, 0] * 15
    content["annotations"][1]["keypoints"] = [0.5, 100, 2, 319, 100, 1] + [0, 0, 0] * 15
    found = read(content, tmp_path)
    first, second, *rest = instances(found, tmp_path, COCO_17)[0]
    assert found.assumed == {NO_BBOX: 12}
    assert first.box == (14, 24, 112, 192)  # 80 by 160, and a tenth of 160 around
    left, top, right, bottom = (
        second.box[0],
        second.box[1],
        second.box[0] + second.box[2],
        sum(second.box[1::2]),
    )
    assert (
        (left, right) == (0, WIDTH)
        and top == pytest.approx(68.15)
        and bottom == pytest.approx(131.85)
    )
    for person in rest:
        points = person.keypoints - person.box[:2]
        assert ((points >= 0) & (points <= person.box[2:])).all()
        assert person.box[0] + person.box[2] <= WIDTH and person.box[1] + person.box[3] <= HEIGHT


@pytest.mark.parametrize("given", ["absent", None, 0])
def test_a_missing_area_is_the_boxs(given: Any, tmp_path: Path) -> None:
    content = labels(3)
    for entry in content["annotations"]:
        if given == "absent":
            del entry["area"]
        else:
            entry["area"] = given
    found = read(content, tmp_path)
    assert found.assumed == {NO_AREA: 3}
    for person in instances(found, tmp_path, COCO_17)[0]:
        assert person.area == pytest.approx(person.box[2] * person.box[3])


@pytest.mark.parametrize("area", [-1, "large", float("nan"), [3]])
def test_an_unusable_area_can_be_left_out(area: Any, tmp_path: Path) -> None:
    content = labels(3)
    content["annotations"][2]["area"] = area
    refused(content, tmp_path, f"{THIRD}has no usable area: .*; leave 'area' out")
    del content["annotations"][2]["area"]
    assert len(kept(content, tmp_path)) == 3


@pytest.mark.parametrize("given", ["absent", None, []])
def test_a_person_without_keypoints_is_a_person_all_the_same(given: Any, tmp_path: Path) -> None:
    content = labels()
    beside = {**content["annotations"][0], "id": 5, "keypoints": given}
    if given == "absent":
        del beside["keypoints"]
    content["annotations"].append(beside)
    found = read(content, tmp_path)
    alone, audit = benchmark_instances(found, tmp_path, COCO_17)
    assert [person.image_id for person in alone] == list(range(2, 13))
    assert audit.dropped[NO_KEYPOINT] == 1 and audit.assumed == {NO_KEYPOINTS: 1}
    assert audit.kept + sum(audit.dropped.values()) == audit.annotations == 13


def test_a_file_without_any_keypoints_is_of_another_kind(tmp_path: Path) -> None:
    content = labels(2)
    for entry in content["annotations"]:
        del entry["keypoints"]
    refused(content, tmp_path, "no keypoints, nor has any other; give the person_keypoints file")


@pytest.mark.parametrize(
    "values", [(None, None, 0), (None, None, None), (float("nan"), 3, 0), (50, 60, 0)]
)
def test_what_is_not_labelled_has_no_place(values: tuple[Any, ...], tmp_path: Path) -> None:
    content = labels(3)
    content["annotations"][2]["keypoints"][:3] = values
    person = kept(content, tmp_path)[2]
    assert not person.labelled[0] and person.labelled[1:].all()
    assert person.keypoints[0].tolist() == [0, 0] and np.isfinite(person.keypoints).all()


@pytest.mark.parametrize("values", [(None, None, 2), (None, 4, 1), (float("inf"), 4, 1)])
def test_a_labelled_keypoint_needs_coordinates(values: tuple[Any, ...], tmp_path: Path) -> None:
    content = labels(3)
    content["annotations"][2]["keypoints"][3:6] = values
    refused(
        content,
        tmp_path,
        f"{THIRD}has no coordinates for 'left_eye', .*or 0, 0, 0 for a keypoint that",
    )
    content["annotations"][2]["keypoints"][3:6] = 0, 0, 0
    assert kept(content, tmp_path)[2].labelled.sum() == 16


@pytest.mark.parametrize("v", [0.95, 3, -1, None, 0.5])
def test_a_confidence_in_place_of_the_visibility_is_refused(v: Any, tmp_path: Path) -> None:
    content = labels(3)
    content["annotations"][2]["keypoints"][5] = v
    refused(
        content,
        tmp_path,
        f"{THIRD}has the visibility .* for 'left_eye', .*write 2 for keypoints to be",
    )
    content["annotations"][2]["keypoints"][5] = 2
    assert kept(content, tmp_path)[2].labelled.all()


@pytest.mark.parametrize("corner", [(0, 0), (-1, -1), (0.0, -3)])
def test_labelled_points_at_the_origin_are_not_labelled(
    corner: tuple[float, float], tmp_path: Path
) -> None:
    content = labels(3)
    content["annotations"][0]["keypoints"][3:9] = [*corner, 2, *corner, 1]
    found = read(content, tmp_path)
    first, second, _ = instances(found, tmp_path, COCO_17)[0]
    assert np.flatnonzero(~first.labelled).tolist() == [1, 2] and second.labelled.all()
    assert found.assumed == {CORNER: 2}


def test_a_whole_file_of_them_has_nothing_to_score(tmp_path: Path) -> None:
    content = labels(3)
    for entry in content["annotations"]:
        entry["keypoints"] = [0, 0, 2] * 17
    with pytest.raises(
        HeatposeError, match=r"labelled at \(0, 0\) or before it, taken as not labelled \(51\)"
    ):
        benchmark_instances(read(content, tmp_path), tmp_path, COCO_17)


def test_one_annotation_id_twice_is_refused(tmp_path: Path) -> None:
    content = labels(3)
    content["annotations"][2]["id"] = "101"
    refused(
        content,
        tmp_path,
        r"annotation 101 \(image '3\.png'\) has the id of .* 101 \(image '1\.png'\)",
    )
    for entry in content["annotations"]:
        del entry["id"]
    assert len({person.annotation_id for person in kept(content, tmp_path)}) == 3


def test_an_annotation_without_an_id_is_named_by_its_place(tmp_path: Path) -> None:
    content = labels(3)
    del content["annotations"][2]["id"]
    content["annotations"][2]["bbox"] = [1, 2, "x", 3]
    refused(
        content, tmp_path, r"annotation number 3 in the list \(image '3\.png'\) has no usable box"
    )


def test_an_annotation_without_an_image_gets_no_other_images_name(tmp_path: Path) -> None:
    content = labels(3)
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = 0
    content["annotations"][2] |= {"image_id": "?", "bbox": [1, 2, "x", 3]}
    with pytest.raises(HeatposeError) as error:
        kept(content, tmp_path)
    assert "1.png" not in str(error.value) and "103" in str(error.value)


@pytest.mark.parametrize(
    ("value", "crowd"),
    [(1, True), ("1", True), (True, True), (0, False), ("0", False), (None, False)],
)
def test_crowds_as_tools_write_them(value: Any, crowd: bool, tmp_path: Path) -> None:
    content = labels(3)
    content["annotations"][2]["iscrowd"] = value
    _, audit = instances(read(content, tmp_path), tmp_path, COCO_17)
    assert audit.dropped == ({CROWD: 1} if crowd else {})
    del content["annotations"][2]["iscrowd"]
    assert len(kept(content, tmp_path)) == 3


@pytest.mark.parametrize(
    "values", ["text", 3, {"nose": 1}, [1, 2], [[1, 2, 2]] * 17, ["a"] * 51, [10**400] * 51]
)
def test_keypoints_of_another_type_are_refused(values: Any, tmp_path: Path) -> None:
    content = labels(3)
    content["annotations"][2]["keypoints"] = values
    refused(
        content, tmp_path, f"{THIRD}has .* keypoint numbers, but its category names 17 keypoints"
    )


Entry = dict[str, Any]


def usable(content: Entry, folder: Path) -> list[Person]:
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
    expected = [person.keypoints.tolist() for person in usable(content, tmp_path)]
    for entry in content["annotations"]:
        spoil(entry)
    with pytest.raises(HeatposeError, match=message) as caught:
        usable(content, tmp_path)
    message_here = str(caught.value)
    assert (
        "\n" not in message_here
        and "labels.json', annotation 1" in message_here
        and ".png')" in message_here
    )
    for entry in content["annotations"]:
        remedy(entry)
    found = usable(content, tmp_path)
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
        usable(content, tmp_path)


def test_corners_of_one_of_two_exports_are_found(tmp_path: Path) -> None:
    content = labels(40)
    for entry in content["annotations"][30:]:
        corners(entry)
    with pytest.raises(HeatposeError, match="boxes reach beyond the image"):
        usable(content, tmp_path)


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
    assert [person.box for person in usable(content, tmp_path)[:4]] == [(200, 20, 120, 200)] * 4


@pytest.mark.parametrize("keypoints", [1, 2])
def test_few_keypoints_near_the_corner_are_not_fractions(keypoints: int, tmp_path: Path) -> None:
    content = labels()
    content["annotations"][0]["keypoints"] = [0.5, 0.7, 2] * keypoints + [0, 0, 0] * (
        17 - keypoints
    )
    assert len(usable(content, tmp_path)) == 12


def test_a_crowds_box_belongs_to_no_instance(tmp_path: Path) -> None:
    content = labels()
    content["annotations"][0].update(iscrowd=1, bbox=[0, 0, 3 * WIDTH, 9], keypoints=[0, 0, 0] * 17)
    assert len(usable(content, tmp_path)) == 11


def test_real_labels_are_plausible(shared: Path) -> None:
    for part in (
        "coco_val_dev/person_keypoints_val2017.json",
        "coco_train_small/person_keypoints_train2017.json",
    ):
        assert read_labels(shared / "data" / part).assumed == {}
