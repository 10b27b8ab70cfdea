"""The same people in every format: the same COCO content, the same score."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatpose.data import formats
from heatpose.data.coco import benchmark_instances, instances, read_labels
from heatpose.data.formats.base import original_name
from heatpose.data.selection import in_held_out
from heatpose.data.sources import CocoSource, find_labels, find_part
from heatpose.errors import HeatposeError
from heatpose.evaluation.evaluate import evaluate
from heatpose.pose.skeleton import COCO_17, ST_13
from heatpose.runners import open_runner
from tests.conftest import Heatpose
from tests.data.formats import writers

Writer = Callable[[dict[str, Any], Path, Path], Path]
WRITERS: dict[str, tuple[Writer, str, float]] = {
    "roboflow": (writers.roboflow, "COCO keypoints of Roboflow", 0),
    "cvat": (writers.cvat, "COCO keypoints of CVAT", 0),
    "label_studio": (writers.label_studio, "Label Studio JSON", 1e-4),
    "labelme": (writers.labelme, "labelme", 1e-4),
    "yolo": (writers.yolo, "Ultralytics YOLO pose (val)", 1e-3),
    "st_model_zoo": (writers.st_model_zoo, "Ultralytics YOLO pose (val)", 1e-3),
}
"""Name -> writer, format as it is called, precision of the format in pixels."""


@pytest.fixture(scope="session")
def rendered(synthetic_root: Path) -> tuple[dict[str, Any], Path]:
    """The rendered evaluation people, with some hidden keypoints: COCO content, image folder."""
    path = synthetic_root / "annotations/person_keypoints_val2017.json"
    return json.loads(path.read_text()), synthetic_root / "val2017"


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_people(
    name: str, rendered: tuple[dict[str, Any], Path], synthetic_root: Path, tmp_path: Path
) -> None:
    write, called, precision = WRITERS[name]
    labels = read_labels(write(*rendered, tmp_path))
    found, _ = instances(labels, labels.source.folder, COCO_17)
    wanted, _ = instances(
        read_labels(synthetic_root / "annotations/person_keypoints_val2017.json"),
        rendered[1],
        COCO_17,
    )
    assert labels.source.format == called and not labels.source.left_out
    order = np.argsort([p.image_path.name.split("_png")[0] for p in found])
    by_name = [found[i] for i in order]
    assert len(by_name) == len(wanted) == 12
    for one, other in zip(by_name, sorted(wanted, key=lambda p: p.image_path.name), strict=True):
        assert one.image_path.read_bytes() == other.image_path.read_bytes()
        assert (one.width, one.height, one.alone) == (other.width, other.height, other.alone)
        np.testing.assert_array_equal(one.labelled, other.labelled)
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=precision)
        np.testing.assert_allclose(one.box, other.box, atol=2 * precision)


def test_every_format_scores_the_same(
    rendered: tuple[dict[str, Any], Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    runner = open_runner(tiny_checkpoint, threads=1)

    def values(path: Path, images: Path | None = None) -> np.ndarray[Any, Any]:
        labels = read_labels(path, images)
        chosen, _ = benchmark_instances(labels, labels.source.folder, ST_13)
        return np.sort(100 * evaluate(runner, chosen, ST_13).oks_values)

    coco = tmp_path / "coco.json"
    coco.write_text(json.dumps(rendered[0]))
    wanted = values(coco, rendered[1])
    assert len(wanted) == 12 and wanted.max() > 0
    for name, (write, _, precision) in WRITERS.items():
        found = values(write(*rendered, tmp_path / name))
        np.testing.assert_allclose(found, wanted, atol=precision, rtol=0, err_msg=name)
        if precision == 0:
            np.testing.assert_array_equal(found, wanted)


def test_the_command_needs_no_image_folder(
    heatpose: Heatpose, rendered: tuple[dict[str, Any], Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The record names the format."""
    path, out = writers.yolo(*rendered, tmp_path / "mine"), tmp_path / "out.json"
    ran = heatpose("evaluate", tiny_checkpoint, "--annotations", path, "--json", out)
    report = json.loads(out.read_text())
    assert ran.status == 0 and report["images"] == 12
    assert report["labels"]["format"] == "Ultralytics YOLO pose (val)"
    assert report["labels"]["keypoints"] == list(COCO_17.keypoints)


@pytest.mark.parametrize("name", WRITERS)
def test_what_was_recognised_is_one_line(
    name: str, rendered: tuple[dict[str, Any], Path], tmp_path: Path, heatpose: Heatpose
) -> None:
    write, called, _ = WRITERS[name]
    path = write(*rendered, tmp_path / "mine")
    ran = heatpose("data", tmp_path / "mine", "--split", "val", "--json", tmp_path / "out.json")
    (line,) = ran.err.splitlines()
    assert ran.status == 0 and line.startswith(f"Labels: {called}, '{path}': ")
    assert "12 images, 12 instances, 17 keypoints (COCO's)" in line
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["labels"]["format"] == called and report["files"]["missing"] == []
    assert report["training"]["kept"] == report["benchmark"]["kept"] == 12


def test_a_plain_coco_json_prints_no_assumptions(
    rendered: tuple[dict[str, Any], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(rendered[0]).encode())  # with a byte order mark
    assert formats.read(path, rendered[1]).format == "COCO keypoints"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_a_source(
    name: str, rendered: tuple[dict[str, Any], Path], synthetic_root: Path, tmp_path: Path
) -> None:
    """Beside COCO's training part; the formats are in the description that checkpoints keep."""
    WRITERS[name][0](*rendered, tmp_path)
    source = CocoSource(str(synthetic_root), eval_root=str(tmp_path))
    source.prepare()
    evaluation = source.evaluation(ST_13)
    assert evaluation is not None and len(evaluation) == 12
    assert source.describe()["formats"]["train"] == "COCO keypoints"
    assert source.describe()["formats"]["val"] in WRITERS[name][1]
    extra = CocoSource(str(synthetic_root), eval_root=str(tmp_path / "none"), extra=[str(tmp_path)])
    with pytest.raises(HeatposeError, match="none"):
        extra.evaluation(ST_13)


@pytest.mark.parametrize("name", WRITERS)
def test_a_root_of_every_format_trains(name: str, synthetic_root: Path, tmp_path: Path) -> None:
    """Its only part, or the part called train; nobody is evaluated who is learnt from."""
    path = synthetic_root / "annotations/person_keypoints_train2017.json"
    written = WRITERS[name][0](json.loads(path.read_text()), synthetic_root / "train2017", tmp_path)
    _rename_part(written, tmp_path)
    wanted, _ = instances(read_labels(path), synthetic_root / "train2017", ST_13)
    source = CocoSource(str(tmp_path))
    source.prepare()
    assert len(source.training(ST_13)) == len(wanted)
    assert source.evaluation(ST_13) is None
    assert len(CocoSource(str(synthetic_root), extra=[str(tmp_path)]).training(ST_13)) == 2 * len(
        wanted
    )


def _rename_part(written: Path, folder: Path) -> None:
    """Validation -> train, in the ways of the tools."""
    if written.name == "data.yaml":
        written.write_text(written.read_text().replace("val: ", "train: "))
    if written.name == "_annotations.coco.json":
        written.parent.rename(folder / "train")
    if written.parent.name == "annotations":
        written.rename(written.with_name("person_keypoints_Train.json"))
        (folder / "images/Validation").rename(folder / "images/Train")


def test_the_other_parts_labels_are_never_taken(synthetic_root: Path, tmp_path: Path) -> None:
    """Neither of COCO 2017's layout nor of an export."""
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/val2017").symlink_to(synthetic_root / "val2017")
    name = "annotations/person_keypoints_val2017.json"
    (tmp_path / "coco" / name).write_text((synthetic_root / name).read_text())
    writers.roboflow(
        json.loads((synthetic_root / name).read_text()),
        synthetic_root / "val2017",
        tmp_path / "export",
    )
    for folder in ("coco", "export"):
        with pytest.raises(HeatposeError, match="No train labels"):
            find_part(tmp_path / folder, "train")
        assert find_part(tmp_path / folder, "val")


def _with_equal_names(content: dict[str, Any], images: Path, folder: Path) -> dict[str, Path]:
    """CVAT's two subsets, whose images are called alike and are not the same; JSON by subset."""
    found, number = {}, len(content["images"]) // 2
    for subset, first in (("Train", 0), ("Validation", number)):
        chosen, entries = content["images"][first : first + number], []
        (folder / "images" / subset).mkdir(parents=True)
        for place, image in enumerate(chosen):
            name = f"frame_{place:06d}.png"
            (folder / "images" / subset / name).symlink_to(images / image["file_name"])
            entries.append({**image, "file_name": name})
        ids = {image["id"] for image in chosen}
        people_of = [a for a in content["annotations"] if a["image_id"] in ids]
        found[subset] = folder / f"annotations/person_keypoints_{subset}.json"
        found[subset].parent.mkdir(exist_ok=True)
        labels = {**content, "images": entries, "annotations": people_of}
        found[subset].write_text(json.dumps(labels))
    return found


def test_equal_names_in_two_subsets_are_images_of_their_own(
    rendered: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    files = _with_equal_names(*rendered, tmp_path)
    for part, subset in (("train", "Train"), ("val", "Validation")):
        (tmp_path / f"images/{subset}/frame_000000.png").unlink()  # the others still lead there
        assert find_part(tmp_path, part).images == tmp_path / "images" / subset
        assert read_labels(files[subset]).source.folder == tmp_path / "images" / subset


def test_images_that_two_folders_may_mean_are_one_sentence(
    rendered: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """Both remedies work: the folder is given, or the file is called as it."""
    path = _with_equal_names(*rendered, tmp_path)["Validation"].rename(tmp_path / "mine.json")
    with pytest.raises(HeatposeError, match=r"--images, or let .* \('labels_Train.json'\)"):
        read_labels(path)
    right = tmp_path / "images/Validation"
    assert read_labels(path, right).source.folder == right
    assert read_labels(path.rename(tmp_path / "labels_Validation.json")).source.folder == right


def test_several_label_files_are_one_sentence(
    rendered: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    path = writers.label_studio(*rendered, tmp_path)
    (tmp_path / "notes.json").write_text('{"info": "another kind of file"}')
    assert find_labels(tmp_path).annotations == path
    path.with_name("earlier.json").write_text(path.read_text())
    with pytest.raises(HeatposeError, match=r"several label files, \['earlier.json', 'project-7"):
        find_labels(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "not in a known label format"),
        ("{}", "not in a known label format"),
        ('"text"', "not in a known label format"),
        ("[" * 100_000, "is not JSON"),
        ("{", "is not JSON"),
        ('{"images": [], "annotations": []}', "not in COCO keypoint format"),
        ('{"images": [1], "annotations": [2], "categories": [3]}', "not in COCO keypoint format"),
    ],
)
def test_files_without_labels_are_one_sentence(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(HeatposeError, match=message) as caught:
        read_labels(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match=r"has no labels; give a COCO keypoint json"):
        read_labels(tmp_path)


def test_a_part_by_its_own_folder(rendered: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """As a `test` part is scored, which no setting names."""
    writers.roboflow(*rendered, tmp_path).parent.rename(tmp_path / "test")
    evaluation = CocoSource(str(tmp_path), eval_root=str(tmp_path / "test")).evaluation(ST_13)
    assert evaluation is not None and len(evaluation) == 12
    assert CocoSource(str(tmp_path)).evaluation(ST_13) is None


def test_any_format_can_be_written_as_a_coco_json(
    heatpose: Heatpose, rendered: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    writers.labelme(*rendered, tmp_path / "mine")
    out = tmp_path / "labels.json"
    ran = heatpose("data", tmp_path / "mine", "--coco", out)
    assert ran.status == 0 and f"relative to '{tmp_path / 'mine'}' (--images)" in ran.out
    written, direct = read_labels(out, tmp_path / "mine"), read_labels(tmp_path / "mine")
    assert written.source.format == "COCO keypoints" and len(written.annotations) == 12
    plain, expected = (
        [{**entry, "keypoints": entry["keypoints"].tolist()} for entry in found.annotations]
        for found in (written, direct)
    )
    assert plain == expected and written.images == direct.images


def test_copies_of_an_image_by_roboflow_have_one_original() -> None:
    name = "street_jpg.rf.21d9ecc535939df6226dbf15204e64a1.jpg"
    assert original_name(name) == original_name(name.replace("21d9", "ffff")) == "street_jpg.jpg"
    for other in (
        "street.jpg",
        "a.rf.jpg",
        "a.rf.21d9.jpg",
        "x.rf.21d9ecc535939df6226dbf15204e64a1",
    ):
        assert original_name(other) == other


def test_copies_of_an_image_are_held_out_together(
    rendered: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    writers.roboflow(*rendered, tmp_path)
    labels = read_labels(tmp_path)
    found, _ = instances(labels, labels.source.folder, ST_13)
    copies = [
        [
            replace(p, image_path=Path(re.sub(r"rf\.\w", f"rf.{c}", str(p.image_path))))
            for c in "0af"
        ]
        for p in found
    ]
    sides = [{in_held_out(copy, 0.5) for copy in of_one} for of_one in copies]
    assert all(len(side) == 1 for side in sides) and {True, False} == set.union(*sides)


def test_names_as_windows_writes_them(
    rendered: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """Unless a file has that very name: a backslash is a letter on Linux."""
    content = json.loads(json.dumps(rendered[0]))
    writers.copy_images(content, rendered[1], tmp_path / "set/a")
    for entry in content["images"]:
        entry["file_name"] = f"a\\{entry['file_name']}"
    odd = tmp_path / "set" / content["images"][3]["file_name"]
    odd.write_bytes(b"the file of that name")
    (tmp_path / "labels.json").write_text(json.dumps(content))
    labels = read_labels(tmp_path / "labels.json")
    assert labels.source.folder == tmp_path / "set"
    files = [labels.source.folder / entry["file_name"] for entry in labels.images.values()]
    assert files[3] == odd and all(file.is_file() for file in files) and len(set(files)) == 12
