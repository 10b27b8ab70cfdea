"""Transforms against arithmetic done one point and one pixel at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from heatpose.pose import geometry
from heatpose.pose.geometry import Matrix
from heatpose.pose.preprocessing import Preprocessing


def coordinates_as_colours(width: int, height: int) -> NDArray[np.uint8]:
    """u8[H, W, 3] that says where each pixel is from.

    Low bits of x and y, and their high bits together.
    """
    y, x = np.mgrid[:height, :width]
    image: NDArray[np.uint8] = np.stack([x % 256, y % 256, x // 256 * 16 + y // 256], -1).astype(
        np.uint8
    )
    return image


def origin(image: NDArray[np.uint8]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """x and y that an image's pixels came from."""
    a = image.astype(int)
    return a[..., 0] + 256 * (a[..., 2] // 16), a[..., 1] + 256 * (a[..., 2] % 16)


def nearest(target: int, source: int) -> tuple[NDArray[np.int_], NDArray[np.bool_]]:
    """floor((dst + 0.5) * source / target) in whole numbers, and where the division leaves nothing.

    There the sampled place is the border of two pixels, and a computation in floating point may
    take either.
    """
    doubled = [(2 * i + 1) * source for i in range(target)]
    tie = np.array([value % (2 * target) == 0 for value in doubled])
    return np.array([value // (2 * target) for value in doubled]), tie


SIZES = [
    (640, 480, 192),
    (480, 640, 192),
    (500, 333, 224),
    (640, 427, 256),
    (100, 99, 192),
    (64, 64, 192),
    (333, 31, 256),
]


@pytest.mark.parametrize(("width", "height", "size"), SIZES)
def test_nearest_takes_the_protocols_pixel(width: int, height: int, size: int) -> None:
    image = coordinates_as_colours(width, height)
    x, y = origin(geometry.warp(image, geometry.stretch(width, height, size), size))
    for got, source, axis in ((x, width, 1), (y, height, 0)):
        want, tie = nearest(size, source)
        line = got[0] if axis == 1 else got[:, 0]
        assert (got == (line[None] if axis == 1 else line[:, None])).all()
        np.testing.assert_array_equal(line[~tie], want[~tie])
        assert ((line[tie] == want[tie]) | (line[tie] == want[tie] - 1)).all()


@pytest.mark.parametrize(("width", "height", "size"), SIZES)
def test_the_networks_input_takes_the_protocols_pixel_even_on_a_tie(
    width: int, height: int, size: int
) -> None:
    x, y = origin(Preprocessing(size).resize(coordinates_as_colours(width, height)))
    for got, side in ((x, width), (y.T, height)):
        np.testing.assert_array_equal(got, np.tile(nearest(size, side)[0], (size, 1)))


@pytest.mark.parametrize(("width", "height", "size"), SIZES)
def test_stretching_is_pillows_resize(width: int, height: int, size: int) -> None:
    image = coordinates_as_colours(width, height)
    ours = geometry.warp(image, geometry.stretch(width, height, size), size)
    theirs = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST))
    tie = nearest(size, height)[1][:, None] | nearest(size, width)[1][None]
    np.testing.assert_array_equal(ours[~tie], theirs[~tie])


def test_bilinear_interpolates_between_pixel_centres() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    transform = geometry.compose(
        geometry.stretch(7, 9, 32), geometry.rotation_scale(20, 0.7, (16, 16))
    )
    warped, back = (
        geometry.warp(image, transform, 32, "bilinear", fill=77),
        geometry.invert(transform),
    )
    checked = 0
    for v in range(32):
        for u in range(32):
            x, y = back @ (u + 0.5, v + 0.5, 1)
            if not (0.5 <= x <= 6.5 and 0.5 <= y <= 8.5):
                continue
            i, j = min(int(x - 0.5), 5), min(int(y - 0.5), 7)
            a, b = x - 0.5 - i, y - 0.5 - j
            corners = image[j : j + 2, i : i + 2].astype(float)
            want = (corners * np.outer([1 - b, b], [1 - a, a])[..., None]).sum((0, 1))
            np.testing.assert_allclose(warped[v, u], want, atol=1.01)
            checked += 1
    assert checked > 100
    assert (warped[0, 0] == 77).all()


def by_hand(transform: Matrix, x: float, y: float) -> tuple[float, float]:
    (a, b, c), (d, e, f) = transform.tolist()
    return a * x + b * y + c, d * x + e * y + f


def random_transform(seed: int) -> Matrix:
    rng = np.random.default_rng(seed)
    matrix: Matrix = np.add(rng.uniform(-3, 3, (2, 3)), [[2, 0, 0], [0, 2, 0]])
    return matrix


def test_applying_is_the_matrix_times_the_point() -> None:
    points = np.random.default_rng(0).uniform(-100, 700, (4, 5, 2))
    moved = geometry.apply(random_transform(1), points)
    assert moved.shape == points.shape and moved.dtype == np.float32
    for index in np.ndindex(4, 5):
        np.testing.assert_allclose(
            moved[index], by_hand(random_transform(1), *points[index]), rtol=1e-5, atol=1e-3
        )


def test_composing_goes_from_left_to_right() -> None:
    first, second, third = (random_transform(i) for i in range(3))
    combined = geometry.compose(first, second, third)
    point = (12.5, -7.25)
    np.testing.assert_allclose(
        by_hand(combined, *point), by_hand(third, *by_hand(second, *by_hand(first, *point)))
    )
    np.testing.assert_array_equal(geometry.compose(), [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("seed", range(5))
def test_the_inverse_goes_back(seed: int) -> None:
    transform = random_transform(seed)
    back = by_hand(geometry.invert(transform), *by_hand(transform, 3.5, -8.25))
    np.testing.assert_allclose(back, (3.5, -8.25), atol=1e-9)


def test_a_region_fills_the_input() -> None:
    transform = geometry.region((10, 20, 40, 80), 192)
    for corner, want in (((10, 20), (0, 0)), ((50, 100), (192, 192)), ((30, 60), (96, 96))):
        np.testing.assert_allclose(by_hand(transform, *corner), want, atol=1e-12)
    np.testing.assert_array_equal(geometry.stretch(64, 48, 96), geometry.region((0, 0, 64, 48), 96))


@pytest.mark.parametrize("degrees", [0, 90, 30, -45, 180])
def test_rotation_turns_x_towards_y_about_its_centre(degrees: float) -> None:
    transform = geometry.rotation_scale(degrees, 1.5, (50, 30))
    np.testing.assert_allclose(by_hand(transform, 50, 30), (50, 30), atol=1e-12)
    angle = math.radians(degrees)
    want = (50 + 15 * math.cos(angle), 30 + 15 * math.sin(angle))
    np.testing.assert_allclose(by_hand(transform, 60, 30), want, atol=1e-12)
    assert np.linalg.det(transform[:, :2]) == pytest.approx(1.5**2)


def test_the_mirror_reverses_the_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(geometry.warp(image, geometry.mirror(32), 32), image[:, ::-1])
    np.testing.assert_allclose(by_hand(geometry.mirror(32), 0.5, 7), (31.5, 7))
    twice = geometry.compose(geometry.mirror(32), geometry.mirror(32))
    np.testing.assert_array_equal(twice, [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("seed", range(8))
def test_a_dot_stays_under_its_keypoint(seed: int, sampling: str) -> None:
    """Draws a disc around a point, warps the image.

    And finds the disc's centre where the point goes.
    """
    rng = np.random.default_rng(seed)
    width, height, size = 420, 300, 192
    point = rng.uniform(140, 220, 2)
    y, x = np.mgrid[:height, :width] + 0.5
    disc = np.clip(
        8.5 - np.hypot(x - point[0], y - point[1]), 0, 1
    )  # a soft edge, centred in the continuous frame
    image = np.repeat(np.rint(255 * disc)[..., None], 3, -1).astype(np.uint8)
    transform = geometry.compose(
        geometry.region((60, 40, 260, 240), size),
        geometry.mirror(size),
        geometry.rotation_scale(rng.uniform(-45, 45), rng.uniform(0.7, 1.5), (96, 96)),
    )
    warped = geometry.warp(image, transform, size, sampling)[..., 0].astype(float)
    v, u = np.mgrid[:size, :size] + 0.5
    centre = np.array([(warped * u).sum(), (warped * v).sum()]) / warped.sum()
    distance = np.hypot(*(centre - geometry.apply(transform, point)))
    assert distance < (0.6 if sampling == "nearest" else 0.1)


def test_outside_the_image_is_the_fill() -> None:
    image = np.full((20, 20, 3), 200, np.uint8)
    warped = geometry.warp(image, geometry.region((-10, -10, 40, 40), 32), 32, fill=9).copy()
    assert (warped[8:24, 8:24] == 200).all()
    warped[8:24, 8:24] = 9
    assert (warped == 9).all()


def picture_of(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [192, 224, 256])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (427, 640), (500, 333), (96, 192)])
def test_nearest_of_an_unmoved_image_is_the_protocols(width: int, height: int, size: int) -> None:
    image, inverse = (
        picture_of(width, height),
        geometry.invert(geometry.stretch(width, height, size)),
    )
    exact = Preprocessing(size).resize(image)
    np.testing.assert_array_equal(geometry.warp_one(image, inverse, True, size), exact)
    batch = geometry.warp_batch(
        torch.from_numpy(image)[None],
        torch.from_numpy(inverse).float()[None],
        torch.tensor([True]),
        size,
    )
    np.testing.assert_array_equal(batch[0].permute(1, 2, 0), exact)


def sampled_by_hand(
    image: NDArray[np.uint8], inverse: geometry.Matrix, nearest: bool, size: int
) -> NDArray[np.float64]:
    """Pixel by pixel, black outside."""
    padded = np.zeros((image.shape[0] + 2, image.shape[1] + 2, 3))
    padded[1:-1, 1:-1] = image
    result = np.zeros((size, size, 3))
    for v in range(size):
        for u in range(size):
            x, y = inverse @ [u + 0.5, v + 0.5, 1]
            if not (-0.5 < x < image.shape[1] + 0.5 and -0.5 < y < image.shape[0] + 0.5):
                continue
            if nearest:
                result[v, u] = padded[
                    int(np.floor(y + geometry.ON_EDGE)) + 1, int(np.floor(x + geometry.ON_EDGE)) + 1
                ]
                continue
            left, top = int(np.floor(x - 0.5)), int(np.floor(y - 0.5))
            a, b = x - 0.5 - left, y - 0.5 - top
            near = padded[top + 1 : top + 3, left + 1 : left + 3]
            result[v, u] = (
                near * np.array([[(1 - a) * (1 - b), a * (1 - b)], [(1 - a) * b, a * b]])[..., None]
            ).sum((0, 1))
    return result


@pytest.mark.parametrize("opencv", [True, False])
@pytest.mark.parametrize("nearest", [True, False])
def test_a_batch_is_sampled_as_by_hand(
    nearest: bool, opencv: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not opencv:
        monkeypatch.setattr(geometry, "_opencv", lambda: None)
    images = [picture_of(50, 41), picture_of(33, 60)]
    transforms = [
        geometry.compose(
            geometry.region((5, 6, 40, 30), 32), geometry.rotation_scale(20, 1, (16, 16))
        ),
        geometry.compose(geometry.region((-7, 10, 50, 45), 32), geometry.mirror(32)),
    ]
    inverses = [geometry.invert(transform) for transform in transforms]
    canvas = np.zeros((2, 60, 50, 3), np.uint8)
    for place, image in zip(canvas, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    batch = geometry.warp_batch(
        torch.from_numpy(canvas),
        torch.from_numpy(np.stack(inverses)).float(),
        torch.tensor([nearest] * 2),
        32,
    )
    for number, (image, inverse) in enumerate(zip(images, inverses, strict=True)):
        exact = sampled_by_hand(image, inverse, nearest, 32)
        found = np.abs(batch[number].permute(1, 2, 0).numpy() - exact)
        assert (found > 1).mean() < 0.002
        squares = np.full((3, 32, 32, 3), 7, np.uint8)
        warped = geometry.warp_one(image, inverse, nearest, 32, out=squares[1])
        assert np.shares_memory(warped, squares) and (squares[[0, 2]] == 7).all()
        np.testing.assert_array_equal(squares[1], geometry.warp_one(image, inverse, nearest, 32))
        one = np.abs(warped.astype(float) - exact)
        assert (one > (1 if nearest else 8)).mean() < 0.005 and one.mean() < 1.5


def test_one_batch_takes_both_samplings() -> None:
    image, inverse = (
        picture_of(50, 41),
        torch.from_numpy(geometry.invert(geometry.stretch(50, 41, 32))).float(),
    )
    arguments = torch.from_numpy(image).expand(2, -1, -1, -1), inverse.expand(2, -1, -1)
    mixed = geometry.warp_batch(*arguments, torch.tensor([True, False]), 32)
    for number, nearest in enumerate((True, False)):
        assert torch.equal(mixed[number], geometry.warp_batch(*arguments, nearest, 32)[number])
