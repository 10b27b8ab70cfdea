"""Categories and images as tools write them.

The same people come out, or one sentence whose remedy works.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heatpose.data.coco import CocoLabels, instances, read_labels
from heatpose.data.label_rules import LISTED_TWICE, whole_number
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17
from tests.data.labelled import labels, write

Content = dict[str, Any]


def read(content: Content, folder: Path) -> CocoLabels:
    return read_labels(write(content, folder / "labels.json"))


def refused(content: Content, folder: Path, message: str) -> None:
    with pytest.raises(HeatposeError, match=message) as caught:
        read(content, folder)
    assert "labels.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3),
        ("3", 3),
        (3.0, 3),
        (" -4 ", -4),
        (3.5, None),
        ("a", None),
        (None, None),
        (True, None),
        ([3], None),
        (float("inf"), None),
        ("9" * 30, None),
    ],
)
def test_ids_are_whole_numbers(value: Any, number: int | None) -> None:
    assert whole_number(value) == number


def text_ids(content: Content) -> None:
    for entry in (*content["images"], *content["annotations"]):
        entry["id"] = str(entry["id"])
    for entry in content["annotations"]:
        entry["image_id"] = float(entry["image_id"])


def text_category(content: Content) -> None:
    for entry in content["annotations"]:
        entry["category_id"] = "1"


def category_by_name(content: Content) -> None:
    content["categories"][0]["id"] = "person"
    for entry in content["annotations"]:
        entry["category_id"] = "person"


def no_category_ids(content: Content) -> None:
    for entry in content["annotations"]:
        del entry["category_id"]


def two_categories(content: Content) -> None:
    content["categories"].append({**content["categories"][0], "id": 2, "name": "player"})
    for entry in content["annotations"][::2]:
        entry["category_id"] = 2


def others_have_no_keypoints(content: Content) -> None:
    content["categories"].insert(0, {"id": 5, "name": "ball"})
    content["annotations"].append({"id": 7, "image_id": 1, "category_id": 5, "bbox": [0, 0, 5, 5]})


def an_unused_category(content: Content) -> None:
    content["categories"].insert(0, {"id": 5, "name": "hand", "keypoints": ["thumb"]})


def no_category_name(content: Content) -> None:
    del content["categories"][0]["name"]


AS_TOOLS_WRITE_THEM: list[Callable[[Content], None]] = [
    text_ids,
    text_category,
    category_by_name,
    no_category_ids,
    two_categories,
    others_have_no_keypoints,
    an_unused_category,
    no_category_name,
]


@pytest.mark.parametrize("edit", AS_TOOLS_WRITE_THEM)
def test_the_same_people_come_out(edit: Callable[[Content], None], tmp_path: Path) -> None:
    content = labels()
    expected, _ = instances(read(content, tmp_path), tmp_path, COCO_17)
    edit(content)
    found, audit = instances(read(content, tmp_path), tmp_path, COCO_17)
    assert [(p.image_id, p.annotation_id, p.box) for p in found] == [
        (p.image_id, p.annotation_id, p.box) for p in expected
    ]
    assert len(found) == 12 and not audit.assumed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_any_encoding_of_unicode_is_read(encoding: str, tmp_path: Path) -> None:
    content = labels(2)
    content["images"][0]["file_name"] = "Müller.png"
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert path.read_bytes().startswith(codecs.BOM_UTF8) == (encoding == "utf-8-sig")
    assert read_labels(path).images[1]["file_name"] == "Müller.png"


def test_categories_with_different_keypoints_are_listed(tmp_path: Path) -> None:
    content = labels(3)
    content["categories"].append({"id": 2, "name": "hand", "keypoints": ["thumb", "wrist"]})
    hand = {"id": 1, "image_id": 1, "category_id": 2, "keypoints": [9, 9, 2, 8, 8, 2]}
    content["annotations"].append(hand)
    counts = r"'person' \(17 keypoints, 3 annotations\), 'hand' \(2 keypoints, 1 annotations\)"
    refused(content, tmp_path, f"{counts}; keep the annotations of one of them")
    content["annotations"].remove(hand)
    assert len(read(content, tmp_path).annotations) == 3


def test_keypoint_names_can_be_added_to_the_category(tmp_path: Path) -> None:
    content = labels()
    names = content["categories"][0].pop("keypoints")
    refused(
        content, tmp_path, "no category with keypoints; write the keypoint names as 'keypoints' of"
    )
    content["categories"][0]["keypoints"] = names
    assert read(content, tmp_path).keypoint_names == names
    content["categories"][0]["keypoints"] = [*names[:16], names[0]]
    refused(content, tmp_path, "has a keypoint name twice")


def test_one_image_id_for_two_files_is_refused(tmp_path: Path) -> None:
    first, second = labels(3), labels(3, seed=1)
    for entry in second["images"]:
        entry["file_name"] = f"more/{entry['file_name']}"
    for entry in second["annotations"]:
        entry["id"] += 100
    joined = {**first, **{key: first[key] + second[key] for key in ("images", "annotations")}}
    refused(
        joined,
        tmp_path,
        r"image id 1 twice, for '1\.png' and 'more/1\.png'; number the images of one",
    )
    for entry in second["images"]:
        entry["id"] += 10
    for entry in second["annotations"]:
        entry["image_id"] += 10
    assert len(instances(read(joined, tmp_path), tmp_path, COCO_17)[0]) == 6


def test_one_file_with_two_image_ids_is_refused(tmp_path: Path) -> None:
    content = labels(3)
    content["images"].append({**content["images"][0], "id": 9, "file_name": "./1.png"})
    content["annotations"][1]["image_id"] = 9
    refused(
        content,
        tmp_path,
        r"lists '\./1\.png' under two image ids, 1 and 9; list it once and give its",
    )
    content["images"].pop()
    content["annotations"][1]["image_id"] = 1
    assert [p.alone for p in instances(read(content, tmp_path), tmp_path, COCO_17)[0]] == [
        False,
        False,
        True,
    ]


def test_an_image_that_is_listed_twice_is_counted(tmp_path: Path) -> None:
    content = labels(3)
    content["images"].append(dict(content["images"][0]))
    found = read(content, tmp_path)
    assert len(found.images) == 3 and found.assumed == {LISTED_TWICE: 1}


def test_an_image_id_that_is_no_number_is_refused(tmp_path: Path) -> None:
    content = labels(3)
    content["images"][1]["id"] = content["annotations"][1]["image_id"] = "b7"
    refused(
        content,
        tmp_path,
        r"image '2\.png' has the id 'b7', which is not a whole number; number the im",
    )
    content["images"][1]["id"] = content["annotations"][1]["image_id"] = 2
    assert len(read(content, tmp_path).images) == 3
