"""Patches painted over limbs, so that a hidden joint is inferred from the rest (random erasing, Zhong et al. 2020, aimed at the person)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from heatpose import geometry
from heatpose.data.sample import Person
from heatpose.skeleton import Skeleton

if TYPE_CHECKING:
    import torch

COLUMNS = 7
"""Of a patch: left, top, right, bottom in input pixels, red, green, blue in 0..255."""


@dataclass(frozen=True)
class Occlusion:
    """Patches of one colour each, drawn with the view and painted for the whole batch on the device. Covered keypoints stay labelled.

    Attributes:
        probability: That a view has any.
        patches: At most this many.
        side: Range of a patch's sides against the square root of the person's box area.
        limbs: Probability that a patch lies on a limb (anywhere between two labelled keypoints that the skeleton joins); else anywhere in the box.
    """

    probability: float = 0.5
    patches: int = 2
    side: tuple[float, float] = (0.1, 0.35)
    limbs: float = 0.7

    def draw(self, person: Person, skeleton: Skeleton, transform: geometry.Matrix, random: np.random.Generator) -> NDArray[np.float32]:
        """f32[patches, 7] of a view of someone (see `COLUMNS`); zero where there is none."""
        found = np.zeros((self.patches, COLUMNS), np.float32)
        if random.random() >= self.probability:
            return found
        area = abs(float(np.linalg.det(transform[:, :2]))) * person.box[2] * person.box[3]
        for row in range(int(random.integers(1, self.patches + 1))):
            centre = geometry.apply(transform, self._centre(person, skeleton, random))
            half = np.sqrt(area) * random.uniform(*self.side, 2) / 2
            found[row] = *(centre - half), *(centre + half), *random.uniform(0, 255, 3)
        return found

    def _centre(self, person: Person, skeleton: Skeleton, random: np.random.Generator) -> NDArray[np.float64]:
        """A place on the person, f64[2] in image pixels."""
        joined = [ends for ends in skeleton.edge_indices if person.labelled[list(ends)].all()]
        along, across = random.random(2)
        if joined and random.random() < self.limbs:
            first, second = joined[int(random.integers(len(joined)))]
            return np.asarray(person.keypoints[first] + along * (person.keypoints[second] - person.keypoints[first]), np.float64)
        x, y, width, height = person.box
        return np.array([x + along * width, y + across * height])


def paint(images: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Paints patches f32[B, P, 7] over images u8 or f32[B, 3, S, S]: the pixels whose centre they hold, later ones over earlier ones."""
    import torch

    centres = torch.arange(images.shape[-1], device=images.device) + 0.5
    left, top, right, bottom = patches[..., :4, None].unbind(2)  # [B, P, 1]
    columns, rows = (centres >= left) & (centres < right), (centres >= top) & (centres < bottom)  # [B, P, S]
    colours = patches[..., 4:].to(images.dtype)
    for patch in range(patches.shape[1]):
        covered = rows[:, patch, :, None] & columns[:, patch, None, :]
        images = torch.where(covered[:, None], colours[:, patch, :, None, None], images)
    return images
