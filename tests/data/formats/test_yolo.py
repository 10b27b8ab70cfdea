"""YOLO pose data sets as Ultralytics, Roboflow and CVAT write them, and as people damage them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from heatpose.data import formats
from heatpose.data.coco import read_labels
from heatpose.data.formats.base import LabelSet
from heatpose.data.formats.yolo import label_file
from heatpose.data.sources import CocoSource, find_part
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17, Skeleton
from tests.conftest import TinyRun
from tests.data.formats import writers
from tests.data.formats.conftest import MakeImage

LOSS = "train/loss_step"
TWO = "kpt_shape: [2, 3]\nkpt_names: {0: [top, foot]}\nnames: {0: person}\n"
LINE = "0 0.5 0.5 0.2 0.4 0.25 0.5 2 0 0 0\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def small(tmp_path: Path, make_image: MakeImage) -> Path:
    """One image of 200 x 100 pixels, one line; two named keypoints."""
    make_image("images/val/a.png")
    write(tmp_path / "labels/val/a.txt", LINE)
    return write(tmp_path / "data.yaml", f"val: images/val\n{TWO}")


def refused(path: Path, *words: str, part: str = "val") -> str:
    """The sentence that refuses labels."""
    with pytest.raises(HeatposeError) as caught:
        formats.read(path, part=part)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 700
    assert all(word in sentence for word in words), sentence
    return sentence


def names(labels: LabelSet) -> list[str]:
    return [entry["file_name"] for entry in labels.content["images"]]


def test_numbers_become_pixels(small: Path) -> None:
    labels = formats.read(small)
    (entry,) = labels.content["annotations"]
    assert labels.content["images"] == [
        {"id": 1, "file_name": "images/val/a.png", "width": 200, "height": 100}
    ]
    assert entry["keypoints"] == [50, 50, 2, 0, 0, 0] and entry["num_keypoints"] == 1
    assert entry["bbox"] == pytest.approx([80, 30, 40, 40])
    assert entry["area"] == pytest.approx(0.53 * 1600)  # the published protocol's share
    assert labels.content["categories"][0]["keypoints"] == ["top", "foot"]


LAYOUTS = {
    "folder": ("path: .\nval: images/val\n", "images/val/a.png"),
    "a folder with a slash": ("val: ./images/val/\n", "images/val/a.png"),
    "list of folders": ("path: ./\nval: [images/val, images/more]\n", "images/val/a.png"),
    "no images folder": ("val: photos\n", "photos/a.png"),
    "of Roboflow": ("train: ../train/images\nval: ../valid/images\n", "valid/images/a.png"),
    "of CVAT": ("path: ./\nval: val.txt\n", "images/val/a.png"),
    "path of another machine": (
        "path: /data/of/another/machine\nval: images/val\n",
        "images/val/a.png",
    ),
    "path by the name of its folder": ("path: mine\nval: images/val\n", "images/val/a.png"),
    "as Windows writes it": ("val: images\\val\n", "images/val/a.png"),
    "images within images": ("val: images/set/images\n", "images/set/images/a.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tmp_path: Path, make_image: MakeImage) -> None:
    head, image = LAYOUTS[layout]
    make_image(image)
    (tmp_path / "images/more").mkdir(parents=True, exist_ok=True)
    write(label_file(tmp_path / image), LINE)
    write(tmp_path / "val.txt", "images/val/a.png\n\n")
    labels = formats.read(write(tmp_path / "data.yaml", head + TWO))
    assert len(labels.content["annotations"]) == 1
    assert labels.folder / names(labels)[0] == tmp_path / image
    split = find_part(tmp_path, "val")
    again = formats.read(split.annotations, split.images, split.part)
    assert split.images / names(again)[0] == tmp_path / image
    assert read_labels(split.annotations, split.images, split.part).images[1]["width"] == 200


def test_labels_lie_beside_images_where_no_folder_is_called_so() -> None:
    assert label_file(Path("mine/photos/a.jpg")) == Path("mine/photos/a.txt")
    assert label_file(Path("images/images/b/a.x.jpg")) == Path("images/labels/b/a.x.txt")


def test_a_list_with_paths_from_its_own_folder(small: Path, make_image: MakeImage) -> None:
    write(small.parent / "lists/some.txt", "../images/val/a.png\n")
    small.write_text(small.read_text().replace("images/val", "lists/some.txt"))
    assert len(formats.read(small).content["annotations"]) == 1


def test_equal_names_in_subfolders_are_different_images(small: Path, make_image: MakeImage) -> None:
    for name in ("one", "two"):
        make_image(f"images/val/{name}/a.png")
    write(small.parent / "labels/val/two/a.txt", LINE.replace("0.25", "0.75"))
    labels = formats.read(small)
    assert names(labels) == [f"images/val/{name}.png" for name in ("a", "one/a", "two/a")]
    assert [(a["image_id"], a["keypoints"][0]) for a in labels.content["annotations"]] == [
        (1, 50),
        (3, 150),
    ]
    assert "1 images without a label file have no instances" in labels.summary()


def test_missing_pieces_are_counted(small: Path, make_image: MakeImage) -> None:
    write(small.parent / "labels/val/gone.txt", LINE)
    write(small.parent / "labels/val/classes.txt", "person\n")
    write(small.parent / "labels/val/empty.txt", "\n")
    make_image("images/val/empty.png")
    write(small.parent / "images/val/broken.jpg", "no image")
    write(small.parent / "listed.txt", "./images/val/lost.png\n")
    small.write_text(small.read_text().replace("val: images/val", "val: [images/val, listed.txt]"))
    labels = formats.read(small)
    assert labels.left_out == {
        "label files without an image": 1,
        "images that cannot be read": 1,
        "images that are listed but missing": 1,
    }
    assert "left out: 1 label files without an image (gone.txt)" in labels.summary()
    assert len(labels.content["images"]) == 2 and len(labels.content["annotations"]) == 1


def test_a_turned_photograph_has_the_size_that_is_seen(small: Path, make_image: MakeImage) -> None:
    """Ultralytics labels images as they are seen, so fractions are of the upright width."""
    make_image("images/val/a.jpg", 60, 30, orientation=6)
    (small.parent / "images/val/a.png").unlink()
    labels = formats.read(small)
    assert (labels.content["images"][0]["width"], labels.content["images"][0]["height"]) == (30, 60)
    assert labels.content["annotations"][0]["keypoints"][:2] == [7.5, 30]
    assert "1 images have an EXIF orientation tag; as YOLO's labels have no" in labels.summary()


def test_parts_of_one_file_are_distinguished(
    small: Path, make_image: MakeImage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line about left-out people or turned images names its part."""
    for part, number in (("train", 2), ("val", 1)):
        for i in range(number):
            make_image(f"images/{part}/{part}{i}.jpg", 60 + i, 30, orientation=6)
            line = LINE.replace("0.25", "0.45")  # in its box
            write(small.parent / f"labels/{part}/{part}{i}.txt", line)
    small.write_text(f"train: images/train\n{small.read_text()}")
    skeleton = Skeleton("two", ("top", "foot"), (0.1, 0.1))
    assert len(CocoSource(str(small.parent)).training(skeleton)) == 2
    message = capsys.readouterr().err
    assert f"'{small} (train)': 2 images have an EXIF orientation tag; 2 are read" in message
    assert f"'{small} (val)': 1 images have an EXIF orientation tag; 1 are read" in message


def test_two_dimensions_have_no_visibility(small: Path) -> None:
    small.write_text(small.read_text().replace("[2, 3]", "[2, 2]"))
    write(small.parent / "labels/val/a.txt", "0 0.5 0.5 0.2 0.4 0.25 0.5 0 0\n")
    labels = formats.read(small)
    assert labels.content["annotations"][0]["keypoints"] == [50, 50, 2, 0, 0, 0]
    assert "labels have no visibility: 1 points at (0, 0) are not labelled" in labels.summary()


def test_other_classes_than_person_are_counted(small: Path) -> None:
    small.write_text(small.read_text().replace("{0: person}", "[dog, person]"))
    write(small.parent / "labels/val/a.txt", LINE + LINE.replace("0 ", "1 ", 1))
    labels = formats.read(small)
    assert len(labels.content["annotations"]) == 1
    assert labels.left_out == {"instances of other classes than person": 1}


def test_classes_without_a_person_are_all_used(small: Path) -> None:
    small.write_text(small.read_text().replace("{0: person}", "[player, referee]"))
    write(small.parent / "labels/val/a.txt", LINE + LINE.replace("0 ", "1 ", 1))
    assert len(formats.read(small).content["annotations"]) == 2


def test_names_for_each_class(small: Path) -> None:
    small.write_text(small.read_text().replace("{0: [top, foot]}", "[[top, foot], [top, foot]]"))
    assert formats.read(small).keypoint_names == ["top", "foot"]
    small.write_text(small.read_text().replace("[[top, foot], [top", "[[top, foot], [bottom"))
    refused(small, "kpt_names differ between classes")


@pytest.mark.parametrize(
    "flip", ["", f"flip_idx: {list(range(17))}\n", f"flip_idx: {COCO_17.flip_order}\n"]
)
def test_seventeen_keypoints_are_assumed_to_be_cocos(small: Path, flip: str) -> None:
    small.write_text(f"val: images/val\nkpt_shape: [17, 2]\n{flip}")
    write(small.parent / "labels/val/a.txt", "0 0.5 0.5 0.2 0.4 " + "0.5 0.25 " * 17)
    labels = formats.read(small)
    assert labels.keypoint_names == list(COCO_17.keypoints)
    assert "keypoints without names: COCO's 17 in COCO's order are assumed" in labels.summary()


def test_seventeen_keypoints_in_another_order_are_not(small: Path) -> None:
    """MPII's or OpenPose's order swaps other neighbours; the remedy is tried."""
    flip = [1, 0, *range(2, 17)]
    small.write_text(f"val: images/val\nkpt_shape: [17, 2]\nflip_idx: {flip}\n")
    refused(small, "a flip_idx that is not COCO's order", "add 'kpt_names: {0: [head, ...]}'")
    named = ", ".join(f"k{i}" for i in range(17))
    small.write_text(small.read_text() + f"kpt_names: {{0: [{named}]}}\n")
    write(small.parent / "labels/val/a.txt", "0 0.5 0.5 0.2 0.4 " + "0.5 0.25 " * 17)
    assert formats.read(small).keypoint_names[3] == "k3"


YAMLS = {
    "names for another number": (
        "kpt_names: {0: [top]}",
        "1 different names, kpt_shape 2 keypoints",
    ),
    "a name twice": ("kpt_names: {0: [top, top]}", "1 different names"),
    "names of no sequence": ("kpt_names: 3", "kpt_names must be"),
    "no names": ("", "2 keypoints and no names for them; add 'kpt_names"),
}


@pytest.mark.parametrize("what", YAMLS)
def test_keypoint_names_that_do_not_fit(what: str, small: Path) -> None:
    text, message = YAMLS[what]
    small.write_text(f"val: images/val\nkpt_shape: [2, 3]\n{text}\n")
    refused(small, "data.yaml", message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val: images/val\n", "has no kpt_shape"),
        ("kpt_shape: [17]\nval: x\n", "kpt_shape must be"),
        ("kpt_shape: [17, 4]\nval: x\n", "kpt_shape must be"),
        ("kpt_shape: [1000000000, 3]\nval: x\n", "kpt_shape must be"),
        ("kpt_shape: [true, 3]\nval: x\n", "kpt_shape must be"),
        (f"{TWO}", "has no train, val or test entry"),
        (f"{TWO}val: [1, 2]\n", "must be a path or a list of paths"),
        (f"{TWO}val: {{a: b}}\n", "must be a path or a list of paths"),
        (f"{TWO}val: nowhere\n", "names 'nowhere', which is not at"),
        (f"{TWO}val: data.yaml\n", "neither a folder, nor a .txt list, nor an image"),
        (f"{TWO}train: images/val\n", "has no val entry; it has train"),
        ("kpt_shape: [2, 3\n", "is not a YAML file"),
        ("- kpt_shape\n", "has no kpt_shape"),
        ("", "has no kpt_shape"),
        ("kpt_shape: !!python/object/apply:os.system ['touch hacked']\n", "is not a YAML file"),
        ("kpt_shape: " + "[" * 5000 + "\n", "is not a YAML file"),
        (
            "kpt_shape: [2, 3]\nnames: {person: 0}\nkpt_names: [a, b]\nval: images/val\n",
            "names must be",
        ),
        ('a: "' + "x" * 1_000_001 + '"\nkpt_shape: [2, 3]\n', "too large"),
    ],
)
def test_a_yaml_that_does_not_fit_is_one_sentence(
    text: str, message: str, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small.parent)
    small.write_text(text)
    refused(small, str(small), message)
    assert not Path("hacked").exists()


def test_a_bomb_of_aliases_is_cheap(small: Path) -> None:
    rows = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
    )
    small.write_text(f"{rows}{TWO}val: *a29\n")
    refused(small, "must be a path or a list of paths")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2 0.4", "has 5 numbers, but kpt_shape: [2, 3] needs 11"),
        ("0 0.5 0.5 0.2 0.4 0.1 0.1 0.2 0.2", "(kpt_shape: [2, 2] would fit)"),
        ("0 0.5 0.5 0.2 0.4 25 50 2 0 0 0", "not fractions of the image's width and height"),
        ("0 0.5 0.5 0.2 0.4 0.2 0.5 0.93 0 0 0", "visibility 0.93; it must be 0"),
        ("0 0.5 0.5 0.2 0.4 0.2 0.5 nan 0 0 0", "a value that is not a finite number"),
        ("person 0.5 0.5 0.2 0.4 0.2 0.5 2 0 0 0", "a value that is not a finite number"),
        ("0,0.5,0.5,0.2,0.4", "a value that is not a finite number"),
    ],
)
def test_a_line_that_does_not_fit_names_file_and_line(line: str, message: str, small: Path) -> None:
    text = write(small.parent / "labels/val/a.txt", f"{LINE}\n{line}\n")
    refused(small, f"'{text}', line 3", message)


def test_files_that_are_not_text_are_one_sentence(small: Path) -> None:
    (small.parent / "labels/val/a.txt").write_bytes(b"\xff\xfe\x00")
    refused(small, "a.txt", "not a text file")
    small.write_bytes(b"kpt_shape: \xff")
    refused(small, "data.yaml", "not UTF-8")


def test_a_byte_order_mark_is_not_a_number(small: Path) -> None:
    (small.parent / "labels/val/a.txt").write_bytes(b"\xef\xbb\xbf" + LINE.encode())
    small.write_bytes(b"\xef\xbb\xbf" + small.read_bytes())
    assert len(formats.read(small).content["annotations"]) == 1


def test_a_folder_of_label_files(small: Path, make_image: MakeImage) -> None:
    """Any part, also one that the YAML does not name; images may lie elsewhere."""
    make_image("elsewhere/b.png")
    write(small.parent / "labels/test/b.txt", LINE)
    labels = formats.read(small.parent / "labels/test", small.parent / "elsewhere")
    assert names(labels) == ["b.png"] and len(labels.content["annotations"]) == 1
    assert len(formats.read(small.parent / "labels/val").content["annotations"]) == 1
    small.unlink()
    refused(small.parent / "labels/val", "no data.yaml beside or above", "'kpt_shape: [17, 3]'")
    with pytest.raises(HeatposeError, match=r"no data.yaml beside or above"):
        find_part(small.parent, "train")
    write(small.parent / "labels/data.yaml", f"train: images\n{TWO}")  # the remedy
    assert len(formats.read(small.parent / "labels/val").content["annotations"]) == 1


def test_the_test_part_stands_in_for_a_missing_val(small: Path) -> None:
    small.write_text(small.read_text().replace("val:", "test:", 1))
    assert formats.read(small).format == "Ultralytics YOLO pose (test)"


def test_several_yamls_are_one_sentence(small: Path) -> None:
    small.rename(small.with_name("one.yaml"))
    write(small.with_name("two.yml"), small.with_name("one.yaml").read_text())
    with pytest.raises(HeatposeError, match="several YAML files with kpt_shape"):
        find_part(small.parent, "val")
    assert find_part(small.with_name("two.yml"), "val").images == small.parent / "images/val"


def test_a_data_set_trains_as_the_same_labels_in_coco_do(
    synthetic_root: Path, tmp_path: Path
) -> None:
    """Three real steps from each: the same people in the same batches, the same losses."""
    from heatpose.training.fit import fit

    for part in ("train", "val"):
        labels = json.loads(
            (synthetic_root / f"annotations/person_keypoints_{part}2017.json").read_text()
        )
        writers.yolo(labels, synthetic_root / f"{part}2017", tmp_path / "mine", part)
    losses = []
    for root in (synthetic_root, tmp_path / "mine/data.yaml"):
        run = TinyRun(root, tmp_path / root.stem)
        assert fit(run.module(), run.data(), run.trainer(1), None).is_file()
        with (run.folder / "csv/metrics.csv").open() as table:
            losses.append([float(row[LOSS]) for row in csv.DictReader(table) if row.get(LOSS)])
    assert len(losses[0]) >= 3 and losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_parts_with_the_same_images_are_one_sentence(synthetic_root: Path, tmp_path: Path) -> None:
    """The remedy, different images, is tried."""
    folder = tmp_path / "mine"
    for part in ("val", "train"):
        labels = json.loads(
            (synthetic_root / f"annotations/person_keypoints_{part}2017.json").read_text()
        )
        path = writers.yolo(labels, synthetic_root / f"{part}2017", folder, part)
    text = path.read_text()
    path.write_text(text.replace("train: images/train", "train: images/val"))
    with pytest.raises(HeatposeError, match="give train and val different images"):
        CocoSource(str(path)).training(COCO_17)
    path.write_text(text)
    assert len(CocoSource(str(path)).training(COCO_17)) > 40
