"""Which instances are trained on, how often, and which are held out for model selection.

`train.py` and `heatpose data` share these rules. `same_images` finds training images that are
evaluation images as well, by the content of the files and not by a name alone.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Collection, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data.augment import GeometricAugment, prominent
from heatpose.data.formats.base import original_name
from heatpose.data.sample import Audit, Person
from heatpose.utils.image_files import load_image

SELECTIONS = ("all", "prominent", "alone")
HIDDEN = "no crop separates the person from a larger neighbour"
NOT_PROMINENT = "held out, but not prominent on the image"
LIMIT = "beyond data.module.limit"


@dataclass(frozen=True)
class TrainingRules:
    """Filters of `data.module`, and the values they depend on.

    Attributes:
        min_keypoints: As in `datamodule.DataSettings`, as are the next four.
        min_side: In image pixels.
        held_out: Fraction of the images.
        select: One of `SELECTIONS`.
        limit: None for all.
        augment: Distribution of the crops, which must be able to separate each instance.
        size: Largest side of the network's input.
    """

    min_keypoints: int = 3
    min_side: float = 36.0
    held_out: float = 0.08
    select: str = "all"
    limit: int | None = None
    augment: GeometricAugment = field(default_factory=GeometricAugment)
    size: int = 192

    def drop_reason(self, person: Person) -> str | None:
        """Why an instance is used neither for training nor for validation; None if it is usable."""
        if int(person.labelled.sum()) < min(self.min_keypoints, len(person.labelled)):
            least = f"data.module.min_keypoints={self.min_keypoints}"
            return f"fewer labelled keypoints than {least}"
        if math.sqrt(person.box[2] * person.box[3]) < self.min_side:
            return f"box smaller than data.module.min_side={self.min_side:g} pixels"
        return None if self.augment.separable(person, self.size) else HIDDEN

    def selects(self, person: Person) -> bool:
        """Whether `select` admits an instance to the training part."""
        if self.select == "all":
            return True
        return person.alone if self.select == "alone" else prominent(person)


@dataclass(frozen=True)
class TrainingSplit:
    """The instances of a training, split by image.

    Attributes:
        train: Trained on.
        validation: Held out for model selection.
        audit: `kept` counts both; all others are dropped with a reason.
    """

    train: list[Person]
    validation: list[Person]
    audit: Audit

    @property
    def summary(self) -> str:
        """One line with all counts."""
        reasons = f"; {self.audit.reasons}" if self.audit.reasons else ""
        return (
            f"Training: {len(self.train)} of {self.audit.annotations} instances to train on, "
            f"{len(self.validation)} held out for model selection{reasons}."
        )


def split_instances(instances: Sequence[Person], rules: TrainingRules) -> TrainingSplit:
    """Applies the rules. Either part may be empty (see `explain_empty`).

    Args:
        instances: Usable ones (`coco.instances`), in order.
        rules: The filters.
    """
    audit = Audit(len({person.image_path for person in instances}), len(instances))
    trained, held = list[Person](), list[Person]()
    for person in instances:
        if reason := rules.drop_reason(person):
            audit.drop(reason, person.image_id)
        elif in_held_out(person, rules.held_out):
            held.append(person)
        elif not rules.selects(person):
            audit.drop(f"not selected by data.module.select={rules.select}", person.image_id)
        else:
            trained.append(person)
    # The model is selected on whole images of prominent instances, as the benchmark is scored: the
    # score on crops continues to rise long after that has stopped.
    chosen = [person for person in held if prominent(person)] or held
    kept = {id(person) for person in chosen}
    for person in held:
        if id(person) not in kept:
            audit.drop(NOT_PROMINENT, person.image_id)
    for person in trained[rules.limit :] if rules.limit is not None else ():
        audit.drop(LIMIT, person.image_id)
    trained = trained[: rules.limit]
    audit.kept = len(trained) + len(chosen)
    return TrainingSplit(trained, chosen, audit)


def explain_empty(
    split: TrainingSplit, instances: Sequence[Person], rules: TrainingRules
) -> str | None:
    """Why a part of a split is empty, and settings with which none is; None if none is.

    Args:
        split: Of `instances`, by the rules.
        instances: As `split_instances`.
        rules: As `split_instances`.
    """
    if split.train and split.validation:
        return None
    images = {person.image_path for person in instances if rules.drop_reason(person) is None}
    if not images:
        what = f"None of the {len(instances)} instances can be trained on"
    elif not split.validation:
        what = (
            f"None of the {len(images)} images with usable instances is held out for"
            f" model selection (data.module.held_out={rules.held_out:g})"
        )
    else:
        what = f"No instance is left to train on, {len(split.validation)} are held out"
    reasons = f" ({split.audit.reasons})" if split.audit.reasons else ""
    remedy = _remedy(instances, rules)
    advice = f"set {' '.join(remedy)}" if remedy else "add images of other people"
    return f"{what}{reasons}; {advice}."


def _remedy(instances: Sequence[Person], rules: TrainingRules) -> list[str]:
    """The fewest settings, as on the command line, with which neither part is empty; [] if none."""
    small, poor = {"min_side": 0}, {"min_keypoints": 1}
    loose: tuple[dict[str, Any], ...] = ({}, small, poor, {**small, **poor})
    for select in dict.fromkeys((rules.select, "all")):
        for changes in loose:
            tried = replace(rules, select=select, **changes)
            share = _share(instances, tried)
            if share is not None:
                found = {**changes, "select": select, "held_out": share}
                return [
                    f"data.module.{name}={value}"
                    for name, value in found.items()
                    if value != getattr(rules, name)
                ]
    return []


def _share(instances: Sequence[Person], rules: TrainingRules) -> float | None:
    """The `held_out` nearest to that of the rules with which neither part is empty."""
    usable = [person for person in instances if rules.drop_reason(person) is None]
    held = [_place(person) for person in usable]
    trained = [_place(person) for person in usable if rules.selects(person)]
    if not trained or min(held) >= max(trained):
        return None
    low, high = min(held), max(trained)  # places below the fraction are held out
    if low < rules.held_out <= high:
        return rules.held_out
    for digits in range(2, 16):
        scale = 10.0**digits
        at_least, at_most = (math.floor(low * scale) + 1) / scale, math.floor(high * scale) / scale
        share: float = at_least if rules.held_out <= low else at_most
        if low < share <= high and share < 1:
            return share
    return None


def sampling_weights(
    instances: Sequence[Person], prominence: float = 1.0, size: float = 0.0, keypoints: float = 0.0
) -> NDArray[np.float64] | None:
    """Relative frequency of each instance in training.

    Args:
        instances: N of them.
        prominence: Factor for instances that are prominent on the whole image, as those of the
            benchmark are.
        size: Exponent of the relative size (square root of box area over image area): 1 shows an
            instance of twice the size twice as often.
        keypoints: Exponent of the fraction of labelled keypoints.

    Returns:
        f64[N] > 0; None where all are equal.
    """
    if (prominence, size, keypoints) == (1.0, 0.0, 0.0):
        return None
    is_prominent = np.array([prominent(person) for person in instances])
    relative_size = np.array(
        [
            np.sqrt(person.box[2] * person.box[3] / (person.width * person.height))
            for person in instances
        ]
    )
    labelled = np.array([max(float(person.labelled.mean()), 1e-3) for person in instances])
    weights: NDArray[np.float64] = (
        np.where(is_prominent, prominence, 1.0)
        * np.maximum(relative_size, 1e-3) ** size
        * labelled**keypoints
    )
    return weights


def in_held_out(person: Person, share: float) -> bool:
    """Whether an instance is held out, by a hash of its image's path below the data set's folder.

    All instances of an image are in the same part, and new data does not move existing images.
    Equal names in different folders are different images; augmented copies of an image
    (`original_name`) count as one.

    Args:
        person: The instance.
        share: Fraction of the images to hold out.
    """
    return _place(person) < share


def _place(person: Person) -> float:
    """Hash of the image's name in [0, 1), uniform over images."""
    digest = hashlib.sha256(original_name(person.name).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


HEAD = 1 << 16
"""Bytes of a file that are compared before the whole file is read."""
THUMBNAIL = 16
"""Side, in pixels, of the thumbnails that are compared."""
ALIKE = 6.0
"""Mean difference in grey levels below which two thumbnails show the same image."""
FLAT = 2.0
"""Standard deviation in grey levels below which thumbnails are too uniform to be compared."""
SAME_PLACE = 0.9
"""Intersection over union above which two boxes, as fractions of their images, are the same."""


def same_images(instances: Sequence[Person], others: Sequence[Person]) -> set[Path]:
    """Images of `instances` that are images of `others` as well.

    A file or a copy of it is found whatever its name. An image that was resized or compressed again
    is found if its id or file name is equal, an instance has the same box on both, and the images
    are similar. Equal names or ids alone are not sufficient: they repeat between any two data sets.

    Args:
        instances: Their image paths are returned.
        others: Their images are searched for.

    Raises:
        HeatposeError: An image that has to be compared cannot be read.
    """
    mine = {person.image_path: _resolved(person.image_path) for person in instances}
    theirs = {_resolved(person.image_path) for person in others}
    found = {path for path, file in mine.items() if file in theirs}
    names = {path.stem for path in theirs}
    for path in _copies([path for path in mine if path not in found], theirs):
        if path.stem in names or not _blank(path):  # black frames of two videos are equal as well
            found.add(path)
    pairs = _pairs([person for person in instances if person.image_path not in found], others)
    with ThreadPoolExecutor(2) as pool:
        alike = pool.map(lambda pair: _alike(*pair), pairs)
        return found | {pair[0] for pair, same in zip(pairs, alike, strict=True) if same}


def _resolved(path: Path) -> Path:
    """The file behind links; the path itself if it cannot be resolved."""
    try:
        return path.resolve()
    except (OSError, ValueError):  # a loop of links; a null byte, or half of a surrogate pair
        return path


def _copies(paths: Collection[Path], others: Collection[Path]) -> set[Path]:
    """Those of `paths` with the content of one of `others`, by size, then head, then hash."""
    keys: tuple[Callable[[Path], Hashable], ...] = (_size, _head, _digest)
    for key in keys:
        left, right = ({path: key(path) for path in side} for side in (paths, others))
        common = (set(left.values()) & set(right.values())) - {None}
        paths, others = (
            [path for path, value in side.items() if value in common] for side in (left, right)
        )
    return set(paths)


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # a missing image is reported when it is decoded
        return None


def _head(path: Path) -> Hashable:
    with path.open("rb") as file:
        return _size(path), hashlib.sha256(file.read(HEAD)).digest()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _pairs(instances: Sequence[Person], others: Sequence[Person]) -> list[tuple[Path, Path]]:
    """Pairs of images that may be the same one, resized or compressed again."""
    known: dict[Hashable, list[Person]] = {}
    for other in others:
        for key in (other.image_id, other.image_path.stem):
            known.setdefault(key, []).append(other)
    pairs = {
        (person.image_path, other.image_path): None
        for person in instances
        for key in (person.image_id, person.image_path.stem)
        for other in known.get(key, ())
        if _overlap(person, other) >= SAME_PLACE
    }
    return list(pairs)


def _overlap(a: Person, b: Person) -> float:
    """Intersection over union of two boxes as fractions of their images."""
    (left, top, right, bottom), (x0, y0, x1, y1) = _corner_points(a), _corner_points(b)
    across, down = min(right, x1) - max(left, x0), min(bottom, y1) - max(top, y0)
    both = max(across, 0.0) * max(down, 0.0)
    union = (right - left) * (bottom - top) + (x1 - x0) * (y1 - y0) - both
    return both / union if union > 0 else 0.0


def _corner_points(person: Person) -> tuple[float, float, float, float]:
    x, y, width, height = person.box
    across, down = person.width, person.height
    return x / across, y / down, (x + width) / across, (y + height) / down


def _alike(a: Path, b: Path) -> bool:
    first, second = _thumbnail(a), _thumbnail(b)
    shows_something = min(first.std(), second.std()) > FLAT
    return bool(shows_something and np.abs(first - second).mean() < ALIKE)


def _blank(path: Path) -> bool:
    """True for an image of a single colour."""
    pixels = load_image(path)
    return bool((pixels == pixels[0, 0]).all())


def _thumbnail(path: Path) -> NDArray[np.float32]:
    """f32[16, 16] grey levels 0..255 of the whole image."""
    from PIL import Image

    image = Image.fromarray(load_image(path)).convert("L")
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, np.float32)
