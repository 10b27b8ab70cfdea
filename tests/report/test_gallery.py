"""Images of the recorded predictions are found by their names below the data set's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heatpose.data.coco import instances, read_labels
from heatpose.evaluation.evaluate import EvalReport
from heatpose.pose.skeleton import COCO_17
from heatpose.report.gallery import _inside, gallery_record
from tests.data.labelled import labels, write


def test_images_of_one_name_in_different_folders_are_told_apart(tmp_path: Path) -> None:
    content = labels(4)
    for entry, folder in zip(content["images"], "aabb", strict=True):
        entry["file_name"] = f"{folder}/frame_{entry['id'] % 2}.png"
    found = instances(
        read_labels(write(content, tmp_path / "labels.json")), tmp_path / "val2017", COCO_17
    )[0]
    values = np.array([0.4, 0.3, 0.2, 0.1])
    poses = np.zeros((4, 17, 3), np.float32)
    report = EvalReport(
        "m", "", 4, 17, {}, 25.0, 1.0, {}, 0.0, 0.0, [1, 2, 3, 4], values, poses, 1.0
    )
    record = gallery_record({"torch": report, "int8_pc": report}, found)
    assert record is not None and record["folder"] == str(tmp_path / "val2017")
    paths = [_inside(Path(record["folder"]), entry["file_name"]) for entry in record["people"]]
    assert paths == [person.image_path for person in reversed(found)] and len(set(paths)) == 4
    assert replace(found[0], file_name="").folder == tmp_path / "val2017" / "a"


@pytest.mark.parametrize("name", ["/etc/passwd", "../passwd", "a/../../passwd"])
def test_a_record_does_not_lead_out_of_the_folder(name: str) -> None:
    assert _inside(Path("images"), name) == Path("images/passwd")
