"""Contact sheets of a data set: random instances with their labels, plain or augmented."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heatpose.data.sample import Person, labelled_image
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import Skeleton

TILE = 320
"""Longer side of a tile, in pixels."""


def contact_sheet_of(
    kept: Sequence[Person], skeleton: Skeleton, count: int = 24, seed: int = 0, columns: int = 6
) -> NDArray[np.uint8]:
    """Draws random instances with their labels.

    A tile is the whole image of a single instance, else the surroundings of its box.

    Args:
        kept: Instances to choose from.
        skeleton: Of their keypoints.
        count: Maximum number of tiles.
        seed: Of the choice.
        columns: Tiles per row.

    Returns:
        u8[H, W, 3] RGB.

    Raises:
        HeatposeError: There is no instance, or an image cannot be read.
    """
    chosen = _chosen(kept, count, seed)
    tiles = [_tile(person, skeleton) for person in chosen]
    captions = [
        f"{person.image_id}: {int(person.labelled.sum())} of {len(skeleton)}" for person in chosen
    ]
    return _sheet(tiles, columns, captions)


def augmented_sheet_of(
    kept: Sequence[Person],
    skeleton: Skeleton,
    size: int = 192,
    instances: int = 6,
    views: int = 4,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Draws random instances with the default augmentation of training, and their labels.

    Args:
        kept: Instances to choose from.
        skeleton: Of their keypoints.
        size: Side S of the network's input.
        instances: Maximum number of rows, one instance each.
        views: Columns: augmented samples of the instance.
        seed: Of the choice and of the augmentation.

    Returns:
        u8[H, W, 3] RGB.

    Raises:
        HeatposeError: There is no instance, an image cannot be read, or left and right are not
            paired.
    """
    from heatpose.data.augment import GeometricAugment, Photometric
    from heatpose.data.batches import AugmentedBatches, BatchPlan
    from heatpose.data.image_cache import ImageFiles
    from heatpose.pose.draw import draw_pose

    skeleton.require_flip_pairs("augment.geometric.mirror=0 in training")
    augment = GeometricAugment()
    usable = [person for person in kept if augment.separable(person, size)]
    chosen = _chosen(usable, instances, seed)
    shown = tuple(i for i in range(len(chosen)) for _ in range(views))
    batch = AugmentedBatches(chosen, skeleton, augment, ImageFiles(), seed)[
        BatchPlan(size, 0, tuple(range(len(shown))), shown)
    ]
    images = (
        Photometric()(batch["image"], batch["colour"]).round().byte().permute(0, 2, 3, 1).numpy()
    )
    poses = np.concatenate(
        [batch["points"].numpy() / size, batch["labelled"].numpy()[..., None]], 2, dtype=np.float32
    )
    tiles = [
        draw_pose(image, pose, skeleton, threshold=0.5)
        for image, pose in zip(images, poses, strict=True)
    ]
    captions = [str(person.image_id) for person in chosen for _ in range(views)]
    return _sheet(tiles, views, captions)


def _chosen(kept: Sequence[Person], count: int, seed: int) -> list[Person]:
    if not kept:
        raise HeatposeError(
            "No instance is kept, so there is nothing to draw; see the audit for the reasons."
        )
    return [kept[int(i)] for i in np.random.default_rng(seed).permutation(len(kept))[:count]]


def _sheet(
    tiles: Sequence[NDArray[np.uint8]], columns: int, captions: Sequence[str]
) -> NDArray[np.uint8]:
    from heatpose.pose.draw import contact_sheet  # only for drawing

    return contact_sheet(tiles, columns, captions=captions)


def _tile(person: Person, skeleton: Skeleton) -> NDArray[np.uint8]:
    from PIL import Image

    from heatpose.pose.draw import draw_pose

    image = labelled_image(person)
    left, top, right, bottom = (
        (0, 0, person.width, person.height) if person.alone else _surroundings(person)
    )
    points = (person.keypoints - (left, top)) / (right - left, bottom - top)
    pose = np.concatenate([points, person.labelled[:, None]], 1).astype(np.float32)
    tile = Image.fromarray(image[top:bottom, left:right])
    scale = TILE / max(tile.size)
    tile = tile.resize((max(1, round(tile.width * scale)), max(1, round(tile.height * scale))))
    return draw_pose(np.array(tile), pose, skeleton, threshold=0.5)


def _surroundings(person: Person) -> tuple[int, int, int, int]:
    """The box, widened by a third of its longer side, in whole pixels: left, top, right, bottom."""
    x, y, width, height = person.box
    margin = max(width, height) / 3
    left, top = max(0, int(x - margin)), max(0, int(y - margin))
    right = min(person.width, int(x + width + margin) + 1)
    bottom = min(person.height, int(y + height + margin) + 1)
    inside = right > left and bottom > top
    return (left, top, right, bottom) if inside else (0, 0, person.width, person.height)
