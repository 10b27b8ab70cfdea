"""From a labelled person to the network's input: one affine transform and one sampling, then photometric changes per batch on the device.

Shape legend: B batch, K keypoints, S input side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from heatpose import geometry
from heatpose.data.sample import Person

if TYPE_CHECKING:
    import torch

Box = tuple[float, float, float, float]
TRIES = 4
PROMINENCE = 0.7
"""Another person may fill at most this share of the person's box area in a crop."""


@dataclass(frozen=True)
class GeometricAugment:
    """How far a training sample may move. The published test images are whole pictures, stretched to a square, with one person somewhere.

    Attributes:
        person_share: Range of the person's share of the picture's side, square root of box area over picture area, for crops around a person.
        magnification: A crop's side is at least the input's divided by this: tighter crops would be blurred as no test picture is.
        aspect: The crop's width over height lies in [1 / aspect, aspect]; stretched to the square it looks like a landscape or portrait picture.
        crop: Probability that someone who is prominent on the whole picture is cropped like the others, instead of seen on the whole picture.
        zoom: For whole pictures: the region's side is the picture's divided by a factor from [1 / zoom, zoom].
        whole: Probability that a whole picture is used unmoved.
        degrees: Rotation in [-degrees, degrees].
        rotate: Probability of a rotation.
        mirror: Probability of a left/right mirror.
        nearest: Probability of nearest sampling, what the benchmark uses; else bilinear.
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

    def transform(self, person: Person, size: int, random: np.random.Generator) -> tuple[geometry.Matrix, bool]:
        """Draws an image -> input transform for one person.

        Returns:
            The matrix, and whether it mirrors (then left and right keypoints swap).
        """
        mirrored = bool(random.random() < self.mirror)
        steps = [geometry.region(self._region(person, size, random), size)]
        if random.random() < self.rotate:
            steps.append(geometry.rotation_scale(random.uniform(-self.degrees, self.degrees), 1.0, (size / 2, size / 2)))
        if mirrored:
            steps.append(geometry.mirror(size))
        return geometry.compose(*steps), mirrored

    def suits(self, person: Person, size: int) -> bool:
        """False for someone whom no admissible crop separates from a larger neighbour: the network could not know who is meant."""
        return prominent(person) or prominent(person, self._tightest(person, size))

    def _tightest(self, person: Person, size: int) -> Box:
        return _place(person, *_crop_size(person, self.person_share[1], 1.0, size / self.magnification), None)

    def _region(self, person: Person, size: int, random: np.random.Generator) -> Box:
        if not prominent(person) or (not person.alone and random.random() < self.crop):
            return self._around(person, size, random)
        if random.random() < self.whole:
            return 0.0, 0.0, float(person.width), float(person.height)
        return self._zoomed(person, random)

    def _zoomed(self, person: Person, random: np.random.Generator) -> Box:
        factor = float(np.exp(random.uniform(-1, 1) * np.log(self.zoom)))
        stretch = float(np.exp(random.uniform(-0.5, 0.5) * np.log(self.aspect)))
        width, height = person.width / factor * stretch, person.height / factor / stretch
        return _place(person, width, height, random)

    def _around(self, person: Person, size: int, random: np.random.Generator) -> Box:
        """A crop in which the person is the most prominent one: the network finds one person, and must not be asked to guess which."""
        low, high = self.person_share
        for _ in range(TRIES):
            share = random.uniform(low, high)
            aspect = float(np.exp(random.uniform(-1, 1) * np.log(self.aspect)))
            box = _place(person, *_crop_size(person, share, aspect, size / self.magnification), random)
            if prominent(person, box):
                return box
            low = share  # another person is too large in it: nearer
        return self._tightest(person, size)


def _crop_size(person: Person, share: float, aspect: float, least: float = 0.0) -> tuple[float, float]:
    """Width and height of a crop in which the person has the given share; never smaller than the person or `least`, nor larger than the picture."""
    side = np.sqrt(person.box[2] * person.box[3]) / share
    width, height = side * np.sqrt(aspect), side / np.sqrt(aspect)
    width, height = max(width, 1.05 * person.box[2], least), max(height, 1.05 * person.box[3], least)
    return float(min(width, person.width)), float(min(height, person.height))


def _place(person: Person, width: float, height: float, random: np.random.Generator | None) -> Box:
    """A region of the given size that holds the person's box as far as it can and stays on the picture as far as it can."""
    corner = []
    for start, length, side, limit in ((person.box[0], person.box[2], width, person.width), (person.box[1], person.box[3], height, person.height)):
        low, high = sorted((start + length - side, start))
        at = random.uniform(low, high) if random is not None else (low + high) / 2
        lowest, highest = sorted((0.0, limit - side))
        corner.append(float(np.clip(at, lowest, highest)))
    return corner[0], corner[1], width, height


def prominent(person: Person, box: Box | None = None) -> bool:
    """True where no other person fills, in the crop `box` or on the whole picture, more than `PROMINENCE` of this person's box area."""
    if not len(person.others):
        return True
    x, y, width, height = box or (0.0, 0.0, float(person.width), float(person.height))
    start = np.maximum(person.others[:, :2], (x, y))
    end = np.minimum(person.others[:, :2] + person.others[:, 2:], (x + width, y + height))
    return float(np.clip(end - start, 0, None).prod(1).max()) < PROMINENCE * person.box[2] * person.box[3]


def fixed_transform(person: Person, size: int, share: float = 0.6) -> geometry.Matrix:
    """The unvarying view used for model selection: the whole picture of someone prominent on it, else a centred crop with the given share."""
    if prominent(person):
        return geometry.stretch(person.width, person.height, size)
    aspect = min(max(person.width / person.height, 0.75), 4 / 3)
    return geometry.region(_place(person, *_crop_size(person, share, aspect), None), size)


@dataclass(frozen=True)
class InputSample:
    """A person in the frame of the input: image u8[S, S, 3], points f32[K, 2] in input pixels, labelled bool[K], box f32[2] width and height there."""

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    box: NDArray[np.float32]


def view(image: NDArray[np.uint8], person: Person, transform: geometry.Matrix, size: int, mirrored: bool, flip_order: list[int], sampling: str) -> InputSample:
    """Applies a transform to the picture and to the labels, in the same frame.

    Args:
        image: u8[H, W, 3].
        person: Its labels.
        transform: Image -> input.
        size: S.
        mirrored: Whether left and right swap.
        flip_order: The skeleton's.
        sampling: "nearest" or "bilinear".
    """
    points = geometry.apply(transform, person.keypoints)
    labelled = person.labelled
    if mirrored:
        points, labelled = points[flip_order], labelled[flip_order]
    scale = np.linalg.norm(transform[:, :2], axis=0)  # lengths of the images of the x and y unit vectors
    box = (np.asarray(person.box[2:]) * scale).astype(np.float32)
    return InputSample(geometry.warp(image, transform, size, sampling), points, labelled, box)


@dataclass(frozen=True)
class Photometric:
    """Brightness, contrast and saturation, one draw per image of a batch, on the device.

    Attributes:
        brightness: Added, as a fraction of 255, from [-brightness, brightness].
        contrast: Factor about the mean from [1 - contrast, 1 + contrast].
        saturation: Factor of the distance from grey from [1 - saturation, 1 + saturation].
    """

    brightness: float = 0.2
    contrast: float = 0.3
    saturation: float = 0.3

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """u8 or f32[B, 3, S, S] in 0..255 -> f32 of the same shape and range."""
        import torch

        x = images.float()
        draw = torch.rand(3, len(x), 1, 1, 1, device=x.device) * 2 - 1
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * (1 + self.saturation * draw[0])
        mean = grey.mean((-1, -2), keepdim=True)
        x = mean + (x - mean) * (1 + self.contrast * draw[1]) + 255 * self.brightness * draw[2]
        return x.clamp_(0, 255)
