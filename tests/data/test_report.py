"""The audit's numbers against counts made by hand, its printing, and the images."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from heatpose.data.annotation_rules import NO_BBOX
from heatpose.data.augment import GeometricAugment
from heatpose.data.coco import (
    CROWD,
    NO_BOX,
    NO_KEYPOINT,
    SEVERAL,
    CocoLabels,
    instances,
    read_labels,
)
from heatpose.data.contact_sheet import TILE, contact_sheet_of
from heatpose.data.datamodule import DataSettings, PoseData
from heatpose.data.report import audit_report, check_images, print_audit
from heatpose.data.selection import TrainingRules
from heatpose.data.sources import EVALUATED, CocoSource
from heatpose.errors import HeatposeError
from heatpose.pose.draw import LEFT, RIGHT
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17, ST_13
from tests.data import labelled

LEFT_WRIST, RIGHT_WRIST = COCO_17.index("left_wrist"), COCO_17.index("right_wrist")


def person(
    image: int, box: list[float], points: dict[int, tuple[float, float]], crowd: int = 0
) -> dict[str, Any]:
    values = [value for k in range(17) for value in (*points.get(k, (0, 0)), 2 * (k in points))]
    return {
        "image_id": image,
        "category_id": 1,
        "iscrowd": crowd,
        "bbox": box,
        "area": 5.0,
        "keypoints": values,
    }


@pytest.fixture
def labels(tmp_path: Path) -> CocoLabels:
    """Image 1: a person of 50 %.

    2: two, one of them without keypoints. 3: a crowd. 4: nobody. 5: no box.
    """
    instances = [
        person(1, [0, 0, 100, 50], {LEFT_WRIST: (20, 30), RIGHT_WRIST: (60, 30), 0: (101, 5)}),
        person(2, [10, 10, 10, 5], {5: (1, 1)}),
        person(2, [0, 0, 10, 10], {}),
        person(3, [0, 0, 10, 10], {}, crowd=1),
        person(5, [0, 0, 0, 10], {0: (1, 1)}),
    ]
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 100} for i in range(1, 6)]
    for entry in images:
        Image.new("RGB", (100, 100), (90, 90, 90)).save(tmp_path / str(entry["file_name"]))
    content = {
        "images": images,
        "annotations": [{"id": i, **item} for i, item in enumerate(instances)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints)}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    return read_labels(tmp_path / "labels.json")


def test_the_numbers_are_those_counted_by_hand(labels: CocoLabels, tmp_path: Path) -> None:
    report = audit_report(labels, tmp_path, COCO_17, check_files=True)
    assert (report.images, report.annotations) == (5, 5)
    assert report.images_by_people == {"none": 1, "one": 3, "several": 1}
    assert report.training.kept == 2
    assert report.training.dropped == {NO_KEYPOINT: 1, CROWD: 1, NO_BOX: 1}
    assert report.training.examples == {NO_KEYPOINT: [2], CROWD: [3], NO_BOX: [5]}
    assert report.benchmark.kept == 1 and report.benchmark.dropped == {
        **report.training.dropped,
        SEVERAL: 1,
    }
    counts = {name: count for name, count in report.labelled.items() if count}
    assert counts == {"nose": 1, "left_shoulder": 1, "left_wrist": 1, "right_wrist": 1}
    assert report.labelled_per_person == [0, 1, 0, 1, *[0] * 14]
    assert report.outside == 1
    assert report.sizes == [1, 0, 0, 0, 0, 1, 0]  # 0.5 % and 50 %
    assert (report.files.listed, report.files.decoded, report.files.good) == (5, 2, True)


def test_an_audit_without_instances_works(labels: CocoLabels, tmp_path: Path) -> None:
    nobody = replace(labels, annotations=labels.annotations[2:4])
    report = audit_report(nobody, tmp_path, COCO_17, check_files=True)
    assert (report.training.kept, report.benchmark.kept, report.files.decoded) == (0, 0, 0)
    assert "Kept and dropped" in printed(report)


def test_nobody_alone_is_stated(labels: CocoLabels, tmp_path: Path) -> None:
    several = replace(labels, annotations=labels.annotations[1:3])
    report = audit_report(several, tmp_path, COCO_17, check_files=False)
    assert report.benchmark.kept == 0 and report.benchmark.dropped == {NO_KEYPOINT: 1, SEVERAL: 1}


def printed(report: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_audit(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_is_printed_names_every_finding(labels: CocoLabels, tmp_path: Path) -> None:
    (tmp_path / "2.png").write_text("[red]no image[/red]")
    (tmp_path / "4.png").unlink()
    text = printed(audit_report(labels, tmp_path, ST_13, check_files=True))
    for part in (
        CROWD,
        NO_BOX,
        SEVERAL,
        "4.png",
        "2.png",
        "not one of JPEG",
        "left_wrist",
        "40 to 70 %",
        "st13",
    ):
        assert part in text


def test_the_report_is_json(labels: CocoLabels, tmp_path: Path) -> None:
    report = audit_report(labels, tmp_path, ST_13, check_files=False)
    assert json.loads(json.dumps(report.to_json())) == report.to_json()
    assert report.to_json()["benchmark"]["kept"] == 1


def test_the_development_data(shared: Path) -> None:
    folder = shared / "data" / "coco_val_dev"
    labels = read_labels(folder / "person_keypoints_val2017.json")
    report = audit_report(labels, folder / "val2017", COCO_17, check_files=False)
    assert (report.images, report.benchmark.kept, report.training.kept) == (530, 470, 470)
    assert report.benchmark.dropped == {NO_KEYPOINT: 60}
    assert report.files.good and sum(report.sizes) == sum(report.labelled_per_person) == 470


def test_a_size_on_an_edge_belongs_to_the_class_above(labels: CocoLabels, tmp_path: Path) -> None:
    tall = {**labels.annotations[0], "bbox": [0, 0, 100, 10]}
    one = replace(labels, annotations=[tall])
    assert audit_report(one, tmp_path, COCO_17, check_files=False).sizes == [0, 0, 0, 1, 0, 0, 0]


def centre_of(sheet: NDArray[np.uint8], colour: tuple[int, int, int]) -> tuple[float, float]:
    """x and y of the middle of everything of a colour."""
    rows, columns = np.nonzero((np.abs(sheet.astype(int) - colour) < 12).all(-1))
    return float(columns.mean() + 0.5), float(rows.mean() + 0.5)


def test_the_sheet_shows_the_labels_where_they_are(labels: CocoLabels, tmp_path: Path) -> None:
    kept, _ = instances(labels, tmp_path, COCO_17)
    sheet = contact_sheet_of(kept[:1], COCO_17, count=5)
    assert sheet.dtype == np.uint8 and sheet.shape[1] >= TILE
    margin, scale = (sheet.shape[1] - TILE) / 2, TILE / 100
    for colour, x in ((LEFT, 20), (RIGHT, 60)):
        np.testing.assert_allclose(
            centre_of(sheet, colour), (margin + x * scale, margin + 30 * scale), atol=2
        )


def test_one_of_several_is_shown_from_near(labels: CocoLabels, tmp_path: Path) -> None:
    Image.new("RGB", (400, 300), (90, 90, 90)).save(tmp_path / "1.png")
    kept, _ = instances(labels, tmp_path, COCO_17)
    points = np.zeros((17, 2), np.float32)
    points[LEFT_WRIST] = (230, 160)
    labelled = np.arange(17) == LEFT_WRIST
    box = (200.0, 100.0, 60.0, 120.0)
    one = replace(
        kept[0], width=400, height=300, alone=False, box=box, keypoints=points, labelled=labelled
    )
    sheet = contact_sheet_of([one], COCO_17)
    left, top, width, height = 160, 60, 141, 201  # the box and 40 px, a third of 120, on each side
    scale = TILE / height
    margin = (sheet.shape[1] - round(width * scale)) / 2
    want = (margin + (230 - left) * scale, margin + (160 - top) * scale)
    np.testing.assert_allclose(centre_of(sheet, LEFT), want, atol=1.5)


def test_the_sheet_is_seeded_and_cut_to_the_people_there_are(
    labels: CocoLabels, tmp_path: Path
) -> None:
    kept, _ = instances(labels, tmp_path, COCO_17)
    one = contact_sheet_of(kept, COCO_17, seed=1)
    np.testing.assert_array_equal(one, contact_sheet_of(kept, COCO_17, seed=1))
    with pytest.raises(HeatposeError, match="nothing to draw"):
        contact_sheet_of([], COCO_17)
    (tmp_path / "1.png").unlink()
    with pytest.raises(HeatposeError, match=r"1\.png' is missing"):
        contact_sheet_of(kept, COCO_17)


def test_training_and_audit_count_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small camera, an image of the evaluation part, a person without a box.

    The numbers are those of a training.
    """
    train, val = labelled.labels(40), labelled.labels(6, seed=1)
    for entry in train["annotations"][:25]:
        entry["bbox"][2:] = [30, 30]
        entry["keypoints"] = [entry["bbox"][i % 3] + 5 if i % 3 < 2 else 2 for i in range(51)]
    del train["annotations"][30]["bbox"]
    labelled.save_photos(train, tmp_path / "train2017", first=100)
    labelled.save_photos(val, tmp_path / "val2017")
    shutil.copy(tmp_path / "val2017" / "1.png", tmp_path / "train2017" / "33.png")
    path = labelled.write(train, tmp_path / "person_keypoints_train2017.json")
    labelled.write(val, tmp_path / "person_keypoints_val2017.json")
    source = CocoSource(str(tmp_path))
    data = PoseData(source, COCO_17, Preprocessing(64), GeometricAugment(), DataSettings(workers=0))
    data.setup()
    rules = TrainingRules(size=64)
    scored = source.evaluation(COCO_17) or ()
    report = audit_report(read_labels(path), tmp_path / "train2017", COCO_17, False, rules, scored)
    assert (
        report.training.dropped == {EVALUATED: 1}
        and report.training.kept == len(source.training(COCO_17)) == 39
    )
    assert report.trained is not None and report.refused is None and report.assumed == {NO_BBOX: 1}
    assert report.trained.kept == len(data.train_instances) + len(data.validation_instances) == 14
    assert report.held_out == len(data.validation_instances) > 0
    (small,) = report.trained.dropped
    assert report.trained.dropped[small] == 25 and "data.module.min_side=36" in small
    text = " ".join(printed(report).split())
    for part in (
        small,
        "25",
        EVALUATED,
        f"assumed: {NO_BBOX} (1)",
        f"held out ({report.held_out})",
    ):
        assert part in text
    assert f"{small} (25)" in capsys.readouterr().err


def test_what_a_training_would_refuse_is_printed_with_a_remedy_that_works(tmp_path: Path) -> None:
    """Few images, none of them held out."""
    found = read_labels(labelled.write(labelled.labels(4), tmp_path / "labels.json"))
    report = audit_report(found, tmp_path, COCO_17, False, TrainingRules())
    assert report.refused is not None and report.refused in printed(report).replace("\n", " ")
    share = float(report.refused.rpartition("; set data.module.held_out=")[2].rstrip("."))
    again = audit_report(found, tmp_path, COCO_17, False, TrainingRules(held_out=share))
    assert again.refused is None and 0 < again.held_out < 4


@pytest.fixture
def entries(tmp_path: Path) -> dict[int, dict[str, Any]]:
    """Forty good JPEG files and their entries."""
    images = {}
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (30 + i, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg", quality=90)
        images[i] = {"id": i, "file_name": f"{i}.jpg", "width": 50, "height": 30 + i}
    return images


def test_good_files_have_no_findings(entries: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    check = check_images(entries, tmp_path, entries)
    assert (check.listed, check.decoded, check.good) == (40, 40, True)


def test_every_fault_is_found_and_named(entries: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "3.jpg").unlink()
    for name, share in (("5.jpg", 0.5), ("6.jpg", 0.97), ("7.jpg", 0.0)):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: int(share * len(data))])
    (tmp_path / "8.jpg").write_text("no image")
    entries[9]["width"] = 49
    Image.new("RGB", (30, 50)).save(tmp_path / "0.jpg")  # turned by 90 degrees
    check = check_images(entries, tmp_path, entries)
    assert check.missing == ["3.jpg"]
    assert set(check.unreadable) == {"5.jpg", "6.jpg", "7.jpg", "8.jpg"}
    assert all(why and "\n" not in why for why in check.unreadable.values())
    assert set(check.wrong_size) == {"0.jpg", "9.jpg"}
    assert check.wrong_size["9.jpg"].startswith("50x39, but its labels are for 49x39")
    assert "30x50, but its labels are for 50x30: an orientation tag" in check.wrong_size["0.jpg"]
    assert check.decoded == 39 and not check.good


def test_only_the_asked_ones_are_decoded_but_all_are_looked_for(
    entries: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "1.jpg").write_text("no image")
    (tmp_path / "2.jpg").unlink()
    check = check_images(entries, tmp_path, [3, 4])
    assert (check.decoded, check.missing, check.unreadable) == (2, ["2.jpg"], {})
    assert check_images(entries, tmp_path, []).decoded == 0


def test_a_name_that_no_file_can_have_is_missing(
    entries: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    """Found by spoiled labels."""
    long = {**next(iter(entries.values())), "file_name": "A" * 5000}
    check = check_images({1: long}, tmp_path, [1])
    assert check.missing == ["A" * 5000] and not check.decoded


def test_what_is_done_to_pixels_is_counted(tmp_path: Path) -> None:
    """16 bits of which few are used, transparency and several frames: reported, not faults."""
    ramp = np.arange(600, dtype=np.uint16).reshape(20, 30)
    for bits in (10, 12, 14, 16):
        values = (ramp.astype(np.uint32) * (2**bits - 1) // 599).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"{bits}.png")
    Image.new("RGBA", (30, 20)).save(tmp_path / "clear.png")
    frames = [Image.new("L", (30, 20), value) for value in (0, 200)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "integers.tif")
    names = sorted(path.name for path in tmp_path.iterdir())
    entries = {i: {"file_name": name, "width": 30, "height": 20} for i, name in enumerate(names)}
    check = check_images(entries, tmp_path, entries)
    assert check.notes == {
        "with 16 bits a channel, scaled to 8": ["10.png", "12.png", "14.png", "16.png"],
        "dark: 10 of 16 bits are used; multiply by 64": ["10.png"],
        "dark: 12 of 16 bits are used; multiply by 16": ["12.png"],
        "with transparency, composited on white": ["clear.png"],
        "with several frames or pages, of which the first is used": ["film.gif"],
    }
    assert list(check.unreadable) == ["integers.tif"] and not check.wrong_size
