"""Which training images calibrate and fine-tune, and which of them select the method.

Never an evaluation image. The calibration images are chosen by seed and recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data.sample import Person, labelled_image
from heatpose.data.selection import in_held_out, same_images
from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.settings import AutoChoice
from heatpose.utils.files import sha256

SAMPLING = "one person per image, stratified by person size"
_ALIKE = 0.2  # correlation of neighbouring pixels below which images are noise


class ExportData:
    """The instances of an export; each training image has one role.

    Images are compared and split once, when a part is first read.

    Args:
        training: Training instances, several per image allowed.
        evaluation: Evaluation instances; their images neither calibrate nor fine-tune. None where
            there is no evaluation set.
        auto: Automatic selection of the quantisation; None holds no images out.
        scored: False: the evaluation instances are not scored; their images stay excluded.

    Attributes:
        training: As given.
        evaluation: The instances that are scored; None where nothing is.
    """

    def __init__(
        self,
        training: Sequence[Person],
        evaluation: Sequence[Person] | None,
        auto: AutoChoice | None = None,
        *,
        scored: bool = True,
    ) -> None:
        self.training = training
        self.evaluation = evaluation if scored else None
        self._apart = evaluation or ()
        self._auto = auto

    @cached_property
    def shared(self) -> set[int]:
        """Ids of training images that are in the evaluation set, by `data.selection.same_images`.

        Raises:
            HeatposeError: An image cannot be read.
        """
        same = same_images(self.training, self._apart)
        return {person.image_id for person in self.training if person.image_path in same}

    @property
    def fitting(self) -> list[Person]:
        """Training instances for calibration and fine-tuning."""
        return self._split[0]

    @property
    def holdout(self) -> list[Person]:
        """Training instances that select the method; empty where nothing is selected."""
        return self._split[1]

    @cached_property
    def _split(self) -> tuple[list[Person], list[Person]]:
        return split_training(self.training, self.shared, self._auto)

    def check(self) -> None:
        """Refuses training images that are scored.

        Raises:
            HeatposeError: The message names the first of them.
        """
        if self.shared and self.evaluation:
            raise HeatposeError(
                f"Images {sorted(self.shared)[:5]} are in the evaluation set and cannot calibrate"
                f" ({len(self.shared)} in all); give training images only."
            )


def split_training(
    instances: Sequence[Person], scored: set[int], auto: AutoChoice | None
) -> tuple[list[Person], list[Person]]:
    """Splits training instances into those for calibration and QAT, and the hold-out instances.

    An image is in one part or the other, by a hash of its file name. The images that chose the
    checkpoint (`data.selection.in_held_out` with a smaller share) are in the hold-out part.

    Args:
        instances: Training instances.
        scored: Ids of images that are in neither part.
        auto: Share of the hold-out part; None: it is empty.
    """
    usable = [person for person in instances if person.image_id not in scored]
    if auto is None:
        return usable, []
    rest, holdout = list[Person](), list[Person]()
    for person in usable:
        (holdout if in_held_out(person, auto.holdout) else rest).append(person)
    return (rest, holdout) if rest else (usable, [])


def choose_calibration(instances: Sequence[Person], count: int, seed: int) -> list[Person]:
    """Chooses training images with instances of all sizes, whose activation ranges differ.

    Images are sorted by the size in the input of their largest instance and cut into `count` parts,
    of which each gives one image at random.

    Args:
        instances: Training instances, any order, several per image allowed.
        count: Images wanted; all are taken where there are no more.
        seed: Of the random choice.

    Returns:
        At most `count` instances on different images, sorted by image id; the same ones for the
        same input.

    Raises:
        HeatposeError: There is nothing to choose from.
    """
    if count < 1 or not instances:
        raise HeatposeError(
            f"The calibration set is empty ({len(instances)} people, {count} images wanted); give"
            " training people and at least one image."
        )
    by_size = sorted(
        _largest_per_image(instances), key=lambda person: (_size(person), _order(person))
    )
    generator = np.random.default_rng(seed)
    edges = np.linspace(0, len(by_size), min(count, len(by_size)) + 1).astype(int)
    chosen = [by_size[generator.integers(low, high)] for low, high in pairwise(edges)]
    return sorted(chosen, key=_order)


def _order(person: Person) -> tuple[int, str]:
    """Independent of where the data lie.

    Ids alone may repeat where instances come from several data sets.
    """
    return person.image_id, person.name


def _largest_per_image(instances: Sequence[Person]) -> list[Person]:
    largest: dict[Path, Person] = {}
    for person in sorted(instances, key=lambda person: person.annotation_id):
        known = largest.get(person.image_path)
        if known is None or _size(person) > _size(known):
            largest[person.image_path] = person
    return list(largest.values())


def _size(person: Person) -> float:
    """Square root of the box's share of the image.

    The person's side in the stretched input, over S.
    """
    share = person.box[2] * person.box[3] / (person.width * person.height)
    return float(np.sqrt(share))


def calibration_images(
    instances: Sequence[Person], preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """Whole images stretched to the network's input: u8[N, S, S, 3] raw bytes.

    The first pixel of the first image is set to contain a 0 and a 255, so that the range of the
    input, and thus the scale of raw bytes, is exact for any images.

    Raises:
        HeatposeError: There are none, or an image cannot be read.
    """
    if not instances:
        raise HeatposeError("The calibration set is empty; give training images.")

    def read(person: Person) -> NDArray[np.uint8]:
        return preprocessing.resize(labelled_image(person))

    with ThreadPoolExecutor(2) as pool:
        images = np.stack(list(pool.map(read, instances)))
    _refuse_noise(images)
    images[0, 0, 0, :2] = 0, 255
    return images


def _refuse_noise(images: NDArray[np.uint8]) -> None:
    """Refuses random noise as calibration images: its activation ranges fit no photograph.

    Neighbouring pixels of photographs are correlated, those of noise are not.

    Raises:
        HeatposeError: The median correlation of horizontal neighbours is below 0.2 (photographs
            stretched to 192: above 0.8).
    """
    grey = images.astype(np.float32).mean(-1)
    left, right = grey[:, :, :-1].reshape(len(images), -1), grey[:, :, 1:].reshape(len(images), -1)
    left, right = left - left.mean(1, keepdims=True), right - right.mean(1, keepdims=True)
    spread = np.sqrt((left**2).sum(1) * (right**2).sum(1))
    alike = (left * right).sum(1)[spread > 0] / spread[spread > 0]
    if alike.size and float(np.median(alike)) < _ALIKE:
        raise HeatposeError(
            "The calibration images are random noise, whose activation ranges fit no photograph;"
            " give photographs of the training data."
        )


def calibration_record(instances: Sequence[Person], seed: int, wanted: int) -> dict[str, Any]:
    """Content of `calibration.json`: the chosen images with their hashes, and how they were chosen.

    Args:
        instances: The chosen ones.
        seed: Of the choice.
        wanted: How many were asked for.

    Raises:
        HeatposeError: A file cannot be read.
    """
    files = [
        {"image_id": p.image_id, "file_name": p.name, "sha256": _file_hash(p)} for p in instances
    ]
    return {
        "count": len(files),
        "wanted": wanted,
        "seed": seed,
        "sampling": SAMPLING,
        "images": files,
    }


def _file_hash(person: Person) -> str:
    try:
        return sha256(person.image_path)
    except OSError as error:
        raise HeatposeError(
            f"Image '{person.image_path}' cannot be read ({error.strerror})."
        ) from error
