"""What is around the rendered people.

Backgrounds, things in front of them, and the camera's noise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from heatpose.data.synthetic.clothing import random_colour
from heatpose.data.synthetic.figure import Points
from heatpose.data.synthetic.render import OVERSAMPLING, Canvas, outlines, rgb


def background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """An RGB scene without people, `OVERSAMPLING` times `width` x `height`.

    Colours, texture, clutter.
    """
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
    """Puts a post, a table or a ball in front of a small part of the body inside `box` =.

    (x, y, w, h).
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
    """Adds exposure, colour cast and noise to a finished image, and sometimes a little blur."""
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
    """f64[3] in 0..255: a colour with less chroma than clothes have."""
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
    """Something as thick and long as an arm that is none."""
    start, length = _corner(rng, width, height)[None], rng.uniform(-0.25, 0.25, (1, 2)) * height
    polygon = outlines(start, start + length, rng.uniform(0.012, 0.035, (1, 2)) * height)[0]
    draw.polygon(polygon.astype(int).ravel().tolist(), fill=rgb(_muted(rng)))


def _stripes(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    colour, step = rgb(_muted(rng)), int(rng.integers(24, 90))
    slant = int(rng.integers(-height, height + 1)) if rng.random() < 0.5 else 0
    for x in range(-height, width + height, step):
        draw.line((x, 0, x + slant, height), fill=colour, width=int(step * 0.3))
