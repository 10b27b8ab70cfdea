"""The layouts of a data set's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from heatpose.data.formats.folder import Split, find_split
from heatpose.errors import HeatposeError


def make(root: Path, labels: str, images: str) -> None:
    for name in filter(None, (images, str(Path(labels).parent))):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / labels).write_text("{}")


@pytest.mark.parametrize("folder", ["annotations", "."])
@pytest.mark.parametrize("split", ["train", "val"])
def test_both_layouts_are_found(
    folder: str, split: Literal["train", "val"], tmp_path: Path
) -> None:
    make(tmp_path, f"{folder}/person_keypoints_{split}2017.json", f"{split}2017")
    found = find_split(str(tmp_path), split)
    assert found == Split(
        tmp_path / folder / f"person_keypoints_{split}2017.json", tmp_path / f"{split}2017"
    )


def test_the_official_layout_wins(tmp_path: Path) -> None:
    make(tmp_path, "person_keypoints_val2017.json", "val2017")
    make(tmp_path, "annotations/person_keypoints_val2017.json", "val2017")
    assert find_split(tmp_path, "val").annotations.parent.name == "annotations"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(HeatposeError) as caught:
        find_split(tmp_path / "none", "train")
    for part in (
        "/none'",
        "person_keypoints_train2017.json",
        "docs/labels.md",
        "data.download=true",
    ):
        assert part in str(caught.value)
    make(tmp_path, "person_keypoints_val2017.json", "train2017")
    with pytest.raises(HeatposeError, match=r"folder '.*val2017'.*data\.download=true"):
        find_split(tmp_path, "val")


def test_the_development_data_is_found(shared: Path) -> None:
    found = find_split(shared / "data" / "coco_val_dev", "val")
    assert found.annotations.is_file() and len(list(found.images.glob("*.jpg"))) == 530
