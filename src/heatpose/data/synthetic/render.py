"""Draws people on an image and keeps account of which pixel shows what; Pillow and NumPy only.

Everything is drawn larger and averaged down. Points are in the finished image's continuous frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from heatpose.data.synthetic.clothing import Part
from heatpose.data.synthetic.figure import Points, Pose

OVERSAMPLING = 2
OCCLUDER = 255
"""In `Canvas.owner`: something in front of everyone."""
PARTS_PER_PERSON = 32

PARTS = (
    "none",
    "torso",
    "pelvis",
    "head",
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_upper_arm",
    "right_upper_arm",
    "left_forearm",
    "right_forearm",
    "left_thigh",
    "right_thigh",
    "left_shin",
    "right_shin",
)
"""What a pixel of `Canvas.owner` can belong to; person p adds `p * PARTS_PER_PERSON`."""

_ARC = np.linspace(-np.pi / 2, np.pi / 2, 8)
_LAYERS = ((1.0, 0.0, 0.66), (0.84, 0.10, 1.0), (0.45, 0.34, 1.15))
"""Rim, body and highlight of a shaded part.

Width, shift towards the light (in radii), brightness.
"""
_SHOWS = {
    **{name: (name,) for name in ("nose", "left_eye", "right_eye", "left_ear", "right_ear")},
    **{f"{side}_shoulder": (f"{side}_upper_arm",) for side in ("left", "right")},
    **{f"{side}_elbow": (f"{side}_upper_arm", f"{side}_forearm") for side in ("left", "right")},
    **{f"{side}_wrist": (f"{side}_forearm",) for side in ("left", "right")},
    **{f"{side}_hip": (f"{side}_thigh",) for side in ("left", "right")},
    **{f"{side}_knee": (f"{side}_thigh", f"{side}_shin") for side in ("left", "right")},
    **{f"{side}_ankle": (f"{side}_shin",) for side in ("left", "right")},
}
"""Keypoint -> what shows it when drawn on top.

The trunk shows shoulders and hips on its near side too.
"""


def outlines(starts: Points, ends: Points, radii: Points) -> Points:
    """Polygons f64[N, 16, 2] of tapered capsules from f64[N, 2] to f64[N, 2], radii f64[N.

    2] at the ends.
    """
    along = ends - starts
    angle = np.arctan2(along[:, 1], along[:, 0])[:, None]
    caps = []
    for centre, radius, turn in ((ends, radii[:, 1], 0.0), (starts, radii[:, 0], np.pi)):
        around = angle + turn + _ARC
        caps.append(
            centre[:, None] + radius[:, None, None] * np.stack([np.cos(around), np.sin(around)], -1)
        )
    return np.concatenate(caps, 1)


def rgb(colour: Points) -> tuple[int, int, int]:
    """f64[3] as three whole numbers in 0..255, as Pillow wants a colour."""
    red, green, blue = (min(max(int(value), 0), 255) for value in colour.tolist())
    return red, green, blue


class Canvas:
    """An image in the making.

    Attributes:
        image: RGB at `OVERSAMPLING` times the size.
        owner: u8[H * OVERSAMPLING, W * OVERSAMPLING]: what each pixel shows, see `PARTS`; 0 is
            background.
    """

    def __init__(self, background: Image.Image) -> None:
        """Starts from an RGB background of the finished size times `OVERSAMPLING`."""
        self.image = background
        self.owner: NDArray[np.uint8] = np.zeros((background.height, background.width), np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the finished image."""
        return self.image.width // OVERSAMPLING, self.image.height // OVERSAMPLING

    def finished(self) -> Image.Image:
        """The image at its finished size."""
        return self.image.reduce(OVERSAMPLING)

    def draw_person(
        self, parts: Sequence[Part], scale: float, offset: Points, number: int, light: Points
    ) -> NDArray[np.bool_]:
        """Draws a body over what is there.

        Args:
            parts: From `dress`.
            scale: Pixels per body height.
            offset: f64[2], where the body's origin goes.
            number: Which person it is, from 0 to 6: written into `owner`.
            light: f64[2] unit vector that points to the light.

        Returns:
            bool[H * OVERSAMPLING, W * OVERSAMPLING]: its silhouette.
        """
        mask = Image.new("L", self.image.size)
        paint, claim = ImageDraw.Draw(self.image), ImageDraw.Draw(mask)
        for polygon, colour, owner in _strokes(
            parts, scale * OVERSAMPLING, offset * OVERSAMPLING, light
        ):
            paint.polygon(polygon, fill=colour)
            claim.polygon(polygon, fill=owner)
        owner_of = np.asarray(mask)
        silhouette: NDArray[np.bool_] = owner_of > 0
        np.copyto(self.owner, owner_of + np.uint8(number * PARTS_PER_PERSON), where=silhouette)
        return silhouette

    def draw_occluder(self, polygon: Points, colour: Points) -> None:
        """Draws a filled polygon f64[M, 2] in front of everyone."""
        vertices = np.floor(polygon * OVERSAMPLING).ravel().tolist()
        mask = Image.new("1", self.image.size)
        ImageDraw.Draw(mask).polygon(vertices, fill=1)
        ImageDraw.Draw(self.image).polygon(vertices, fill=rgb(colour))
        np.copyto(self.owner, np.uint8(OCCLUDER), where=np.asarray(mask))

    def visible(self, pose: Pose, keypoint: str, point: Points, number: int) -> bool:
        """Whether what shows at `point`.

        (f64[2], inside the image) is this person's limb of that joint.
        """
        column, row = (point * OVERSAMPLING).astype(int)
        owner = int(self.owner[row, column]) - number * PARTS_PER_PERSON
        if not 0 < owner < len(PARTS):
            return False
        # A shoulder or hip on the far side of the trunk is hidden by it.
        if PARTS[owner] in ("torso", "pelvis"):
            far = float(pose.points["neck" if "shoulder" in keypoint else "pelvis"][2]) - 0.045
            return keypoint.endswith(("shoulder", "hip")) and float(pose.points[keypoint][2]) > far
        return PARTS[owner] in _SHOWS[keypoint]


def _strokes(
    parts: Sequence[Part], scale: float, offset: Points, light: Points
) -> Iterator[tuple[list[float], tuple[int, int, int], int]]:
    """Polygons with colour and place in `PARTS` in the order of drawing.

    Far to near, rims inwards.
    """
    starts = np.array([part.start[:2] for part in parts]) * scale + offset
    ends = np.array([part.end[:2] for part in parts]) * scale + offset
    radii = np.array([part.radii for part in parts]) * scale
    # The far side of a body gets less light: that tells the near arm from the far one.
    shade = np.clip(1.0 + 2.2 * np.array([part.depth for part in parts]), 0.62, 1.12)
    order: list[tuple[float, int, int]] = []
    layers = []
    for number, (width, shift, _) in enumerate(_LAYERS):
        towards = light * radii.max(1, keepdims=True) * shift
        # Pillow cuts vertices down to the pixel that holds them: the continuous frame, as
        # everywhere.
        polygons = np.floor(outlines(starts + towards, ends + towards, radii * width))
        layers.append(polygons.reshape(len(parts), -1).tolist())
        order += [(part.depth, number, i) for i, part in enumerate(parts) if not part.flat]
    order += [(part.depth, len(_LAYERS), i) for i, part in enumerate(parts) if part.flat]
    for _, layer, i in sorted(order):
        flat = layer == len(_LAYERS)  # after all shading of its surface
        brightness = shade[i] * (1.0 if flat else _LAYERS[layer][2])
        polygon = layers[0 if flat else layer][i]
        yield polygon, rgb(parts[i].colour * brightness), PARTS.index(parts[i].owner)
