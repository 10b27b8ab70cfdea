"""Bad input to the entries: one sentence on stderr, exit status 1, no traceback.

Nothing half-written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from heatpose.models.checkpoint import save_checkpoint
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17

pytestmark = pytest.mark.slow


def _text(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("These are notes about a network.\n" * 20)
    return path


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["resolution=100"], ["100", "multiple of 32"]),
        (["resolution=abc"], ["resolution=abc", "whole number"]),
        (["data.module.limit=0"], ["data.module.limit=0"]),
        (["quant.calibration_images=0"], ["quant.calibration_images must be >= 1"]),
        (["name=.hidden"], [".hidden", "not a valid name for a bundle"]),
        (["data=coco_person"], ["data.root="]),
        (["data=coco_person", "data.root=no/such/folder"], ["no/such/folder"]),
        (["init=movenet_lightning", "init.path=notes.tflite"], ["notes.tflite"]),
        (["init=checkpoint", "init.path=notes.ckpt"], ["notes.ckpt"]),
        (["distill.required=true"], ["distill.path="]),
        (["distill.path=no/such.onnx"], ["no/such.onnx", "distill.path"]),
        (["loss.weighting=image"], ["loss.weighting=image", "person"]),
        (["trainer.precision=bf16-true"], ["bf16-true", "bf16-mixed"]),
        (["trainer.strategy=dpp"], ["dpp", "trainer.strategy=auto"]),
        (["trainer.devices=3"], ["data.batch_size=16", "multiple of 3"]),
    ],
    ids=[
        "resolution",
        "no number",
        "limit",
        "calibration",
        "name",
        "no data",
        "absent data",
        "no TFLite",
        "no checkpoint",
        "no teacher",
        "absent teacher",
        "weighting",
        "precision",
        "strategy",
        "devices",
    ],
)
def test_training_refuses(place: Any, overrides: list[str], words: list[str]) -> None:
    _text(place.folder, "notes.tflite"), _text(place.folder, "notes.ckpt")
    save_checkpoint(
        place.folder / "seventeen.ckpt", MoveNet(17, width=0.35), COCO_17, Preprocessing(64)
    )
    before = place.left()
    tiny = (
        place.tiny
        if "data=coco_person" not in overrides
        else [o for o in place.tiny if "data." not in o]
    )
    place.run("train", *tiny, *overrides).fails_with(*words)
    assert place.left() == before


def test_weights_that_cannot_be_fetched(place: Any, offline: Path) -> None:
    """A machine without internet access; the remedy is tried with a file that is not a network."""
    tiny = [*place.tiny, "init=movenet_lightning", "model=movenet_lightning_heatmaps"]
    ran = place.run_cold("train", *tiny)
    said = ran.fails_with("tfhub.dev", "kaggle.com", "init.path=FILE")
    assert "Connection refused" in said and not list(offline.glob("[!.]*"))
    _text(place.folder, "notes.tflite")
    place.run("train", *tiny, "init.path=notes.tflite").fails_with("notes.tflite")


def test_a_broken_training_image_ends_the_run_with_its_name(place: Any) -> None:
    """Also where a process of the data loader meets it."""
    copy = _damaged(place, "train")
    run = [o for o in place.tiny if "data." not in o and not o.startswith("experiment")]
    overrides = [
        *run,
        "skeleton=st13",
        f"data.root={copy}",
        "data.workers=1",
        "data.cache=off",
        "data.batch_size=8",
        "name=broken",
    ]
    place.run("train", *overrides).fails_with("cannot be decoded", ".jpg")
    assert not list(place.folder.rglob("*.ckpt")) and not (place.folder / "exports").exists()
    # The run that failed is in nobody's way: the same name with other settings is not refused as
    # another run.
    fixed = [o.replace(str(copy), str(place.data)) for o in overrides]
    ran = place.run("train", *fixed, "export=false", "evaluate=false")
    assert ran.status == 0, ran.err


def test_labels_without_keypoints(place: Any) -> None:
    copy = _damaged(place, None)
    path = copy / "annotations/person_keypoints_train2017.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        del annotation["keypoints"]
    path.unlink()
    path.write_text(json.dumps(content))
    run = [o for o in place.tiny if "data." not in o and not o.startswith("experiment")]
    ran = place.run("train", *run, "skeleton=st13", f"data.root={copy}", "data.workers=0")
    ran.fails_with("no keypoints")
    assert not list(place.folder.rglob("*.ckpt"))


def test_exporting_refuses(place: Any, tiny_checkpoint: Path) -> None:
    notes = _text(place.folder, "notes.ckpt")
    before = place.left()
    place.run("export", f"checkpoint={notes}", "name=bad").fails_with("notes.ckpt")
    place.run("export", "checkpoint=absent.ckpt", "name=bad").fails_with("absent.ckpt")
    place.run("export", f"checkpoint={tiny_checkpoint}", "name=a/b").fails_with("a/b")
    ran = place.run(
        "export", f"checkpoint={tiny_checkpoint}", "name=bad", "quant.calibration_images=0"
    )
    ran.fails_with("quant.calibration_images must be >= 1")
    assert place.left() == before and not list(place.folder.glob("exports/*"))


def test_a_folder_that_is_not_a_bundle_is_left_alone(place: Any, tiny_checkpoint: Path) -> None:
    thesis = place.folder / "exports/mine/thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    place.run("export", f"checkpoint={tiny_checkpoint}", "name=mine").fails_with(
        "mine", "not a bundle"
    )
    assert thesis.read_text() == "years of work" and len(list(thesis.parent.iterdir())) == 1


def _damaged(place: Any, split: str | None) -> Path:
    """A copy of the rendered people, one image of `split` cut off."""
    copy = Path(place.folder, "data")
    for path in place.data.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(place.data)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    if split:
        for image in sorted((copy / f"{split}2017").iterdir())[::4]:  # whichever are held out
            content = image.read_bytes()
            image.unlink()
            image.write_bytes(content[: len(content) // 2])
    return copy
