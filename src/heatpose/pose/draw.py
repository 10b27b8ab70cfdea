"""Draws poses and heatmaps on images, and contact sheets, with Pillow and numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from heatpose.pose.skeleton import Skeleton

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

RgbImage = NDArray[np.uint8]
Colour = tuple[int, int, int]

LEFT: Colour = (255, 140, 0)
RIGHT: Colour = (0, 175, 255)
CENTRE: Colour = (170, 235, 60)
OUTLINE: Colour = (20, 20, 20)
SUPERSAMPLED = 2  # factor for antialiasing
# longer sides are drawn without antialiasing
LARGE = 3000
HEAT = np.array([[0, 0, 4], [120, 28, 109], [237, 105, 37], [252, 255, 164]], np.float32)
"""Colour map at 0, 1/3, 2/3 and 1: dark, purple, orange, light yellow, of uniform lightness steps.
"""
SHEET_BACKGROUND = 245


def side_colours(skeleton: Skeleton) -> list[Colour]:
    """A colour per keypoint: left and right for those of a flip pair, else central."""
    lefts, rights = (
        {pair[0] for pair in skeleton.flip_pairs},
        {pair[1] for pair in skeleton.flip_pairs},
    )
    return [
        LEFT if name in lefts else RIGHT if name in rights else CENTRE
        for name in skeleton.keypoints
    ]


def draw_pose(
    image: RgbImage, pose: NDArray[np.float32], skeleton: Skeleton, *, threshold: float = 0.2
) -> RgbImage:
    """Draws a pose: left limbs orange, right limbs blue, central ones and joints green.

    Args:
        image: u8[H, W, 3].
        pose: f32[K, 3] x and y as fractions of the width and height, score in [0, 1].
        skeleton: K names, edges and flip pairs.
        threshold: Keypoints with a lower score, and edges to them, are left out.

    Returns:
        u8[H, W, 3], a new array.

    Raises:
        ValueError: The pose has not K keypoints.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw as Drawing

    if pose.shape != (len(skeleton), 3):
        raise ValueError(
            f"A pose of skeleton '{skeleton.name}' is f32[{len(skeleton)}, 3]; got"
            f" {list(pose.shape)}."
        )
    height, width = image.shape[:2]
    factor = SUPERSAMPLED if max(height, width) <= LARGE else 1
    size = (width * factor, height * factor)
    points = _drawable(pose, threshold, size)
    line = _line_width(points, size, 1.5 * factor)
    drawn = np.array(image)
    left, top, right, bottom = _touched(points, 1.35 * line, (width, height), factor)
    if right <= left or bottom <= top:
        return drawn
    # Only the region of the pose is drawn, which is a fraction of the image. Repeating pixels and
    # averaging them again does not change them.
    part = Pillow.fromarray(drawn[top:bottom, left:right])
    canvas = part.resize((part.width * factor, part.height * factor), Pillow.Resampling.NEAREST)
    moved = {k: (x - left * factor, y - top * factor) for k, (x, y) in points.items()}
    _draw_limbs(Drawing.Draw(canvas), moved, skeleton, line)
    drawn[top:bottom, left:right] = np.asarray(canvas.reduce(factor))
    return drawn


def _touched(
    points: dict[int, tuple[float, float]], reach: float, size: tuple[int, int], factor: int
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the drawn region in whole image pixels; empty without points."""
    if not points:
        return 0, 0, 0, 0
    places = np.array([*points.values()])
    low = np.maximum(np.floor((places.min(0) - reach) / factor).astype(int) - 1, 0)
    high = np.minimum(np.ceil((places.max(0) + reach) / factor).astype(int) + 1, size)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _drawable(
    pose: NDArray[np.float32], threshold: float, size: tuple[int, int]
) -> dict[int, tuple[float, float]]:
    """Channel -> position in the drawing, of the keypoints to draw."""
    shown = np.isfinite(pose).all(-1) & (pose[:, 2] >= threshold)
    # positions further outside are not visible
    points = np.clip(np.nan_to_num(pose[:, :2]), -1, 2) * np.array(size)
    return {int(k): (float(points[k, 0]), float(points[k, 1])) for k in np.flatnonzero(shown)}


def _line_width(
    points: dict[int, tuple[float, float]], size: tuple[int, int], least: float
) -> float:
    """A line width for the size of the image, limited by the extent of the pose."""
    places = np.array([*points.values()]).reshape(-1, 2)
    extent = float(np.ptp(places, axis=0).max()) if len(places) else 0.0
    return max(least, min(0.0075 * math.sqrt(size[0] * size[1]), 0.022 * extent))


def _draw_limbs(
    draw: ImageDraw, points: dict[int, tuple[float, float]], skeleton: Skeleton, line: float
) -> None:
    """Draws limbs on a dark outline, then joints."""
    colours = side_colours(skeleton)
    limbs = [(a, b) for a, b in skeleton.edge_indices if a in points and b in points]
    for outline in (True, False):
        for a, b in limbs:
            colour = OUTLINE if outline else limb_colour(colours[a], colours[b])
            draw.line(
                [points[a], points[b]], fill=colour, width=round(line * (1.8 if outline else 1))
            )
    for k, (x, y) in points.items():
        for radius, colour in ((1.35 * line, OUTLINE), (0.95 * line, colours[k])):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def limb_colour(a: Colour, b: Colour) -> Colour:
    """The colour of a limb between two keypoints: of its side; central if it joins both sides."""
    sides = {a, b} - {CENTRE}
    return sides.pop() if len(sides) == 1 else CENTRE


def heatmap_overlay(image: RgbImage, heatmaps: NDArray[np.float32]) -> RgbImage:
    """Blends the maximum of K heatmaps over an image, on a fixed scale.

    Args:
        image: u8[H, W, 3].
        heatmaps: f32[K, h, w] probabilities (apply a sigmoid to logits); clipped to [0, 1].

    Returns:
        u8[H, W, 3]: transparent at 0, light yellow at 1.
    """
    from PIL import Image as Pillow

    height, width = image.shape[:2]
    strongest = np.clip(np.nan_to_num(heatmaps), 0, 1).max(0).astype(np.float32)
    heat = np.asarray(
        Pillow.fromarray(strongest).resize((width, height), Pillow.Resampling.BILINEAR)
    )
    stops = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(heat, stops, HEAT[:, channel]) for channel in range(3)], -1)
    weight = 0.85 * np.sqrt(heat)[..., None]  # the root makes weak peaks visible
    mixed: RgbImage = np.rint((1 - weight) * image + weight * colour).astype(np.uint8)
    return mixed


def contact_sheet(
    tiles: Sequence[RgbImage], columns: int, captions: Sequence[str] | None = None, gap: int = 4
) -> RgbImage:
    """Arranges images in a grid, each in the middle of a cell of the largest image's size.

    Args:
        tiles: u8[H, W, 3] each, of any sizes.
        columns: Images per row, at least 1.
        captions: One line below each image, truncated to the cell's width.
        gap: Pixels between cells.

    Returns:
        u8[H, W, 3].

    Raises:
        ValueError: No images, no columns, or another number of captions.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw as Drawing

    if not tiles or columns < 1 or (captions is not None and len(captions) != len(tiles)):
        raise ValueError(
            f"A sheet needs images, columns and a caption each; got {len(tiles)} images,"
            f" {columns} columns."
        )
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    font = _font(width)
    band = 0 if captions is None else round(1.4 * font.getbbox("Ág")[3])
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    background = (SHEET_BACKGROUND,) * 3
    sheet = Pillow.new(
        "RGB", (columns * (width + gap) + gap, rows * (height + band + gap) + gap), background
    )
    draw = Drawing.Draw(sheet)
    for i, tile in enumerate(tiles):
        x, y = gap + i % columns * (width + gap), gap + i // columns * (height + band + gap)
        sheet.paste(
            Pillow.fromarray(np.ascontiguousarray(tile)),
            (x + (width - tile.shape[1]) // 2, y + (height - tile.shape[0]) // 2),
        )
        if captions is not None:
            draw.text(
                (x + 2, y + height + band // 6),
                _cut(captions[i], font, width - 4),
                fill=(30, 30, 30),
                font=font,
            )
    return np.array(sheet)


def text_block(title: str, cells: Sequence[str], width: int, columns: int) -> RgbImage:
    """A title and a grid of text cells, in the colours of a contact sheet.

    Args:
        title: The first line.
        cells: Texts, truncated if too long.
        width: In pixels.
        columns: Cells per row.

    Returns:
        u8[H, width, 3].
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw as Drawing

    font = _font(width // 3)
    band = round(1.4 * font.getbbox("Ág")[3])
    block = Pillow.new(
        "RGB",
        (width, band * (1 + math.ceil(len(cells) / columns)) + band // 2),
        (SHEET_BACKGROUND,) * 3,
    )
    draw, cell = Drawing.Draw(block), width // columns
    draw.text((6, band // 4), _cut(title, font, width - 12), fill=(30, 30, 30), font=font)
    for i, text in enumerate(cells):
        place = (6 + i % columns * cell, band // 4 + (1 + i // columns) * band)
        draw.text(place, _cut(text, font, cell - 8), fill=(30, 30, 30), font=font)
    return np.array(block)


def _font(width: int) -> FreeTypeFont | ImageFont:
    """Pillow's default font, at a size for cells of this width."""
    from PIL.ImageFont import load_default

    return load_default(max(10, min(24, width // 16)))


def _cut(text: str, font: FreeTypeFont | ImageFont, width: float) -> str:
    """A one-line text, truncated with an ellipsis to the width."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    if font.getlength(text) <= width:
        return text
    end = next((n for n in range(len(text), 0, -1) if font.getlength(text[:n] + "…") <= width), 0)
    return text[:end] + "…"
