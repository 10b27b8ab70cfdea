"""Which int8 file keeps the score: judged by views of training people that neither calibrate nor teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatpose.data.drawn import DrawnViews, draw_views
from heatpose.data.sample import Person
from heatpose.metrics import bootstrap_interval, keypoint_similarity, mean_over_labelled, normalised_truth
from heatpose.preprocessing import Preprocessing
from heatpose.quantize.settings import AutoChoice
from heatpose.runners import open_runner
from heatpose.skeleton import Skeleton

_BATCH = 16


@dataclass(frozen=True)
class Verdict:
    """How a file did.

    Attributes:
        oks: Mean over the images of the mean over their views, in percent.
        drop: Points lost against the float file, mean over the images.
        drop_low: Lower end of its 95 % interval, bootstrap over images.
        drop_high: Upper end.
    """

    oks: float
    drop: float
    drop_low: float
    drop_high: float


class Judge:
    """Scores files on the same views.

    Several views of one person cost little and say much: rounding moves a keypoint by chance, in each view anew, while the number of labelled people is
    what it is.

    Args:
        people: Training people on the images kept aside.
        views: How many are drawn.
        skeleton: Of their keypoints.
        preprocessing: As the network has it.
        reference: The float file.
    """

    def __init__(self, people: Sequence[Person], views: int, skeleton: Skeleton, preprocessing: Preprocessing, reference: Path) -> None:
        self.skeleton = skeleton
        drawn = draw_views(people, views, skeleton, preprocessing)
        told = [number for number, person in enumerate(drawn.people) if person.labelled.any()]
        self.views = DrawnViews(drawn.images[told], tuple(drawn.people[number] for number in told))
        names = [person.image_path for person in self.views.people]
        self.images = len(set(names))
        self._image_of = np.unique([str(name) for name in names], return_inverse=True)[1]
        self._reference = self._values(reference)

    def verdict(self, path: Path) -> Verdict:
        """Scores a TFLite file."""
        values = self._values(path)
        lost = 100 * (self._reference - values)
        low, high = bootstrap_interval(lost)
        return Verdict(100 * float(values.mean()), float(lost.mean()), low, high)

    def _values(self, path: Path) -> NDArray[np.float64]:
        """f64[images] OKS in [0, 1], mean over the views of each image."""
        runner, truth = open_runner(path), normalised_truth(self.views.people)
        images = self.views.images
        poses = np.concatenate([runner.predict(images[start : start + _BATCH], "argmax") for start in range(0, len(images), _BATCH)])
        values = mean_over_labelled(keypoint_similarity(poses[..., :2], truth.keypoints, truth.area, self.skeleton.sigmas), truth.labelled)
        mean: NDArray[np.float64] = np.bincount(self._image_of, values) / np.bincount(self._image_of)
        return mean


def split_training(people: Sequence[Person], scored: set[int], auto: AutoChoice | None) -> tuple[list[Person], list[Person]]:
    """Training people -> those that may calibrate and teach, and those that the automatic choice is made on.

    An image is in one part or the other, by a hash of its file name, and none of them is scored. The images that chose the checkpoint
    (`data.selection.in_held_out` with a smaller share) are among those of the choice.
    """
    from heatpose.data.selection import in_held_out

    usable = [person for person in people if person.image_id not in scored]
    if auto is None:
        return usable, []
    rest, aside = list[Person](), list[Person]()
    for person in usable:
        (aside if in_held_out(person, auto.share) else rest).append(person)
    return (rest, aside) if rest else (usable, [])
