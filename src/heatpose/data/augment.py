"""Augmentation of training samples.

A sample is made by one affine transform and one sampling; photometric changes and occlusion follow
per batch on the device.

To add an augmentation:

- Geometric: a field of `GeometricAugment`, off by default, and a matrix in its `transform`.
- Photometric: a field of `Photometric` and its term in `__call__`; a random number more in `colour`
  (`batches.AugmentedBatches.sample`, after the existing ones).
- One with a configuration entry of its own: a frozen dataclass here, which takes images u8 or
  f32[B, 3, S, S] and random numbers; these numbers in `batches.TrainingBatch`; an argument of
  `PoseModule` and its call in `on_after_batch_transfer`; the argument in `build.build_module`; the
  key in `arguments.OBJECTS`, without which its settings are not checked; `conf/augment/`.

Shape legend: B batch, K keypoints, P patches, S input side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heatpose.data.sample import Person
from heatpose.pose import geometry
from heatpose.pose.skeleton import Skeleton

if TYPE_CHECKING:
    import torch


Box = tuple[float, float, float, float]
GREY = 127
"""Value of each channel that masked instances are painted with."""
TRIES = 4
PROMINENCE = 0.7
"""An instance is prominent if no other fills more of a crop than this fraction of its box area."""


@dataclass(frozen=True)
class GeometricAugment:
    """Distribution of the image -> input transforms of training samples.

    The images of the published benchmark are whole images, stretched to a square, with one instance
    at any place.

    Attributes:
        person_share: Range of the relative size (square root of box area over crop area) of the
            instance in crops around it.
        magnification: Maximum magnification of a crop; larger ones would be more blurred than any
            benchmark image.
        aspect: A crop's width over height lies in [1 / aspect, aspect]. Stretched to the square it
            resembles a landscape or portrait image.
        crop: Probability of a crop for instances that are prominent on the whole image; all others
            are always cropped.
        zoom: For whole images: the region's sides are the image's divided by a factor from [1 /
            zoom, zoom].
        whole: Probability that a whole image is neither zoomed nor moved.
        degrees: Rotation in [-degrees, degrees].
        rotate: Probability of a rotation.
        mirror: Probability of a left/right mirror.
        nearest: Probability of nearest sampling, as the benchmark uses it; else bilinear.
        antialias: For bilinear sampling, probability that an image is averaged over blocks of
            pixels before it is shrunk, as camera pipelines do.
        mask_others: Probability that other instances are painted grey (`mask_others`).
    """

    person_share: tuple[float, float] = (0.2, 0.9)
    magnification: float = 1.25
    aspect: float = 1.5
    crop: float = 0.3
    zoom: float = 1.3
    whole: float = 0.2
    degrees: float = 30.0
    rotate: float = 0.5
    mirror: float = 0.5
    nearest: float = 0.5
    antialias: float = 0.0
    mask_others: float = 0.0

    def transform(
        self, person: Person, size: int, random: np.random.Generator, kept: float = 1.0
    ) -> tuple[geometry.Matrix, bool]:
        """Draws an image -> input transform for one instance.

        Args:
            person: The instance.
            size: S.
            random: Random generator.
            kept: Scale at which the image is cached, 1 for its original size. The maximum
                magnification holds for the cached image.

        Returns:
            The matrix f64[2, 3], and whether it mirrors (left and right are then exchanged).
        """
        mirrored = bool(random.random() < self.mirror)
        steps = [
            geometry.region(self._region(person, size / (self.magnification * kept), random), size)
        ]
        if random.random() < self.rotate:
            steps.append(
                geometry.rotation_scale(
                    random.uniform(-self.degrees, self.degrees), 1.0, (size / 2, size / 2)
                )
            )
        if mirrored:
            steps.append(geometry.mirror(size))
        return geometry.compose(*steps), mirrored

    def separable(self, person: Person, size: int) -> bool:
        """Whether the instance is prominent on the whole image or in some admissible crop.

        Others are not trained on: the target would be ambiguous.
        """
        return prominent(person) or prominent(
            person, self._tightest(person, size / self.magnification)
        )

    def _tightest(self, person: Person, least: float) -> Box:
        return _place(person, *_crop_size(person, self.person_share[1], 1.0, least), None)

    def _region(self, person: Person, least: float, random: np.random.Generator) -> Box:
        if not prominent(person) or (not person.alone and random.random() < self.crop):
            return self._around(person, least, random)
        if random.random() < self.whole:
            return 0.0, 0.0, float(person.width), float(person.height)
        return self._zoomed(person, random)

    def _zoomed(self, person: Person, random: np.random.Generator) -> Box:
        factor = math.exp(random.uniform(-1, 1) * math.log(self.zoom))
        stretch = math.exp(random.uniform(-0.5, 0.5) * math.log(self.aspect))
        width, height = person.width / factor * stretch, person.height / factor / stretch
        return _place(person, width, height, random)

    def _around(self, person: Person, least: float, random: np.random.Generator) -> Box:
        """A random crop in which the instance is prominent, so that the target is unambiguous."""
        low, high = self.person_share
        for _ in range(TRIES):
            share = random.uniform(low, high)
            aspect = math.exp(random.uniform(-1, 1) * math.log(self.aspect))
            box = _place(person, *_crop_size(person, share, aspect, least), random)
            if prominent(person, box):
                return box
            low = share  # another instance is too large in the crop: take a tighter one
        return self._tightest(person, least)


def _crop_size(
    person: Person, share: float, aspect: float, least: float = 0.0
) -> tuple[float, float]:
    """Width and height of a crop in which the instance has the relative size `share`.

    Not smaller than the instance or `least`, and not larger than the image.
    """
    side = math.sqrt(person.box[2] * person.box[3]) / share
    width, height = side * math.sqrt(aspect), side / math.sqrt(aspect)
    width, height = (
        max(width, 1.05 * person.box[2], least),
        max(height, 1.05 * person.box[3], least),
    )
    return min(width, float(person.width)), min(height, float(person.height))


def _place(person: Person, width: float, height: float, random: np.random.Generator | None) -> Box:
    """Region of the given size with as much of the instance's box as fits, inside the image."""
    corner = []
    for start, length, side, limit in (
        (person.box[0], person.box[2], width, person.width),
        (person.box[1], person.box[3], height, person.height),
    ):
        low, high = sorted((start + length - side, start))
        at = random.uniform(low, high) if random is not None else (low + high) / 2
        lowest, highest = sorted((0.0, limit - side))
        corner.append(min(max(at, lowest), highest))
    return corner[0], corner[1], width, height


def prominent(person: Person, box: Box | None = None) -> bool:
    """Whether the instance is prominent (`PROMINENCE`).

    Args:
        person: The instance.
        box: Crop (x, y, w, h) in image pixels; the whole image if None.
    """
    x, y, width, height = box or (0.0, 0.0, float(person.width), float(person.height))
    limit = PROMINENCE * person.box[2] * person.box[3]
    for left, top, w, h in person.others.tolist():  # a few: faster than numpy
        across, down = (
            min(left + w, x + width) - max(left, x),
            min(top + h, y + height) - max(top, y),
        )
        if across > 0 and down > 0 and across * down >= limit:
            return False
    return True


def fixed_transform(person: Person, size: int, share: float = 0.6) -> geometry.Matrix:
    """The fixed image -> input transform used for model selection.

    The whole image if the instance is prominent on it, else a centred crop in which it has the
    relative size `share` (square root of box area over crop area).

    Returns:
        f64[2, 3], image pixels -> input pixels.
    """
    if prominent(person):
        return geometry.stretch(person.width, person.height, size)
    aspect = min(max(person.width / person.height, 0.75), 4 / 3)
    return geometry.region(_place(person, *_crop_size(person, share, aspect), None), size)


class InputLabels(NamedTuple):
    """Labels of one instance in input pixels.

    Attributes:
        points: f32[K, 2] x, y.
        labelled: bool[K].
        box: f32[2] width and height.
    """

    points: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    box: NDArray[np.float32]


def transform_labels(
    person: Person, transform: geometry.Matrix, mirrored: bool, flip_order: list[int]
) -> InputLabels:
    """Moves the labels of an instance into input pixels.

    Args:
        person: In image pixels.
        transform: f64[2, 3], image pixels -> input pixels.
        mirrored: Whether left and right are exchanged.
        flip_order: Of the skeleton.
    """
    points, labelled = geometry.apply(transform, person.keypoints), person.labelled
    if mirrored:
        points, labelled = points[flip_order], labelled[flip_order]
    (a, b, _), (c, d, _) = transform.tolist()
    # lengths of the transformed unit vectors along x and y
    sides = person.box[2] * math.hypot(a, c), person.box[3] * math.hypot(b, d)
    return InputLabels(points, labelled, np.array(sides, np.float32))


def mask_others(
    pixels: NDArray[np.uint8],
    person: Person,
    scale: tuple[float, float] = (1.0, 1.0),
    corner: tuple[int, int] = (0, 0),
) -> NDArray[np.uint8]:
    """Paints the boxes of all other instances grey, except where they overlap the instance's own.

    Args:
        pixels: u8[H, W, 3], a region of the image.
        person: The instance to keep.
        scale: Of the region relative to the original image, (x, y).
        corner: Pixel (x, y) of the scaled image that is the region's first.

    Returns:
        A changed copy.
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


@dataclass(frozen=True)
class Photometric:
    """Changes brightness, contrast and saturation of each image of a batch, on the device.

    Attributes:
        brightness: Added, as a fraction of 255, from [-brightness, brightness].
        contrast: Factor about the mean from [1 - contrast, 1 + contrast].
        saturation: Factor of the distance from grey from [1 - saturation, 1 + saturation].
    """

    brightness: float = 0.2
    contrast: float = 0.3
    saturation: float = 0.3

    def __call__(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Applies the changes; gives the same result on every device.

        Args:
            images: u8 or f32[B, 3, S, S] in 0..255.
            draws: f32[B, 3] uniform random numbers in [-1, 1] for saturation, contrast, brightness.

        Returns:
            f32[B, 3, S, S] in 0..255.
        """
        import torch

        x = images.float()
        saturation, contrast, brightness = draws[:, :, None, None, None].unbind(1)
        grey = x.mean(1, keepdim=True)
        mean = grey.mean((-1, -2), keepdim=True)
        colourful, contrasted = 1 + self.saturation * saturation, 1 + self.contrast * contrast
        # grey + (x - grey) * colourful, then mean + (that - mean) * contrasted + 255 * brightness,
        # with the terms without x collected: they have one channel.
        constant = mean * (1 - contrasted) + 255 * self.brightness * brightness
        shift = torch.addcmul(constant, grey, (1 - colourful) * contrasted)
        return torch.addcmul(shift, x, colourful * contrasted).clamp_(0, 255)


COLUMNS = 7
"""Values of a patch: left, top, right, bottom in input pixels, red, green, blue in 0..255."""


@dataclass(frozen=True)
class Occlusion:
    """Random occlusion by patches of one colour each.

    Drawn with the sample and painted for the whole batch on the device. Covered keypoints stay
    labelled.

    Attributes:
        probability: Of at least one patch in a sample.
        patches: Maximum number of patches.
        side: Range of a patch's sides, relative to the square root of the instance's box area.
        limbs: Probability that a patch is centred on a limb (between two labelled keypoints joined
            by an edge of the skeleton); else anywhere in the box.
    """

    probability: float = 0.5
    patches: int = 2
    side: tuple[float, float] = (0.1, 0.35)
    limbs: float = 0.7

    def draw(
        self,
        person: Person,
        skeleton: Skeleton,
        transform: geometry.Matrix,
        random: np.random.Generator,
    ) -> NDArray[np.float32]:
        """Draws the patches of a sample: f32[patches, 7] (see `COLUMNS`), zero for no patch."""
        found = np.zeros((self.patches, COLUMNS), np.float32)
        if random.random() >= self.probability:
            return found
        area = abs(float(np.linalg.det(transform[:, :2]))) * person.box[2] * person.box[3]
        for row in range(int(random.integers(1, self.patches + 1))):
            centre = geometry.apply(transform, self._centre(person, skeleton, random))
            half = np.sqrt(area) * random.uniform(*self.side, 2) / 2
            found[row] = *(centre - half), *(centre + half), *random.uniform(0, 255, 3)
        return found

    def _centre(
        self, person: Person, skeleton: Skeleton, random: np.random.Generator
    ) -> NDArray[np.float64]:
        """A random place on the instance, f64[2] in image pixels."""
        joined = [ends for ends in skeleton.edge_indices if person.labelled[list(ends)].all()]
        along, across = random.random(2)
        if joined and random.random() < self.limbs:
            first, second = joined[int(random.integers(len(joined)))]
            return np.asarray(
                person.keypoints[first]
                + along * (person.keypoints[second] - person.keypoints[first]),
                np.float64,
            )
        x, y, width, height = person.box
        return np.array([x + along * width, y + across * height])


def paint(images: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Paints patches over images: pixels whose centre they contain, later ones over earlier ones.

    Args:
        images: u8 or f32[B, 3, S, S] in 0..255.
        patches: f32[B, P, 7] (see `COLUMNS`).

    Returns:
        The images, changed and of the same type.
    """
    import torch

    centres = torch.arange(images.shape[-1], device=images.device) + 0.5
    left, top, right, bottom = patches[..., :4, None].unbind(2)  # [B, P, 1]
    # [B, P, S]
    columns, rows = (centres >= left) & (centres < right), (centres >= top) & (centres < bottom)
    colours = patches[..., 4:].to(images.dtype)
    for patch in range(patches.shape[1]):
        covered = rows[:, patch, :, None] & columns[:, patch, None, :]
        images = torch.where(covered[:, None], colours[:, patch, :, None, None], images)
    return images
