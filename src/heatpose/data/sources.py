"""Where people come from: COCO-format folders or rendered ones. A source gives training people and the benchmark's evaluation people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from heatpose.data import formats
from heatpose.data.coco import CocoLabels, benchmark_people, people, read_labels
from heatpose.data.formats import folder as formats_folder
from heatpose.data.formats.coco import NAME as COCO
from heatpose.data.formats.coco import image_folder
from heatpose.data.layout import Split, find_split
from heatpose.data.sample import Person
from heatpose.errors import HeatposeError
from heatpose.skeleton import Skeleton


def labels_of(split: Split) -> CocoLabels:
    """Reads the labels of a split.

    Raises:
        HeatposeError: As `read_labels`.
    """
    return read_labels(split.annotations, split.images, split.part)


class Source(Protocol):
    """What the rest of the package asks of a source."""

    def prepare(self) -> None:
        """Downloads or renders what is missing."""

    def training(self, skeleton: Skeleton) -> list[Person]:
        """People to learn from; never one that is evaluated."""

    def evaluation(self, skeleton: Skeleton) -> list[Person] | None:
        """The published single-person selection; None when the source has no evaluation part."""

    def describe(self) -> dict[str, Any]:
        """Plain values from which `from_description` makes the same source."""


@dataclass(frozen=True)
class CocoSource:
    """COCO keypoint json and images.

    Attributes:
        root: Folder in the official layout (`annotations/person_keypoints_train2017.json`, `train2017/`, ...) or flat,
            or an export of a labelling tool (`heatpose.data.formats`): its folder, or its `data.yaml`.
        eval_root: Folder with the `val2017` part; `root` when not given.
        extra: Further folders, each with one `person_keypoints_*.json` and its images, for training only.
        download: Fetches the official COCO 2017 archives into `root` (about 20 GB).
    """

    root: str | None = None
    eval_root: str | None = None
    extra: Sequence[str] = ()
    download: bool = False

    def _root(self) -> Path:
        if self.root is None:
            raise HeatposeError("No data: set data.root=FOLDER (COCO 2017 layout), or add data.download=true to fetch it.")
        return Path(self.root).expanduser()

    def prepare(self) -> None:
        """Downloads the archives if asked to, and looks for the training part, before anything slow begins."""
        if self.download:
            from heatpose.data.download import download_coco

            download_coco(self._root())
        find_part(self._root(), "train")

    def training(self, skeleton: Skeleton) -> list[Person]:
        """People of train2017 and of the extra folders, without any image of the evaluation part."""
        splits = [find_part(self._root(), "train"), *(_extra(Path(folder).expanduser()) for folder in self.extra)]
        found = [person for split in splits for person in people(labels_of(split), split.images, skeleton)[0]]
        if not found:
            raise HeatposeError(f"'{self.root}' has no person with a labelled keypoint of skeleton '{skeleton.name}'; run heatpose data on it.")
        held_out = {(person.image_path.name, person.width, person.height) for person in self.evaluation(skeleton) or []}
        return [p for p in found if (p.image_path.name, p.width, p.height) not in held_out]

    def evaluation(self, skeleton: Skeleton) -> list[Person] | None:
        """The benchmark's selection of val2017; None when there is no val2017 part."""
        try:
            split = find_part(Path(self.eval_root).expanduser(), "val") if self.eval_root else _part(self._root(), "val")
        except HeatposeError:
            if self.eval_root:
                raise
            return None
        return benchmark_people(labels_of(split), split.images, skeleton)[0]

    def describe(self) -> dict[str, Any]:
        """See `Source`; with the formats of the labels, for the record."""
        found = {part: name for part in ("train", "val") if (name := self._format(part))}
        return {"kind": "coco", **asdict(self), "extra": list(self.extra), "download": False, "formats": found}

    def _format(self, part: str) -> str | None:
        root = self.eval_root if part == "val" and self.eval_root else self.root
        try:
            split = find_part(Path(root or "").expanduser(), part) if root else None
            if split is None:
                return None
            official = split.annotations.name == f"person_keypoints_{part}2017.json"  # large
            return COCO if official else formats.name_of(split.annotations)
        except HeatposeError:
            return None  # said where the labels are used


@dataclass(frozen=True)
class SyntheticSource:
    """Rendered people with exact labels, made once under `root`.

    Attributes:
        root: Folder that holds the rendered set.
        train_images: Training images.
        val_images: Evaluation images, one person each.
        seed: Of the rendering.
    """

    root: str = "data_cache/synthetic"
    train_images: int = 1200
    val_images: int = 200
    seed: int = 0

    def _coco(self) -> CocoSource:
        from heatpose.data.synthetic import SyntheticSettings, build_synthetic

        settings = SyntheticSettings(train_images=self.train_images, val_images=self.val_images, seed=self.seed)
        return CocoSource(root=str(build_synthetic(Path(self.root), settings)))

    def prepare(self) -> None:
        """Renders the set if it is not there."""
        self._coco()

    def training(self, skeleton: Skeleton) -> list[Person]:
        """See `Source`."""
        return self._coco().training(skeleton)

    def evaluation(self, skeleton: Skeleton) -> list[Person] | None:
        """See `Source`."""
        return self._coco().evaluation(skeleton)

    def describe(self) -> dict[str, Any]:
        """See `Source`."""
        return {"kind": "synthetic", **asdict(self)}


def from_description(description: dict[str, Any]) -> Source:
    """Makes a source out of what `describe` gave. Only the two kinds above: a file from elsewhere names no class to build.

    Raises:
        HeatposeError: The description is of no known kind.
    """
    values = dict(description)
    kind = values.pop("kind", None)
    values.pop("formats", None)  # a record of what was read, not a setting
    try:
        if kind == "coco":
            return CocoSource(**values)
        if kind == "synthetic":
            return SyntheticSource(**values)
    except TypeError as error:
        raise HeatposeError(f"The description of the data does not fit ({error}); set data.root.") from error
    raise HeatposeError(f"Data of kind '{kind}' is unknown; set data.root.")


def find_labels(folder: Path) -> Split:
    """The one label file of a folder (or its labels in another format) and their images.

    The images lie in the folder or in one of its subfolders.

    Raises:
        HeatposeError: No or several label files, or the first image is nowhere.
    """
    files = sorted([*folder.glob("person_keypoints_*.json"), *folder.glob("annotations/person_keypoints_*.json")])
    if not files and folder.exists() and (found := formats_folder.find_labels(folder)):
        return found
    if len(files) != 1:
        raise HeatposeError(f"'{folder}' should hold one person_keypoints_*.json, but has {len(files)}: {[file.name for file in files]}.")
    images = read_labels(files[0]).images
    first = str(next(iter(images.values()))["file_name"])
    place = image_folder(files[0], [first])
    if place is None:
        raise HeatposeError(f"'{folder}' has labels for '{first}', but the image is neither there nor in a subfolder.")
    return Split(files[0], place)


def find_part(folder: Path, split: str) -> Split:
    """A part of a folder in COCO 2017 layout or of an export, or the only labels of any other folder.

    Raises:
        HeatposeError: Neither is there.
    """
    if not folder.exists():
        raise HeatposeError(f"'{folder}' is no folder; give the one of a data set in COCO 2017 layout, or with a person_keypoints_*.json and its images.")
    try:
        return _part(folder, split)
    except HeatposeError:
        if _has_part(folder, "train" if split == "val" else "val"):
            raise  # its labels are those of the other part
        if not any(folder.glob("person_keypoints_*.json")) and formats_folder.find_labels(folder) is None:
            raise
        return find_labels(folder)


def _extra(folder: Path) -> Split:
    """The training part of a folder that keeps one apart, else its only labels."""
    found = formats_folder.find_part(folder, "train") if folder.exists() else None
    return found or find_labels(folder)


def _has_part(root: Path, split: str) -> bool:
    try:
        _part(root, split)
    except HeatposeError:
        return False
    return True


def _part(root: Path, split: str) -> Split:
    """A part that is kept apart: of COCO 2017's layout, or of an export."""
    part: Literal["train", "val"] = "val" if split == "val" else "train"
    try:
        return find_split(root, part)
    except HeatposeError:
        found = formats_folder.find_part(root, part) if root.exists() else None
        if found is None:
            raise
        return found
