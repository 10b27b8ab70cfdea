"""Writes real files of every kind that is read into a folder, for `fuzzing.py` to spoil.

    python tests/faults/seeds.py FOLDER --data COCO_FOLDER

Labels and images are cut from a data set in COCO 2017 layout; the network is a tiny one of random
weights, as a checkpoint, as an ONNX file, and as the int8 file that its export gave (`files/`).
More files of one's own can be put beside them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
TFLITE = HERE / "files" / "tiny_64_int8_pt.tflite"


def labels(folder: Path, data: Path) -> None:
    """A label file of six images."""
    content = json.loads((data / "annotations/person_keypoints_val2017.json").read_text())
    images = content["images"][:6]
    ids = {image["id"] for image in images}
    instances = [
        {k: v for k, v in a.items() if k != "segmentation"}
        for a in content["annotations"]
        if a["image_id"] in ids
    ]
    (folder / "a.json").write_text(
        json.dumps(
            {"categories": content["categories"], "images": images, "annotations": instances}
        )
    )


def images(folder: Path, data: Path) -> None:
    """One image in every format that is decoded, and in several modes."""
    from PIL import Image

    image = Image.open(sorted((data / "val2017").iterdir())[0]).convert("RGB").resize((96, 128))
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "a.jpg", exif=turned)
    image.save(folder / "progressive.jpg", progressive=True)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.quantize(64).save(folder / "palette.png")
    image.convert("L").save(folder / "grey.png")
    for suffix in ("png", "bmp", "webp", "gif", "tif"):
        image.save(folder / f"a.{suffix}")


def reports(folder: Path) -> None:
    """Reports of ST Edge AI Core in all their st_reports."""
    spec = importlib.util.spec_from_file_location(
        "st_reports", REPOSITORY / "tests/deploy/st_reports.py"
    )
    assert spec is not None and spec.loader is not None
    st_reports: Any = importlib.util.module_from_spec(spec)
    assert isinstance(st_reports, ModuleType)
    spec.loader.exec_module(st_reports)
    for name, content in (
        ("npu", st_reports.c_info()),
        ("processor", st_reports.processor_c_info()),
        ("validation", st_reports.validation_c_info()),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    for generation, version in (
        ("old", "2.2.0-20266 2adc00962"),
        ("new", "3.0.0-20426 123672867"),
        ("blobs", "4.0.0-20500 359356bb0"),
    ):
        (folder / f"{generation}.txt").write_text(st_reports.report(generation, version))
    (folder / "processor.txt").write_text(st_reports.processor_report())
    (folder / "validation.txt").write_text(st_reports.validate_report())


def networks(folder: Path) -> None:
    """A checkpoint, an ONNX file and a TFLite file of one network."""
    import torch

    from heatpose.export.onnx import description, export_onnx, into_tflite
    from heatpose.models.checkpoint import save_checkpoint
    from heatpose.models.movenet import MoveNet
    from heatpose.pose.preprocessing import Preprocessing
    from heatpose.pose.skeleton import ST_13

    torch.manual_seed(0)
    network = MoveNet(13, 0.1, last_channels=16, pyramid=(8, 8, 8, 8), head_channels=8)
    save_checkpoint(
        folder / "tiny.ckpt",
        network,
        ST_13,
        Preprocessing(64),
        model="tiny",
        data={"kind": "coco", "root": "data"},
    )
    export_onnx(network.eval(), 64, folder / "tiny.onnx", sigmoid=True)
    text = description(ST_13, Preprocessing(64), probabilities=True, pose=None)
    (folder / TFLITE.name).write_bytes(into_tflite(TFLITE.read_bytes(), text))


def manifests(folder: Path, beside: Path) -> None:
    """A manifest and the model that it is about."""
    from heatpose.bundles.bundle import file_table
    from heatpose.pose.preprocessing import Preprocessing
    from heatpose.pose.skeleton import ST_13

    shutil.copy(TFLITE, beside)
    checks = [{"artefact": "int8_pt", "passed": False, "sentence": "Keypoints moved."}]
    known = {"skeleton": ST_13.to_dict(), "preprocessing": Preprocessing(64).to_dict()}
    (folder / "manifest.json").write_text(
        json.dumps(
            {
                "format": 1,
                **known,
                "files": file_table(beside),
                "gates": checks,
                "config": {"seed": 0},
            }
        )
    )


def archives(folder: Path) -> None:
    """Zips as they are downloaded, and as a tool's results come."""
    members = {f"val2017/{i}.jpg": bytes(range(256)) * (i + 1) for i in range(3)}
    for name, packing in (("stored", zipfile.ZIP_STORED), ("packed", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(folder / f"{name}.zip", "w", packing) as file:
            for entry, content in members.items():
                file.writestr(entry, content)


def main() -> None:
    """Writes all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    places = {
        name: options.folder / name
        for name in (
            "labels",
            "images",
            "models",
            "reports",
            "manifests",
            "yaml",
            "archives",
            "beside/manifest",
        )
    }
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    labels(places["labels"], options.data)
    images(places["images"], options.data)
    reports(places["reports"])
    networks(places["models"])
    manifests(places["manifests"], places["beside/manifest"])
    archives(places["archives"])
    for path in REPOSITORY.glob("conf/target/*.yaml"):
        shutil.copy(path, places["yaml"])


if __name__ == "__main__":
    main()
