"""labelme's files, as labelme 5 and X-AnyLabeling write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heatpose.data import formats
from heatpose.errors import HeatposeError
from tests.data.formats.conftest import MakeImage


def shape(
    kind: str, label: str, *points: list[float], group: int | None = None, **more: Any
) -> dict[str, Any]:
    """A shape as labelme 5 writes it."""
    usual = {"description": "", "flags": {}, "mask": None}
    return {
        "label": label,
        "points": list(points),
        "group_id": group,
        "shape_type": kind,
        **usual,
        **more,
    }


def write(path: Path, *shapes: Any, name: str = "a.png", **more: Any) -> Path:
    """A label file for an image of 200 x 100."""
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": name,
        "imageData": None,
        "imageHeight": 100,
        "imageWidth": 200,
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


TOP = shape("point", "top", [10.5, 20.25])


@pytest.fixture(autouse=True)
def image(make_image: MakeImage) -> Path:
    """The image that is labelled."""
    return make_image("a.png")


def instances(labels: formats.LabelSet) -> list[tuple[list[float], list[float]]]:
    """Box and keypoints of each instance."""
    return [(entry["bbox"], entry["keypoints"]) for entry in labels.content["annotations"]]


def test_groups_are_instances(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        shape("point", "top", [10, 20], group=3),
        shape("point", "foot", [30, 60], group=3),
        shape("point", "top", [110, 20], group=4),
        shape("rectangle", "person", [130, 90], [90, 10], group=4),
    )
    labels = formats.read(path)
    assert labels.keypoint_names == ["top", "foot"]
    assert instances(labels) == [
        ([90, 10, 40, 80], [110, 20, 2, 0, 0, 0]),
        ([10, 20, 20, 40], [10, 20, 2, 30, 60, 2]),
    ]


def test_shapes_without_a_group(tmp_path: Path) -> None:
    """One box: all points are its; several: the one around a point."""
    boxes = [
        shape("rectangle", "person", [0, 0], [50, 90]),
        shape("rectangle", "person", [60, 0], [99, 90]),
    ]
    assert instances(formats.read(write(tmp_path / "a.json", TOP, boxes[1]))) == [
        ([60, 0, 39, 90], [10.5, 20.25, 2])
    ]
    labels = formats.read(write(tmp_path / "a.json", *boxes, TOP, shape("point", "top", [55, 5])))
    assert [keypoints for _, keypoints in instances(labels)] == [[10.5, 20.25, 2], [0, 0, 0]]
    assert labels.left_out == {"keypoints without a group that lie in no box or in several": 1}


def test_hidden_points(tmp_path: Path) -> None:
    """By a flag, or by X-AnyLabeling's tick."""
    hidden = [
        shape("point", "b", [1, 1], flags={"occluded": True}),
        shape("point", "c", [1, 1], difficult=True),
    ]
    ((_, keypoints),) = instances(formats.read(write(tmp_path / "a.json", TOP, *hidden)))
    assert keypoints[2::3] == [2, 1, 1]


def test_a_rectangle_of_four_corners(tmp_path: Path) -> None:
    corners = [[20.0, 10.0], [60.0, 10.0], [60.0, 90.0], [20.0, 90.0]]
    labels = formats.read(write(tmp_path / "a.json", shape("rectangle", "person", *corners), TOP))
    assert instances(labels)[0][0] == [20, 10, 40, 80]


def test_a_folder_and_its_unused_shapes(tmp_path: Path, make_image: MakeImage) -> None:
    make_image("more/b.png")
    make_image("unlabelled.png")
    write(
        tmp_path / "a.json",
        TOP,
        shape("polygon", "sofa", [0, 0], [1, 1], [0, 1]),
        shape("circle", "x", [0, 0], [1, 1]),
    )
    write(tmp_path / "more/b.json", shape("point", "foot", [1, 2]), name="b.png")
    write(tmp_path / "z.json", TOP, name="..\\elsewhere\\lost.png")
    (tmp_path / "notes.json").write_text("[]")
    labels = formats.read(tmp_path)
    assert [entry["file_name"] for entry in labels.content["images"]] == ["a.png", "more/b.png"]
    assert labels.files == 3 and labels.keypoint_names == ["top", "foot"]
    assert labels.left_out == {
        "shapes of type polygon": 1,
        "shapes of type circle": 1,
        "label files whose image is not there": 1,
        "JSON files of another kind": 1,
        "images without a label file": 1,
    }
    assert "1 images without a label file (unlabelled.png)" in labels.summary()


def test_images_elsewhere(tmp_path: Path, make_image: MakeImage) -> None:
    """By the path in the file, and by the folder that is given."""
    image = make_image("images/set/c.png")
    write(tmp_path / "json/c.json", TOP, name="../images/set/c.png")
    labels = formats.read(tmp_path / "json", tmp_path / "images")
    assert labels.folder / labels.content["images"][0]["file_name"] == image
    with pytest.raises(HeatposeError, match="None of the images of .* give the folder"):
        formats.read(tmp_path / "json")


def test_a_file_without_a_size_has_that_of_its_image(tmp_path: Path) -> None:
    labels = formats.read(write(tmp_path / "a.json", TOP, imageWidth=None))
    assert (labels.content["images"][0]["width"], labels.content["images"][0]["height"]) == (
        200,
        100,
    )


def test_coco_names_are_in_cocos_order(tmp_path: Path) -> None:
    names = ["left_wrist", "nose"]
    labels = formats.read(
        write(tmp_path / "a.json", *(shape("point", name, [1, 2]) for name in names))
    )
    assert len(labels.keypoint_names) == 17 and labels.keypoint_names[0] == "nose"


@pytest.mark.parametrize(
    "odd",
    [
        3,
        {},
        shape("point", "x"),
        shape("point", "x", [1]),
        shape("point", "x", [1, "2"]),
        {"label": "x", "points": 3},
    ],
)
def test_shapes_that_cannot_be_used_name_file_and_shape(odd: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", TOP, odd)
    with pytest.raises(HeatposeError, match=r"shape 1 has no label or no usable points") as caught:
        formats.read(path)
    assert str(path) in str(caught.value)


def test_a_damaged_file_of_a_folder_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path / "a.json", TOP)
    (tmp_path / "b.json").write_text('{"version": "5.')
    with pytest.raises(HeatposeError, match=r"b\.json' is not JSON"):
        formats.read(tmp_path)
    write(tmp_path / "b.json", TOP, name=3)
    with pytest.raises(HeatposeError, match=r"b\.json' has no imagePath"):
        formats.read(tmp_path)
