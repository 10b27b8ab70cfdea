"""Where people come from: folders in and out of the official layout, descriptions.

And the wall between training and evaluation.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from heatpose.data.sources import (
    CocoSource,
    Source,
    SyntheticSource,
    find_labels,
    find_part,
    from_description,
)
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton
from tests.data.labelled import labels, save_photos, write


def write_part(
    folder: Path, json_path: str, images: str, names: Sequence[str], instances: int = 1
) -> Path:
    """A small part of a data set: `instances` people on each of the images `names`."""
    (folder / images).mkdir(parents=True, exist_ok=True)
    labels = folder / json_path
    labels.parent.mkdir(parents=True, exist_ok=True)
    entries, annotations = [], []
    for i, name in enumerate(names):
        Image.fromarray(np.full((48, 64, 3), 40 * i % 256, np.uint8)).save(folder / images / name)
        entries.append({"id": i + 1, "file_name": name, "width": 64, "height": 48})
        for j in range(instances):
            annotations.append(
                {
                    "id": 10 * i + j,
                    "image_id": i + 1,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [8 * j, 4, 40, 40],
                    "area": 900,
                    "keypoints": [20, 20, 2] * 17,
                    "num_keypoints": 17,
                }
            )
    category = {"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints)}
    labels.write_text(
        json.dumps({"images": entries, "annotations": annotations, "categories": [category]})
    )
    return folder


def numbered(first: int, count: int) -> list[str]:
    return [f"{i:012d}.png" for i in range(first, first + count)]


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """The official layout: five training images, three evaluation images."""
    root = tmp_path / "coco"
    write_part(
        root,
        "annotations/person_keypoints_train2017.json",
        "train2017",
        numbered(0, 5),
        instances=2,
    )
    return write_part(
        root, "annotations/person_keypoints_val2017.json", "val2017", numbered(100, 3)
    )


def files(instances: Sequence[Any] | None) -> list[str]:
    assert instances is not None
    return sorted({str(person.image_path) for person in instances})


def test_the_official_layout(official: Path) -> None:
    source = CocoSource(str(official))
    source.prepare()  # nothing to download
    training, evaluation = source.training(ST_13), source.evaluation(ST_13)
    assert len(training) == 10
    assert files(training) == [str(official / "train2017" / name) for name in numbered(0, 5)]
    assert files(evaluation) == [str(official / "val2017" / name) for name in numbered(100, 3)]
    assert training[0].keypoints.shape == (13, 2)


def test_evaluation_instances_are_never_trained_on(official: Path, tmp_path: Path) -> None:
    """The same images under another root, as when a whole data set was put into both parts."""
    extra = write_part(
        tmp_path / "extra", "person_keypoints_more.json", "pictures", [*numbered(100, 2), "new.png"]
    )
    source = CocoSource(str(official), extra=[str(extra)])
    evaluated = {Path(name).name for name in files(source.evaluation(ST_13))}
    trained = {Path(name).name for name in files(source.training(ST_13))}
    assert evaluated == set(numbered(100, 3)) and not trained & evaluated
    assert trained == {*numbered(0, 5), "new.png"}


def test_evaluation_people_from_elsewhere_are_left_out_of_training(
    official: Path, tmp_path: Path
) -> None:
    other = write_part(
        tmp_path / "other",
        "annotations/person_keypoints_val2017.json",
        "val2017",
        [*numbered(3, 2), "own.png"],
    )
    for name in numbered(3, 2):
        shutil.copy(official / "train2017" / name, other / "val2017" / name)
    source = CocoSource(str(official), eval_root=str(other))
    assert len(files(source.evaluation(ST_13))) == 3
    assert [Path(name).name for name in files(source.training(ST_13))] == numbered(0, 3)


def test_frames_of_several_videos_are_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal base names in two folders of the training part and in the evaluation part.

    Ids count from 1 in both.
    """
    root, frames = tmp_path / "videos", [f"frame_{i:06d}.png" for i in range(5)]
    train, val = labels(10), labels(5, seed=1)
    names = [f"{folder}/{name}" for folder in "ab" for name in frames]
    for entry, name in zip([*train["images"], *val["images"]], [*names, *frames], strict=True):
        entry["file_name"] = name
    save_photos(train, root / "train2017")
    save_photos(val, root / "val2017", first=100)
    write(train, root / "person_keypoints_train2017.json")
    write(val, root / "person_keypoints_val2017.json")
    source = CocoSource(str(root))
    assert [person.file_name for person in source.training(ST_13)] == names
    assert len(source.evaluation(ST_13) or ()) == 5 and capsys.readouterr().err == ""
    # The same image in both folders is found, under its own name or another.
    shutil.copy(root / "val2017" / frames[3], root / "train2017" / "a" / frames[3])
    shutil.copy(root / "val2017" / frames[4], root / "train2017" / "b" / frames[0])
    trained = [person.file_name for person in source.training(ST_13)]
    assert trained == [name for name in names if name not in (f"a/{frames[3]}", f"b/{frames[0]}")]
    source.training(ST_13)
    path = root / "person_keypoints_train2017.json"
    message = (
        f"{path}: 8 of 10 person annotations usable for training; left out: on an image that is"
        " evaluated (2).\n"
    )
    assert capsys.readouterr().err == message  # once


def test_extra_folders_are_for_training_alone(official: Path, tmp_path: Path) -> None:
    extra = write_part(
        tmp_path / "extra", "person_keypoints_lsp.json", "images", ["a.png", "b.png"]
    )
    plain, more = CocoSource(str(official)), CocoSource(str(official), extra=(str(extra),))
    assert len(more.training(ST_13)) == len(plain.training(ST_13)) + 2
    assert files(more.evaluation(ST_13)) == files(plain.evaluation(ST_13))


def test_a_root_without_evaluation_part_has_no_evaluation_people(official: Path) -> None:
    shutil.rmtree(official / "val2017")
    (official / "annotations" / "person_keypoints_val2017.json").unlink()
    source = CocoSource(str(official))
    assert source.evaluation(ST_13) is None and len(source.training(ST_13)) == 10
    with pytest.raises(HeatposeError):
        # asked for, so it must be there
        CocoSource(str(official), eval_root=str(official)).evaluation(ST_13)


def test_mistakes_are_one_sentence(official: Path, tmp_path: Path) -> None:
    with pytest.raises(
        HeatposeError, match=r"No data: set data\.root=FOLDER .* data\.download=true"
    ):
        CocoSource().training(ST_13)
    with pytest.raises(HeatposeError, match="none"):
        CocoSource(str(tmp_path / "none")).training(ST_13)
    tail = Skeleton("tail", ("tail",), (0.1,))
    with pytest.raises(HeatposeError, match="'tail' needs .* which the dataset does not label"):
        CocoSource(str(official)).training(tail)


def test_labels_without_any_labelled_keypoint_are_one_sentence(official: Path) -> None:
    path = official / "annotations" / "person_keypoints_train2017.json"
    path.write_text(
        path.read_text().replace("[20, 20, 2, ", "[20, 20, 0, ").replace("20, 20, 2", "20, 20, 0")
    )
    with pytest.raises(
        HeatposeError, match="has no person with a labelled keypoint of skeleton 'st13'"
    ):
        CocoSource(str(official)).training(ST_13)


@pytest.mark.parametrize("images", [".", "images", "b/../images"])
@pytest.mark.parametrize(
    "labels", ["person_keypoints_a.json", "annotations/person_keypoints_a.json"]
)
def test_the_one_label_file_of_a_folder_is_found(labels: str, images: str, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()  # a subfolder without the images, first in order
    folder = write_part(tmp_path, labels, images, ["1.png", "2.png"])
    split = find_labels(folder)
    assert split.annotations == folder / labels
    assert (split.images / "1.png").is_file() and split.images.resolve() == (
        folder / images
    ).resolve()


def test_no_or_several_label_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        HeatposeError, match=r"should hold one person_keypoints_\*\.json, but has 0"
    ):
        find_labels(tmp_path)
    for name in ("a", "b"):
        write_part(tmp_path, f"person_keypoints_{name}.json", "images", ["1.png"])
    with pytest.raises(HeatposeError, match="but has 2"):
        find_labels(tmp_path)


def test_labels_without_their_images_are_one_sentence(tmp_path: Path) -> None:
    write_part(tmp_path, "person_keypoints_a.json", "images", ["1.png"])
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(
        HeatposeError,
        match="has labels for '1.png', but the image is neither there nor in a subfolder",
    ):
        find_labels(tmp_path)


def test_labels_without_images_are_one_sentence(tmp_path: Path) -> None:
    category = {"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints)}
    content = {"images": [], "annotations": [], "categories": [category]}
    (tmp_path / "person_keypoints_a.json").write_text(json.dumps(content))
    with pytest.raises(HeatposeError):
        find_labels(tmp_path)


def test_a_part_is_official_or_the_one_label_file(official: Path, tmp_path: Path) -> None:
    assert find_part(official, "train").images == official / "train2017"
    assert find_part(official, "val").annotations.name == "person_keypoints_val2017.json"
    other = write_part(tmp_path / "mine", "person_keypoints_mine.json", "images", ["1.png"])
    for split in ("train", "val"):
        assert find_part(other, split).annotations == other / "person_keypoints_mine.json"
    with pytest.raises(HeatposeError):
        find_part(tmp_path / "none", "train")


def test_rendered_people_are_a_source(synthetic_root: Path) -> None:
    source: Source = SyntheticSource(str(synthetic_root.parent), 40, 12)
    before = sorted(entry.name for entry in synthetic_root.parent.iterdir())
    source.prepare()
    # found, not rendered again
    assert sorted(entry.name for entry in synthetic_root.parent.iterdir()) == before
    evaluation, training = source.evaluation(ST_13), source.training(ST_13)
    assert len(files(evaluation)) == 12 and len(files(training)) == 40
    assert not {Path(n).name for n in files(evaluation)} & {Path(n).name for n in files(training)}


SOURCES = [
    CocoSource("a", "b", ("c", "d")),
    CocoSource("a"),
    CocoSource(),
    SyntheticSource("here", 7, 3, 5),
]


@pytest.mark.parametrize("source", SOURCES)
def test_a_description_makes_the_same_source(source: Source) -> None:
    # plain values: they go into checkpoints
    description = json.loads(json.dumps(source.describe()))
    again = from_description(description)
    assert type(again) is type(source) and again.describe() == source.describe()


def test_a_described_source_never_downloads() -> None:
    again = from_description(CocoSource("a", download=True).describe())
    assert isinstance(again, CocoSource) and not again.download


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({}, "kind 'None' is unknown; set data.root"),
        ({"kind": "http", "root": "a"}, "kind 'http' is unknown"),
        ({"kind": "coco", "_target_": "os.system"}, "does not fit .*; set data.root"),
        ({"kind": "synthetic", "images": 3}, "does not fit"),
        ({"kind": ["coco"]}, "is unknown"),
    ],
)
def test_an_unknown_description_is_one_sentence(description: dict[str, Any], message: str) -> None:
    with pytest.raises(HeatposeError, match=message):
        from_description(description)


def test_a_label_file_and_its_images_are_added(official: Path, tmp_path: Path) -> None:
    """Beside a root and alone, also as described in a checkpoint; alone nothing is evaluated."""
    mine = write_part(tmp_path / "mine", "labels.json", "photos", numbered(500, 2))
    entry = {"annotations": str(mine / "labels.json"), "images": str(mine / "photos")}
    both = CocoSource(str(official), extra=[entry])
    both.prepare()
    assert len(both.training(ST_13)) == 12 and both.evaluation(ST_13) is not None
    alone = CocoSource(extra=[entry])
    alone.prepare()
    assert {Path(name).parent.name for name in files(alone.training(ST_13))} == {"photos"}
    assert alone.evaluation(ST_13) is None
    described = json.loads(json.dumps(alone.describe()))
    assert files(from_description(described).training(ST_13)) == files(alone.training(ST_13))
    scored = CocoSource(eval_root=str(official), extra=[entry])
    assert len(scored.evaluation(ST_13) or []) == 3 and len(scored.training(ST_13)) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"annotations": "missing.json"}, "label file 'missing.json', which does not exist"),
        ({"images": "missing"}, "images 'missing', which is not a folder"),
        ({"photos": "more"}, r"an entry with \['annotations', 'images', 'photos'\]"),
    ],
)
def test_an_entry_of_extra_that_cannot_be_read(
    change: dict[str, str], words: str, tmp_path: Path
) -> None:
    mine = write_part(tmp_path, "labels.json", "photos", numbered(500, 2))
    entry = {"annotations": str(mine / "labels.json"), "images": str(mine / "photos")}
    with pytest.raises(HeatposeError, match=words):
        CocoSource(extra=[entry | change]).prepare()
    with pytest.raises(HeatposeError, match="labels alone: data.extra="):
        CocoSource().prepare()
