"""The label reader against pycocotools on a small handmade file.

And against files that are wrong.
"""

from __future__ import annotations

import codecs
import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from heatpose.data.annotation_rules import whole_number
from heatpose.data.coco import (
    CROWD,
    LISTED_TWICE,
    NO_BOX,
    NO_KEYPOINT,
    SEVERAL,
    CocoLabels,
    benchmark_instances,
    instances,
    read_labels,
)
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton
from tests.data.labelled import labels, write

PERSON, DOG = 7, 1
FACE = range(5)


def keypoints(*labelled: int, visibility: int = 2, seed: int = 0) -> list[float]:
    """17 COCO keypoints, those numbered labelled, the others 0, 0, 0."""
    rng = np.random.default_rng([seed, *labelled])
    values: list[float] = []
    for k in range(17):
        values += (
            [*rng.uniform(0, 100, 2).round(2).tolist(), visibility] if k in labelled else [0, 0, 0]
        )
    return values


def person(number: int, image: int, points: list[float], **other: Any) -> dict[str, Any]:
    box, labelled = [10.5, 20.25, 30.0, 40.0], int(np.count_nonzero(points[2::3]))
    usual = {
        "category_id": PERSON,
        "iscrowd": 0,
        "bbox": box,
        "area": 700.5 + number,
        "num_keypoints": labelled,
    }
    return {"id": number, "image_id": image, "keypoints": points, **usual, **other}


def dataset() -> dict[str, Any]:
    """Alone, alone with a dog, two people, one and a crowd, a crowd, no box, no keypoint, nobody.

    A face.
    """
    crowd = {"iscrowd": 1, "segmentation": {"counts": [0, 10], "size": [2, 5]}}
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 100 + i, "height": 90 + i}
            for i in range(10, 19)
        ],
        "categories": [
            {"id": DOG, "name": "dog"},
            {"id": PERSON, "name": "person", "keypoints": list(COCO_17.keypoints), "skeleton": []},
        ],
        "annotations": [
            person(101, 10, keypoints(*range(17))),
            person(102, 11, keypoints(0, 3, 9, visibility=1)),
            {
                "id": 103,
                "image_id": 11,
                "category_id": DOG,
                "iscrowd": 0,
                "bbox": [0, 0, 5, 5],
                "area": 25,
            },
            person(104, 12, keypoints(5, 6)),
            person(105, 12, keypoints(11, seed=1)),
            person(106, 13, keypoints(5, 6, 7)),
            person(107, 13, keypoints(), **crowd),
            person(108, 14, keypoints(), **crowd),
            person(109, 15, keypoints(1, 2), bbox=[5, 5, 0, 40]),
            person(110, 16, keypoints()),
            person(111, 18, keypoints(*FACE)),
        ],
    }


def saved(folder: Path, content: Any) -> Path:
    path = folder / "labels.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def by_pycocotools(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_counts_and_reasons(tmp_path: Path) -> None:
    labels = read_labels(saved(tmp_path, dataset()))
    kept, audit = instances(labels, tmp_path, COCO_17)
    assert [p.annotation_id for p in kept] == [101, 102, 104, 105, 106, 111]
    assert (audit.images, audit.annotations, audit.kept) == (9, 10, 6)
    assert audit.dropped == {CROWD: 2, NO_BOX: 1, NO_KEYPOINT: 1}
    assert audit.examples == {CROWD: [13, 14], NO_BOX: [15], NO_KEYPOINT: [16]}
    assert [p.annotation_id for p in kept if p.alone] == [101, 102, 111]
    alone, audit = benchmark_instances(labels, tmp_path, COCO_17)
    assert [p.annotation_id for p in alone] == [101, 102, 111]
    assert audit.kept == 3 and audit.dropped == {CROWD: 2, NO_BOX: 1, NO_KEYPOINT: 1, SEVERAL: 3}
    assert audit.kept + sum(audit.dropped.values()) == audit.annotations


def test_a_skeleton_of_the_body_has_other_reasons(tmp_path: Path) -> None:
    body = Skeleton("ankles", ("left_ankle",), (0.089,))
    kept, audit = instances(read_labels(saved(tmp_path, dataset())), tmp_path, body)
    assert [p.annotation_id for p in kept] == [101] and audit.dropped[NO_KEYPOINT] == 6


def check_against_pycocotools(path: Path, folder: Path, category: int) -> int:
    """Compares every kept person with pycocotools' reading of the file.

    Returns how many were compared.
    """
    coco = by_pycocotools(path)
    wanted = {}
    for image_id in coco.getImgIds():
        everyone = coco.loadAnns(coco.getAnnIds(imgIds=image_id, catIds=[category], iscrowd=None))
        for a in everyone:
            if not a["iscrowd"] and a["num_keypoints"] and min(a["bbox"][2:]) > 0:
                wanted[a["id"]] = (
                    a,
                    [other["bbox"] for other in everyone if other["id"] != a["id"]],
                )
    kept, _ = instances(read_labels(path), folder, COCO_17)
    assert {p.annotation_id for p in kept} == set(wanted)
    for p in kept:
        a, others = wanted[p.annotation_id]
        image = coco.loadImgs(a["image_id"])[0]
        assert (p.image_path, p.image_id) == (folder / image["file_name"], image["id"])
        assert (p.width, p.height, p.alone) == (image["width"], image["height"], not others)
        np.testing.assert_array_equal(p.others, np.array(others, np.float32).reshape(-1, 4))
        assert p.box == tuple(a["bbox"]) and p.area == a["area"]
        points = np.array(a["keypoints"]).reshape(17, 3)
        assert (
            p.labelled.tolist() == (points[:, 2] > 0).tolist()
            and p.labelled.sum() == a["num_keypoints"]
        )
        np.testing.assert_array_equal(
            p.keypoints[p.labelled], points[p.labelled, :2].astype(np.float32)
        )
    return len(kept)


def test_every_person_agrees_with_pycocotools(tmp_path: Path) -> None:
    assert check_against_pycocotools(saved(tmp_path, dataset()), tmp_path, PERSON) == 6


def test_real_labels_agree_with_pycocotools(shared: Path) -> None:
    path = shared / "data" / "coco_val_dev" / "person_keypoints_val2017.json"
    assert check_against_pycocotools(path, path.parent, 1) == 470
    assert len(benchmark_instances(read_labels(path), path.parent, ST_13)[0]) == 470


def test_the_area_falls_back_on_the_box(tmp_path: Path) -> None:
    content = dataset()
    del content["annotations"][0]["area"]
    assert (
        instances(read_labels(saved(tmp_path, content)), tmp_path, COCO_17)[0][0].area
        == 30.0 * 40.0
    )


@pytest.mark.parametrize("face", [(), (0,), (1, 4), (0, 1, 2, 3, 4)])
def test_the_head_is_the_mean_of_the_labelled_face_points(
    tmp_path: Path, face: tuple[int, ...]
) -> None:
    content = dataset()
    points = keypoints(*face, 5, 16, seed=3)
    content["annotations"] = [person(1, 10, points)]
    (p,), _ = instances(read_labels(saved(tmp_path, content)), tmp_path, ST_13)
    xs = [points[3 * k] for k in FACE if points[3 * k + 2] > 0]
    ys = [points[3 * k + 1] for k in FACE if points[3 * k + 2] > 0]
    assert bool(p.labelled[0]) == bool(face)
    head = (sum(xs) / len(xs), sum(ys) / len(ys)) if face else (0, 0)
    np.testing.assert_allclose(p.keypoints[0], head, rtol=1e-6)
    assert np.flatnonzero(p.labelled[1:]).tolist() == [0, 11]
    np.testing.assert_allclose(
        p.keypoints[[1, 12]].reshape(-1), [*points[15:17], *points[48:50]], rtol=1e-6
    )


Edit = Callable[[dict[str, Any]], Any]


def remove(*keys: Any) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        *way, last = keys
        item: Any = content
        for key in way:
            item = item[key]
        del item[last]

    return edit


def put(value: Any, *keys: Any) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        *way, last = keys
        item: Any = content
        for key in way:
            item = item[key]
        item[last] = value

    return edit


FIRST = ("annotations", 0)
IMAGE = ("images", 0)
WRONG: dict[str, tuple[Edit, str]] = {
    "no keypoints in the category": (
        remove("categories", 1, "keypoints"),
        "no category with keypoints",
    ),
    "too few numbers": (put([1, 2, 2], *FIRST, "keypoints"), "has 3 keypoint numbers"),
    "a keypoint that is NaN": (put(float("nan"), *FIRST, "keypoints", 0), "three finite numbers"),
    "a keypoint that is text": (put("1", *FIRST, "keypoints"), "has 1 keypoint numbers"),
    "a box that is NaN": (put(float("nan"), *FIRST, "bbox", 2), "no usable box"),
    "a box of three": (put([1, 2, 3], *FIRST, "bbox"), "no usable box"),
    "an image that is not listed": (remove("images", 0), "belongs to image 10"),
    "no annotations": (put([], "annotations"), "no person annotation"),
    "annotations of dogs only": (
        put(dataset()["annotations"][2:3], "annotations"),
        "no person annotation",
    ),
    "no images": (remove("images"), "not in COCO keypoint format"),
    "no categories": (remove("categories"), "not in COCO keypoint format"),
    "images that are no list": (put(3, "images"), "not in COCO keypoint format"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_malformed_file_is_one_sentence(what: str, tmp_path: Path) -> None:
    edit, message = WRONG[what]
    content = copy.deepcopy(dataset())
    edit(content)
    with pytest.raises(HeatposeError, match=message) as caught:
        read_labels(saved(tmp_path, content))
    assert "labels.json" in str(caught.value) and "\n" not in str(caught.value)


UNCHECKED: dict[str, Edit] = {
    "an image without a file name": remove(*IMAGE, "file_name"),
    "an image without a width": remove(*IMAGE, "width"),
    "an image whose height is text": put("tall", *IMAGE, "height"),
    "an image of no width": put(0, *IMAGE, "width"),
    "an area that is text": put("large", *FIRST, "area"),
    "an area that is NaN": put(float("nan"), *FIRST, "area"),
    "an annotation id that is text": put("first", *FIRST, "id"),
    "a keypoint beyond float": put(10**400, *FIRST, "keypoints", 0),
}


@pytest.mark.parametrize("what", UNCHECKED)
def test_an_entry_that_cannot_be_used_is_one_sentence(what: str, tmp_path: Path) -> None:
    content = dataset()
    UNCHECKED[what](content)
    with pytest.raises(HeatposeError):
        instances(read_labels(saved(tmp_path, content)), tmp_path, COCO_17)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"text"', "[" * 100_000, "\ufeff{}"])
def test_files_without_labels_are_one_sentence(text: str, tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match=r"labels\.json"):
        read_labels(saved(tmp_path, text))


def test_a_binary_a_folder_and_a_missing_file_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    for path in (tmp_path / "image.jpg", tmp_path, tmp_path / "missing.json"):
        with pytest.raises(HeatposeError, match="COCO keypoint json"):
            read_labels(path)


def test_a_file_without_anyone_alone_has_no_benchmark(tmp_path: Path) -> None:
    content = dataset()
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 12]
    with pytest.raises(HeatposeError, match="exactly one labelled person"):
        benchmark_instances(read_labels(saved(tmp_path, content)), tmp_path, COCO_17)


def test_a_skeleton_the_file_cannot_give_is_one_sentence(tmp_path: Path) -> None:
    toe = Skeleton("toes", ("left_big_toe",), (0.05,))
    with pytest.raises(HeatposeError, match="left_big_toe"):
        instances(read_labels(saved(tmp_path, dataset())), tmp_path, toe)


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


def test_an_image_id_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    content = labels(3)
    content["images"][1]["id"] = content["annotations"][1]["image_id"] = "b7"
    refused(
        content,
        tmp_path,
        r"image '2\.png' has the id 'b7', which is not a whole number; number the im",
    )
    content["images"][1]["id"] = content["annotations"][1]["image_id"] = 2
    assert len(read(content, tmp_path).images) == 3
