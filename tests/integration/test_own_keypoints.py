"""Labels of one's own: a COCO-format file with other keypoint names.

A skeleton and an experiment outside the repository.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from heatpose.cli import app
from heatpose.data.coco import instances, read_labels
from heatpose.models.checkpoint import load_checkpoint
from heatpose.pose.skeleton import COCO_17, Skeleton

pytestmark = pytest.mark.slow

# own name -> where the rendered people have it
NAMES = {"crown": "nose", "hand_r": "right_wrist", "hand_l": "left_wrist"}
SKELETON = """
_target_: heatpose.pose.skeleton.Skeleton
name: hands3
keypoints: [crown, left_wrist, right_wrist]
sigmas: [0.05, 0.062, 0.062]
flip_pairs: [[left_wrist, right_wrist]]
edges: [[crown, left_wrist], [crown, right_wrist]]
merge:
  left_wrist: [hand_l]
  right_wrist: [hand_r]
"""
EXPERIMENT = """
# @package _global_
defaults:
  - override /skeleton: hands3
name: hands3_64
resolution: 64
model: {width: 0.35}
trainer: {max_epochs: 1, accelerator: cpu, precision: 32-true}
data: {workers: 0, batch_size: 16}
"""


@pytest.fixture
def own(place: Any) -> Path:
    """The rendered people under three names of one's own.

    And a folder with the two files that a person writes.
    """
    columns = [COCO_17.index(name) for name in NAMES.values()]
    for split in ("train", "val"):
        labels = json.loads(
            (place.data / f"annotations/person_keypoints_{split}2017.json").read_text()
        )
        (category,) = labels["categories"]
        category.update(name="acrobat", keypoints=list(NAMES), skeleton=[])
        for annotation in labels["annotations"]:
            values = annotation["keypoints"]
            annotation["keypoints"] = [
                number for column in columns for number in values[3 * column : 3 * column + 3]
            ]
        folder = place.folder / "own"
        folder.mkdir(exist_ok=True)
        (folder / f"person_keypoints_{split}2017.json").write_text(json.dumps(labels))
        os.symlink(place.data / f"{split}2017", folder / f"{split}2017")
    for name, text in (("skeleton/hands3", SKELETON), ("experiment/hands3_64", EXPERIMENT)):
        path = place.folder / "settings" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text.lstrip())
    return Path(place.folder, "own")


def test_names_of_a_label_file_are_the_skeletons_sources(own: Path, place: Any) -> None:
    skeleton = Skeleton.from_yaml(place.folder / "settings/skeleton/hands3.yaml")
    labels = read_labels(own / "person_keypoints_val2017.json")
    assert labels.keypoint_names == ["crown", "hand_r", "hand_l"]
    mine, _ = instances(labels, own / "val2017", skeleton)
    plain = replace(
        skeleton, keypoints=("nose", "left_wrist", "right_wrist"), flip_pairs=(), edges=(), merge={}
    )
    theirs, _ = instances(
        read_labels(place.data / "annotations/person_keypoints_val2017.json"),
        own / "val2017",
        plain,
    )
    assert len(mine) == len(theirs) == 12
    for a, b in zip(mine, theirs, strict=True):
        assert (a.keypoints == b.keypoints).all() and (a.labelled == b.labelled).all()


def test_own_labels_are_looked_at_trained_on_and_scored(own: Path, place: Any) -> None:
    files = CliRunner()
    seen = files.invoke(app, ["data", str(own), "--sheet", str(place.folder / "people.png")])
    assert seen.exit_code == 0 and "as labelled" in seen.output and "hand_r" in seen.output
    skeleton = str(place.folder / "settings/skeleton/hands3.yaml")
    seen = files.invoke(app, ["data", str(own), "--split", "val", "--skeleton", skeleton])
    assert seen.exit_code == 0 and "hands3" in seen.output and "left_wrist" in seen.output

    ran = place.run(
        "train",
        "--config-dir",
        "settings",
        "experiment=hands3_64",
        f"data.root={own}",
        "export=false",
    )
    assert ran.status == 0, ran.err
    checkpoint = Path(place.folder, "runs/hands3_64/checkpoints/best.ckpt")
    assert load_checkpoint(checkpoint).skeleton == Skeleton.from_yaml(skeleton)
    report = place.folder / "report.json"
    labels = [
        "--annotations",
        str(own / "person_keypoints_val2017.json"),
        "--images",
        str(own / "val2017"),
    ]
    scored = files.invoke(app, ["evaluate", str(checkpoint), *labels, "--json", str(report)])
    assert scored.exit_code == 0, scored.output
    assert list(json.loads(report.read_text())["oks_per_keypoint"]) == [
        "crown",
        "left_wrist",
        "right_wrist",
    ]


def test_a_name_that_the_labels_lack_is_reported(own: Path, place: Any) -> None:
    ran = place.run(
        "train",
        "skeleton=st13",
        f"data.root={own}",
        "model.width=0.35",
        "export=false",
        "data.workers=0",
    )
    ran.fails_with("'head'", "crown", "merge rule")
