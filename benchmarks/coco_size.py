"""Dry run at the size of COCO's person images.

Time and memory of the audit, the cache and one epoch of the loader.

    python benchmarks/coco_size.py FOLDER [--images 64000] [--out benchmarks/coco_size.csv]

Writes cheap JPEGs (a few kilobytes each, from a small stock of rendered people) and their labels
into FOLDER, then runs each step in its own process, which reports its time and peak memory. The
values for the real data set are extrapolated by pixels and marked as such.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measuring import Peak

REAL_PIXELS = 64_115 * 577 * 484
"""Images of train2017 with people, and their mean size in pixels."""
STOCK = 200
STEPS = ("audit", "labels", "cache", "epoch")


def generate(folder: Path, images: int) -> None:
    """Copies of a stock of rendered images under names of their own, as whole files.

    The operating system sees `images` of them.
    """
    from heatpose.data.synthetic.dataset import SyntheticSettings, build_synthetic

    whole = folder / f"coco_{images}"
    if whole.is_dir():
        return
    stock = build_synthetic(folder, SyntheticSettings(train_images=STOCK, val_images=10))
    source = json.loads((stock / "annotations" / "person_keypoints_train2017.json").read_text())
    part = folder / f"coco_{images}.part"
    shutil.rmtree(part, ignore_errors=True)
    (part / "annotations").mkdir(parents=True)
    (part / "train2017").mkdir()
    labels = {"categories": source["categories"], "images": [], "annotations": []}
    photos = _small_jpegs(stock / "train2017", source["images"])
    by_image = {
        entry["id"]: [_halved(a) for a in source["annotations"] if a["image_id"] == entry["id"]]
        for entry in source["images"]
    }
    for number in range(images):
        entry = source["images"][number % len(source["images"])]
        name = f"{number:012d}.jpg"
        (part / "train2017" / name).write_bytes(photos[entry["id"]])
        sides = {side: entry[side] // 2 for side in ("width", "height")}
        labels["images"].append({**entry, **sides, "id": number + 1, "file_name": name})
        for annotation in by_image[entry["id"]]:
            labels["annotations"].append(
                {**annotation, "id": len(labels["annotations"]) + 1, "image_id": number + 1}
            )
    (part / "annotations" / "person_keypoints_train2017.json").write_text(json.dumps(labels))
    part.rename(whole)


def _small_jpegs(folder: Path, entries: list[dict[str, Any]]) -> dict[int, bytes]:
    import io

    from PIL import Image

    from heatpose.utils.image_files import load_image

    found = {}
    for entry in entries:
        buffer = io.BytesIO()
        pixels = load_image(folder / str(entry["file_name"]), entry["width"], entry["height"])
        image = Image.fromarray(pixels).reduce(2)
        image.crop((0, 0, entry["width"] // 2, entry["height"] // 2)).save(
            buffer, "JPEG", quality=60
        )
        found[entry["id"]] = buffer.getvalue()
    return found


def _halved(annotation: dict[str, Any]) -> dict[str, Any]:
    points = [
        value if at % 3 == 2 else value / 2 for at, value in enumerate(annotation["keypoints"])
    ]
    return {
        **annotation,
        "keypoints": points,
        "bbox": [value / 2 for value in annotation["bbox"]],
        "area": annotation["area"] / 4,
    }


def step(name: str, root: Path, cache: Path) -> dict[str, float]:
    """One step, in this process; what it counts."""
    from heatpose.data.augment import GeometricAugment
    from heatpose.data.coco import read_labels
    from heatpose.data.datamodule import DataSettings, PoseData
    from heatpose.data.report import audit_report
    from heatpose.data.sources import CocoSource
    from heatpose.pose.preprocessing import Preprocessing
    from heatpose.pose.skeleton import COCO_17

    if name == "audit":
        report = audit_report(
            read_labels(root / "annotations" / "person_keypoints_train2017.json"),
            root / "train2017",
            COCO_17,
            check_files=True,
        )
        return {"count": report.images}
    if name == "labels":
        return {"count": len(CocoSource(str(root)).training(COCO_17))}
    data = PoseData(
        CocoSource(str(root)),
        COCO_17,
        Preprocessing(192),
        GeometricAugment(),
        DataSettings(batch_size=64, workers=0, cache=str(cache)),
    )
    data.setup()
    if name == "cache":
        return {
            "count": len(getattr(data.images, "sides", ())),
            "bytes": float(getattr(data.images, "ends", [0])[-1]),
        }
    start = time.perf_counter()
    count = sum(len(batch["image"]) for batch in data.train_dataloader())
    return {"count": count, "loading_s": time.perf_counter() - start}


def run_step(name: str, root: Path, cache: Path) -> None:
    """Prints a step's time and memory as json; called in a process of its own.

    Memory holds the libraries, time does not.
    """
    # Imported here: generating needs none of it.
    import heatpose.data.datamodule
    import heatpose.data.report  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    with Peak() as peak:
        found = step(name, root, cache)
    used = resource.getrusage(resource.RUSAGE_SELF)
    times = {
        "wall_s": time.perf_counter() - start,
        "cpu_s": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
    }
    print(json.dumps({**times, "own_memory_mb": peak.own_mb, "mapped_mb": peak.mapped_mb, **found}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=64_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("coco_size.csv"))
    parser.add_argument("--step", choices=STEPS)
    given = parser.parse_args()
    root, cache = given.folder / f"coco_{given.images}", given.folder / f"cache_{given.images}"
    if given.step:
        run_step(given.step, root, cache)
        return
    start = time.perf_counter()
    generate(given.folder, given.images)
    print(f"generated in {time.perf_counter() - start:.0f} s")
    shutil.rmtree(cache, ignore_errors=True)
    rows = []
    for name in STEPS:
        command = [
            sys.executable,
            __file__,
            str(given.folder),
            "--images",
            str(given.images),
            "--step",
            name,
        ]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append({"step": name, **json.loads(ran.stdout.splitlines()[-1])})
        print(rows[-1])
    size = next(row["bytes"] for row in rows if "bytes" in row)
    factor = 3 * REAL_PIXELS / size
    for row in rows:  # what goes by pixels: decoding for the audit and for the cache
        row["extrapolated_cpu_s_train2017"] = (
            round(row["cpu_s"] * factor) if row["step"] in ("audit", "cache") else ""
        )
        row["extrapolated_gb_train2017"] = (
            round(3 * REAL_PIXELS / 1e9, 1) if row["step"] == "cache" else ""
        )
    with given.out.open("w", newline="") as file:
        names = (
            "step",
            "count",
            "wall_s",
            "cpu_s",
            "loading_s",
            "own_memory_mb",
            "mapped_mb",
            "bytes",
            *(k for k in rows[0] if k.startswith("extra")),
        )
        table = csv.DictWriter(file, names, restval="")
        table.writeheader()
        table.writerows(
            {k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )
    print(f"{given.out} on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
