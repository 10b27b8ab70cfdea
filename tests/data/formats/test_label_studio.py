"""Label Studio's exports: JSON of tasks, and its COCO files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from heatpose.data import formats
from heatpose.data.coco import read_labels
from heatpose.errors import HeatposeError
from tests.conftest import Heatpose
from tests.data.formats.conftest import MakeImage
from tests.data.formats.writers import region, task

IMAGE = {"width": 200, "height": 100}


def point(name: str, x: float, y: float, **more: Any) -> dict[str, Any]:
    """A keypoint at a position in pixels."""
    value = {"x": x, "y": y, "width": 0.3, "keypointlabels": [name]}
    return region("keypointlabels", more.pop("id", f"k{name}{x}"), IMAGE, value, **more)


def box(
    key: str, x: float, y: float, w: float, h: float, label: str = "person", turn: float = 0
) -> dict[str, Any]:
    """A rectangle in pixels."""
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": turn, "rectanglelabels": [label]}
    return region("rectanglelabels", key, IMAGE, value)


def write(folder: Path, *tasks: dict[str, Any]) -> Path:
    """An export."""
    path = folder / "export.json"
    path.write_text(json.dumps(list(tasks)))
    return path


def read(folder: Path, *regions: dict[str, Any]) -> formats.LabelSet:
    """Labels of one task."""
    return formats.read(write(folder, task(1, "/data/upload/3/0123abcd-a.png", regions)))


def instances(labels: formats.LabelSet) -> list[tuple[list[float], list[float]]]:
    """Box and keypoints of each instance."""
    return [(entry["bbox"], entry["keypoints"]) for entry in labels.content["annotations"]]


@pytest.fixture(autouse=True)
def image(make_image: MakeImage) -> Path:
    """The image of the tasks."""
    return make_image("media/a.png")


def test_points_belong_to_their_parent(tmp_path: Path) -> None:
    """Also where they lie in the other box."""
    labels = read(
        tmp_path,
        box("r1", 0, 0, 80, 80),
        box("r2", 40, 0, 100, 80),
        point("top", 50, 20, parentID="r2"),
        point("foot", 60, 70, parentID="r1"),
    )
    assert instances(labels) == [
        ([0, 0, 80, 80], [60, 70, 2, 0, 0, 0]),
        ([40, 0, 100, 80], [0, 0, 0, 50, 20, 2]),
    ]
    assert labels.keypoint_names == ["foot", "top"] and not labels.left_out


def test_points_belong_to_the_box_that_they_are_related_to(tmp_path: Path) -> None:
    relation = {"type": "relation", "from_id": "p", "to_id": "r2", "direction": "right"}
    labels = read(
        tmp_path,
        box("r1", 0, 0, 80, 80),
        box("r2", 40, 0, 100, 80),
        point("top", 50, 20, id="p"),
        relation,
    )
    assert [keypoints for _, keypoints in instances(labels)] == [[0, 0, 0], [50, 20, 2]]


def test_points_without_a_parent_belong_to_the_only_box_around_them(tmp_path: Path) -> None:
    labels = read(
        tmp_path,
        box("r1", 0, 0, 80, 80),
        box("r2", 40, 0, 100, 80),
        point("top", 10, 20),
        point("top", 120, 20),
        point("foot", 60, 70),
        point("foot", 190, 90),
        point("top", 11, 20),
    )
    assert [keypoints for _, keypoints in instances(labels)] == [[10, 20, 2], [120, 20, 2]]
    assert labels.left_out == {
        "keypoints without a group that lie in no box or in several": 2,
        "keypoints that an instance has twice": 1,
    }


def test_points_without_any_box_are_one_instance(tmp_path: Path) -> None:
    labels = read(tmp_path, point("top", 10, 20), point("foot", 30, 60))
    assert instances(labels) == [([10, 20, 20, 40], [10, 20, 2, 30, 60, 2])]
    assert "1 instances without a box have that of their keypoints" in labels.summary()


def test_a_turned_rectangle_becomes_the_upright_box_around_it(tmp_path: Path) -> None:
    labels = read(tmp_path, box("r1", 60, 20, 40, 10, turn=90), point("top", 55, 30))
    assert instances(labels)[0][0] == pytest.approx([50, 20, 10, 40])


def test_a_person_without_keypoints_is_there_and_other_boxes_are_counted(tmp_path: Path) -> None:
    labels = read(
        tmp_path,
        box("r1", 0, 0, 80, 80),
        box("r2", 90, 0, 50, 80),
        box("c", 150, 0, 50, 50, "car"),
        point("top", 10, 20, parentID="r1"),
    )
    assert len(instances(labels)) == 2
    assert labels.left_out == {"boxes whose label never has keypoints": 1}


def test_what_is_not_used_is_counted(tmp_path: Path) -> None:
    ghost = region("keypointlabels", "g", IMAGE, {"width": 0.5, "keypointlabels": ["top"]})
    polygon = region("polygonlabels", "p", IMAGE, {"points": [[1, 2]], "polygonlabels": ["sofa"]})
    turned = point("foot", 1, 1, image_rotation=90)
    skipped = task(3, "b.png", [])
    skipped["annotations"][0]["was_cancelled"] = True
    twice = task(5, "/data/upload/3/fedcba98-a.png", [point("top", 1, 1)])
    several = task(1, "a.png", [point("top", 10, 20), ghost, polygon, turned])
    several["annotations"].append({"id": 9, "result": [point("top", 90, 20)], "ground_truth": True})
    path = write(
        tmp_path,
        several,
        {"id": 2, "data": {"image": "c.png"}},
        skipped,
        task(4, "lost.png", [point("top", 1, 1)]),
        twice,
    )
    labels = formats.read(path)
    assert [keypoints for _, keypoints in instances(labels)] == [[90, 20, 2]]  # the ground truth's
    assert labels.left_out == {
        "further annotations of a task": 1,
        "tasks without a submitted annotation": 2,
        "tasks whose image is not there": 1,
        "tasks for an image that an earlier task has": 1,
    }
    several["annotations"].pop()
    labels = formats.read(write(tmp_path, several))
    assert labels.left_out == {
        "keypoints without a position": 1,
        "regions of type polygonlabels": 1,
        "annotations of an image that was rotated in Label Studio": 1,
    }


@pytest.mark.parametrize(
    "name",
    [
        "a.png",
        "/data/upload/3/0123abcd-a.png",
        "/data/local-files/?d=media/a.png",
        "s3://bucket/set/a.png",
        "https://example.com/media/a.png?token=1",
        "C:\\photos\\a.png",
        "/data/upload/3/a%2Epng",
    ],
)
def test_images_are_found_by_their_names_in_tasks(name: str, tmp_path: Path, image: Path) -> None:
    path = write(tmp_path, task(1, name, [point("top", 10, 20)]))
    for folder in (None, image.parent):
        labels = formats.read(path, folder)
        assert labels.folder / labels.content["images"][0]["file_name"] == image


def test_equal_names_in_two_folders(tmp_path: Path, make_image: MakeImage) -> None:
    """The path tells which; a bare name does not."""
    make_image("other/a.png")
    path = write(tmp_path, task(1, "/data/local-files/?d=set/other/a.png", [point("top", 10, 20)]))
    assert formats.read(path).content["images"][0]["file_name"] == "other/a.png"
    path = write(tmp_path, task(1, "a.png", [point("top", 10, 20)]))
    with pytest.raises(HeatposeError, match=r"both '.*media/a.png' and '.*other/a.png' match"):
        formats.read(path)
    assert formats.read(path, tmp_path / "other").content["images"][0]["file_name"] == "a.png"


def test_missing_images_are_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, task(1, "lost.png", [point("top", 1, 1)]))
    with pytest.raises(
        HeatposeError, match=r"None of the images .* \(the first is 'lost.png'\); give the folder"
    ):
        formats.read(path)


@pytest.mark.parametrize(
    "value",
    [{"x": 640, "y": 3}, {"x": "3", "y": 3}, {"x": 1e999, "y": 3}, {"x": 3}, {"x": True, "y": 3}],
)
def test_positions_beyond_percentages_name_the_task(value: dict[str, Any], tmp_path: Path) -> None:
    odd = {**point("top", 1, 1, id="k1"), "value": {**value, "keypointlabels": ["top"]}}
    with pytest.raises(HeatposeError, match=r"Task 1, region k1 has x, y that are not percentages"):
        read(tmp_path, odd)


def test_json_min_is_refused(tmp_path: Path) -> None:
    flat = {
        "image": "a.png",
        "id": 1,
        "annotation_id": 2,
        "kp": [{"x": 1, "y": 2, "keypointlabels": ["top"]}],
    }
    path = tmp_path / "min.json"
    path.write_text(json.dumps([flat]))
    with pytest.raises(HeatposeError, match="JSON-MIN .* export as JSON"):
        formats.read(path)


@pytest.mark.parametrize(
    "result",
    [
        "text",
        [1, None],
        [{}],
        [{"type": 3}],
        [{"type": "keypointlabels", "value": 3}],
        [{"type": "rectanglelabels"}],
        [{"type": "keypointlabels", "value": {"x": 1, "y": 1}}],
    ],
)
def test_odd_regions_end_in_a_sentence_or_a_count(result: Any, tmp_path: Path) -> None:
    path = write(
        tmp_path, {"id": 1, "data": {"image": "media/a.png"}, "annotations": [{"result": result}]}
    )
    try:
        labels = formats.read(path)
    except HeatposeError as error:
        assert "no labelled keypoint that can be used" in str(error) or "submitted" in str(error)
    else:
        assert instances(labels)


def coco(folder: Path, *annotations: dict[str, Any], name: str = "images/a.png") -> Path:
    """Label Studio's COCO export: boxes and keypoints are annotations of their own."""
    content = {
        "images": [{"width": 200, "height": 100, "id": 0, "file_name": name}],
        "categories": [
            {"id": 0, "name": "person"},
            {
                "id": 1,
                "name": "default",
                "supercategory": "default",
                "keypoints": ["top", "foot"],
                "skeleton": [],
            },
        ],
        "annotations": [
            {"id": i, "image_id": 0, "iscrowd": 0, **a} for i, a in enumerate(annotations)
        ],
        "info": {
            "year": 2025,
            "version": "1.0",
            "description": "",
            "contributor": "Label Studio",
            "url": "",
        },
    }
    path = folder / "result.json"
    path.write_text(json.dumps(content))
    return path


KEYPOINTS = {
    "category_id": 1,
    "keypoints": [10, 20, 2, 30, 60, 2],
    "num_keypoints": 2,
    "bbox": [10, 20, 20, 40],
}
BOX = {
    "category_id": 0,
    "segmentation": [],
    "bbox": [5.0, 10.0, 50.0, 80.0],
    "ignore": 0,
    "area": 4000.0,
}


@pytest.mark.parametrize(
    "name", ["images/a.png", "images\\a.png", "../../label-studio/data/media/upload/7/a.png"]
)
def test_keypoints_of_the_coco_export_get_the_box_of_their_image(
    name: str, tmp_path: Path, image: Path
) -> None:
    labels = read_labels(coco(tmp_path, BOX, KEYPOINTS, name=name))
    assert labels.source.format == "COCO keypoints of Label Studio"
    assert [a["bbox"] for a in labels.annotations] == [BOX["bbox"]]
    assert labels.source.folder / labels.images[0]["file_name"] == image
    assert "1 instances have the one box of their image" in labels.source.summary()


def test_several_boxes_of_the_coco_export_are_counted(tmp_path: Path) -> None:
    labels = read_labels(coco(tmp_path, BOX, {**BOX, "bbox": [60, 0, 20, 20]}, KEYPOINTS))
    assert [a["bbox"] for a in labels.annotations] == [KEYPOINTS["bbox"]]
    assert sum(labels.source.left_out.values()) == 2


def test_tasks_for_label_studio_come_back_as_the_same_labels(
    heatpose: Heatpose, synthetic_root: Path, tmp_path: Path
) -> None:
    """Written by the command, accepted as they are in Label Studio, exported, and read."""
    part, out = (
        synthetic_root / "annotations/person_keypoints_val2017.json",
        tmp_path / "tasks.json",
    )
    ran = heatpose("data", synthetic_root, "--split", "val", "--label-studio", out)
    assert ran.status == 0 and "the labelling interface" in ran.out
    made = json.loads(out.read_text())
    assert made[0]["data"]["image"].startswith("/data/local-files/?d=")
    exported = [
        {"id": i, "data": one["data"], "annotations": one["predictions"]}
        for i, one in enumerate(made)
    ]
    out.write_text(json.dumps(exported))
    wanted, found = read_labels(part), read_labels(out, synthetic_root / "val2017")
    assert len(found.annotations) == len(wanted.annotations) == 12
    for one, other in zip(found.annotations, wanted.annotations, strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"])
        for i in range(0, 51, 3):
            x, y, v = other["keypoints"][i : i + 3]
            expected = [x, y, 2] if v else [0, 0, 0]
            assert one["keypoints"][i : i + 3] == pytest.approx(expected)


def test_the_labelling_interface_has_the_names_of_the_tasks(
    heatpose: Heatpose, synthetic_root: Path, tmp_path: Path
) -> None:
    heatpose(
        "data", synthetic_root, "--label-studio", tmp_path / "t.json", "--image-prefix", "s3://b/"
    )
    tree = ElementTree.parse(tmp_path / "t.xml")
    tags = {tag.get("name"): [label.get("value") for label in tag] for tag in tree.getroot()}
    task_one = json.loads((tmp_path / "t.json").read_text())[0]
    assert task_one["data"]["image"].startswith("s3://b/")
    for one in task_one["predictions"][0]["result"]:
        assert one["value"][one["type"]][0] in tags[one["from_name"]] and one["to_name"] in tags
    refused = heatpose("data", synthetic_root, "--label-studio", tmp_path / "t.xml")
    assert refused.status == 1 and "give --label-studio a .json file" in refused.err
