"""Where a COCO data set keeps its labels and images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from heatpose.errors import HeatposeError


@dataclass(frozen=True)
class Split:
    """The labels and the image folder that belong together.

    Attributes:
        annotations: Label file, or folder of label files.
        images: Folder that the labels' file names are relative to.
        part: Which part is meant, where `annotations` describes several.
    """

    annotations: Path
    images: Path
    part: str = "train"

    @property
    def name(self) -> str:
        """What messages call it: the label file.

        And which part of it where it describes several.
        """
        several = self.annotations.suffix.lower() in (".yaml", ".yml")
        return f"{self.annotations} ({self.part})" if several else str(self.annotations)


def find_split(root: str | Path, split: Literal["train", "val"]) -> Split:
    """Finds a split of COCO 2017 below `root`.

    Two layouts are known: the official one, `root/annotations/person_keypoints_train2017.json` with
    `root/train2017/`, and the flat one with the json directly in `root`. The official one wins
    where both exist.

    Args:
        root: Folder of the data set.
        split: "train" or "val".

    Raises:
        HeatposeError: Neither is there; says what was looked for.
    """
    root = Path(root)
    images = root / f"{split}2017"
    name = f"person_keypoints_{split}2017.json"
    candidates = (root / "annotations" / name, root / name)
    labels = next((path for path in candidates if path.is_file()), None)
    if labels is None:
        raise HeatposeError(
            f"No {split} labels below '{root}': neither {name} (COCO 2017) nor an export that"
            " docs/labels.md lists; correct the path, or fetch COCO 2017 (train.py"
            " data.download=true)."
        )
    if not images.is_dir():
        raise HeatposeError(
            f"No {split} images for '{labels}': the folder '{images}' does not exist; correct the "
            "path, or fetch COCO 2017 (train.py data.download=true)."
        )
    return Split(labels, images)
