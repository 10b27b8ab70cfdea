"""Hashes and surroundings of a bundle."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heatpose.bundles.bundle import file_table
from heatpose.bundles.provenance import data_entry, git_state, instances_hash, surroundings
from heatpose.data.coco import instances, read_labels
from heatpose.data.formats.folder import find_split
from heatpose.data.sample import Person
from heatpose.pose.skeleton import COCO_17
from heatpose.utils.files import write_json


@pytest.fixture(scope="module")
def somebody(synthetic_root: Path) -> list[Person]:
    split = find_split(synthetic_root, "train")
    return instances(read_labels(split.annotations), split.images, COCO_17)[0]


def test_the_hash_of_people_is_that_of_their_labels(somebody: list[Person]) -> None:
    digest = instances_hash(somebody)
    moved = [
        replace(person, image_path=Path("/elsewhere") / person.image_path.name)
        for person in somebody
    ]
    assert instances_hash(list(reversed(moved))) == digest
    keypoints = somebody[0].keypoints + np.float32(0.5)
    assert instances_hash([replace(somebody[0], keypoints=keypoints), *somebody[1:]]) != digest
    assert instances_hash(somebody[1:]) != digest


def test_people_and_images_are_counted(somebody: list[Person]) -> None:
    entry = data_entry(somebody)
    assert entry is not None
    assert entry["people"] == len(somebody) > entry["images"] == 40
    assert data_entry([]) is None and data_entry(None) is None


def test_every_file_but_the_manifest_is_hashed(tmp_path: Path) -> None:
    for name in ("a.tflite", "b.json", "manifest.json"):
        (tmp_path / name).write_bytes(name.encode())
    expected = {"bytes": 8, "sha256": hashlib.sha256(b"a.tflite").hexdigest()}
    table = file_table(tmp_path)
    assert list(table) == ["a.tflite", "b.json"] and table["a.tflite"] == expected


def test_json_is_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": "ä", "path": Path("p")})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {
        "b": 1,
        "a": "ä",
        "path": "p",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_surroundings_name_python_torch_and_time() -> None:
    found = surroundings()
    assert {"python", "torch", "numpy"} <= set(found["versions"])
    assert found["created"].endswith("+00:00")


def test_the_commit_is_recorded_only_for_tracked_files(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    assert git_state(package) is None  # no repository
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert git_state(package) is None  # not tracked
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    state = git_state(package)
    assert state is not None and len(state["commit"]) == 40 and state["changed"] is False
    (package / "__init__.py").write_text("x = 1\n", encoding="utf-8")
    changed = git_state(package)
    assert changed is not None and changed["changed"] is True
