"""Where people come from: COCO-format folders or rendered ones. A source gives training people and the benchmark's evaluation people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from heatpose.data.coco import Audit, benchmark_people, people, read_labels
from heatpose.data.layout import Split, find_split
from heatpose.data.orientation import tell
from heatpose.data.sample import Person
from heatpose.errors import HeatposeError
from heatpose.skeleton import Skeleton


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
        root: Folder in the official layout (`annotations/person_keypoints_train2017.json`, `train2017/`, ...) or flat.
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
        find_split(self._root(), "train")

    def training(self, skeleton: Skeleton) -> list[Person]:
        """People of train2017 and of the extra folders, without any image of the evaluation part."""
        splits = [find_split(self._root(), "train"), *(find_labels(Path(folder).expanduser()) for folder in self.extra)]
        found = [person for split in splits for person in _told(split, skeleton, people)]
        if not found:
            raise HeatposeError(f"'{self.root}' has no person with a labelled keypoint of skeleton '{skeleton.name}'; run heatpose data on it.")
        held_out = {(person.image_path.name, person.width, person.height) for person in self.evaluation(skeleton) or []}
        return [p for p in found if (p.image_path.name, p.width, p.height) not in held_out]

    def evaluation(self, skeleton: Skeleton) -> list[Person] | None:
        """The benchmark's selection of val2017; None when there is no val2017 part."""
        try:
            split = find_split(Path(self.eval_root).expanduser() if self.eval_root else self._root(), "val")
        except HeatposeError:
            if self.eval_root:
                raise
            return None
        return _told(split, skeleton, benchmark_people)

    def describe(self) -> dict[str, Any]:
        """See `Source`."""
        return {"kind": "coco", **asdict(self), "extra": list(self.extra), "download": False}


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


def _told(
    split: Split, skeleton: Skeleton, select: Callable[..., tuple[list[Person], Audit]]
) -> list[Person]:
    """The people that a rule selects; how images with an orientation tag are read is printed."""
    kept, audit = select(read_labels(split.annotations), split.images, skeleton)
    tell(split.annotations, audit.readings)
    return kept


def from_description(description: dict[str, Any]) -> Source:
    """Makes a source out of what `describe` gave. Only the two kinds above: a file from elsewhere names no class to build.

    Raises:
        HeatposeError: The description is of no known kind.
    """
    values = dict(description)
    kind = values.pop("kind", None)
    try:
        if kind == "coco":
            return CocoSource(**values)
        if kind == "synthetic":
            return SyntheticSource(**values)
    except TypeError as error:
        raise HeatposeError(f"The description of the data does not fit ({error}); set data.root.") from error
    raise HeatposeError(f"Data of kind '{kind}' is unknown; set data.root.")


def find_labels(folder: Path) -> Split:
    """The one `person_keypoints_*.json` of a folder and its images, which lie in the folder or in one of its subfolders.

    Raises:
        HeatposeError: No or several label files, or the first image is nowhere.
    """
    files = sorted([*folder.glob("person_keypoints_*.json"), *folder.glob("annotations/person_keypoints_*.json")])
    if len(files) != 1:
        raise HeatposeError(f"'{folder}' should hold one person_keypoints_*.json, but has {len(files)}: {[file.name for file in files]}.")
    first = next(iter(read_labels(files[0]).images.values()))["file_name"]
    for images in (folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())):
        if (images / first).is_file():
            return Split(files[0], images)
    raise HeatposeError(f"'{folder}' has labels for '{first}', but the image is neither there nor in a subfolder.")


def find_part(folder: Path, split: str) -> Split:
    """A part of a folder in COCO 2017 layout, or the one label file of any other folder.

    Raises:
        HeatposeError: Neither is there.
    """
    if not folder.is_dir():
        raise HeatposeError(f"'{folder}' is no folder; give the one of a data set in COCO 2017 layout, or with a person_keypoints_*.json and its images.")
    try:
        return find_split(folder, "val" if split == "val" else "train")
    except HeatposeError:
        if not any(folder.glob("person_keypoints_*.json")):
            raise
        return find_labels(folder)
