"""Plausible labels for tests to spoil: one person on each image, keypoints inside the box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatpose.pose.skeleton import COCO_17

WIDTH, HEIGHT = 320, 240


def labels(count: int = 12, seed: int = 0) -> dict[str, Any]:
    """A COCO keypoint json; image i is `i.png`, its annotation has the id 100 + i."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for i in range(1, count + 1):
        x, y = rng.uniform(0, 150), rng.uniform(0, 80)
        box = [x, y, rng.uniform(80, WIDTH - x - 20), rng.uniform(100, HEIGHT - y - 10)]
        inside = rng.uniform(0.05, 0.95, (17, 2)) * box[2:] + box[:2]
        points = [value for point in inside.round(2).tolist() for value in (*point, 2)]
        images.append({"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT})
        annotations.append(
            {
                "id": 100 + i,
                "image_id": i,
                "category_id": 1,
                "iscrowd": 0,
                "keypoints": points,
                "bbox": [round(value, 2) for value in box],
                "area": 0.6 * box[2] * box[3],
            }
        )
    category = {"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints)}
    return {"images": images, "annotations": annotations, "categories": [category]}


def write(content: dict[str, Any], path: Path) -> Path:
    """The label file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def photo(seed: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """u8[height, width, 3]: smooth, like no other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def save_photos(content: dict[str, Any], folder: Path, first: int = 0) -> None:
    """An image file for each entry; the n-th is the photo of seed `first` + n."""
    for n, entry in enumerate(content["images"]):
        path = folder / entry["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = photo(first + n, entry["width"], entry["height"])
        Image.fromarray(pixels).save(path)
