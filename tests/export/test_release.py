"""From a trained checkpoint to a released folder, by the commands that the documentation names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from heatpose.bundles import released
from heatpose.bundles.bundle import file_table, verify_bundle
from heatpose.data.sample import labelled_image
from heatpose.data.sources import SyntheticSource
from heatpose.entries.evaluate_and_export import export
from heatpose.errors import HeatposeError
from heatpose.export import release
from heatpose.export.release import write_half, write_release
from heatpose.export.validate import held_out
from heatpose.models.checkpoint import load_checkpoint, save_checkpoint, weights_hash
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13
from heatpose.quantize.settings import ExportConfig
from heatpose.report.bundle import read_bundle
from heatpose.report.scores import drift
from heatpose.runners import open_runner
from tests.conftest import TRAIN_IMAGES, VAL_IMAGES, Heatpose, MadeOnce
from tests.exporting import LENIENT, a_lively_network

pytestmark = pytest.mark.slow


def _export(checkpoint: Path, source: SyntheticSource, out: Path, name: str) -> Path:
    result = export(
        checkpoint,
        source,
        out / name,
        ExportConfig(calibration_images=8, limits=LENIENT),
        run_config={"data": {"root": "/home/me/data sets/COCO"}, "runs": "runs"},
        command="uv run export.py data.root=/home/me/COCO name=tiny init.path=runs/a.ckpt",
    )
    return result.folder


@pytest.fixture(scope="module")
def source(synthetic_root: Path) -> SyntheticSource:
    return SyntheticSource(str(synthetic_root.parent), TRAIN_IMAGES, VAL_IMAGES)


@pytest.fixture(scope="module")
def made(made_once: MadeOnce, source: SyntheticSource) -> Path:
    """`best.ckpt`, `half.ckpt`, `exports/tiny`, `released/walker`; tests only read them."""

    def make(folder: Path) -> None:
        network = a_lively_network()
        where = {"data": {"kind": "coco", "root": "/home/me/COCO"}, "model": "net"}
        save_checkpoint(folder / "best.ckpt", network, ST_13, Preprocessing(64), **where)
        write_half(folder / "best.ckpt", folder / "half.ckpt")
        bundle = _export(folder / "half.ckpt", source, folder / "exports", "tiny")
        write_release(bundle, folder / "half.ckpt", folder / "released/walker")

    return made_once("released", make)


def _manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


def test_the_folder_is_a_bundle_of_its_own(made: Path) -> None:
    folder, bundle = made / "released/walker", made / "exports/tiny"
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json",
        "metrics.json",
        "calibration.json",
        "README.md",
        "net_64_int8_pc.tflite",
        "net_64_int8_pt.tflite",
        "net_64_float16.ckpt",
    }
    assert not verify_bundle(folder).findings
    for name in ("calibration.json", "net_64_int8_pc.tflite", "net_64_int8_pt.tflite"):
        assert (folder / name).read_bytes() == (bundle / name).read_bytes()
    manifest = _manifest(folder)
    assert (manifest["name"], manifest["forms"]) == ("walker", ["int8_pc", "int8_pt"])
    assert manifest["released"] == {
        "checkpoint": "net_64_float16.ckpt",
        "package": False,
        "scored_on": "12 images with one person",
    }
    assert manifest["terms"]["weights"].startswith("not recorded")
    assert ": 'COCO'" in manifest["terms"]["data"] and manifest["terms"]["spdx"] is None
    metrics = json.loads((folder / "metrics.json").read_text())["artefacts"]
    assert {artefact: entry["file"] for artefact, entry in metrics.items()} == {
        "torch": None,
        "onnx": None,
        "float32": None,
        "int8_pc": "net_64_int8_pc.tflite",
        "int8_pt": "net_64_int8_pt.tflite",
    }
    card = (folder / "README.md").read_text()
    assert "# walker\n" in card and "net_64_float32.tflite (not in this folder)" in card
    assert "checkpoint=walker/checkpoint" in card


def test_records_name_no_folder_of_the_machine(made: Path) -> None:
    folder = made / "released/walker"
    assert "/home/me" in (made / "exports/tiny/manifest.json").read_text()
    assert "/home/me" in (made / "exports/tiny/README.md").read_text()
    for path in folder.glob("*.[jm]*"):
        assert "/home/me" not in path.read_text() and str(made) not in path.read_text()
    manifest = _manifest(folder)
    assert manifest["config"] == {"data": {"root": "COCO"}, "runs": "runs"}
    assert manifest["provenance"]["command"] == (
        "uv run export.py data.root=COCO name=tiny init.path=runs/a.ckpt"
    )
    data = load_checkpoint(folder / "net_64_float16.ckpt").metadata["data"]
    assert data == {"kind": "coco", "root": "COCO"}


def test_the_checkpoint_is_half_the_size_and_makes_the_files_again(
    made: Path, source: SyntheticSource, tmp_path: Path
) -> None:
    folder = made / "released/walker"
    checkpoint = folder / "net_64_float16.ckpt"
    assert checkpoint.stat().st_size < 0.62 * (made / "best.ckpt").stat().st_size
    best, half = (load_checkpoint(made / f"{name}.ckpt").network for name in ("best", "half"))
    again = load_checkpoint(checkpoint).network
    assert weights_hash(again) == weights_hash(half) != weights_hash(best)
    bundle = _export(checkpoint, source, tmp_path, "tiny")
    for path in folder.glob("*.tflite"):
        assert path.read_bytes() == (bundle / path.name).read_bytes()


def test_the_recorded_agreement_is_that_of_the_files(made: Path, source: SyntheticSource) -> None:
    """Computed again from the files, by COCO's formula."""
    folder = made / "released/walker"
    people = source.evaluation(ST_13)
    assert people is not None and len(people) == 12
    images = np.stack([Preprocessing(64).resize(labelled_image(p)) for p in people])
    area = np.array([0.53 * p.box[2] * p.box[3] / (p.width * p.height) for p in people])
    label = open_runner(folder / "net_64_float16.ckpt").predict(images)[..., :2]
    metrics = json.loads((folder / "metrics.json").read_text())["artefacts"]
    for artefact in ("int8_pc", "int8_pt"):
        pose = open_runner(folder / f"net_64_{artefact}.tflite").predict(images)[..., :2]
        d2 = ((pose - label).astype(np.float64) ** 2).sum(-1)
        each = np.exp(-d2 / (8 * np.array(ST_13.sigmas) ** 2 * (area[:, None] + 1e-7)))
        found = metrics[artefact]["agreement"]["evaluation"]
        assert found["oks"] == pytest.approx(100 * each.mean(), rel=1e-3)
        assert list(found["oks_per_keypoint"].values()) == pytest.approx(
            (100 * each.mean(0)).tolist(), rel=1e-3
        )
        held = metrics[artefact]["agreement"]["holdout"]
        assert held["images"] >= 1 and set(held["oks_per_keypoint"]) == {*ST_13.keypoints}
    assert metrics["torch"]["agreement"] is None
    card = (folder / "README.md").read_text()
    assert "## Agreement with the float network" in card
    scored = metrics["int8_pc"]["agreement"]["evaluation"]["oks"]
    assert f"| int8_pc | 12 evaluation images | {scored:.2f} [" in card
    (rows,) = drift([read_bundle(folder)])["agreement"].values()
    assert len(rows) == 4 and rows[0][2].text == "12 evaluation"


def test_images_that_calibrate_or_teach_are_not_held_out(source: SyntheticSource) -> None:
    instances = list(source.training(ST_13))
    names = [person.name for person in instances]
    record = {"images": [{"file_name": name} for name in names[: len(names) // 2]]}
    job: Any = SimpleNamespace(
        config=SimpleNamespace(qat={}, calibration_seed=0),
        data=SimpleNamespace(holdout=[], fitting=instances),
    )
    found = held_out(job, record)
    assert found and not {p.name for p in found} & set(names[: len(names) // 2])
    assert len({p.image_path for p in found}) == len(found)
    job.data.holdout = instances[:3]
    assert {p.name for p in held_out(job, record)} <= set(names[:3])
    job.data.holdout, job.config.qat = [], {"int8_pt": object()}
    assert held_out(job, record) == []


def _copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "exports/tiny", tmp_path / "tiny"))


def _renew(bundle: Path, **changes: Any) -> None:
    """The manifest as an export of these files would have written it."""
    content = {**_manifest(bundle), **changes, "files": file_table(bundle)}
    (bundle / "manifest.json").write_text(json.dumps(content))


def test_the_author_states_the_terms(made: Path, tmp_path: Path) -> None:
    """The export records folders only; whose photographs they hold is known to a person."""
    data = "COCO train2017 (CC BY 4.0), and photographs for research use"
    out = write_release(
        made / "exports/tiny", made / "half.ckpt", tmp_path / "walker", terms={"data": data}
    )
    card, recorded = (out / "README.md").read_text(encoding="utf-8"), _manifest(out)["terms"]
    assert f"\n- data: {data}\n" in card and recorded["data"] == data
    assert recorded["weights"] == _manifest(made / "exports/tiny")["terms"]["weights"]
    assert f"\n- initial weights: {recorded['weights']}\n" in card
    assert card.count(data) == 1


def test_refuses_bundles_that_cannot_be_released(made: Path, tmp_path: Path) -> None:
    out, half = tmp_path / "released/walker", made / "half.ckpt"
    bundle = _copy(made, tmp_path)
    (bundle / "net_64_int8_pt.tflite").unlink()
    with pytest.raises(HeatposeError, match=r"int8_pt.tflite' is missing; export .* again"):
        write_release(bundle, half, out)
    _renew(bundle)
    with pytest.raises(HeatposeError, match="lacks int8_pt; export with quant.artefacts"):
        write_release(bundle, half, out)
    with pytest.raises(HeatposeError, match="is not a bundle"):
        write_release(tmp_path, half, out)
    assert not out.exists()


def test_refuses_a_bundle_of_other_weights(made: Path, tmp_path: Path) -> None:
    """Of rounded weights that were exported before they were rounded, and of another network."""
    out, bundle = tmp_path / "released/walker", _copy(made, tmp_path)
    best = load_checkpoint(made / "best.ckpt")
    provenance = {**_manifest(bundle)["provenance"], "weights_sha256": weights_hash(best.network)}
    _renew(bundle, provenance=provenance)
    with pytest.raises(HeatposeError, match="not exported from the float16 weights") as error:
        write_release(bundle, made / "best.ckpt", out)
    assert "heatpose half" in str(error.value) and "\n" not in str(error.value)
    assert not out.exists() and not list(out.parent.iterdir())


def test_refuses_large_folders_and_folders_of_others(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, half = made / "exports/tiny", made / "half.ckpt"
    (tmp_path / "mine").mkdir()
    with pytest.raises(HeatposeError, match="mine' exists and is not a bundle"):
        write_release(bundle, half, tmp_path / "mine")
    monkeypatch.setattr(release, "LARGEST", 1 << 18)
    with pytest.raises(HeatposeError, match=r"would have \d\.\d MiB, more than 0 \(net_64"):
        write_release(bundle, half, tmp_path / "walker")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_commands_take_the_name(
    made: Path,
    synthetic_root: Path,
    heatpose: Heatpose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(released, "FOLDERS", (made / "released",))
    before = file_table(made / "released/walker")
    labels = synthetic_root / "annotations/person_keypoints_val2017.json"
    scored = ["--annotations", labels, "--images", synthetic_root / "val2017"]
    assert heatpose("evaluate", "walker", *scored, "--json", "e.json").status == 0
    pt = heatpose("compare", "walker/checkpoint", "walker/int8_pt", *scored, "--json", "c.json")
    assert pt.status == 0
    found = json.loads(Path("e.json").read_text())
    wanted = json.loads((made / "released/walker/metrics.json").read_text())["artefacts"]
    assert found["oks"] == pytest.approx(wanted["int8_pc"]["report"]["oks"])
    reports = json.loads(Path("c.json").read_text())["reports"]
    assert [report["oks"] for report in reports] == pytest.approx(
        [wanted[artefact]["report"]["oks"] for artefact in ("torch", "int8_pt")]
    )
    assert "net_64_int8_pc.tflite" in heatpose("inspect", "walker").out
    assert heatpose("estimate", "walker", "--target", "stm32mp2").status == 0
    assert heatpose("verify", "walker").status == 0
    assert heatpose("deploy", "walker", "--target", "stm32mp2").status == 0
    assert Path("exports/deployed/walker/stm32mp2/pose_app.py").is_file()
    assert before == file_table(made / "released/walker")
    assert not [path for path in (made / "released/walker").iterdir() if path.is_dir()]
    refused = heatpose("evaluate", "runner", *scored)
    assert refused.status == 1 and "the released networks are walker." in refused.err


def test_models_lists_it(
    made: Path, heatpose: Heatpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(released, "FOLDERS", (made / "released", tmp_path))
    ran = heatpose("models", "--json", tmp_path / "models.json")
    assert ran.status == 0 and "walker" in ran.out and "12 images with one person" in ran.out
    (entry,) = json.loads((tmp_path / "models.json").read_text())
    metrics = json.loads((made / "released/walker/metrics.json").read_text())["artefacts"]
    assert (entry["name"], entry["keypoints"], entry["resolution"]) == ("walker", 13, 64)
    assert entry["oks"] == {
        name: metrics[artefact]["report"]["oks"]
        for name, artefact in (("float", "torch"), ("int8_pc", "int8_pc"), ("int8_pt", "int8_pt"))
    }
    for artefact, size in entry["bytes"].items():
        (path,) = (made / "released/walker").glob(released.PATTERNS[artefact])
        assert path.stat().st_size == size
    assert set(entry["terms"]) == {"weights", "data", "spdx"}
    monkeypatch.setattr(released, "FOLDERS", ())
    assert "no released networks" in heatpose("models").out


def test_predict_needs_no_model(
    made: Path,
    synthetic_root: Path,
    heatpose: Heatpose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The default network is used and named; the poses are those of its file."""
    monkeypatch.chdir(tmp_path)
    photo = sorted((synthetic_root / "val2017").iterdir())[0]
    monkeypatch.setattr(released, "FOLDERS", (tmp_path / "places",))
    refused = heatpose("predict", photo)
    assert refused.status == 1 and refused.err.startswith("error: No model was given")
    shutil.copytree(made / "released/walker", tmp_path / "places" / released.DEFAULT)
    ran = heatpose("predict", photo)
    assert ran.status == 0, ran.err
    assert f"released network '{released.DEFAULT}' (int8_pc) is used" in ran.out
    named = heatpose("predict", released.DEFAULT, photo, "--out", "named")
    assert named.status == 0 and "No model" not in named.out
    assert Path("predictions/predictions.json").read_text() == (
        Path("named/predictions.json").read_text()
    )
    other = heatpose("predict", f"{released.DEFAULT}/int8_pt", photo, "--out", "other")
    assert other.status == 0 and "No model" not in other.out
    assert heatpose("predict", released.DEFAULT).status == 2
    assert "the released networks are" in heatpose("predict", "runner", photo).err
    broken = heatpose("predict", "0", "--out", "camera")  # there is no camera 0 here
    assert f"'{released.DEFAULT}'" in broken.out
