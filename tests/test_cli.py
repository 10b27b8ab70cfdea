"""The `heatpose` command: what it writes, and how it refuses."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from heatpose.bundles.released import released
from heatpose.cli.options import model_files, target_names
from heatpose.export.onnx import export_onnx
from heatpose.models.checkpoint import load_checkpoint
from heatpose.pose.skeleton import ST_13
from tests.conftest import Heatpose, Ran

REPOSITORY = Path(__file__).parents[1]
COMMANDS = (
    "evaluate",
    "compare",
    "inspect",
    "predict",
    "data",
    "estimate",
    "deploy",
    "doctor",
    "report",
    "verify",
    "debug-quant",
)
HEAVY = (
    "torch",
    "torchvision",
    "lightning",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "ai_edge_litert",
    "pycocotools",
    "matplotlib",
    "PIL",
    "plotly",
    "jinja2",
)
KINDS = ("ckpt", "onnx", "tflite")


@pytest.fixture(scope="session")
def models(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny network as checkpoint and ONNX, and two TFLite files.

    A pose model and a classifier.
    """
    tf = pytest.importorskip("tensorflow", reason="the export extra is not installed")
    folder = tmp_path_factory.mktemp("models")
    export_onnx(load_checkpoint(tiny_checkpoint).network, 64, folder / "tiny.onnx", sigmoid=True)
    kernel = np.random.default_rng(0).normal(0, 0.3, (4, 4, 3, 13)).astype(np.float32)

    def maps(image: Any) -> Any:
        return tf.sigmoid(tf.nn.conv2d(image, kernel, 4, "SAME"))

    def classes(image: Any) -> Any:
        return tf.nn.softmax(tf.reduce_mean(maps(image), (1, 2)))

    for name, network in (("maps", maps), ("classes", classes)):
        concrete = tf.function(network).get_concrete_function(tf.TensorSpec((1, 64, 64, 3)))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
        (folder / f"{name}.tflite").write_bytes(converter.convert())
    named = {
        "onnx": folder / "tiny.onnx",
        "tflite": folder / "maps.tflite",
        "classes": folder / "classes.tflite",
    }
    return {"ckpt": tiny_checkpoint, **named}


@pytest.fixture
def scored(synthetic_root: Path) -> list[object]:
    """Options that name the evaluation set."""
    labels = synthetic_root / "annotations/person_keypoints_val2017.json"
    return ["--annotations", labels, "--images", synthetic_root / "val2017"]


def _tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def _refused(ran: Ran, *words: str) -> None:
    """One sentence on stderr, status 1, no traceback."""
    # LiteRT's delegate
    lines = [line for line in ran.err.splitlines() if line and not line.startswith("INFO:")]
    assert ran.status == 1 and len(lines) == 1, ran.err
    assert lines[0].startswith("error: ") and lines[0].endswith(".")
    assert "Traceback" not in ran.err + ran.out
    assert all(word in lines[0] for word in words), lines[0]


# Help, usage, installation.


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from heatpose.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    sys.argv = ['heatpose', *command.split(), '--help']\n"
        "    try:\n        main()\n    except SystemExit as ended:\n        assert not ended.code\n"
        f"loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, "", *COMMANDS], check=True, stdout=subprocess.DEVNULL
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "heatpose.cli", "--help"], check=True, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time: the wall's is that of everything else on the machine, too.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    assert all(command in done.stdout for command in COMMANDS)


def test_the_console_script_is_installed() -> None:
    script = Path(sys.executable).with_name("heatpose")
    if not script.exists():
        pytest.skip("the package is not installed in this environment")
    done = subprocess.run(
        [script, "inspect", "no.tflite"], check=False, capture_output=True, text=True
    )
    _refused(Ran(done.returncode, done.stdout, done.stderr), "no.tflite")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(heatpose: Heatpose, command: str) -> None:
    ran = heatpose(command, "--help")
    assert ran.status == 0 and not ran.err and "Usage" in ran.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["unknown"],
        ["evaluate"],
        ["evaluate", "m.ckpt", "--annotations", "a.json", "--images", "i", "--sampling", "cubic"],
        ["evaluate", "m.ckpt", "--annotations", "a.json", "--images", "i", "--resolution", "big"],
        ["compare", "m.ckpt", "--annotations", "a.json", "--images", "i"],
        ["inspect", "m.tflite", "--no-such-option"],
        ["predict", "m.ckpt", "--out", "o"],
    ],
)
def test_wrong_usage_is_status_2(heatpose: Heatpose, arguments: list[str]) -> None:
    ran = heatpose(*arguments)
    assert ran.status == 2 and "Usage" in ran.err and "Traceback" not in ran.err


def _completions(shell_words: str, folder: Path) -> list[str]:
    """Completions of the last word that the console script gives to bash."""
    words = shell_words.split(" ")
    environment = {
        **os.environ,
        "_HEATPOSE_COMPLETE": "complete_bash",
        "COMP_WORDS": shell_words,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "import sys; sys.argv = ['heatpose']; from heatpose.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert not done.stderr
    return done.stdout.split()


def test_the_shell_completes_models_and_targets(tmp_path: Path) -> None:
    for name in ("a.tflite", "b.ckpt", "notes.txt", ".c.onnx", "runs/best.ckpt", "runs/log.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    networks = sorted(released())
    assert _completions("heatpose inspect ", tmp_path) == [
        *("a.tflite", "b.ckpt", "runs/"),
        *networks,
    ]
    assert _completions("heatpose estimate a.tflite --target stm32m", tmp_path) == [
        "stm32mp1",
        "stm32mp2",
    ]


def test_completion_looks_into_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "deep").mkdir(parents=True)
    for name in ("runs/best.CKPT", "runs/.hidden.onnx", "mine.yaml", "x.onnx"):
        (tmp_path / name).touch()
    assert (
        model_files("") == ["runs/", "x.onnx"] and model_files("y") == model_files("absent/") == []
    )
    # the one folder itself would end the word
    assert model_files("ru") == ["runs/best.CKPT", "runs/deep/"]
    assert model_files(f"{tmp_path}/x") == [f"{tmp_path}/x.onnx"] and model_files("runs/.h") == [
        "runs/.hidden.onnx"
    ]
    assert (
        target_names("stm32n") == ["stm32n6"]
        and target_names("mi") == ["mine.yaml"]
        and len(target_names("")) == 4
    )


# What the commands do.


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate(
    heatpose: Heatpose, models: dict[str, Path], scored: list[object], tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "new" / "report.json"
    ran = heatpose("evaluate", models[kind], *scored, "--json", out, "--threads", 1)
    assert ran.status == 0 and models[kind].name in ran.out
    report = json.loads(out.read_text())
    assert set(report) == {
        "model",
        "sha256",
        "images",
        "keypoints",
        "protocol",
        "labels",
        "assumed",
        "computed",
        "oks",
        "oks_standard_error",
        "oks_per_keypoint",
        "oks_per_size",
        "ap",
        "ap50",
        "per_image",
        "seconds",
        "images_per_second",
    }
    assert f"{report['oks']:.2f}" in ran.out and (report["images"], report["keypoints"]) == (12, 13)
    assert set(report["oks_per_keypoint"]) == set(ST_13.keypoints)
    assert (report["protocol"]["sampling"], report["protocol"]["decode"]) == ("nearest", "argmax")
    assert _tree(tmp_path) == [out.parent, out]


def test_options_reach_the_protocol(
    heatpose: Heatpose, tiny_checkpoint: Path, scored: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    options = [
        "--sampling",
        "bilinear",
        "--decode",
        "refined",
        "--resolution",
        96,
        "--threads",
        1,
        "--json",
        out,
    ]
    assert heatpose("evaluate", tiny_checkpoint, *scored, *options).status == 0
    protocol = json.loads(out.read_text())["protocol"]
    assert [protocol[key] for key in ("sampling", "decode", "resolution")] == [
        "bilinear",
        "refined",
        "96",
    ]


def test_compare(
    heatpose: Heatpose, models: dict[str, Path], scored: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "comparison.json"
    ran = heatpose(
        "compare",
        models["ckpt"],
        models["onnx"],
        models["tflite"],
        *scored,
        "--json",
        out,
        "--threads",
        1,
    )
    assert ran.status == 0
    content = json.loads(out.read_text())
    first, onnx, tflite = content["reports"]
    # the same network; near ties may fall either way
    assert first["oks"] == pytest.approx(onnx["oks"], abs=1.0)
    assert [entry["model"] for entry in content["difference_from_first"]] == [
        "tiny.onnx",
        "maps.tflite",
    ]
    difference = content["difference_from_first"][1]
    assert difference["mean"] == pytest.approx(tflite["oks"] - first["oks"])
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert all(name in ran.out for name in ("best.ckpt", "tiny.onnx", "maps.tflite"))


@pytest.mark.parametrize("kind", [*KINDS, "classes"])
def test_inspect(heatpose: Heatpose, models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    out = tmp_path / "facts.json"
    ran = heatpose("inspect", models[kind], "--json", out)
    assert ran.status == 0
    facts = json.loads(out.read_text())
    contract = {
        "sha256",
        "bytes",
        "inputs",
        "outputs",
        "operators",
        "granularity",
        "full_integer",
        "weights_bytes",
        "macs",
        "peak_activation_bytes",
        "findings",
        "assumed",
        "computed",
    }
    assert set(facts) == contract if kind != "ckpt" else set(facts) >= contract
    assert (
        set(facts["inputs"][0])
        == set(facts["outputs"][0])
        == {"name", "shape", "dtype", "scale", "zero_point"}
    )
    assert (
        facts["bytes"] == models[kind].stat().st_size
        and facts["granularity"] == "float"
        and not facts["full_integer"]
    )
    assert all(
        set(finding) == {"severity", "rule", "operator", "message"} for finding in facts["findings"]
    )
    assert f"{facts['bytes']:,}" in ran.out and next(iter(facts["operators"])) in ran.out


@pytest.mark.parametrize("kind", KINDS)
def test_predict(
    heatpose: Heatpose, models: dict[str, Path], synthetic_root: Path, tmp_path: Path, kind: str
) -> None:
    images = sorted((synthetic_root / "val2017").iterdir())
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for image in images[:2]:
        (folder / image.name).write_bytes(image.read_bytes())
    (folder / "broken.jpg").write_bytes(images[3].read_bytes()[:900])
    ran = heatpose(
        "predict", models[kind], folder, images[2], "--out", out, "--threads", 1, "--threshold", 0
    )
    assert ran.status == 0 and "3" in ran.out and "broken.jpg" in ran.out + ran.err
    assert "PosixPath" not in ran.out  # a sentence, not a dump
    entries = json.loads((out / "predictions.json").read_text())
    assert [len(entry["keypoints"]) for entry in entries] == [39] * 3
    drawn = sorted(path.name for path in out.iterdir() if path.suffix == ".jpg")
    assert drawn == sorted(f"{image.stem}_pose.jpg" for image in images[:3])
    with Image.open(out / drawn[0]) as after, Image.open(images[0]) as before:
        assert after.size == before.size


def test_predict_two_models_without_drawing(
    heatpose: Heatpose, models: dict[str, Path], synthetic_root: Path, tmp_path: Path
) -> None:
    image, out = next((synthetic_root / "val2017").iterdir()), tmp_path / "out"
    ran = heatpose(
        "predict",
        models["ckpt"],
        image,
        "--beside",
        models["ckpt"],
        "--out",
        out,
        "--no-draw",
        "--threads",
        1,
        "--threshold",
        0,
    )
    assert ran.status == 0 and "0.0 px apart" in ran.out and "Predicted 1 image into" in ran.out
    first, second = (
        json.loads((out / name).read_text())
        for name in ("predictions.json", "predictions_beside.json")
    )
    assert _tree(out) == [out / "predictions.json", out / "predictions_beside.json"]
    assert first == second and len(first[0]["keypoints"]) == 39


def test_data(heatpose: Heatpose, synthetic_root: Path, tmp_path: Path) -> None:
    out, sheet, augmented = (
        tmp_path / "audit.json",
        tmp_path / "new" / "sheet.png",
        tmp_path / "new" / "augmented.png",
    )
    ran = heatpose(
        "data",
        synthetic_root,
        "--files",
        "--sheet",
        sheet,
        "--augmented",
        augmented,
        "--resolution",
        96,
        "--json",
        out,
    )
    assert ran.status == 0
    audit = json.loads(out.read_text())
    assert (audit["images"], audit["skeleton"], audit["files"]["missing"]) == (40, "coco17", [])
    assert audit["training"]["kept"] == audit["annotations"] - sum(
        audit["training"]["dropped"].values()
    )
    with Image.open(sheet) as image:
        assert image.width > 600
    with Image.open(augmented) as image:
        assert image.width == 4 * 100 + 4 and image.height > 6 * 100
    st13 = REPOSITORY / "conf/skeleton/st13.yaml"
    assert (
        heatpose("data", synthetic_root, "--split", "val", "--skeleton", st13, "--json", out).status
        == 0
    )
    audit = json.loads(out.read_text())
    assert (audit["images"], audit["skeleton"], list(audit["labelled"])) == (
        12,
        "st13",
        list(ST_13.keypoints),
    )


# Bad input: one sentence, status 1, nothing written.


@dataclass(frozen=True)
class Bad:
    """Files to go wrong with, in a folder of their own."""

    folder: Path
    labels: Path
    images: Path

    def evaluate(self, model: Path, labels: Path | None = None) -> list[object]:
        """Arguments of an evaluation that would write a report."""
        out = self.folder / "out" / "report.json"
        return [
            "evaluate",
            model,
            "--annotations",
            labels or self.labels,
            "--images",
            self.images,
            "--json",
            out,
        ]


@pytest.fixture
def bad(synthetic_root: Path, tmp_path: Path) -> Bad:
    """A copy of the evaluation set that a test may damage."""
    labels, images = tmp_path / "labels.json", tmp_path / "images"
    labels.write_bytes((synthetic_root / "annotations/person_keypoints_val2017.json").read_bytes())
    images.mkdir()
    for image in (synthetic_root / "val2017").iterdir():
        os.link(image, images / image.name)
    return Bad(tmp_path, labels, images)


def test_labels_without_keypoints(heatpose: Heatpose, tiny_checkpoint: Path, bad: Bad) -> None:
    content = json.loads(bad.labels.read_text())
    boxes = [{k: v for k, v in a.items() if k != "keypoints"} for a in content["annotations"]]
    (category,) = content["categories"]
    instances = {
        **content,
        "annotations": boxes,
        "categories": [{"id": category["id"], "name": "person"}],
    }
    for name, broken in (
        ("instances.json", json.dumps(instances)),
        ("no_points.json", json.dumps({**content, "annotations": boxes})),
        ("list.json", "[1, 2]"),
        ("text.json", "no json at all"),
        ("empty.json", ""),
    ):
        path = bad.folder / name
        path.write_text(broken)
        before = _tree(bad.folder)
        _refused(heatpose(*bad.evaluate(tiny_checkpoint, path)), name)
        assert _tree(bad.folder) == before
    _refused(heatpose(*bad.evaluate(tiny_checkpoint, bad.folder / "absent.json")), "absent.json")


def test_left_out_and_assumed_values_are_printed(
    heatpose: Heatpose, tiny_checkpoint: Path, bad: Bad
) -> None:
    content = json.loads(bad.labels.read_text())
    first, second = content["annotations"][:2]
    del first["bbox"]
    second["keypoints"] = [0, 0, 2] * (len(second["keypoints"]) // 3)
    bad.labels.write_text(json.dumps(content))
    ran = heatpose(*bad.evaluate(tiny_checkpoint)[:-2])
    lines = [line for line in ran.err.splitlines() if "labels.json" in line]
    assert ran.status == 0 and len(lines) == 1
    for part in (
        "left out: no labelled keypoint of this skeleton (1)",
        "box made from the keypoints (1)",
        "(17)",
    ):
        assert part in lines[0]


@pytest.mark.parametrize("harm", ["missing", "truncated", "text", "other size"])
def test_images_that_cannot_be_read(
    heatpose: Heatpose, tiny_checkpoint: Path, bad: Bad, harm: str
) -> None:
    image = sorted(bad.images.iterdir())[5]
    content = image.read_bytes()
    image.unlink()
    if harm == "truncated":
        image.write_bytes(content[: len(content) // 2])
    elif harm == "text":
        image.write_text("no image")
    elif harm == "other size":
        Image.new("RGB", (50, 60)).save(image)
    before = _tree(bad.folder)
    _refused(heatpose(*bad.evaluate(tiny_checkpoint)), image.name)
    assert _tree(bad.folder) == before


def test_a_skeleton_with_other_keypoints(
    heatpose: Heatpose, models: dict[str, Path], bad: Bad
) -> None:
    before = _tree(bad.folder)
    seventeen = ["--skeleton", REPOSITORY / "conf/skeleton/coco17.yaml"]
    for kind in KINDS:
        _refused(heatpose(*bad.evaluate(models[kind]), *seventeen), "13", "17")
        arguments = ["predict", models[kind], bad.images, "--out", bad.folder / "drawn", *seventeen]
        _refused(heatpose(*arguments), "13", "17")
    _refused(heatpose(*bad.evaluate(models["ckpt"]), "--skeleton", bad.labels), "labels.json")
    assert _tree(bad.folder) == before


def test_a_tflite_that_is_not_a_pose_model(
    heatpose: Heatpose, models: dict[str, Path], bad: Bad
) -> None:
    before = _tree(bad.folder)
    _refused(heatpose(*bad.evaluate(models["classes"])), "classes.tflite", "pose")
    _refused(
        heatpose("compare", models["tflite"], *bad.evaluate(models["classes"])[1:]),
        "classes.tflite",
    )
    _refused(
        heatpose("predict", models["classes"], bad.images, "--out", bad.folder / "drawn"),
        "classes.tflite",
    )
    assert _tree(bad.folder) == before


@pytest.mark.parametrize(
    "name", ["notes.ckpt", "notes.onnx", "notes.tflite", "notes.txt", "torch.ckpt", "absent.ckpt"]
)
def test_files_that_are_not_models(heatpose: Heatpose, bad: Bad, name: str) -> None:
    path = bad.folder / name
    if name == "torch.ckpt":
        import torch

        torch.save({"state_dict": {}, "epoch": 3}, path)
    elif name != "absent.ckpt":
        path.write_text("These are notes about a network.\n" * 20)
    before = _tree(bad.folder)
    _refused(heatpose(*bad.evaluate(path)), name)
    _refused(heatpose("inspect", path, "--json", bad.folder / "out" / "facts.json"), name)
    _refused(heatpose("predict", path, bad.images, "--out", bad.folder / "drawn"), name)
    assert _tree(bad.folder) == before


def test_a_resolution_that_the_network_cannot_take(
    heatpose: Heatpose, models: dict[str, Path], bad: Bad
) -> None:
    before = _tree(bad.folder)
    for resolution in (100, 0, -32):
        _refused(
            heatpose(*bad.evaluate(models["ckpt"]), "--resolution", resolution),
            str(resolution),
            "multiple of 32",
        )
    _refused(heatpose(*bad.evaluate(models["tflite"]), "--resolution", 96), "64", "96")
    assert _tree(bad.folder) == before


def test_sources_that_are_not_images(heatpose: Heatpose, tiny_checkpoint: Path, bad: Bad) -> None:
    (bad.folder / "empty").mkdir()
    broken = bad.folder / "broken.jpg"
    broken.write_bytes(next(bad.images.iterdir()).read_bytes()[:700])
    before = _tree(bad.folder)
    for source in ("empty", "broken.jpg", "absent.jpg"):
        ran = heatpose(
            "predict", tiny_checkpoint, bad.folder / source, "--out", bad.folder / "drawn"
        )
        _refused(ran, source)
        assert _tree(bad.folder) == before


def test_the_threshold_is_the_bundles(
    heatpose: Heatpose, tiny_checkpoint: Path, synthetic_root: Path, tmp_path: Path
) -> None:
    image = next((synthetic_root / "val2017").iterdir())
    released = REPOSITORY / "exports/released/st_movenet_17kpt_192"
    stated = json.loads((released / "manifest.json").read_text())["score_threshold"]["value"]
    assert stated != 0.2
    for given, value in (
        ((released,), stated),
        ((tiny_checkpoint,), 0.2),  # nothing is stated
        ((released, "--threshold", 0.4), 0.4),
    ):
        ran = heatpose("predict", *given, image, "--out", tmp_path / "out", "--threads", 1)
        assert ran.status == 0 and f"below {value:g} are not drawn" in ran.out


def test_data_warns_of_sides_that_are_not_paired(
    heatpose: Heatpose, synthetic_root: Path, tmp_path: Path
) -> None:
    skeleton = tmp_path / "mine.yaml"
    skeleton.write_text("name: mine\nkeypoints: [left_wrist, right_wrist]\nsigmas: [0.06, 0.06]\n")
    ran = heatpose("data", synthetic_root, "--skeleton", skeleton)
    assert ran.status == 0 and "flip_pairs: [[left_wrist, right_wrist]]" in ran.err


def test_a_model_after_the_images_is_named(heatpose: Heatpose, bad: Bad) -> None:
    image = next(bad.images.iterdir())
    for model in ("mine.tflite", "st_movenet_17kpt_192"):
        ran = heatpose("predict", image, model, "--out", bad.folder / "drawn")
        assert ran.status == 2 and "before the images" in " ".join(ran.err.split())
        assert not (bad.folder / "drawn").exists()


def test_a_folder_that_is_not_a_data_set(heatpose: Heatpose, bad: Bad) -> None:
    _refused(heatpose("data", bad.images, "--json", bad.folder / "audit.json"), "images")
    _refused(heatpose("data", bad.folder / "absent"), "absent", "does not exist")
    assert not (bad.folder / "audit.json").exists()


def test_results_that_cannot_be_written(
    heatpose: Heatpose, tiny_checkpoint: Path, synthetic_root: Path, bad: Bad
) -> None:
    before = _tree(bad.folder)
    _refused(heatpose("inspect", tiny_checkpoint, "--json", bad.images), "images")  # a folder
    # below a file
    _refused(
        heatpose("inspect", tiny_checkpoint, "--json", bad.labels / "facts.json"), "labels.json"
    )
    _refused(
        heatpose(*bad.evaluate(tiny_checkpoint)[:-1], bad.labels / "report.json"),
        "labels.json",
        "cannot be written",
    )
    sheet = bad.folder / "sheet.xyz"
    _refused(heatpose("data", synthetic_root, "--sheet", sheet), "sheet.xyz", ".png")
    assert _tree(bad.folder) == before
