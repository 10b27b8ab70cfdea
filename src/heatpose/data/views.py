"""Whole training batches: each person's part of the image is cut out by the loader.

And sampled in one step per batch where that is cheapest.

Every number of chance is drawn here, by a generator of the seed, the epoch and the place in it.
What follows on the device is arithmetic, so that a batch is the same on every device, in every
process and after every interruption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from heatpose.data.augment import GeometricAugment, Occlusion, moved_labels
from heatpose.data.batches import SAMPLE, BatchPlan, generator
from heatpose.data.image_cache import CachedImage, ImageStore
from heatpose.data.sample import Person
from heatpose.pose import geometry
from heatpose.pose.skeleton import Skeleton

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
        images = _pack(views, plan.size) if self.packed else _sample(views, plan.size)
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


def _sample(views: Sequence[AugmentedSample], size: int) -> Tensor:
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
