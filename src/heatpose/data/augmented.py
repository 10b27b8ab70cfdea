"""A fixed number of views of people, drawn once.

What an int8 network learns on, and what it is judged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from heatpose.data.audit import tell_once
from heatpose.data.augment import GeometricAugment
from heatpose.data.batches import BatchPlan
from heatpose.data.image_cache import ImageFiles
from heatpose.data.sample import Person
from heatpose.data.views import AugmentedBatches, AugmentedSample
from heatpose.pose import geometry
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton

UPRIGHT = GeometricAugment(degrees=0.0, rotate=0.0)
"""Whole images, zoomed ones and crops around one person, mirrored or not.

What the network meets in use.
"""


@dataclass(frozen=True)
class AugmentedImages:
    """Views of people.

    Attributes:
        images: u8[N, S, S, 3], as the network gets them.
        instances: N; keypoints and box are those in the view, whose width and height are S. Boxes
            start at 0: only their sides are known.
    """

    images: NDArray[np.uint8]
    instances: tuple[Person, ...]


def draw_augmented(
    instances: Sequence[Person],
    count: int,
    skeleton: Skeleton,
    preprocessing: Preprocessing,
    seed: int = 0,
) -> AugmentedImages:
    """Draws views of everyone in turn, until there are enough.

    The same ones for the same arguments.

    Args:
        instances: Who is shown. Nobody whom no crop separates from a larger neighbour.
        count: N.
        skeleton: Of the people's keypoints.
        preprocessing: Side and sampling of the views.
        seed: Of what is drawn.

    Raises:
        HeatposeError: An image cannot be read.
    """
    size, nearest = preprocessing.size, preprocessing.sampling == "nearest"
    shown = [person for person in instances if UPRIGHT.suits(person, size)]
    augment = replace(UPRIGHT, nearest=float(nearest))
    if skeleton.unpaired:
        augment = replace(augment, mirror=0.0)
        tell_once(
            f"Skeleton '{skeleton.name}' pairs no left with right: drawn views are not mirrored."
        )
    views = AugmentedBatches(shown, skeleton, augment, ImageFiles(), seed)

    def draw(number: int) -> tuple[NDArray[np.uint8], Person]:
        turn, index = divmod(number, len(shown))
        view = views.view(BatchPlan(size, turn, (index,), (index,)), 0)
        return geometry.warp_one(view.pixels, view.inverse, view.nearest, size), _seen(
            shown[index], view, size
        )

    with ThreadPoolExecutor(2) as pool:
        drawn = list(pool.map(draw, range(count if shown else 0)))
    images = (
        np.stack([image for image, _ in drawn]) if drawn else np.empty((0, size, size, 3), np.uint8)
    )
    return AugmentedImages(images, tuple(person for _, person in drawn))


def _seen(person: Person, view: AugmentedSample, size: int) -> Person:
    """The person with the labels of a view; a keypoint outside it is none."""
    points, labelled, (width, height) = (
        view.labels[name] for name in ("points", "labelled", "box")
    )
    inside = ((points >= 0) & (points < size)).all(-1)
    return replace(
        person,
        width=size,
        height=size,
        keypoints=points,
        labelled=labelled & inside,
        box=(0.0, 0.0, float(width), float(height)),
    )
