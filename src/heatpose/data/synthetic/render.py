"""Renders persons, backgrounds and occluders with Pillow and NumPy.

Images are drawn at `OVERSAMPLING` times their size and averaged. A map of the same size records the
body part of each pixel, from which the visibility of keypoints follows. Points are in the
continuous frame of the finished image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from heatpose.data.synthetic.figure import Part, Points, Pose, random_colour

OVERSAMPLING = 2
OCCLUDER = 255
"""Value of `Canvas.owner` for objects in front of all persons."""
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
"""Body parts by their value in `Canvas.owner`; person p adds `p * PARTS_PER_PERSON`."""

_ARC = np.linspace(-np.pi / 2, np.pi / 2, 8)
_LAYERS = ((1.0, 0.0, 0.66), (0.84, 0.10, 1.0), (0.45, 0.34, 1.15))
"""Rim, body and highlight of a shaded part: width, shift to the light (in radii), brightness."""
_SHOWS = {
    **{name: (name,) for name in ("nose", "left_eye", "right_eye", "left_ear", "right_ear")},
    **{f"{side}_shoulder": (f"{side}_upper_arm",) for side in ("left", "right")},
    **{f"{side}_elbow": (f"{side}_upper_arm", f"{side}_forearm") for side in ("left", "right")},
    **{f"{side}_wrist": (f"{side}_forearm",) for side in ("left", "right")},
    **{f"{side}_hip": (f"{side}_thigh",) for side in ("left", "right")},
    **{f"{side}_knee": (f"{side}_thigh", f"{side}_shin") for side in ("left", "right")},
    **{f"{side}_ankle": (f"{side}_shin",) for side in ("left", "right")},
}
"""Keypoint -> parts on which it is visible. Shoulders and hips are visible on the trunk as well."""


def outlines(starts: Points, ends: Points, radii: Points) -> Points:
    """Outlines of tapered capsules.

    Args:
        starts: f64[N, 2].
        ends: f64[N, 2].
        radii: f64[N, 2], at both ends.

    Returns:
        Polygons f64[N, 16, 2].
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
    """A colour f64[3] as three integers in 0..255, for Pillow."""
    red, green, blue = (min(max(int(value), 0), 255) for value in colour.tolist())
    return red, green, blue


class Canvas:
    """An unfinished image.

    Attributes:
        image: RGB at `OVERSAMPLING` times the size.
        owner: u8[H * OVERSAMPLING, W * OVERSAMPLING]: part of each pixel, see `PARTS`; 0 for
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
        """Draws a body over the image.

        Args:
            parts: From `dress`.
            scale: Pixels per body height.
            offset: f64[2], position of the body's origin.
            number: Of the person, from 0 to 6, for `owner`.
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
        """Draws a filled polygon f64[M, 2] in front of all persons."""
        vertices = np.floor(polygon * OVERSAMPLING).ravel().tolist()
        mask = Image.new("1", self.image.size)
        ImageDraw.Draw(mask).polygon(vertices, fill=1)
        ImageDraw.Draw(self.image).polygon(vertices, fill=rgb(colour))
        np.copyto(self.owner, np.uint8(OCCLUDER), where=np.asarray(mask))

    def visible(self, pose: Pose, keypoint: str, point: Points, number: int) -> bool:
        """Whether a keypoint is visible: the pixel shows a limb of its joint.

        Args:
            pose: Of the person.
            keypoint: Its name.
            point: f64[2], inside the image.
            number: Of the person.
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
    """Polygons with colour and index in `PARTS`, in drawing order: far to near, rims inwards."""
    starts = np.array([part.start[:2] for part in parts]) * scale + offset
    ends = np.array([part.end[:2] for part in parts]) * scale + offset
    radii = np.array([part.radii for part in parts]) * scale
    # The far side of a body is darker, which distinguishes the near arm from the far one.
    shade = np.clip(1.0 + 2.2 * np.array([part.depth for part in parts]), 0.62, 1.12)
    order: list[tuple[float, int, int]] = []
    layers = []
    for number, (width, shift, _) in enumerate(_LAYERS):
        towards = light * radii.max(1, keepdims=True) * shift
        # Pillow truncates vertices to the pixel that contains them: the continuous frame.
        polygons = np.floor(outlines(starts + towards, ends + towards, radii * width))
        layers.append(polygons.reshape(len(parts), -1).tolist())
        order += [(part.depth, number, i) for i, part in enumerate(parts) if not part.flat]
    order += [(part.depth, len(_LAYERS), i) for i, part in enumerate(parts) if part.flat]
    for _, layer, i in sorted(order):
        flat = layer == len(_LAYERS)  # after all shading of its surface
        brightness = shade[i] * (1.0 if flat else _LAYERS[layer][2])
        polygon = layers[0 if flat else layer][i]
        yield polygon, rgb(parts[i].colour * brightness), PARTS.index(parts[i].owner)


def background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A random RGB background with texture and clutter, `OVERSAMPLING` times `width` x `height`."""
    base = _muted(rng)
    rows, columns = rng.integers(2, 7, 2)
    grey, tint = rng.standard_normal((rows, columns, 1)), rng.standard_normal((rows, columns, 3))
    uneven = rng.uniform(5, 45) * grey + rng.uniform(0, 25) * tint
    patches = np.clip(base + uneven, 0, 255).astype(np.uint8)
    image = Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)
    if rng.random() < 0.7:
        image = _texture(rng, image)
    image = image.resize((width * OVERSAMPLING, height * OVERSAMPLING), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.5:
        top = rng.uniform(0.6, 0.95) * image.height
        draw.rectangle((0, int(top), image.width, image.height), fill=rgb(_muted(rng)))
    if rng.random() < 0.2:
        _stripes(rng, draw, image.width, image.height)
    kinds: tuple[Callable[..., None], ...] = (_furniture, _blob, _line, _limb)
    for _ in range(int(rng.integers(0, 7))):
        kinds[int(rng.choice(len(kinds), p=(0.45, 0.25, 0.2, 0.1)))](
            rng, draw, image.width, image.height
        )
    return image


def occlude(
    rng: np.random.Generator, canvas: Canvas, box: tuple[float, float, float, float]
) -> None:
    """Draws a post, a table or a ball in front of a small part of the body.

    Args:
        rng: Random generator.
        canvas: To draw on.
        box: (x, y, w, h) of the body in image pixels.
    """
    x, y, w, h = box
    colour, floor = _muted(rng), float(canvas.size[1])
    kind = rng.integers(3)
    if kind == 0:  # a ball
        centre = np.array([[x + rng.uniform(0, 1) * w, y + rng.uniform(0.15, 1) * h]])
        canvas.draw_occluder(
            outlines(centre, centre, np.full((1, 2), rng.uniform(0.04, 0.09) * h))[0], colour
        )
        return
    if kind == 1:  # a post
        left, top = x + rng.uniform(0, 1) * w, 0.0
        right = left + rng.uniform(0.03, 0.08) * h
    else:  # a table
        left, top = x - rng.uniform(-0.1, 1) * w, y + rng.uniform(0.75, 0.97) * h
        right = x + rng.uniform(0.6, 2) * w
    canvas.draw_occluder(
        np.array([[left, top], [right, top], [right, floor], [left, floor]]), colour
    )


def photograph(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Adds exposure, colour cast, noise and sometimes a little blur to a finished image."""
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.0)))
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.93, 1.07, 3)
    lit = image.point(
        [min(255, int(level * channel)) for channel in gain.tolist() for level in range(256)]
    )
    pixels = np.asarray(lit, np.int16)
    noise = np.frombuffer(rng.bytes(pixels.size), np.int8).reshape(pixels.shape) >> int(
        rng.integers(4, 8)
    )
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _muted(rng: np.random.Generator) -> Points:
    """A random colour f64[3] in 0..255 with less chroma than clothes."""
    colour = random_colour(rng)
    return 0.5 * colour + 0.5 * float(colour.mean())


def _texture(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    coarse = int(rng.integers(1, 9))
    size = (max(2, image.height // coarse), max(2, image.width // coarse))
    grain = Image.fromarray(rng.integers(0, 256, size, np.uint8)).resize(
        image.size, Image.Resampling.BILINEAR
    )
    return Image.blend(
        image, Image.merge("RGB", (grain, grain, grain)), float(rng.uniform(0.03, 0.2))
    )


def _corner(rng: np.random.Generator, width: int, height: int) -> Points:
    return rng.uniform(-0.1, 1.0, 2) * (width, height)


def _furniture(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int
) -> None:
    (x0, y0), (w, h) = _corner(rng, width, height), rng.uniform(0.05, 0.5, 2) * (width, height)
    colour, boards = _muted(rng), int(rng.integers(0, 4))
    draw.rectangle(
        (int(x0), int(y0), int(x0 + w), int(y0 + h)),
        fill=rgb(colour),
        outline=rgb(colour * 0.6),
        width=3,
    )
    for i in range(1, boards + 1):
        y = int(y0 + i * h / (boards + 1))
        draw.line((int(x0), y, int(x0 + w), y), fill=rgb(colour * 0.7), width=3)


def _blob(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    (x0, y0), (w, h) = _corner(rng, width, height), rng.uniform(0.03, 0.3, 2) * (width, height)
    draw.ellipse((int(x0), int(y0), int(x0 + w), int(y0 + h)), fill=rgb(_muted(rng)))


def _line(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    start, end = _corner(rng, width, height), _corner(rng, width, height)
    draw.line(
        (*start.astype(int).tolist(), *end.astype(int).tolist()),
        fill=rgb(_muted(rng)),
        width=int(rng.integers(2, 14)),
    )


def _limb(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    """A distractor of the size of an arm."""
    start, length = _corner(rng, width, height)[None], rng.uniform(-0.25, 0.25, (1, 2)) * height
    polygon = outlines(start, start + length, rng.uniform(0.012, 0.035, (1, 2)) * height)[0]
    draw.polygon(polygon.astype(int).ravel().tolist(), fill=rgb(_muted(rng)))


def _stripes(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    colour, step = rgb(_muted(rng)), int(rng.integers(24, 90))
    slant = int(rng.integers(-height, height + 1)) if rng.random() < 0.5 else 0
    for x in range(-height, width + height, step):
        draw.line((x, 0, x + slant, height), fill=colour, width=int(step * 0.3))
