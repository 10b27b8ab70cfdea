"""File names that shells, option parsers and formats stumble over.

Every command takes them, and none of them is run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
ODD = "-odd 'quo\"tes' $(touch pwned) `touch pwned`; ünï 人 %s {0} [red] \\ \n line"


@pytest.fixture
def place(
    tmp_path: Path, synthetic_root: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with an odd name, which is the working directory.

    In it a checkpoint, labels and images with odd names.
    """
    folder = tmp_path / ODD
    (folder / f"{ODD}images").mkdir(parents=True)
    shutil.copy(tiny_checkpoint, folder / f"{ODD}.ckpt")
    content = json.loads((synthetic_root / "annotations/person_keypoints_val2017.json").read_text())
    for entry in content["images"]:
        name = f"{ODD}{entry['file_name']}"
        shutil.copy(synthetic_root / "val2017" / entry["file_name"], folder / f"{ODD}images" / name)
        entry["file_name"] = name
    (folder / "person_keypoints_odd.json").write_text(json.dumps(content))
    monkeypatch.chdir(folder)
    return folder


def sane(place: Path) -> None:
    """Nothing in a name was run."""
    assert (
        not [path for path in place.parent.rglob("*") if path.name == "pwned"]
        and not Path("pwned").exists()
    )


def test_evaluate_and_compare(place: Path, heatpose: Callable[..., Any]) -> None:
    model, labels, images = (
        place / f"{ODD}.ckpt",
        place / "person_keypoints_odd.json",
        place / f"{ODD}images",
    )
    data = ("--annotations", labels, "--images", images)
    ran = heatpose("evaluate", model, *data, "--json", place / f"{ODD}.json")
    assert ran.status == 0, ran.err
    report = json.loads((place / f"{ODD}.json").read_text())
    assert report["model"] == f"{ODD}.ckpt" and report["images"] == 12
    ran = heatpose("compare", model, model, *data, "--json", place / f"{ODD}2.json")
    assert ran.status == 0, ran.err
    sane(place)


def test_inspect_and_estimate(place: Path, heatpose: Callable[..., Any]) -> None:
    # relative, with its leading dash
    ran = heatpose("inspect", "--json", f"{ODD}.json", "--", f"{ODD}.ckpt")
    assert ran.status == 0 and json.loads(Path(f"{ODD}.json").read_text())["bytes"] > 0, ran.err
    ran = heatpose("estimate", "--target", "stm32n6", "--", f"{ODD}.ckpt")
    assert ran.status == 0, ran.err
    sane(place)


def test_predict(place: Path, heatpose: Callable[..., Any]) -> None:
    ran = heatpose(
        "predict", place / f"{ODD}.ckpt", place / f"{ODD}images", "--out", place / f"{ODD}drawn"
    )
    assert ran.status == 0, ran.err
    entries = json.loads((place / f"{ODD}drawn" / "predictions.json").read_text())
    assert len(entries) == 12 and all(ODD in entry["file_name"] for entry in entries)
    drawn = [path for path in (place / f"{ODD}drawn").iterdir() if path.suffix == ".jpg"]
    assert len(drawn) == 12
    with Image.open(drawn[0]) as image:
        image.load()
    sane(place)


def test_data(place: Path, heatpose: Callable[..., Any]) -> None:
    ran = heatpose(
        "data", place, "--files", "--sheet", place / f"{ODD}.png", "--json", place / f"{ODD}.json"
    )
    assert ran.status == 0, ran.err
    assert (place / f"{ODD}.png").is_file() and json.loads((place / f"{ODD}.json").read_text())
    sane(place)


def test_verify(place: Path, heatpose: Callable[..., Any]) -> None:
    from heatpose.bundles.bundle import file_table
    from heatpose.utils.files import write_json

    bundle = place / f"{ODD}bundle"
    bundle.mkdir()
    (bundle / f"{ODD}.onnx").write_bytes(b"x")
    write_json(bundle / "manifest.json", {"files": file_table(bundle)})
    assert heatpose("verify", "--", os.path.relpath(bundle)).status == 0
    (bundle / f"{ODD}.onnx").write_bytes(b"y")
    ran = heatpose("verify", bundle)
    assert ran.status == 1 and "has changed" in ran.out
    sane(place)


def test_what_is_not_there_is_one_sentence(place: Path, heatpose: Callable[..., Any]) -> None:
    absent = place / f"{ODD}absent.ckpt"
    for arguments in (
        ("inspect", absent),
        ("verify", absent),
        ("predict", absent, place, "--out", place / "out"),
        ("data", absent),
    ):
        ran = heatpose(*arguments)
        assert ran.status == 1 and ran.err.startswith("error: ") and ran.err.count("\n") == 1, (
            ran.err
        )
    sane(place)
