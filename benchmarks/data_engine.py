"""Speed ratios of the data engine, each measured within one run on this machine.

The parts are measured in turn; the results are medians over the rounds.

    python benchmarks/data_engine.py FOLDER [--rounds 5] [--out benchmarks/data_engine.csv]

FOLDER takes generated images and their cache. The plain loader is the usual one: decode, one
affine by Pillow, collate, sample by sample.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from measuring import Peak, interleaved, median_ratio
from PIL import Image
from torch.utils.data import default_collate

from heatpose.data.augment import GeometricAugment, Photometric, transform_labels
from heatpose.data.batches import SAMPLE, AugmentedBatches, BatchPlan, EpochBatches, generator
from heatpose.data.datamodule import DataSettings, PoseData
from heatpose.data.image_cache import ImageStore, open_cache
from heatpose.data.sample import Person, labelled_image
from heatpose.data.sources import CocoSource
from heatpose.data.synthetic.dataset import SyntheticSettings, build_synthetic
from heatpose.models.losses import SpatialCrossEntropy
from heatpose.models.movenet import MoveNet
from heatpose.pose import geometry
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17, Skeleton
from heatpose.training.module import Optimization, PoseModule, warmup_cosine

COCO_SIDES, SMALL_SIDES = (640, 480), (384, 288)
SIZE, BATCH, EPOCH_BATCHES = 192, 16, 4
AUGMENT = GeometricAugment()


def pictures_of(
    folder: Path, sides: tuple[int, int], count: int, skeleton: Skeleton = COCO_17
) -> list[Person]:
    """Rendered people on images of given sides.

    With noise so that a JPEG has a photograph's size; each file has one person.
    """
    stock = CocoSource(
        str(build_synthetic(folder, SyntheticSettings(train_images=60, val_images=10)))
    ).training(skeleton)
    random, found = np.random.default_rng(0), []
    place = folder / f"{sides[0]}x{sides[1]}"
    place.mkdir(exist_ok=True)
    for number in range(count):
        person, path = stock[number % len(stock)], place / f"{number:06d}.jpg"
        scale = np.array(sides) / (person.width, person.height)
        if not path.is_file():
            pixels = np.asarray(
                Image.fromarray(labelled_image(person)).resize(sides, Image.Resampling.BICUBIC)
            ).astype(np.int16)
            noisy = np.clip(pixels + random.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
            path.write_bytes(buffer.getvalue())
        x, y, w, h = (
            float(value) for value in (np.array(person.box).reshape(2, 2) * scale).reshape(-1)
        )
        others = (person.others.reshape(-1, 2, 2) * scale).reshape(-1, 4).astype(np.float32)
        moved = (person.keypoints * scale).astype(np.float32)
        found.append(
            replace(
                person,
                image_path=path,
                image_id=number,
                width=sides[0],
                height=sides[1],
                keypoints=moved,
                box=(x, y, w, h),
                others=others,
            )
        )
    return found


def plain_batch(instances: list[Person], plan: BatchPlan) -> dict[str, torch.Tensor]:
    """The same views as `AugmentedBatches`, the usual way."""
    samples = []
    for place, index in zip(plan.positions, plan.instances, strict=True):
        random, person = generator(0, SAMPLE, plan.epoch, place), instances[index]
        image = labelled_image(person)
        transform, mirrored = AUGMENT.transform(person, plan.size, random)
        sampling = "nearest" if random.random() < AUGMENT.nearest else "bilinear"
        image = geometry.warp(image, transform, plan.size, sampling)
        labels = transform_labels(person, transform, mirrored, COCO_17.flip_order)
        image = np.ascontiguousarray(image.transpose(2, 0, 1))
        samples.append({"image": image, **labels._asdict()})
    return dict(default_collate(samples))


def loader_rows(
    name: str, instances: list[Person], cache: Path, rounds: int
) -> list[dict[str, Any]]:
    """Batches a second of the plain loader and of the engine with a warm cache.

    By the time of this thread and by the clock on the wall.
    """
    kept = open_cache(instances, cache, 640)
    engine, packed = (
        AugmentedBatches(instances, COCO_17, AUGMENT, kept),
        AugmentedBatches(instances, COCO_17, AUGMENT, kept, packed=True),
    )
    plans = list(EpochBatches(len(instances), BATCH, (SIZE,)))
    parts: dict[str, Callable[[int], object]] = {
        "plain": lambda number: plain_batch(instances, plans[number % len(plans)]),
        "sampled here": lambda number: engine[plans[number % len(plans)]],
        "sampled on the device": lambda number: packed[plans[number % len(plans)]],
    }
    rows = []
    for clock, seconds in (
        ("cpu", interleaved(parts, rounds, time.thread_time)),
        ("wall", interleaved(parts, rounds)),
    ):
        for part in ("sampled here", "sampled on the device"):
            ratio = median_ratio(seconds["plain"], seconds[part])
            rows.append(
                {
                    "measure": f"loader, {name} images, {part}",
                    "clock": clock,
                    "ratio": ratio,
                    "wanted": ">= 5",
                }
            )
    return rows


class Given:
    """A source of given people."""

    def __init__(self, instances: list[Person]) -> None:
        self.instances = instances

    def prepare(self) -> None:
        """Nothing."""

    def training(self, skeleton: Any) -> list[Person]:
        return self.instances

    def evaluation(self, skeleton: Any) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {}


def module_of() -> PoseModule:
    torch.manual_seed(0)
    optimizer = partial(torch.optim.AdamW, lr=1e-4, fused=True)
    return PoseModule(
        MoveNet(17),
        SpatialCrossEntropy(COCO_17.sigmas),
        COCO_17,
        Preprocessing(SIZE),
        Optimization(optimizer, warmup_cosine),
        Photometric(),
    )


def epoch_rows(instances: list[Person], cache: Path, rounds: int) -> list[dict[str, Any]]:
    """An epoch by Lightning with the engine against as many bare steps on a batch in memory.

    The default network.
    """
    limit = BATCH * EPOCH_BATCHES

    def data() -> PoseData:
        return PoseData(
            Given(instances),
            COCO_17,
            Preprocessing(SIZE),
            AUGMENT,
            DataSettings(batch_size=BATCH, workers="auto", cache=str(cache), limit=limit),
        )

    made = data()
    made.setup()
    batches = list(made.train_dataloader())
    module, bare = module_of(), module_of()
    optimizer = bare.make_optimizer(bare.network.parameters())  # type: ignore[arg-type]
    for batch in batches:
        bare.on_after_batch_transfer(batch, 0)

    def epoch(number: int) -> None:
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            gradient_clip_val=1.0,
        )
        started.clear()
        trainer.callbacks.append(Clock())
        trainer.fit(module, datamodule=made)

    started: list[float] = []
    times: dict[str, list[float]] = {"epoch": [], "bare": []}

    class Clock(lightning.Callback):
        """The epoch itself, without what Lightning does before the first one."""

        def on_train_epoch_start(self, *args: Any) -> None:
            started.append(time.process_time())

        def on_train_epoch_end(self, *args: Any) -> None:
            times["epoch"].append(time.process_time() - started[0])

    def steps(number: int) -> None:
        start = time.process_time()
        for batch in batches:
            optimizer.zero_grad()
            bare._loss("train", bare(batch["image"]), batch).backward()
            torch.nn.utils.clip_grad_norm_(bare.network.parameters(), 1.0)
            optimizer.step()
        times["bare"].append(time.process_time() - start)

    interleaved({"epoch": epoch, "bare": steps}, rounds)
    ratio = median_ratio(times["bare"][1:], times["epoch"][1:])
    return [
        {
            "measure": "bare steps over a whole epoch, default network",
            "clock": "cpu",
            "ratio": ratio,
            "wanted": ">= 0.95",
        }
    ]


def growth_rows(instances: list[Person], folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Building the cache and one epoch of the loader for all people against half of them.

    Memory likewise.
    """

    def run(share: int, number: int) -> None:
        some = instances[: len(instances) // share]
        images: ImageStore = open_cache(some, folder / f"growth_{share}_{number}", 640)
        views = AugmentedBatches(some, COCO_17, AUGMENT, images)
        with Peak(0.01) as peak:
            for plan in EpochBatches(len(some), BATCH, (SIZE,)):
                views[plan]
        memory[share].append(peak.own_mb)

    memory: dict[int, list[float]] = {1: [], 2: []}
    seconds = interleaved(
        {"all": partial(run, 1), "half": partial(run, 2)}, rounds, time.process_time
    )
    time_ratio, memory_ratio = (
        median_ratio(seconds["all"], seconds["half"]),
        float(np.median(memory[1]) / np.median(memory[2])),
    )
    return [
        {
            "measure": "twice the images: cache and an epoch of the loader",
            "clock": "cpu",
            "ratio": time_ratio,
            "wanted": "<= 2.1",
        },
        {
            "measure": "twice the images: peak memory of the process's own",
            "clock": "",
            "ratio": memory_ratio,
            "wanted": "1",
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("data_engine.csv"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    cache = given.folder / "cache"
    rows = []
    large = pictures_of(given.folder, COCO_SIDES, 192)
    rows += loader_rows("640 x 480", large, cache, 2 * given.rounds)
    rows += loader_rows(
        "384 x 288", pictures_of(given.folder, SMALL_SIDES, 192), cache, 2 * given.rounds
    )
    rows += growth_rows(large, given.folder, given.rounds)
    print(json.dumps(rows, indent=1), flush=True)
    rows += epoch_rows(large, cache, given.rounds)
    with given.out.open("w", newline="") as file:
        table = csv.DictWriter(file, ("measure", "clock", "ratio", "wanted"))
        table.writeheader()
        table.writerows({**row, "ratio": f"{row['ratio']:.2f}"} for row in rows)
    print(given.out.read_text(), f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
