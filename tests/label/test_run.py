"""`heatpose label` from end to end, against the places at which people were drawn."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from heatpose.data.coco import instances, read_labels
from heatpose.errors import HeatposeError
from heatpose.label.run import Partial
from heatpose.pose.skeleton import COCO_17

DrawPerson = Callable[..., Any]
MakeTeacher = Callable[..., Path]
ANY_PEAKS = ("--max-second-peak", "1")
REASONS = (
    "no person found",
    "too few sure keypoints",
    "teacher disagrees with its mirror image",
    "person too small",
    "unreadable image",
)


@pytest.fixture
def label(heatpose: Any) -> Any:
    """`heatpose label` with any second peak: the dots of a pair are equally high ones."""
    return lambda *arguments: heatpose("label", *arguments, *ANY_PEAKS)


def labels_of(content: dict[str, Any], name: str) -> np.ndarray:
    """f64[N, 17, 3] of one image."""
    (image_id,) = (entry["id"] for entry in content["images"] if entry["file_name"] == name)
    found = [a["keypoints"] for a in content["annotations"] if a["image_id"] == image_id]
    return np.array(found, float).reshape(-1, 17, 3)


def test_labels_are_where_the_people_were_drawn(
    tmp_path: Path, label: Any, draw_person: DrawPerson, make_teacher: MakeTeacher
) -> None:
    """At all places, sizes and in subfolders; with a file that `data` reads, and a sheet."""
    photos, out, sheet = tmp_path / "my, Fotö (1)", tmp_path / "a=b/ls.json", tmp_path / "sheet.png"
    truth = {}
    for i, (centre, torso) in enumerate([((240, 180), 60), ((120, 200), 60), ((330, 190), 70)]):
        name = f"{'' if i else 'sub/'}{i}.png"
        truth[name] = draw_person(photos / name, centre, torso=torso)
    ran = label(photos, "--out", out, "--teacher", make_teacher(), "--sheet", sheet)
    assert ran.status == 0, ran.err
    assert "3 images: 3 instances labelled (100.0 %), 0 left out" in ran.out
    assert "51 keypoints of these instances: 51 labelled\n" in ran.out
    (typed,) = shlex.split(ran.out[ran.out.index("data.extra=") :])  # as a shell and Hydra read it
    assert OverridesParser.create().parse_override(typed).value() == [
        {"annotations": str(out), "images": str(photos)}
    ]
    content = json.loads(out.read_text())
    assert [entry["file_name"] for entry in content["images"]] == ["1.png", "2.png", "sub/0.png"]
    for name, places in truth.items():
        (found,) = labels_of(content, name)
        assert (found[:, 2] == 2).all()
        # A dot has a radius of 7 pixels at a torso of 60; the network's cells are of this size.
        assert np.linalg.norm(found[:, :2] - places, axis=1).max() < 7
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        places = truth[content["images"][annotation["image_id"] - 1]["file_name"]]
        assert x < places[:, 0].min() and y < places[:, 1].min()
        assert x + width > places[:, 0].max() and y + height > places[:, 1].max()
        assert annotation["num_keypoints"] == 17 and len(annotation["keypoint_scores"]) == 17
        assert annotation["score"] > 0.9
    kept, audit = instances(read_labels(out), photos, COCO_17)
    assert len(kept) == 3 and not audit.dropped and all(person.alone for person in kept)
    assert Image.open(sheet).size[0] > 600
    info = content["info"]
    assert info["settings"]["min_score"] == 0.3 and info["counts"]["labelled"] == 3
    assert info["teacher"]["name"] == "dots_0_17.onnx" and len(info["teacher"]["sha256"]) == 64
    assert not list(out.parent.glob(".*")) and not list(out.parent.glob("*.partial"))


@pytest.mark.parametrize(("shift", "labelled"), [(0, 17), (1, 17), (2, 15)])
def test_keypoints_that_the_mirror_image_moves_are_left_out(
    shift: int,
    labelled: int,
    tmp_path: Path,
    label: Any,
    draw_person: DrawPerson,
    make_teacher: MakeTeacher,
) -> None:
    """Moved by 1/64 of the crop they differ by 1/32 = 3.1 %, by 2/64 by 6.3 %: 4 % decides."""
    photos, out = tmp_path / "photos", tmp_path / "labels.json"
    draw_person(photos / "a.png", (240, 180))
    teacher = make_teacher(shift, ["left_wrist", "right_wrist"])
    ran = label(photos, "--out", out, "--teacher", teacher)
    assert ran.status == 0, ran.err
    (found,) = labels_of(json.loads(out.read_text()), "a.png")
    missing = {COCO_17.keypoints[k] for k in np.flatnonzero(found[:, 2] == 0)}
    assert missing == (set() if labelled == 17 else {"left_wrist", "right_wrist"})
    assert f"{labelled} labelled" in ran.out and (labelled == 17 or "2 disagreeing" in ran.out)


def test_every_image_is_counted_once(
    tmp_path: Path, label: Any, draw_person: DrawPerson, make_teacher: MakeTeacher
) -> None:
    """One image for each reason; they and the labelled ones add up to the images."""
    photos, out = tmp_path / "photos", tmp_path / "labels.json"
    draw_person(photos / "good.png", (240, 180))
    draw_person(photos / "empty.png")
    draw_person(photos / "few.png", (240, 180), missing=range(3, 17))
    draw_person(photos / "small.png", (60, 60), torso=15, size=(120, 120))
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    (photos / "film.mp4").write_bytes(b"no film")
    (photos / "notes.txt").write_text("not read")
    arguments = ["--teacher", make_teacher(), "--min-side", 60]
    ran = label(photos, "--out", out, *arguments)
    assert ran.status == 0, ran.err
    counts = json.loads(out.read_text())["info"]["counts"]
    wanted = {r: 1 for r in REASONS if "mirror" not in r}
    assert counts["left_out"] == wanted
    assert counts["images"] == 5 == counts["labelled"] + sum(counts["left_out"].values())
    assert "not read: 1 videos" in ran.out and all(reason in ran.out for reason in wanted)
    left_out = {e["file_name"]: e["reason"] for e in json.loads(out.read_text())["left_out"]}
    assert left_out == {
        "empty.png": REASONS[0],
        "few.png": REASONS[1],
        "small.png": REASONS[3],
        "broken.jpg": REASONS[4],
    }


def test_a_teacher_that_is_wrong_everywhere_labels_nothing(
    tmp_path: Path, label: Any, draw_person: DrawPerson, make_teacher: MakeTeacher
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "labels.json"
    places = draw_person(photos / "a.png", (240, 180))
    ran = label(photos, "--out", out, "--teacher", make_teacher(shift=3))
    assert ran.status == 1 and f"1  {REASONS[2]}" in ran.out
    sentence = f"error: No image of '{photos}' was labelled; '{out}' is not written."
    assert ran.err.splitlines()[-1] == sentence
    # Nothing is left that would be in the way of other settings.
    teacher = make_teacher(shift=3)
    ran = label(photos, "--out", out, "--teacher", teacher, "--max-distance", 0.2)
    assert ran.status == 0
    # The mistakes of the two ways cancel: 3/64 of the crop are 12 pixels, in opposite directions.
    (found,) = labels_of(json.loads(out.read_text()), "a.png")
    assert np.linalg.norm(found[:, :2] - places, axis=1).max() < 7


def test_turned_photographs_are_labelled_upright(
    tmp_path: Path, label: Any, draw_person: DrawPerson, make_teacher: MakeTeacher
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "labels.json"
    places = draw_person(photos / "a.png", (180, 240), size=(360, 480))
    upright = Image.open(photos / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(photos / "a.png", exif=exif)
    ran = label(photos, "--out", out, "--teacher", make_teacher())
    assert ran.status == 0, ran.err
    content = json.loads(out.read_text())
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (360, 480)
    (found,) = labels_of(content, "a.png")
    assert np.linalg.norm(found[:, :2] - places, axis=1).max() < 7


def test_what_is_not_a_folder_of_images(
    tmp_path: Path, label: Any, draw_person: DrawPerson, make_teacher: MakeTeacher
) -> None:
    teacher, out = make_teacher(), tmp_path / "labels.json"
    (tmp_path / "nothing").mkdir()
    (tmp_path / "films").mkdir()
    (tmp_path / "films/a.mp4").write_bytes(b"")
    draw_person(tmp_path / "photos/a.png", (240, 180))
    for images, words in {
        "nothing": "There is no image",
        "films": "has 1 videos and no image; write frames",
        "photos/a.png": "is a file; give the folder",
        "missing": "does not exist; give the folder",
    }.items():
        ran = label(tmp_path / images, "--out", out, "--teacher", teacher)
        assert ran.status == 1 and words in ran.err and len(ran.err.splitlines()) == 1, ran.err
    ran = label(tmp_path / "photos", "--out", out)
    assert ran.status == 1 and "give --teacher MODEL" in ran.err
    arguments = ["--teacher", teacher, "--min-score", 2]
    ran = label(tmp_path / "photos", "--out", out, *arguments)
    assert ran.status == 1 and "use a score in [0, 1)" in ran.err


def test_labels_that_may_be_corrected_are_not_overwritten(
    tmp_path: Path, label: Any, draw_person: DrawPerson, make_teacher: MakeTeacher
) -> None:
    photos, out, teacher = tmp_path / "photos", tmp_path / "labels.json", make_teacher()
    draw_person(photos / "a.png", (240, 180))
    assert label(photos, "--out", out, "--teacher", teacher).status == 0
    before = out.read_bytes()
    ran = label(photos, "--out", out, "--teacher", teacher)
    assert ran.status == 1 and "give another --out, or remove it" in ran.err
    assert out.read_bytes() == before
    other = tmp_path / "other.json"
    assert label(photos, "--out", other, "--teacher", teacher).status == 0
    out.unlink()
    assert label(photos, "--out", out, "--teacher", teacher).status == 0
    assert out.read_bytes() == before == other.read_bytes()


def test_a_killed_run_goes_on_and_gives_the_same_file(
    tmp_path: Path, label: Any, draw_person: DrawPerson, make_teacher: MakeTeacher
) -> None:
    photos, teacher = tmp_path / "photos", make_teacher()
    count = 50
    for i in range(count):
        draw_person(photos / f"{i:03d}.png", (150 + 3 * i, 180))
    killed, partial = tmp_path / "killed.json", tmp_path / "killed.json.partial"
    command = [sys.executable, "-m", "heatpose.cli", "label", photos, *ANY_PEAKS]
    command += ["--teacher", teacher, "--out"]
    process = subprocess.Popen(
        [*map(str, command), str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not (partial.is_file() and partial.read_bytes().count(b"\n") > 5):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = partial.read_bytes().count(b"\n") - 1
    assert 5 <= done < count and not killed.exists()
    with partial.open("ab") as file:
        file.write(b'{"file": "049.png", "bytes": 12')  # a line that the kill broke off
    # Other settings are refused; the first remedy of the sentence is the next call.
    ran = label(photos, "--teacher", teacher, "--out", killed, "--min-keypoints", 9)
    assert ran.status == 1 and "with another settings; give the settings of that run" in ran.err
    assert label(photos, "--teacher", teacher, "--out", killed).status == 0
    whole = tmp_path / "whole.json"
    assert label(photos, "--teacher", teacher, "--out", whole).status == 0
    assert killed.read_bytes() == whole.read_bytes() and not partial.exists()
    assert len(json.loads(whole.read_text())["images"]) == count


def test_given_boxes_are_labelled_one_by_one(
    tmp_path: Path, label: Any, draw_person: DrawPerson, make_teacher: MakeTeacher
) -> None:
    """Two people on an image, a box without a person, no boxes, an image of another size."""
    photos, out, boxes = tmp_path / "photos", tmp_path / "labels.json", tmp_path / "boxes.json"
    both = draw_person(photos / "two.png", (130, 180), (460, 180), size=(600, 360))
    draw_person(photos / "unboxed.png", (240, 180))
    draw_person(photos / "resized.png", (240, 180))
    around = [[50, 50, 160, 260], [380, 50, 160, 260], [0, 0, 60, 60], [600, 0, 50, 50]]
    images = [("two.png", 600), ("unboxed.png", 480), ("resized.png", 960), ("missing.png", 480)]
    entries = [
        {"id": i, "file_name": name, "width": width, "height": 360}
        for i, (name, width) in enumerate(images)
    ]
    annotations = [{"image_id": 0, "category_id": 7, "bbox": box} for box in around]
    annotations += [{"image_id": i, "category_id": 7, "bbox": around[0]} for i in (2, 3)]
    annotations += [
        {"image_id": 1, "category_id": 8, "bbox": around[0]},  # a dog
        {"image_id": 1, "category_id": 7, "bbox": around[0], "iscrowd": 1},
    ]
    categories = [{"id": 7, "name": "person"}, {"id": 8, "name": "dog"}]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    boxes.write_text(json.dumps(content))
    arguments = ["--teacher", make_teacher(), "--boxes", boxes]
    ran = label(photos, "--out", out, *arguments)
    assert ran.status == 0, ran.err
    assert "3 images with 6 candidates: 2 instances labelled" in ran.out
    assert "not read: 1 images that only the boxes name" in ran.out
    counts = json.loads(out.read_text())["info"]["counts"]
    assert counts["left_out"] == {
        "no person found": 1,
        "given box outside of the image": 1,
        "no box given": 1,
        "boxes for another image size": 1,
    }
    found = labels_of(json.loads(out.read_text()), "two.png")
    for labels, places in zip(found, both, strict=False):
        assert np.linalg.norm(labels[:, :2] - places, axis=1).max() < 7
    # A box without a detected person stays as a neighbour, without keypoints.
    assert len(found) == 3 and not found[2].any()
    assert [a["bbox"] for a in json.loads(out.read_text())["annotations"]] == around[:3]
    kept, _ = instances(read_labels(out), photos, COCO_17)
    assert [len(person.others) for person in kept] == [2, 2]


def test_what_is_assumed_about_a_teacher_is_printed(
    tmp_path: Path, label: Any, draw_person: DrawPerson, make_teacher: MakeTeacher
) -> None:
    """And its normalisation can be given, as to `evaluate` and `predict`."""
    draw_person(tmp_path / "photos/a.png", (240, 180), torso=60)
    command = (tmp_path / "photos", "--teacher", make_teacher(), "--out")
    ran = label(*command, tmp_path / "a.json")
    assert ran.status == 0 and "assumed skeleton coco17" in ran.out, ran.err
    found = []
    for text in ("0..1", "0..255"):
        ran = label(*command, tmp_path / f"{text}.json", "--normalisation", text)
        found.append((ran.status, ran.out.splitlines()[0], ran.err))
    assert found[0] != found[1]
    ran = label(*command, tmp_path / "b.json", "--normalisation", "none")
    assert ran.status == 1 and "Normalisation 'none' is not understood" in ran.err


def test_people_whose_peaks_cannot_be_told_apart_are_left_out(
    tmp_path: Path, heatpose: Any, draw_person: DrawPerson, make_teacher: MakeTeacher
) -> None:
    """Dots of the left side alone, so that a map has as many peaks as there are people."""
    photos, right = tmp_path / "photos", range(2, 17, 2)
    one = draw_person(photos / "one.png", (240, 180), missing=right)
    two = [(150, 150), (330, 200)]
    draw_person(photos / "two.png", *two, missing=right)
    command = ("label", photos, "--teacher", make_teacher(), "--out")
    ran = heatpose(*command, tmp_path / "labels.json")
    assert ran.status == 0, ran.err
    assert "1  second peaks: probably several people" in ran.out
    content = json.loads((tmp_path / "labels.json").read_text())
    assert [entry["file_name"] for entry in content["images"]] == ["one.png"]
    (found,) = labels_of(content, "one.png")
    left = [0, *range(1, 17, 2)]
    assert np.linalg.norm(found[left, :2] - one[left], axis=1).max() < 7
    # Without the limit the second image has labels as well, here of both people.
    ran = heatpose(*command, tmp_path / "any.json", *ANY_PEAKS)
    assert ran.status == 0 and "2 instances labelled" in ran.out
    ran = heatpose(*command, tmp_path / "bad.json", "--max-second-peak", 0)
    assert ran.status == 1 and "use a share of the first in (0, 1]" in ran.err


HEADER = {"teacher": "a", "settings": {"score": 0.3}}


def _filled(out: Path) -> Partial:
    with Partial(out, HEADER) as partial:
        for name in ("a", "b", "a"):
            partial.add({"file": name, "number": len(partial.records)})
    return partial


def test_what_was_added_is_there_again_the_last_of_a_file_counts(tmp_path: Path) -> None:
    _filled(tmp_path / "out.json")
    with Partial(tmp_path / "out.json", HEADER) as again:
        assert again.records == {"a": {"file": "a", "number": 2}, "b": {"file": "b", "number": 1}}


def test_whatever_is_cut_off_the_whole_lines_count(tmp_path: Path) -> None:
    """Cut after each byte: the records are those whose line is whole, and more can be added."""
    path = _filled(tmp_path / "out.json").path
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        lines = max(0, whole[:length].count(b"\n") - 1)
        with Partial(tmp_path / "out.json", HEADER) as partial:
            assert len(partial.records) == min(lines, 2)
            partial.add({"file": "c"})
        with Partial(tmp_path / "out.json", HEADER) as partial:
            assert len(partial.records) == min(lines, 2) + 1


def test_another_run_is_refused_until_its_file_is_removed(tmp_path: Path) -> None:
    path = _filled(tmp_path / "out.json").path
    with pytest.raises(HeatposeError, match="another settings, teacher; .* or remove the file"):
        Partial(tmp_path / "out.json", {"teacher": "b", "settings": {}})
    path.unlink()
    Partial(tmp_path / "out.json", {"teacher": "b", "settings": {}}).remove()
    assert not path.exists()
