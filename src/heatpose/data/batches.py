"""Which people come together in which batch.

A plan that the seed and the epoch decide alone, whatever the workers and the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler

from heatpose.data.augment import GeometricAugment, Occlusion, moved_labels, prominent
from heatpose.data.image_cache import CachedImage, ImageFiles, ImageStore
from heatpose.data.sample import Person, tell_once
from heatpose.pose import geometry
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton

ORDER, RESOLUTION, SAMPLE = 1, 2, 3
"""What a generator is for: part of its seed, so that no two draw the same numbers."""


class BatchPlan(NamedTuple):
    """What a batch is made of.

    Attributes:
        size: Input side S.
        epoch: Counted from 0.
        positions: Places in the epoch's order, over all processes; with the seed and the epoch they
            decide each view.
        instances: Index of the person at each of them.
    """

    size: int
    epoch: int
    positions: tuple[int, ...]
    instances: tuple[int, ...]


def generator(seed: int, purpose: int, epoch: int, number: int = 0) -> np.random.Generator:
    """The generator of one order, batch or view: the same wherever and whenever it is made."""
    key = np.array((seed * 4 + purpose, (epoch << 40) + number), np.uint64)
    # streams by key: half the time of hashing a seed, once for each view
    return np.random.Generator(np.random.Philox(key=key))


class EpochBatches(SequentialSampler):
    """Plans of an epoch's batches, given to a loader as its sampler, without automatic batches.

    Lightning tells it the epoch.

    It calls itself sequential because Lightning's `overfit_batches` replaces every other kind, and
    with it the batches.

    Args:
        instances: How many there are.
        batch_size: Of one process.
        sizes: Input sides; each batch has one of them, the same in all processes.
        seed: Of the run.
        weights: How often each comes up against the others, drawn with replacement; None shows
            everyone once.
        shuffle: False keeps the order.
        rank: Number of this process.
        ranks: Processes; together they take what one with `ranks` times the batch would take.
    """

    def __init__(
        self,
        instances: int,
        batch_size: int,
        sizes: Sequence[int],
        seed: int = 0,
        weights: NDArray[np.float64] | None = None,
        shuffle: bool = True,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        super().__init__(range(instances))
        self.instances, self.sizes, self.seed, self.shuffle, self.rank, self.ranks = (
            instances,
            tuple(sizes),
            seed,
            shuffle,
            rank,
            ranks,
        )
        self.weights = None if weights is None else weights / weights.sum()
        self.together = batch_size * ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches; the last, smaller one is left out where there are several full ones."""
        return (
            self.instances // self.together
            if self.instances >= 2 * self.together
            else -(-self.instances // self.together)
        )

    def __iter__(self) -> Iterator[BatchPlan]:  # type: ignore[override]  # "sequential" in name alone
        order = self._order()
        for number in range(len(self)):
            start = number * self.together
            # all processes need their share
            end = (
                start + self.together
                if self.ranks > 1
                else min(start + self.together, self.instances)
            )
            positions = tuple(range(start, end))[self.rank :: self.ranks]
            size = self.sizes[
                int(generator(self.seed, RESOLUTION, self.epoch, number).integers(len(self.sizes)))
            ]
            yield BatchPlan(
                size,
                self.epoch,
                positions,
                tuple(int(order[place % self.instances]) for place in positions),
            )

    def _order(self) -> NDArray[np.intp]:
        random = generator(self.seed, ORDER, self.epoch)
        if not self.shuffle:
            return np.arange(self.instances)
        return (
            random.permutation(self.instances)
            if self.weights is None
            else random.choice(self.instances, self.instances, p=self.weights)
        )


def sampling_weights(
    instances: Sequence[Person], prominence: float = 1.0, size: float = 0.0, keypoints: float = 0.0
) -> NDArray[np.float64] | None:
    """How often each person comes up against the others.

    Args:
        instances: N of them.
        prominence: Factor for those who are prominent on the whole image, as the benchmark's
            people are.
        size: Power of the person's share of the image's side (square root of box area over
            image area): 1 shows someone of twice the size twice as often.
        keypoints: Power of the share of keypoints that are labelled.

    Returns:
        f64[N] > 0; None where all are alike.
    """
    if (prominence, size, keypoints) == (1.0, 0.0, 0.0):
        return None
    known = np.array([prominent(person) for person in instances])
    share = np.array(
        [
            np.sqrt(person.box[2] * person.box[3] / (person.width * person.height))
            for person in instances
        ]
    )
    labelled = np.array([max(float(person.labelled.mean()), 1e-3) for person in instances])
    weights: NDArray[np.float64] = (
        np.where(known, prominence, 1.0) * np.maximum(share, 1e-3) ** size * labelled**keypoints
    )
    return weights


TrainingBatch = dict[str, Any]
"""As `datamodule.Batch`, and.

Matrix f32[B, 2, 3] image -> input pixels, index i64[B] of the people, mirrored bool[B], colour
f32[B, 3] in [-1, 1] for `Photometric`, patches f32[B, P, 7] for `occlusion.paint` where there are
any. Before `sampled`, `packed` stands in the place of `image`.
"""
GREY = 127
"""What other people are painted with, of each channel."""


class Packed(NamedTuple):
    """A batch's images before sampling; arguments of `geometry.warp_batch`."""

    canvas: Tensor
    inverse: Tensor
    nearest: Tensor
    size: int


class AugmentedSample(NamedTuple):
    """One person's view: a part of the image u8[H, W, 3], input -> its pixels, the sampling.

    And what goes into the batch as it is.
    """

    pixels: NDArray[np.uint8]
    inverse: geometry.Matrix
    nearest: bool
    labels: dict[str, Any]


class AugmentedBatches(Dataset[TrainingBatch]):
    """Random views of people, a whole batch for each `BatchPlan`.

    Args:
        instances: The samples.
        skeleton: For the left/right swap and the limbs.
        augment: What is drawn.
        images: Where the pixels come from.
        seed: Of the run.
        occlusion: Patches; None for none.
        packed: Leaves the sampling to the device that trains (`sampled`); else it is done here,
            which is as fast where that is the processor.
    """

    def __init__(
        self,
        instances: Sequence[Person],
        skeleton: Skeleton,
        augment: GeometricAugment,
        images: ImageStore,
        seed: int = 0,
        occlusion: Occlusion | None = None,
        packed: bool = False,
    ) -> None:
        self.instances = instances
        self.skeleton = skeleton
        self.augment = augment
        self.images = images
        self.seed = seed
        self.occlusion = occlusion
        self.packed = packed

    def __len__(self) -> int:
        return len(self.instances)

    def __getitem__(self, plan: BatchPlan) -> TrainingBatch:
        views = [self.view(plan, number) for number in range(len(plan.instances))]
        batch = {
            name: torch.from_numpy(np.stack([view.labels[name] for view in views]))
            for name in views[0].labels
        }
        batch["index"] = torch.tensor(plan.instances)
        images = _pack(views, plan.size) if self.packed else _sample_images(views, plan.size)
        return {"packed" if self.packed else "image": images, **batch}

    def view(self, plan: BatchPlan, number: int) -> AugmentedSample:
        """Draws the view of a batch's n-th person."""
        random = generator(self.seed, SAMPLE, plan.epoch, plan.positions[number])
        person = self.instances[plan.instances[number]]
        image = self.images.image(person)
        transform, mirrored = self.augment.transform(person, plan.size, random, min(image.scale))
        nearest, averaged, masked = random.random(3) < (
            self.augment.nearest,
            self.augment.antialias,
            self.augment.mask_others,
        )
        points, labelled, box = moved_labels(person, transform, mirrored, self.skeleton.flip_order)
        labels = {
            "points": points,
            "labelled": labelled,
            "box": box,
            "matrix": transform.astype(np.float32),
            "mirrored": np.array(mirrored),
            "colour": random.uniform(-1, 1, 3).astype(np.float32),
        }
        if self.occlusion is not None:
            labels["patches"] = self.occlusion.draw(person, self.skeleton, transform, random)
        pixels, inverse = cut(
            image, transform, plan.size, averaged and not nearest, person if masked else None
        )
        return AugmentedSample(pixels, inverse, bool(nearest), labels)


def cut(
    image: CachedImage,
    transform: geometry.Matrix,
    size: int,
    averaged: bool = False,
    alone: Person | None = None,
) -> tuple[NDArray[np.uint8], geometry.Matrix]:
    """The part of an image that a view shows, with all pixels that its sampling touches.

    Args:
        image: Kept, perhaps smaller than the image is.
        transform: Image -> input.
        size: S.
        averaged: Shrunk by whole pixels as far as the view leaves at least one pixel for each of
            its own.
        alone: Someone whose neighbours are painted grey.

    Returns:
        u8[h, w, 3], where nothing is changed a window on the image itself, and the transform
        input -> its pixels.
    """
    inverse = geometry.invert(transform)
    inverse[0] *= image.scale[0]
    inverse[1] *= image.scale[1]
    step = [max(1, int(math.hypot(*row))) if averaged else 1 for row in inverse[:, :2].tolist()]
    (left, right), (top, bottom) = (
        _span(row, size, limit, margin + 1)
        for row, limit, margin in zip(
            inverse.tolist(), image.pixels.shape[1::-1], step, strict=True
        )
    )
    pixels = image.pixels[top:bottom, left:right]
    if alone is not None and len(alone.others):
        pixels = others_painted(pixels, alone, image.scale, (left, top))
    inverse[:, 2] -= left, top
    if max(step) > 1:
        from PIL import Image

        pixels = np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels)).reduce((step[0], step[1]))
        )
        inverse /= np.array(step)[:, None]
    return pixels, inverse


def _span(row: Sequence[float], size: int, limit: int, margin: int) -> tuple[int, int]:
    """First and last (exclusive) pixel along one axis that the input square reaches.

    At least one.
    """
    a, b, start = row
    low, high = (
        start + size * (min(a, 0.0) + min(b, 0.0)),
        start + size * (max(a, 0.0) + max(b, 0.0)),
    )
    first = min(max(int(low) - margin, 0), limit - 1)
    return first, max(min(int(high) + 1 + margin, limit), first + 1)


def others_painted(
    pixels: NDArray[np.uint8],
    person: Person,
    scale: tuple[float, float] = (1.0, 1.0),
    corner: tuple[int, int] = (0, 0),
) -> NDArray[np.uint8]:
    """A copy with the boxes of all other people painted grey.

    As far as they are outside the person's own; `corner` is the pixel that the first one is.
    """
    pixels = pixels.copy()

    def region(box: Sequence[float]) -> tuple[slice, slice]:
        (left, right), (top, bottom) = (
            (
                max(round(box[axis] * scale[axis]) - corner[axis], 0),
                max(round((box[axis] + box[axis + 2]) * scale[axis]) - corner[axis], 0),
            )
            for axis in (0, 1)
        )
        return slice(top, bottom), slice(left, right)

    own = region(person.box)
    kept = pixels[own].copy()
    for box in person.others.tolist():
        pixels[region(box)] = GREY
    pixels[own] = kept
    return pixels


def _pack(views: Sequence[AugmentedSample], size: int) -> Packed:
    """All images on one canvas each, black around them."""
    height, width = (max(view.pixels.shape[axis] for view in views) for axis in (0, 1))
    canvas = np.zeros((len(views), height, width, 3), np.uint8)
    for place, view in zip(canvas, views, strict=True):
        place[: view.pixels.shape[0], : view.pixels.shape[1]] = view.pixels
    nearest = torch.tensor([view.nearest for view in views])
    return Packed(
        torch.from_numpy(canvas),
        torch.from_numpy(np.stack([view.inverse for view in views])).float(),
        nearest,
        size,
    )


def _sample_images(views: Sequence[AugmentedSample], size: int) -> Tensor:
    """u8[B, 3, S, S], channels last in memory.

    Each image on its own, so that its few pixels stay in the processor's cache.
    """
    images = np.empty((len(views), size, size, 3), np.uint8)
    for image, view in zip(images, views, strict=True):
        image[:] = geometry.warp_one(view.pixels, view.inverse, view.nearest, size)
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def sampled(batch: TrainingBatch) -> TrainingBatch:
    """Turns the packed images of a batch into `image`, on the device they are on.

    A batch that has it stays as it is.
    """
    if "packed" in batch:
        batch["image"] = geometry.warp_batch(*batch.pop("packed"))
    return batch


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
