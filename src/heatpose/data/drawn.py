"""A fixed number of views of people, drawn once: what an int8 network learns on, and what it is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from heatpose import geometry
from heatpose.data.augment import GeometricAugment, moved_labels
from heatpose.data.batches import VIEW, generator
from heatpose.data.cache import ImageFiles
from heatpose.data.sample import Person
from heatpose.data.views import cut
from heatpose.preprocessing import Preprocessing
from heatpose.skeleton import Skeleton

UPRIGHT = GeometricAugment(degrees=0.0, rotate=0.0)
"""Whole pictures, zoomed ones and crops around one person, mirrored or not: what the network meets in use."""


@dataclass(frozen=True)
class DrawnViews:
    """Views of people.

    Attributes:
        images: u8[N, S, S, 3], as the network gets them.
        people: N; keypoints and box are those in the view, whose width and height are S. Boxes start at 0: only their sides are known.
    """

    images: NDArray[np.uint8]
    people: tuple[Person, ...]


def draw_views(people: Sequence[Person], count: int, skeleton: Skeleton, preprocessing: Preprocessing, seed: int = 0) -> DrawnViews:
    """Draws views of everyone in turn, until there are enough; the same ones for the same arguments.

    Args:
        people: Who is shown. Nobody whom no crop separates from a larger neighbour.
        count: N.
        skeleton: Of the people's keypoints.
        preprocessing: Side and sampling of the views.
        seed: Of what is drawn.

    Raises:
        HeatposeError: An image cannot be read.
    """
    shown = [person for person in people if UPRIGHT.suits(person, preprocessing.size)]
    plans = [(number // len(shown), number % len(shown)) for number in range(count if shown else 0)]

    def draw(plan: tuple[int, int]) -> tuple[NDArray[np.uint8], Person]:
        turn, index = plan
        person, random = shown[index], generator(seed, VIEW, turn, index)
        transform, mirrored = UPRIGHT.transform(person, preprocessing.size, random)
        pixels, inverse = cut(ImageFiles().picture(person), transform, preprocessing.size)
        image = geometry.warp_one(pixels, inverse, preprocessing.sampling == "nearest", preprocessing.size)
        return image, _seen(person, transform, mirrored, skeleton, preprocessing.size)

    with ThreadPoolExecutor(2) as pool:
        views = list(pool.map(draw, plans))
    images = np.stack([image for image, _ in views]) if views else np.empty((0, preprocessing.size, preprocessing.size, 3), np.uint8)
    return DrawnViews(images, tuple(person for _, person in views))


def _seen(person: Person, transform: geometry.Matrix, mirrored: bool, skeleton: Skeleton, size: int) -> Person:
    points, labelled, (width, height) = moved_labels(person, transform, mirrored, skeleton.flip_order)
    inside = ((points >= 0) & (points < size)).all(-1)
    box = (0.0, 0.0, float(width), float(height))
    return replace(person, width=size, height=size, keypoints=points, labelled=labelled & inside, box=box)
