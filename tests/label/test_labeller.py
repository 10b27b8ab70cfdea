"""Boxes and crops against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from heatpose.errors import HeatposeError
from heatpose.label.labeller import ImageBoxes, around, box_of, match, read_boxes, usable
from heatpose.predict.estimator import Region


def test_the_box_reaches_beyond_the_keypoints() -> None:
    """Extents 100 and 300, mean 200: 20 to the sides, 40 above, 26 below; cut at the image."""
    points = np.array([[100.0, 100.0], [200.0, 400.0], [150.0, 300.0]])
    assert box_of(points, (640, 480)) == pytest.approx((80, 60, 140, 366))
    assert box_of(points, (210, 410)) == pytest.approx((80, 60, 130, 350))
    assert box_of(points[:1], (640, 480)) == pytest.approx((100, 100, 0, 0))


def test_the_crop_of_a_box_is_a_larger_square_about_it() -> None:
    assert around((100, 100, 40, 80)) == Region(70, 90, 100)
    assert around((0, 0, 0.4, 0.4)).side == 2


XML = """<annotation><folder>x</folder><filename>{name}</filename>
<size><width>400</width><height>300</height><depth>3</depth></size>
<object><name>person</name><bndbox><xmax>295</xmax><xmin>102</xmin><ymax>297</ymax><ymin>1</ymin>
</bndbox></object><object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>
<ymax>9</ymax></bndbox></object></annotation>"""


def test_voc_counts_pixels_from_one_and_includes_the_last(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.xml").write_text(XML.format(name="a.jpg"))
    (tmp_path / "b.xml").write_text(XML.format(name=""))
    found = read_boxes(tmp_path)
    # Pixels 102 to 295 counted from 1 cover 101 to 295 in the frame of COCO.
    assert found == {name: ImageBoxes([(101, 0, 194, 297)], (400, 300)) for name in ("a.jpg", "b")}
    assert set(match(found, ["x/a.jpg", "b.png", "c.png"])) == {"x/a.jpg", "b.png"}


def test_images_are_matched_by_path_then_by_a_name_of_one_file() -> None:
    boxes = {"x/a.jpg": ImageBoxes([(0, 0, 1, 1)]), "b.jpg": ImageBoxes(), "c.jpg": ImageBoxes()}
    files = ["x/a.jpg", "y/a.jpg", "x/b.jpg", "x/c.jpg", "y/c.jpg"]
    assert match(boxes, files) == {"x/a.jpg": boxes["x/a.jpg"], "x/b.jpg": boxes["b.jpg"]}
    with pytest.raises(
        HeatposeError, match=r"'x/a.jpg', is among the 1 images, for example 'z.jpg'"
    ):
        match(boxes, ["z.jpg"])


def test_a_coco_file_with_one_category_needs_no_name(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    content = {
        "images": [{"id": 5, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 5, "category_id": 3, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 3, "name": "human"}],
    }
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    assert read_boxes(path) == {"a.jpg": ImageBoxes([(1, 2, 3, 4)], None)}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "no json", "is not a COCO json with boxes"),
        ("a.json", "{}", "is not a COCO json with boxes"),
        ("a.json", '{"images": [], "annotations": []}', "has no box called 'person'"),
        ("b/a.xml", "<annotation>", "is not a Pascal VOC XML"),
        ("b/a.xml", XML.replace("<xmax>295</xmax>", ""), "is not a Pascal VOC XML"),
        ("b/a.txt", "", "has no XML file"),
    ],
)
def test_what_is_refused(name: str, text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(HeatposeError, match=words):
        read_boxes(path if path.suffix == ".json" else path.parent)
    with pytest.raises(HeatposeError, match="cannot be read"):
        read_boxes(tmp_path / "missing.json")


def test_a_box_has_to_cover_a_part_of_the_image() -> None:
    assert usable((-5, -5, 10, 10), 4, 4)
    for box in ((4, 0, 2, 2), (0, 0, 0, 2), (-2, 0, 2, 2), (0, 0, float("nan"), 2)):
        assert not usable(box, 4, 4)
