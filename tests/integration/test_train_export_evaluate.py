"""The whole pipeline in separate processes: train, export, score; content of the bundle."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from heatpose.data.coco import benchmark_instances, read_labels
from heatpose.evaluation.evaluate import evaluate, skeleton_of
from heatpose.models.checkpoint import load_checkpoint
from heatpose.runners import open_runner

pytestmark = pytest.mark.slow

# Drops of a network that is hardly trained are noise.
NO_LIMITS = [
    "quant.limits.drop_pc=1000",
    "quant.limits.drop_pt=1000",
    "quant.limits.drift_p50_px=1000",
    "quant.calibration_images=8",
]
MODEL = "st_movenet_heatmaps_64"
MODELS = [
    f"{MODEL}.onnx",
    *(f"{MODEL}_{artefact}.tflite" for artefact in ("float32", "int8_pc", "int8_pt")),
]


Trained = Any  # the finished run of conftest.py


@pytest.fixture
def trained(quickstart: Trained) -> Trained:
    """One run that the tests below look at; none of them changes it."""
    return quickstart


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _mean_oks(path: Path, data: Path) -> float:
    runner = open_runner(path)
    labels = read_labels(data / "annotations/person_keypoints_val2017.json")
    instances = benchmark_instances(labels, data / "val2017", skeleton_of(runner))[0]
    return evaluate(runner, instances, skeleton_of(runner), progress=False).oks


def test_one_table_has_all_results(trained: Trained) -> None:
    for row in ("torch", "onnx", "float32", "int8_pc", "int8_pt"):
        (line,) = [
            line for line in trained.out.splitlines() if line.strip("│ ").startswith(f"{row} ")
        ]
        assert ("reference" if row == "torch" else "passed") in line
        assert f"{trained.read('metrics.json')['artefacts'][row]['report']['oks']:.2f} ±" in line


def test_the_bundle_is_whole_and_its_hashes_are_true(trained: Trained) -> None:
    found = {path.name for path in trained.bundle.iterdir() if path.is_file()}
    assert {
        *MODELS,
        "metrics.json",
        "calibration.json",
        "README.md",
        "report.html",
        "manifest.json",
    } <= found
    manifest = trained.read("manifest.json")
    files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    assert files == {
        name: ((trained.bundle / name).stat().st_size, _sha256(trained.bundle / name))
        for name in found - {"manifest.json"}
    }
    assert (
        manifest["passed"]
        and manifest["resolution"] == 64
        and manifest["skeleton"]["name"] == "st13"
    )
    assert (
        manifest["config"]["trainer"]["max_epochs"] == 1
        and manifest["config"]["quant"]["limits"]["drop_pc"] == 1000
    )
    assert manifest["provenance"]["checkpoint"] == "best.ckpt"
    assert manifest["provenance"]["command"].startswith("uv run train.py experiment=quickstart ")
    # nothing temporary
    assert not [path.name for path in trained.bundle.parent.iterdir() if path.name != "quickstart"]


def test_the_board_of_the_run_is_printed_and_passed_on(trained: Trained) -> None:
    assert "Expected on STM32N6570-DK" in trained.out and "stm32n6 is ready" in trained.out
    record = json.loads((trained.bundle / "stm32n6/deploy.json").read_text())
    assert (
        record["model_sha256"]
        == trained.read("manifest.json")["files"][f"{MODEL}_int8_pc.tflite"]["sha256"]
    )
    assert (trained.bundle / "stm32n6/run.sh").is_file()


def test_the_bundles_scores_are_measured_again(trained: Trained) -> None:
    artefacts = trained.read("metrics.json")["artefacts"]
    for name, artefact in zip(MODELS, ("onnx", "float32", "int8_pc", "int8_pt"), strict=True):
        report = artefacts[artefact]["report"]
        assert (report["model"], report["sha256"]) == (name, _sha256(trained.bundle / name))
        assert _mean_oks(trained.bundle / name, trained.place.data) == pytest.approx(
            report["oks"], abs=1e-6
        )
        assert artefacts[artefact]["drop"] == pytest.approx(
            artefacts["torch"]["report"]["oks"] - report["oks"]
        )
    oks = _mean_oks(trained.checkpoint, trained.place.data)
    # Folding the norms changes the last bits, and the best cells of an untrained network are near
    # ties.
    assert oks == pytest.approx(artefacts["torch"]["report"]["oks"], abs=1)


def test_calibration_is_on_training_images_only(trained: Trained) -> None:
    calibration = trained.read("calibration.json")
    data = trained.place.data
    training = {int(path.stem): _sha256(path) for path in (data / "train2017").iterdir()}
    scored = {int(path.stem) for path in (data / "val2017").iterdir()}
    chosen = {entry["image_id"]: entry["sha256"] for entry in calibration["images"]}
    assert len(chosen) == calibration["count"] == 8
    assert chosen.items() <= training.items() and not chosen.keys() & scored
    evaluated = {
        entry["image_id"]
        for entry in trained.read("metrics.json")["artefacts"]["torch"]["report"]["per_image"]
    }
    assert evaluated == scored
    assert trained.read("manifest.json")["calibration"]["sha256"] == _sha256(
        trained.bundle / "calibration.json"
    )


def test_the_checkpoint_has_its_provenance(trained: Trained) -> None:
    loaded = load_checkpoint(trained.checkpoint)
    assert (loaded.skeleton.name, loaded.preprocessing.size, loaded.network.settings["width"]) == (
        "st13",
        64,
        0.35,
    )
    assert loaded.metadata["data"]["kind"] == "synthetic" and loaded.metadata["run"] == "quickstart"
    assert list(Path(trained.place.folder, "runs/quickstart/tensorboard").glob("events.*"))


def test_a_finished_run_is_scored_again_without_training(trained: Trained) -> None:
    before = _sha256(trained.checkpoint)
    ran = trained.place.run("train", *trained.place.tiny, "export=false")
    assert ran.status == 0 and "best.ckpt" in ran.out, ran.err
    assert f"{_mean_oks(trained.checkpoint, trained.place.data):.2f}" in ran.out
    assert _sha256(trained.checkpoint) == before


def test_another_configuration_needs_another_name(trained: Trained) -> None:
    before = _sha256(trained.checkpoint)
    ran = trained.place.run("train", *trained.place.tiny, "optimizer.lr=0.5", "export=false")
    ran.fails_with("another configuration", "optimizer", "resume=false")
    assert _sha256(trained.checkpoint) == before


def test_resume_false_starts_anew(place: Any) -> None:
    steps = [*place.tiny, "export=false", "evaluate=false"]
    assert place.run("train", *steps).status == 0
    checkpoint = place.folder / "runs/quickstart/checkpoints/best.ckpt"
    before = _sha256(checkpoint)
    ran = place.run("train", *steps, "resume=false", "optimizer.lr=0.02")
    assert ran.status == 0, ran.err
    assert _sha256(checkpoint) != before
    record = json.loads((place.folder / "runs/quickstart/configuration.json").read_text())
    assert record["configuration"]["optimizer"]["lr"] == 0.02
    # And an interrupted one goes on: one more epoch, from where it was.
    ran = place.run("train", *steps, "optimizer.lr=0.02", "trainer.max_epochs=2")
    ran.fails_with("trainer")  # how long a run is belongs to what it is


def test_a_failed_check_keeps_the_file_under_another_name(trained: Trained, place: Any) -> None:
    limits = [*NO_LIMITS, "quant.limits.drop_pc=-1000"]
    # as stm32n6 had it
    ran = place.run(
        "export",
        f"checkpoint={trained.checkpoint}",
        "name=bad",
        "quant=int8_pc",
        "quant.output=int8",
        *limits,
    )
    ran.fails_with("int8_pc", "acceptance check")
    assert "REJECTED" in ran.out and "limit -1000" in ran.out
    bundle = place.folder / "exports/bad"
    names = {path.name for path in bundle.iterdir()}
    assert f"{MODEL}_int8_pc.rejected.tflite" in names and f"{MODEL}_int8_pc.tflite" not in names
    assert {f"{MODEL}_float32.tflite", f"{MODEL}.onnx"} <= names  # they passed
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert not manifest["passed"] and [
        g["artefact"] for g in manifest["gates"] if not g["passed"]
    ] == ["int8_pc"]
    # The checkpoint records its training data; the same images are used for calibration.
    calibration = json.loads((bundle / "calibration.json").read_text())
    before = trained.read("calibration.json")
    assert calibration == {**before, "ranges": {"int8_pc": before["ranges"]["int8_pc"]}}
    # The same network, converted again: the same file to the byte.
    again = _sha256(bundle / f"{MODEL}_int8_pc.rejected.tflite")
    assert again == trained.read("manifest.json")["files"][f"{MODEL}_int8_pc.tflite"]["sha256"]


def test_an_export_that_is_killed_leaves_no_bundle(trained: Trained, place: Any) -> None:
    with place.start(
        "export", f"checkpoint={trained.checkpoint}", "name=killed", *NO_LIMITS
    ) as running:
        end = time.monotonic() + 300
        while (
            not list(place.folder.glob("exports/.killed.*/new/*.onnx")) and time.monotonic() < end
        ):
            assert running.poll() is None, "the export ended before it could be killed"
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)  # the converter's process as well
    assert not (place.folder / "exports/killed").exists()


def test_an_export_that_is_interrupted_cleans_up(trained: Trained, place: Any) -> None:
    with place.start(
        "export", f"checkpoint={trained.checkpoint}", "name=stopped", *NO_LIMITS
    ) as running:
        end = time.monotonic() + 300
        while (
            not list(place.folder.glob("exports/.stopped.*/new/*.onnx")) and time.monotonic() < end
        ):
            assert running.poll() is None, "the export ended before it could be interrupted"
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)  # Ctrl-C reaches every process of the terminal
    assert running.returncode != 0
    assert not list((place.folder / "exports").iterdir())


def test_a_run_with_a_teacher_asks_it_once(place: Any, tiny_checkpoint: Path) -> None:
    """A second run finds the answers; the teacher's keypoints have to be the student's."""
    options = [
        *place.tiny,
        "export=false",
        "evaluate=false",
        "logger=csv",
        f"distill.path={tiny_checkpoint}",
        f"distill.folder={place.folder}/kept",
    ]
    for name in ("first", "second"):
        ran = place.run("train", *options, f"name={name}")
        assert ran.status == 0, ran.err
        assert "OKS of teacher best.ckpt on " in ran.out
    kept = [path for path in Path(place.folder, "kept").iterdir() if path.is_dir()]
    assert len(kept) == 1 and {path.name for path in kept[0].iterdir()} == {
        "maps.npy",
        "points.npy",
        "scores.npy",
        "done.json",
    }
    table = next(Path(place.folder, "runs/first").rglob("metrics.csv")).read_text()
    assert "train/distill_loss" in table.splitlines()[0]
    place.run("train", *options, "skeleton=coco17", "name=third").fails_with(
        "nose", "choose another teacher"
    )
