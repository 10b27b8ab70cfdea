"""The same labels as each tool exports them; every writer puts images and labels into a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Content = dict[str, Any]
FLIP = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def instances(coco: Content) -> Iterator[tuple[Content, list[Content]]]:
    """Images, each with its annotations."""
    for image in coco["images"]:
        yield image, [a for a in coco["annotations"] if a["image_id"] == image["id"]]


def points_of(annotation: Content, names: Sequence[str]) -> Iterator[tuple[str, float, float, int]]:
    """Labelled keypoints of an annotation."""
    values = annotation["keypoints"]
    for i, name in enumerate(names):
        x, y, v = values[3 * i : 3 * i + 3]
        if v:
            yield name, x, y, v


def names_of(coco: Content) -> list[str]:
    """Of the keypoints."""
    return list(coco["categories"][0]["keypoints"])


def copy_images(coco: Content, images: Path, to: Path) -> None:
    """The files that the labels list."""
    to.mkdir(parents=True, exist_ok=True)
    for image in coco["images"]:
        shutil.copy(images / image["file_name"], to / image["file_name"])


def roboflow(coco: Content, images: Path, folder: Path) -> Path:
    """`valid/_annotations.coco.json`, hashed names, a category 0 without keypoints."""
    part = folder / "valid"
    part.mkdir(parents=True)
    entries = []
    for number, image in enumerate(coco["images"]):
        stem, suffix = image["file_name"].rsplit(".", 1)
        name = f"{stem}_{suffix}.rf.{number:032x}.{suffix}"
        shutil.copy(images / image["file_name"], part / name)
        entries.append(
            {**image, "license": 1, "file_name": name, "extra": {"name": image["file_name"]}}
        )
    person = {
        "id": 1,
        "name": "person",
        "supercategory": "people",
        "keypoints": names_of(coco),
        "skeleton": [[1, 2]],
    }
    content = {
        "info": {"year": "2024", "version": "1", "description": "Exported from roboflow.com"},
        "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}],
        "categories": [{"id": 0, "name": "people", "supercategory": "none"}, person],
        "images": entries,
        "annotations": [{**a, "category_id": 1} for a in coco["annotations"]],
    }
    (part / "_annotations.coco.json").write_text(json.dumps(content))
    return part / "_annotations.coco.json"


def cvat(coco: Content, images: Path, folder: Path) -> Path:
    """`annotations/person_keypoints_<subset>.json`, `images/<subset>/<task>/`."""
    entries = []
    for number, image in enumerate(coco["images"]):
        name = f"task_{number % 2}/{image['file_name']}"
        (folder / "images/Validation" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / image["file_name"], folder / "images/Validation" / name)
        entries.append(
            {**image, "file_name": name, "license": 0, "coco_url": "", "date_captured": 0}
        )
    person = {
        "id": 1,
        "name": "person",
        "supercategory": "",
        "keypoints": names_of(coco),
        "skeleton": [],
    }
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {
            "contributor": "",
            "date_created": "",
            "description": "",
            "url": "",
            "version": "",
            "year": "",
        },
        "categories": [person],
        "images": entries,
        "annotations": [
            {**a, "attributes": {"occluded": False, "keyframe": False}, "segmentation": []}
            for a in coco["annotations"]
        ],
    }
    path = folder / "annotations/person_keypoints_Validation.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return path


def region(kind: str, number: str, image: Content, value: Content, **more: Any) -> Content:
    """A region of Label Studio; positions in `value` are pixels and become percent."""
    sides = {
        "x": image["width"],
        "width": image["width"],
        "y": image["height"],
        "height": image["height"],
    }
    percent = {key: 100 * v / sides[key] if key in sides else v for key, v in value.items()}
    return {
        "id": number,
        "type": kind,
        "value": percent,
        "origin": "manual",
        "to_name": "image",
        "from_name": kind,
        "image_rotation": 0,
        "original_width": image["width"],
        "original_height": image["height"],
        **more,
    }


def task(number: int, image: str, regions: Sequence[Content], **more: Any) -> Content:
    """A task of Label Studio with one annotation."""
    done = {
        "id": 100 + number,
        "result": list(regions),
        "was_cancelled": False,
        "ground_truth": False,
    }
    return {
        "id": number,
        "annotations": [done],
        "file_upload": image.rsplit("/", 1)[-1],
        "drafts": [],
        "predictions": [],
        "data": {"image": image},
        "meta": {},
        **more,
    }


def label_studio(coco: Content, images: Path, folder: Path) -> Path:
    """A JSON of tasks whose images were uploaded, and the images as they were before that."""
    copy_images(coco, images, folder / "images")
    tasks = []
    for image, persons in instances(coco):
        regions = []
        for a in persons:
            x, y, w, h = a["bbox"]
            box = {
                "x": x,
                "y": y,
                "width": w,
                "height": h,
                "rotation": 0,
                "rectanglelabels": ["person"],
            }
            regions.append(region("rectanglelabels", f"b{a['id']}", image, box))
            for name, px, py, _ in points_of(a, names_of(coco)):
                value = {"x": px, "y": py, "width": 1.0, "keypointlabels": [name]}
                more = {"parentID": f"b{a['id']}"}
                regions.append(region("keypointlabels", f"{a['id']}{name}", image, value, **more))
        name = f"/data/upload/7/{image['id']:08x}-{image['file_name']}"
        tasks.append(task(image["id"], name, regions))
    path = folder / "project-7-at-2025-05-02-08-49-24.json"
    path.write_text(json.dumps(tasks))
    return path


def labelme(coco: Content, images: Path, folder: Path) -> Path:
    """A JSON beside each image."""
    copy_images(coco, images, folder)
    for image, persons in instances(coco):
        shapes = []
        for number, a in enumerate(persons):
            x, y, w, h = a["bbox"]
            usual = {"group_id": number, "description": "", "flags": {}, "mask": None}
            corners = [[x + w, y + h], [x, y]]  # drawn from the lower right corner
            shapes.append(
                {"label": "person", "points": corners, "shape_type": "rectangle", **usual}
            )
            for name, px, py, v in points_of(a, names_of(coco)):
                flags = {"occluded": True} if v == 1 else {}
                point = {"label": name, "points": [[px, py]], "shape_type": "point"}
                shapes.append({**point, **usual, "flags": flags})
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": image["file_name"],
            "imageData": None,
            "imageHeight": image["height"],
            "imageWidth": image["width"],
        }
        path = folder / Path(image["file_name"]).with_suffix(".json").name
        path.write_text(json.dumps(content))
    return folder


def yolo_line(annotation: Content, image: Content, dims: int = 3, kind: int = 0) -> str:
    """A line of a YOLO pose label file, with the six decimals that Ultralytics writes."""
    w, h = image["width"], image["height"]
    x, y, bw, bh = annotation["bbox"]
    values = [f"{n:.6f}" for n in ((x + bw / 2) / w, (y + bh / 2) / h, bw / w, bh / h)]
    points = annotation["keypoints"]
    for i in range(0, len(points), 3):
        values += [f"{points[i] / w:.6f}", f"{points[i + 1] / h:.6f}"]
        values += [str(points[i + 2])] if dims == 3 else []
    return " ".join([str(kind), *values])


def yolo(coco: Content, images: Path, folder: Path, part: str = "val", dims: int = 3) -> Path:
    """`data.yaml`, `images/<part>` and `labels/<part>`; a second call adds a part."""
    copy_images(coco, images, folder / "images" / part)
    (folder / "labels" / part).mkdir(parents=True)
    for image, persons in instances(coco):
        text = "".join(yolo_line(a, image, dims) + "\n" for a in persons)
        (folder / "labels" / part / Path(image["file_name"]).with_suffix(".txt").name).write_text(
            text
        )
    shape = f"kpt_shape: [{len(names_of(coco))}, {dims}]"
    head = f"path: .\n{shape}\nflip_idx: {FLIP}\nnames:\n  0: person\n"
    path = folder / "data.yaml"
    path.write_text((path.read_text() if path.exists() else head) + f"{part}: images/{part}\n")
    return path


def st_model_zoo(coco: Content, images: Path, folder: Path, part: str = "val") -> Path:
    """YOLO Darknet as ST's converter writes it: `single/<K>kpts/<part>` holds images and labels.

    And a `data.yaml`, which docs/from_st_model_zoo.md adds; a second call adds a part.
    """
    keypoints = len(names_of(coco))
    place = Path("single", f"{keypoints}kpts", part)
    copy_images(coco, images, folder / place)
    for image, persons in instances(coco):
        text = "".join(yolo_line(a, image) + "\n" for a in persons)
        (folder / place / image["file_name"]).with_suffix(".txt").write_text(text)
    path = folder / "data.yaml"
    head = f"path: .\nkpt_shape: [{keypoints}, 3]\nnames: {{0: person}}\n"
    path.write_text((path.read_text() if path.exists() else head) + f"{part}: {place}\n")
    return path
