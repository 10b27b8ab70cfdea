"""The COCO file out of a run's records, and the counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatpose.label.partial import Record
from heatpose.pose.skeleton import AREA_OF_BOX, Skeleton
from heatpose.utils.files import atomic_write

if TYPE_CHECKING:
    from rich.console import Console

UNREADABLE = "unreadable image"
LICENCE = (
    "The labels are the output of the teacher model and were not checked by a person. The "
    "model has its own licence; the rights in the images are their owners'."
)


@dataclass
class LabelCounts:
    """What became of the images.

    Attributes:
        images: Files.
        labelled_images: Files with a label.
        instances: Candidates: an image counts once, or once per given box.
        labelled: Of them, those with labels.
        left_out: Reason -> candidates without.
        keypoints: Of the labelled instances: `labelled`, `unsure` (a score too low, or outside of
            the image), `disagreeing` (the mirror image puts it elsewhere).
        others: What was in the folder or the boxes and is not read -> its number.
    """

    images: int = 0
    labelled_images: int = 0
    instances: int = 0
    labelled: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    keypoints: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        counters = {name: dict(sorted(getattr(self, name).items())) for name in COUNTERS}
        return {name: getattr(self, name) for name in NUMBERS} | counters


NUMBERS = ("images", "labelled_images", "instances", "labelled")
COUNTERS = ("left_out", "keypoints", "others")


def count(records: Iterable[Record], others: Mapping[str, int]) -> LabelCounts:
    """Counts a run's records; `others` are taken over where they are not 0."""
    counts = LabelCounts(others=+Counter(others))
    for record in records:
        counts.images += 1
        entries = record.get("instances", [{"reason": UNREADABLE}])
        counts.instances += len(entries)
        labelled = [entry for entry in entries if entry["reason"] is None]
        counts.labelled += len(labelled)
        counts.labelled_images += bool(labelled)
        counts.left_out.update(entry["reason"] for entry in entries if entry["reason"])
        for entry in labelled:
            left = {name: int(entry[name]) for name in ("unsure", "disagreeing")}
            total = len(entry["keypoint_scores"])
            counts.keypoints.update(left | {"labelled": total - sum(left.values())})
    return counts


def coco(records: Sequence[Record], skeleton: Skeleton, info: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the label file.

    Images without a label are not among `images`; `left_out` names them with their reasons. A given
    box without a label, beside one with labels, is an annotation without keypoints, as in COCO.

    Args:
        records: In the order of the images.
        skeleton: The teacher's.
        info: For the entry `info`.
    """
    images, annotations, left_out = [], [], []
    for number, record in enumerate(records, 1):
        entries = record.get("instances", [])
        if all(entry["reason"] for entry in entries):
            reasons = sorted({entry["reason"] for entry in entries}) or [UNREADABLE]
            left_out.append({"file_name": record["file"], "reason": "; ".join(reasons)})
            continue
        sides = {"width": record["width"], "height": record["height"]}
        images.append({"id": number, "file_name": record["file"], **sides})
        annotations += [_annotation(number, e, len(skeleton)) for e in entries if e["bbox"]]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(skeleton.keypoints),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.edge_indices],
    }
    return {
        "info": dict(info),
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [category],
        "left_out": left_out,
    }


def _annotation(image_id: int, entry: Mapping[str, Any], keypoints: int) -> dict[str, Any]:
    width, height = entry["bbox"][2:]
    labels = {k: entry[k] for k in ("keypoints", "keypoint_scores", "score") if k in entry}
    flat = labels.setdefault("keypoints", [0] * (3 * keypoints))
    return {
        "id": 0,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": [],
        "bbox": entry["bbox"],
        "area": round(AREA_OF_BOX * width * height, 2),
        "num_keypoints": sum(v > 0 for v in flat[2::3]),
        **labels,
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the label file, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with atomic_write(path, sync=True) as part:
        part.write_text(json.dumps(content), encoding="utf-8")


def print_counts(counts: LabelCounts, console: Console) -> None:
    """Prints what became of the images, the most frequent reason first."""
    share = 100 * counts.labelled / max(counts.instances, 1)
    boxes = "" if counts.instances == counts.images else f" with {counts.instances} candidates"
    console.print(
        f"{counts.images} images{boxes}: {counts.labelled} instances labelled ({share:.1f} %), "
        f"{counts.instances - counts.labelled} left out"
    )
    for reason, number in counts.left_out.most_common():
        console.print(f"  {number:>7}  {reason}")
    if total := counts.keypoints.total():
        parts = (f"{number} {name}" for name, number in counts.keypoints.most_common())
        console.print(f"{total} keypoints of these instances: {', '.join(parts)}")
    for name, number in counts.others.items():
        console.print(f"not read: {number} {name}")
