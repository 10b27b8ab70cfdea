"""Which way round the images of a label file are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from heatpose.data.coco import benchmark_instances, instances, read_labels
from heatpose.data.report import audit_report, check_images
from heatpose.data.sample import Audit, Person, Readings, labelled_image, print_once
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17

LABELS = "person_keypoints_train2017.json"
WIDE, TALL, SQUARE = (60, 40), (40, 60), (50, 50)


def write(folder: Path, images: dict[str, tuple[int, tuple[int, int], tuple[int, int]]]) -> Path:
    """Name -> orientation tag (0: none), stored (width, height), labelled (width, height)."""
    entries: list[dict[str, Any]] = []
    for number, (name, (tag, stored, labelled)) in enumerate(images.items(), 1):
        exif = Image.Exif()
        if tag:
            exif[0x0112] = tag
        noise = np.random.default_rng(number).integers(0, 256, (stored[1], stored[0], 3), np.uint8)
        Image.fromarray(noise).save(folder / name, exif=exif)
        entry = {"id": number, "file_name": name, "width": labelled[0], "height": labelled[1]}
        entries.append(entry)
    marks = [
        {
            "id": e["id"],
            "image_id": e["id"],
            "category_id": 1,
            "bbox": [5, 5, 30, 30],
            "area": 500,
            "keypoints": [10, 12, 2] * 17,
            "iscrowd": 0,
        }
        for e in entries
    ]
    category = {"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints)}
    content = {"images": entries, "annotations": marks, "categories": [category]}
    (folder / LABELS).write_text(json.dumps(content))
    return folder / LABELS


def read(folder: Path) -> tuple[dict[str, Person], Readings]:
    found, audit = instances(read_labels(folder / LABELS), folder, COCO_17)
    return {person.image_path.name: person for person in found}, audit.readings


def upright(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(ImageOps.exif_transpose(file))


def stored(path: Path) -> np.ndarray:
    """Without any tag that a decoder could respect."""
    with Image.open(path) as file:
        return np.asarray(file)


def test_labels_for_the_upright_image_get_it(tmp_path: Path) -> None:
    images = {f"{tag}.jpg": (tag, TALL, WIDE if tag >= 5 else TALL) for tag in range(1, 9)}
    write(tmp_path, {**images, "none.jpg": (0, WIDE, WIDE)})
    found, readings = read(tmp_path)
    for name, person in found.items():
        np.testing.assert_array_equal(labelled_image(person), upright(tmp_path / name))
    assert readings == Readings([*(f"{tag}.jpg" for tag in (5, 6, 7, 8, 2, 3, 4))], [], [])
    assert found["1.jpg"].reading == found["none.jpg"].reading == ""


def test_labels_for_the_stored_pixels_get_them_where_the_size_tells(tmp_path: Path) -> None:
    """And so do images of the same file that fit both ways."""
    write(
        tmp_path,
        {
            "quarter.png": (6, WIDE, WIDE),
            "half.png": (3, WIDE, WIDE),
            "mirror.png": (2, TALL, TALL),
            "square.png": (8, SQUARE, SQUARE),
            "none.png": (0, WIDE, WIDE),
        },
    )
    found, readings = read(tmp_path)
    for name, person in found.items():
        np.testing.assert_array_equal(labelled_image(person), stored(tmp_path / name))
    assert readings.upright == readings.assumed == []
    assert sorted(readings.stored) == ["half.png", "mirror.png", "quarter.png", "square.png"]


def test_without_evidence_the_upright_image_is_assumed_and_counted(tmp_path: Path) -> None:
    write(tmp_path, {"half.jpg": (3, WIDE, WIDE), "square.jpg": (6, SQUARE, SQUARE)})
    found, readings = read(tmp_path)
    for name, person in found.items():
        np.testing.assert_array_equal(labelled_image(person), upright(tmp_path / name))
    assert readings.upright == readings.assumed == ["half.jpg", "square.jpg"]


def test_each_image_follows_its_size_where_all_of_them_tell(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": (6, WIDE, TALL), "b.png": (6, WIDE, WIDE)})
    found, readings = read(tmp_path)
    np.testing.assert_array_equal(labelled_image(found["a.png"]), upright(tmp_path / "a.png"))
    np.testing.assert_array_equal(labelled_image(found["b.png"]), stored(tmp_path / "b.png"))
    assert (readings.upright, readings.stored) == (["a.png"], ["b.png"])


@pytest.mark.parametrize("remedy", ["turn", "remove"])
def test_a_contradiction_is_one_sentence_with_two_remedies(remedy: str, tmp_path: Path) -> None:
    write(tmp_path, {"a.png": (6, WIDE, TALL), "b.png": (6, WIDE, WIDE), "c.png": (3, WIDE, WIDE)})
    with pytest.raises(HeatposeError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert "1 ('a.png') are labelled upright and 1 ('b.png') as stored, and 1 ('c.png')" in message
    assert "-auto-orient" in message and "exiftool -Orientation=" in message and "\n" not in message
    wanted = (upright if remedy == "turn" else stored)(tmp_path / "c.png")
    Image.fromarray(wanted).save(tmp_path / "c.png")  # what the two commands do
    found, readings = read(tmp_path)
    np.testing.assert_array_equal(labelled_image(found["c.png"]), wanted)
    assert (readings.upright, readings.stored) == (["a.png"], ["b.png"])


def test_a_size_that_fits_neither_way_is_left_to_the_decoder(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": (6, WIDE, (61, 40)), "gone.png": (6, WIDE, WIDE)})
    (tmp_path / "gone.png").unlink()
    found, readings = read(tmp_path)
    assert readings == Readings()
    with pytest.raises(HeatposeError, match="neither as stored nor as its EXIF orientation"):
        labelled_image(found["a.png"])
    with pytest.raises(HeatposeError, match=r"gone\.png' is missing"):
        labelled_image(found["gone.png"])


def test_a_tag_behind_other_blocks_is_found(tmp_path: Path) -> None:
    """JPEG headers are read block by block; a profile may come before EXIF."""
    write(tmp_path, {"a.jpg": (6, WIDE, TALL), "b.jpg": (0, WIDE, WIDE)})
    for name in ("a.jpg", "b.jpg"):
        data, profile = (tmp_path / name).read_bytes(), b"\xff\xe2" + b"\xff\xfe" + bytes(65532)
        (tmp_path / name).write_bytes(data[:2] + profile + data[2:])
    found, _ = read(tmp_path)
    assert [person.reading for person in found.values()] == ["upright", ""]


def test_images_that_were_decoded_otherwise_before_are_marked(tmp_path: Path) -> None:
    names = ("deep.png", "clear.png", "plain.png")
    write(tmp_path, {name: (0, WIDE, WIDE) for name in names})
    Image.fromarray(np.zeros((40, 60), np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", WIDE).save(tmp_path / "clear.png")
    assert [p.reading for p in read(tmp_path)[0].values()] == ["converted", "converted", ""]


def test_the_benchmark_and_the_audit_count_alike(tmp_path: Path) -> None:
    path = write(tmp_path, {"a.jpg": (6, WIDE, TALL), "b.jpg": (3, WIDE, WIDE)})
    labels = read_labels(path)
    _, audit = benchmark_instances(labels, tmp_path, COCO_17)
    report = audit_report(labels, tmp_path, COCO_17, check_files=True)
    assert audit.readings == Readings(["a.jpg", "b.jpg"], [], [])
    assert report.files.notes == audit.readings.findings() and report.files.good
    assert report.to_json()["files"]["notes"]["with an EXIF orientation tag, read upright"]


def test_what_was_decided_is_one_line() -> None:
    line = Readings(["a", "b"], ["c"], ["b"]).summary("some.json")
    assert line is not None and line.startswith("'some.json': 3 images have an EXIF orientation")
    assert "tag; 2 are read upright, 1 as stored (1 upright by assumption" in line
    assert Readings().summary("nothing.json") is None


def test_the_check_of_files_reads_the_orientation(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.jpg": (6, WIDE, TALL),
            "b.jpg": (6, WIDE, WIDE),
            "c.jpg": (6, WIDE, (9, 9)),
            "d.jpg": (0, WIDE, TALL),
            "e.tif": (6, WIDE, TALL),
        },
    )
    images = read_labels(tmp_path / LABELS).images
    check = check_images(images, tmp_path, images)
    assert list(check.wrong_size) == ["c.jpg", "d.jpg"]
    assert "EXIF orientation" in check.wrong_size["c.jpg"]
    assert "orientation tag was probably removed" in check.wrong_size["d.jpg"]


def test_the_account_has_every_number() -> None:
    audit = Audit(annotations=9, kept=5)
    for _ in range(3):
        audit.drop("too small", 7)
    audit.drop("crowd", 8)
    audit.assumed["box made"] += 2
    assert (
        audit.summary("labels.json", "usable")
        == "labels.json: 5 of 9 person annotations usable; left out: too small (3), crowd (1);"
        " assumed: box made (2)."
    )
    assert audit.examples == {"too small": [7], "crowd": [8]}


def test_without_left_out_instances_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_once(Audit(annotations=9, kept=9).summary("labels.json", "usable"))
    assert capsys.readouterr().err == ""


def test_a_line_is_printed_once_and_by_the_first_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in ("first line of this test", "first line of this test", "second line of this test"):
        print_once(line)
    monkeypatch.setenv("LOCAL_RANK", "1")
    print_once("third line of this test")
    assert capsys.readouterr().err == "first line of this test\nsecond line of this test\n"
