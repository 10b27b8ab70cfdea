"""Augmented training batches, and fixed sets of augmented images.

`EpochBatches` plans which instances form a batch, `AugmentedBatches` makes the batch of a plan, and
`resample` finishes it on the device. All random numbers are drawn in the loader by a generator
keyed by seed, epoch and position in the epoch; what follows on the device is deterministic. A batch
is therefore the same on every device, for any number of workers and processes, and after a resume.

Shape legend: B batch, K keypoints, P patches, S input side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler

from heatpose.data.augment import (
    GeometricAugment,
    InputLabels,
    Occlusion,
    mask_others,
    transform_labels,
)
from heatpose.data.image_cache import CachedImage, ImageFiles, ImageStore
from heatpose.data.sample import Person, print_once
from heatpose.pose import geometry
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton

ORDER, RESOLUTION, SAMPLE = 1, 2, 3
"""Purposes of a generator. They are part of its key, so that no two draw the same numbers."""
WITHOUT_ROTATION = GeometricAugment(degrees=0.0, rotate=0.0)
"""Whole images, zoomed ones and crops around one instance, mirrored or not, as in deployment."""


class Packed(NamedTuple):
    """Images of a batch before sampling; arguments of `geometry.warp_batch`.

    Attributes:
        canvas: u8[B, H, W, 3] image regions, padded with black to one size.
        inverse: f32[B, 2, 3] input pixels -> canvas pixels.
        nearest: bool[B] nearest sampling, else bilinear.
        size: S.
    """

    canvas: Tensor
    inverse: Tensor
    nearest: Tensor
    size: int


class Batch(TypedDict):
    """A batch of samples.

    Attributes:
        image: u8[B, 3, S, S] RGB; f32 in 0..255 after photometric augmentation.
        points: f32[B, K, 2] x, y in input pixels.
        labelled: bool[B, K].
        box: f32[B, 2] width and height of the instance's box in input pixels.
        index: i64[B] position of each sample among the instances of its data set.
        matrix: f32[B, 2, 3] image pixels -> input pixels.
    """

    image: Tensor
    points: Tensor
    labelled: Tensor
    box: Tensor
    index: Tensor
    matrix: Tensor


class TrainingBatch(Batch, total=False):
    """A training batch. The loader gives either `image` or `packed` (see `resample`).

    Attributes:
        mirrored: bool[B].
        colour: f32[B, 3] in [-1, 1], the random numbers of `augment.Photometric`.
        patches: f32[B, P, 7] for `augment.paint`; absent without occlusion.
        packed: Images before sampling, in place of `image`.
    """

    mirrored: Tensor
    colour: Tensor
    patches: Tensor
    packed: Packed


class BatchPlan(NamedTuple):
    """Contents of a batch.

    Attributes:
        size: Input side S.
        epoch: Counted from 0.
        positions: Positions in the epoch's order, over all processes; with the seed and the epoch
            they determine each sample's augmentation.
        instances: Index of the instance at each position.
    """

    size: int
    epoch: int
    positions: tuple[int, ...]
    instances: tuple[int, ...]


def generator(seed: int, purpose: int, epoch: int, number: int = 0) -> np.random.Generator:
    """The random generator of one order, batch or sample, reproducible in any process.

    Args:
        seed: Of the run.
        purpose: `ORDER`, `RESOLUTION` or `SAMPLE`.
        epoch: Counted from 0.
        number: Of the batch, or position of the sample.
    """
    key = np.array((seed * 4 + purpose, (epoch << 40) + number), np.uint64)
    # One generator per sample: keying Philox takes half the time of hashing a seed.
    return np.random.Generator(np.random.Philox(key=key))


class EpochBatches(SequentialSampler):
    """Plans of an epoch's batches: the sampler of a loader without automatic batching.

    Lightning calls `set_epoch`. The class derives from `SequentialSampler` because Lightning's
    `overfit_batches` replaces any other sampler, and with it the batches.

    Args:
        instances: Number of instances.
        batch_size: Of one process.
        sizes: Input sides; each batch has one of them, the same in all processes.
        seed: Of the run.
        weights: f64[instances] sampling weights, with replacement; None shows each instance once.
        shuffle: False keeps the order.
        rank: Global rank of this process.
        ranks: World size; the processes together take what one process with `ranks` times the batch
            size would take.
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
        self.instances = instances
        self.sizes = tuple(sizes)
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.ranks = ranks
        self.weights = None if weights is None else weights / weights.sum()
        self.global_batch = batch_size * ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch to plan; called before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of batches; an incomplete last one is dropped if there are several full ones."""
        full, rest = divmod(self.instances, self.global_batch)
        return full if full >= 2 else full + bool(rest)

    def __iter__(self) -> Iterator[BatchPlan]:  # type: ignore[override]  # not sequential: see above
        order = self._order()
        for number in range(len(self)):
            start = number * self.global_batch
            end = start + self.global_batch
            if self.ranks == 1:  # several processes must have equally many samples
                end = min(end, self.instances)
            positions = tuple(range(start, end))[self.rank :: self.ranks]
            random = generator(self.seed, RESOLUTION, self.epoch, number)
            size = self.sizes[int(random.integers(len(self.sizes)))]
            instances = tuple(int(order[place % self.instances]) for place in positions)
            yield BatchPlan(size, self.epoch, positions, instances)

    def _order(self) -> NDArray[np.intp]:
        random = generator(self.seed, ORDER, self.epoch)
        if not self.shuffle:
            return np.arange(self.instances)
        if self.weights is None:
            return random.permutation(self.instances)
        return random.choice(self.instances, self.instances, p=self.weights)


class AugmentedSample(NamedTuple):
    """One augmented sample before sampling.

    Attributes:
        pixels: u8[H, W, 3] region of the image.
        inverse: Input pixels -> pixels of the region.
        nearest: Nearest sampling, else bilinear.
        labels: In input pixels.
        matrix: f32[2, 3] image pixels -> input pixels.
        mirrored: Whether left and right are exchanged.
        colour: f32[3] in [-1, 1] for `augment.Photometric`.
        patches: f32[P, 7] for `augment.paint`; None without occlusion.
    """

    pixels: NDArray[np.uint8]
    inverse: geometry.Matrix
    nearest: bool
    labels: InputLabels
    matrix: NDArray[np.float32]
    mirrored: bool
    colour: NDArray[np.float32]
    patches: NDArray[np.float32] | None


class AugmentedBatches(Dataset[TrainingBatch]):
    """Randomly augmented instances, a whole batch for each `BatchPlan`.

    Args:
        instances: The samples.
        skeleton: Pairs for mirroring, and limbs for occlusion.
        augment: Distribution of the geometric augmentation.
        images: Gives the pixels.
        seed: Of the run.
        occlusion: Patches; None for none.
        packed: Leaves the sampling to the training device (`resample`). Else it is done in the
            loader, which is as fast where the CPU trains.
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
        samples = [self.sample(plan, number) for number in range(len(plan.instances))]
        batch: TrainingBatch = {  # type: ignore[typeddict-item]  # the image follows
            "points": _stack([sample.labels.points for sample in samples]),
            "labelled": _stack([sample.labels.labelled for sample in samples]),
            "box": _stack([sample.labels.box for sample in samples]),
            "matrix": _stack([sample.matrix for sample in samples]),
            "mirrored": torch.tensor([sample.mirrored for sample in samples]),
            "colour": _stack([sample.colour for sample in samples]),
            "index": torch.tensor(plan.instances),
        }
        if self.occlusion is not None:
            batch["patches"] = _stack([s.patches for s in samples if s.patches is not None])
        if self.packed:
            batch["packed"] = _pack(samples, plan.size)
        else:
            batch["image"] = _sample_images(samples, plan.size)
        return batch

    def sample(self, plan: BatchPlan, number: int) -> AugmentedSample:
        """Draws the augmented sample at index `number` of a batch.

        Raises:
            HeatposeError: Its image cannot be read.
        """
        random = generator(self.seed, SAMPLE, plan.epoch, plan.positions[number])
        person = self.instances[plan.instances[number]]
        image = self.images.image(person)
        transform, mirrored = self.augment.transform(person, plan.size, random, min(image.scale))
        nearest, averaged, masked = random.random(3) < (
            self.augment.nearest,
            self.augment.antialias,
            self.augment.mask_others,
        )
        colour = random.uniform(-1, 1, 3).astype(np.float32)
        patches = None
        if self.occlusion is not None:
            patches = self.occlusion.draw(person, self.skeleton, transform, random)
        pixels, inverse = crop_region(
            image, transform, plan.size, averaged and not nearest, person if masked else None
        )
        return AugmentedSample(
            pixels,
            inverse,
            bool(nearest),
            transform_labels(person, transform, mirrored, self.skeleton.flip_order),
            transform.astype(np.float32),
            mirrored,
            colour,
            patches,
        )


def _stack(arrays: Sequence[NDArray[np.float32 | np.bool_]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def crop_region(
    image: CachedImage,
    transform: geometry.Matrix,
    size: int,
    averaged: bool = False,
    alone: Person | None = None,
) -> tuple[NDArray[np.uint8], geometry.Matrix]:
    """The region of an image that a transform shows, with all pixels that sampling reads.

    Args:
        image: Perhaps cached at a smaller size.
        transform: Pixels of the original image -> input pixels.
        size: S.
        averaged: Averages whole blocks of pixels first, as large as leave at least one pixel of the
            region for each of the input.
        alone: Instance whose neighbours are painted grey.

    Returns:
        u8[h, w, 3], a view of the image itself where no pixel changes, and the transform input
        pixels -> region pixels.
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
        pixels = mask_others(pixels, alone, image.scale, (left, top))
    inverse[:, 2] -= left, top
    if max(step) > 1:
        from PIL import Image

        pixels = np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels)).reduce((step[0], step[1]))
        )
        inverse /= np.array(step)[:, None]
    return pixels, inverse


def _span(row: Sequence[float], size: int, limit: int, margin: int) -> tuple[int, int]:
    """First and last (exclusive) pixel, at least one, that the input square reaches on one axis."""
    a, b, start = row
    low = start + size * (min(a, 0.0) + min(b, 0.0))
    high = start + size * (max(a, 0.0) + max(b, 0.0))
    first = min(max(int(low) - margin, 0), limit - 1)
    return first, max(min(int(high) + 1 + margin, limit), first + 1)


def _pack(samples: Sequence[AugmentedSample], size: int) -> Packed:
    height, width = (max(sample.pixels.shape[axis] for sample in samples) for axis in (0, 1))
    canvas = np.zeros((len(samples), height, width, 3), np.uint8)
    for place, sample in zip(canvas, samples, strict=True):
        place[: sample.pixels.shape[0], : sample.pixels.shape[1]] = sample.pixels
    return Packed(
        torch.from_numpy(canvas),
        torch.from_numpy(np.stack([sample.inverse for sample in samples])).float(),
        torch.tensor([sample.nearest for sample in samples]),
        size,
    )


def _sample_images(samples: Sequence[AugmentedSample], size: int) -> Tensor:
    """u8[B, 3, S, S], channels last in memory.

    Images are sampled one by one, so that the pixels of each stay in the processor's cache.
    """
    images = np.empty((len(samples), size, size, 3), np.uint8)
    for image, sample in zip(images, samples, strict=True):
        geometry.warp_one(sample.pixels, sample.inverse, sample.nearest, size, out=image)
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def resample(batch: TrainingBatch) -> TrainingBatch:
    """Samples the packed images of a batch into `image`, on their device; else changes nothing."""
    if "packed" in batch:
        batch["image"] = geometry.warp_batch(*batch.pop("packed"))
    return batch


@dataclass(frozen=True)
class AugmentedImages:
    """A fixed set of augmented samples.

    Attributes:
        images: u8[N, S, S, 3] RGB network inputs.
        instances: N instances; width and height are S, keypoints and box are in input pixels. Boxes
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
    """Draws augmented samples of the instances in turn; reproducible.

    Args:
        instances: Instances that no crop separates from a larger neighbour are left out. Where more
            than N are left, N of them are chosen at random: several data sets in a row all take
            part.
        count: N.
        skeleton: Of the instances' keypoints.
        preprocessing: Input side and sampling.
        seed: Of the augmentation.

    Raises:
        HeatposeError: An image cannot be read.
    """
    size, nearest = preprocessing.size, preprocessing.sampling == "nearest"
    usable = [person for person in instances if WITHOUT_ROTATION.separable(person, size)]
    if len(usable) > count:
        chosen = generator(seed, ORDER, 0).choice(len(usable), count, replace=False)
        usable = [usable[i] for i in sorted(chosen)]
    augment = replace(WITHOUT_ROTATION, nearest=float(nearest))
    if skeleton.unpaired:
        augment = replace(augment, mirror=0.0)
        print_once(
            f"Skeleton '{skeleton.name}' does not pair left with right: augmented samples are not"
            " mirrored."
        )
    dataset = AugmentedBatches(usable, skeleton, augment, ImageFiles(), seed)

    def draw(number: int) -> tuple[NDArray[np.uint8], Person]:
        epoch, index = divmod(number, len(usable))
        sample = dataset.sample(BatchPlan(size, epoch, (index,), (index,)), 0)
        image = geometry.warp_one(sample.pixels, sample.inverse, sample.nearest, size)
        return image, _relabelled(usable[index], sample.labels, size)

    with ThreadPoolExecutor(2) as pool:
        drawn = list(pool.map(draw, range(count if usable else 0)))
    images = (
        np.stack([image for image, _ in drawn]) if drawn else np.empty((0, size, size, 3), np.uint8)
    )
    return AugmentedImages(images, tuple(person for _, person in drawn))


def _relabelled(person: Person, labels: InputLabels, size: int) -> Person:
    """The instance in input pixels; keypoints outside the input are not labelled."""
    inside = ((labels.points >= 0) & (labels.points < size)).all(-1)
    width, height = labels.box.tolist()
    return replace(
        person,
        width=size,
        height=size,
        keypoints=labels.points,
        labelled=labels.labelled & inside,
        box=(0.0, 0.0, float(width), float(height)),
    )
