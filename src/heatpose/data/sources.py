"""Data sources: labels in COCO format (or a format of `data.formats`), or rendered images.

A source gives the training instances and the evaluation instances of the benchmark. The functions
behind the sources find the labels and images of a folder.

To add a source:

1. Write a class here with the methods of `Source`, and its kind in `from_description`.
2. Add a file to `conf/data/` whose `source._target_` names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from heatpose.data import formats
from heatpose.data.coco import CocoLabels, benchmark_instances, instances, read_labels
from heatpose.data.formats import folder as formats_folder
from heatpose.data.formats.coco import NAME as COCO
from heatpose.data.formats.coco import PROBED, image_folder
from heatpose.data.formats.folder import Split, find_split
from heatpose.data.sample import Audit, Person, print_once
from heatpose.data.selection import same_images
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import Skeleton


def labels_of(split: Split) -> CocoLabels:
    """Reads the labels of a split.

    Raises:
        HeatposeError: As `read_labels`.
    """
    return read_labels(split.annotations, split.images, split.part)


def find_labels(folder: Path) -> Split:
    """The only label file of a folder (or its labels in another format) and their images.

    The images are in the folder or in one of its subfolders.

    Raises:
        HeatposeError: There is no label file or several, or their images are not found.
    """
    files = sorted(
        [
            *folder.glob("person_keypoints_*.json"),
            *folder.glob("annotations/person_keypoints_*.json"),
        ]
    )
    if not files and folder.exists() and (found := formats_folder.find_labels(folder)):
        return found
    if len(files) != 1:
        raise HeatposeError(
            f"'{folder}' should hold one person_keypoints_*.json, but has {len(files)}:"
            f" {[file.name for file in files]}."
        )
    images = read_labels(files[0]).images
    names = [str(image["file_name"]) for image in islice(images.values(), PROBED)]
    place = image_folder(files[0], names)
    if place is None:
        raise HeatposeError(
            f"'{folder}' has labels for '{names[0]}', but the image is neither there nor in a"
            " subfolder."
        )
    return Split(files[0], place)


def find_extra(entry: str | Mapping[str, str]) -> Split:
    """The label file and the images of an entry of `CocoSource.extra`.

    Raises:
        HeatposeError: A file or folder is missing, or the entry has other keys.
    """
    if isinstance(entry, str):
        return _extra(Path(entry).expanduser())
    if set(entry) != {"annotations", "images"}:
        raise HeatposeError(
            f"data.extra has an entry with {sorted(map(str, entry))}; give a folder, or both keys: "
            "data.extra='[{annotations: labels.json, images: FOLDER}]'."
        )
    annotations, images = (Path(str(entry[key])).expanduser() for key in ("annotations", "images"))
    split = Split(annotations, images)
    if not split.annotations.is_file():
        raise HeatposeError(
            f"data.extra names the label file '{split.annotations}', which does not exist; "
            "correct the path."
        )
    if not split.images.is_dir():
        raise HeatposeError(
            f"data.extra names the images '{split.images}', which is not a folder; give the folder "
            f"that the file names of '{split.annotations}' start from."
        )
    return split


def find_part(folder: Path, split: str) -> Split:
    """A part of a folder in COCO 2017 layout or of an export, else the folder's only labels.

    Raises:
        HeatposeError: There are neither.
    """
    if not folder.exists():
        raise HeatposeError(
            f"'{folder}' does not exist; give the folder of a data set in COCO 2017 layout, or an "
            "export that docs/labels.md lists."
        )
    try:
        return find_kept_apart(folder, split)
    except HeatposeError:
        if _has_part(folder, "train" if split == "val" else "val"):
            raise  # its labels are those of the other part
        if (
            not any(folder.glob("person_keypoints_*.json"))
            and formats_folder.find_labels(folder) is None
        ):
            raise
        return find_labels(folder)


def _extra(folder: Path) -> Split:
    """The training part of a folder with parts, else its only labels."""
    found = formats_folder.find_part(folder, "train") if folder.exists() else None
    return found or find_labels(folder)


def _has_part(root: Path, split: str) -> bool:
    try:
        find_kept_apart(root, split)
    except HeatposeError:
        return False
    return True


def find_kept_apart(root: Path, split: str) -> Split:
    """A part of a folder with several parts: in COCO 2017's layout, or of an export.

    Raises:
        HeatposeError: The folder does not have the part.
    """
    part: Literal["train", "val"] = "val" if split == "val" else "train"
    try:
        return find_split(root, part)
    except HeatposeError:
        found = formats_folder.find_part(root, part) if root.exists() else None
        if found is None:
            raise
        return found


EVALUATED = "on an image that is evaluated"


class Source(Protocol):
    """Interface of a data source."""

    def prepare(self) -> None:
        """Downloads or renders missing data."""

    def training(self, skeleton: Skeleton) -> list[Person]:
        """Instances to train on, none of them on an evaluation image."""

    def evaluation(self, skeleton: Skeleton) -> list[Person] | None:
        """The benchmark's selection of the evaluation part; None if there is no such part."""

    def describe(self) -> dict[str, Any]:
        """Plain values from which `from_description` builds the same source."""


@dataclass(frozen=True)
class CocoSource:
    """COCO keypoint JSON and images.

    Attributes:
        root: Folder in the official layout (`annotations/person_keypoints_train2017.json`,
            `train2017/`, ...) or flat, or an export of a labelling tool (`heatpose.data.formats`):
            its folder, or its `data.yaml`.
        eval_root: Folder with the `val2017` part; None for `root`.
        extra: Additional labels for training only, also without a `root`: a folder with one
            `person_keypoints_*.json` and its images, or `annotations` (a COCO JSON) and `images`.
        download: Whether to fetch the official COCO 2017 archives into `root` (about 20 GB).
    """

    root: str | None = None
    eval_root: str | None = None
    extra: Sequence[str | Mapping[str, str]] = ()
    download: bool = False

    def _root(self) -> Path:
        if self.root is None:
            raise HeatposeError(
                "No data: set data.root=FOLDER (COCO 2017 layout), add data.download=true to fetch"
                " it, or give labels alone: data.extra='[{annotations: labels.json, images:"
                " FOLDER}]'."
            )
        return Path(self.root).expanduser()

    def prepare(self) -> None:
        """Downloads the archives if configured, and looks for the training part.

        Raises:
            HeatposeError: A part is missing, or the download fails.
        """
        if self.download:
            from heatpose.data.download import download_coco

            download_coco(self._root())
        self._splits()

    def _splits(self) -> list[Split]:
        """The training parts of `root`, if given, and of `extra`."""
        whole = [] if self.root is None and self.extra else [find_part(self._root(), "train")]
        return [*whole, *(find_extra(entry) for entry in self.extra)]

    def training(self, skeleton: Skeleton) -> list[Person]:
        """Instances of train2017 and of the extra labels, except on images of the evaluation part.

        Raises:
            HeatposeError: There is none.
        """
        splits, scored, found = self._splits(), self.evaluation(skeleton) or [], []
        scored_too = 0
        for split in splits:
            kept, audit = training_instances(labels_of(split), split.images, skeleton, scored)
            print_once(audit.summary(split.name, "usable for training"))
            print_once(audit.readings.summary(split.name))
            scored_too += audit.dropped[EVALUATED]
            found += kept
        if not found:
            looked = ", ".join(f"'{split.annotations}'" for split in splits)
            if scored_too:
                raise HeatposeError(
                    f"{looked} has no instance to train on, except on images that are scored; give "
                    "train and val different images."
                )
            raise HeatposeError(
                f"{looked} has no person with a labelled keypoint of skeleton '{skeleton.name}'; "
                "run heatpose data on its folder."
            )
        return found

    def evaluation(self, skeleton: Skeleton) -> list[Person] | None:
        """The benchmark's selection of val2017; None if there is no such part."""
        if self.root is None and self.eval_root is None and self.extra:
            return None
        try:
            split = (
                find_part(Path(self.eval_root).expanduser(), "val")
                if self.eval_root
                else find_kept_apart(self._root(), "val")
            )
        except HeatposeError:
            if self.eval_root:
                raise
            return None
        kept, audit = benchmark_instances(labels_of(split), split.images, skeleton)
        print_once(audit.summary(split.name, "scored, one on each image"))
        print_once(audit.readings.summary(split.name))
        return kept

    def describe(self) -> dict[str, Any]:
        """See `Source`; records the formats of the labels as well."""
        extra = [entry if isinstance(entry, str) else dict(entry) for entry in self.extra]
        found = {part: name for part in ("train", "val") if (name := self._format(part))}
        return {"kind": "coco", **asdict(self), "extra": extra, "download": False, "formats": found}

    def _format(self, part: str) -> str | None:
        root = self.eval_root if part == "val" and self.eval_root else self.root
        try:
            split = find_part(Path(root or "").expanduser(), part) if root else None
            if split is None:
                return None
            official = split.annotations.name == f"person_keypoints_{part}2017.json"  # large
            return COCO if official else formats.name_of(split.annotations)
        except HeatposeError:
            return None  # reported where the labels are used


@dataclass(frozen=True)
class SyntheticSource:
    """Rendered persons with exact labels, made once below `root`.

    Attributes:
        root: Folder that holds the rendered set.
        train_images: Training images.
        val_images: Evaluation images with one person each.
        seed: Of the rendering.
    """

    root: str = "data_cache/synthetic"
    train_images: int = 1200
    val_images: int = 200
    seed: int = 0

    def _coco(self) -> CocoSource:
        from heatpose.data.synthetic.dataset import SyntheticSettings, build_synthetic

        settings = SyntheticSettings(
            train_images=self.train_images, val_images=self.val_images, seed=self.seed
        )
        return CocoSource(root=str(build_synthetic(Path(self.root), settings)))

    def prepare(self) -> None:
        """Renders the set if it is missing."""
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


def training_instances(
    labels: CocoLabels, images: Path, skeleton: Skeleton, scored: Sequence[Person]
) -> tuple[list[Person], Audit]:
    """Usable instances of a label file, except on images that are scored.

    Args:
        labels: From `read_labels`.
        images: Folder of the image files.
        skeleton: The keypoints are converted to it.
        scored: Instances of the evaluation part.

    Raises:
        HeatposeError: An image that has to be compared with a scored one cannot be read.
    """
    everyone, audit = instances(labels, images, skeleton)
    same = same_images(everyone, scored)
    for person in everyone:
        if person.image_path in same:
            audit.drop(EVALUATED, person.image_id)
    kept = [person for person in everyone if person.image_path not in same]
    audit.kept = len(kept)
    return kept, audit


def from_description(description: dict[str, Any]) -> Source:
    """Builds a source from the values of `Source.describe`.

    Restricted to the two kinds above: a checkpoint cannot name a class to build.

    Raises:
        HeatposeError: The kind or a value is unknown.
    """
    values = dict(description)
    kind = values.pop("kind", None)
    values.pop("formats", None)  # a record, not a setting
    try:
        if kind == "coco":
            return CocoSource(**values)
        if kind == "synthetic":
            return SyntheticSource(**values)
    except TypeError as error:
        raise HeatposeError(
            f"The description of the data does not fit ({error}); set data.root."
        ) from error
    raise HeatposeError(f"Data of kind '{kind}' is unknown; set data.root.")
