"""The stretch to a square against exact fractions, and against Pillow where the two must agree."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing, check_resolution, nearest_indices

SOURCES = [1, 2, 7, 31, 32, 100, 191, 192, 193, 240, 333, 427, 480, 500, 612, 640, 1279, 4032]


@pytest.mark.parametrize("target", [32, 64, 192, 224, 256])
def test_nearest_takes_the_pixel_under_the_cells_centre(target: int) -> None:
    for source in SOURCES:
        exact = [floor((cell + Fraction(1, 2)) * source / target) for cell in range(target)]
        assert nearest_indices(source, target).tolist() == exact, source


def test_nearest_is_not_pillows_where_a_centre_falls_on_an_edge() -> None:
    """640 -> 192: each cell is 10/3 pixels wide.

    And every third centre is a whole number, 5, 15, 25, ...
    """
    ramp = np.broadcast_to(np.arange(640, dtype=np.int32), (1, 640))
    pillow = np.asarray(Image.fromarray(ramp).resize((192, 1), Image.Resampling.NEAREST))[0]
    ours = nearest_indices(640, 192)
    assert ours[:6].tolist() == [1, 5, 8, 11, 15, 18]
    different = np.flatnonzero(ours != pillow)
    assert len(different) == 37 and (ours[different] - pillow[different] == 1).all()
    assert (ours[different] % 10 == 5).all()  # whole numbers all


def test_resize_picks_rows_and_columns() -> None:
    image = np.random.default_rng(0).integers(0, 256, (75, 101, 3), np.uint8)
    small = Preprocessing(64).resize(image)
    assert small.shape == (64, 64, 3) and small.dtype == np.uint8 and small.flags.c_contiguous
    for v, u in np.ndindex(64, 64):
        row, column = floor((v + Fraction(1, 2)) * 75 / 64), floor((u + Fraction(1, 2)) * 101 / 64)
        assert (small[v, u] == image[row, column]).all()


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_the_right_size_is_left_alone(sampling: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    np.testing.assert_array_equal(Preprocessing(96, sampling).resize(image), image)


def test_bilinear_averages_when_it_shrinks() -> None:
    """Pillow's filter is as wide as the shrinking: a checkerboard becomes grey, not stripes."""
    board = np.indices((256, 256)).sum(0) % 2 * 255
    image = np.repeat(board[..., None], 3, -1).astype(np.uint8)
    small = Preprocessing(64, "bilinear").resize(image)
    assert np.abs(small[1:-1, 1:-1].astype(int) - 128).max() <= 1
    assert set(np.unique(Preprocessing(64).resize(image))) <= {0, 255}


def test_normalise_maps_bytes_onto_minus_one_to_one() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    found = Preprocessing(32).normalise(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, images.double().mul(2).div(255).sub(1).float(), atol=1e-6, rtol=0
    )
    other = Preprocessing(32, divisor=255.0, shift=0.5).normalise(images)
    assert (other.min().item(), other.max().item()) == (-0.5, 0.5)


def test_plain_values_make_the_same_object() -> None:
    preprocessing = Preprocessing(224, "bilinear", 255.0, 0.0)
    assert Preprocessing(**preprocessing.to_dict()) == preprocessing


@pytest.mark.parametrize("size", [-32, 0, 1, 31, 33, 100, 200, 192.5, "abc", None])
def test_other_sides_than_multiples_of_32_are_refused(size: Any) -> None:
    for make in (check_resolution, Preprocessing):
        with pytest.raises(
            HeatposeError, match=f"Resolution {size} is not a positive multiple of 32"
        ):
            make(size)


def test_every_multiple_of_32_is_taken() -> None:
    for size in range(32, 513, 32):
        check_resolution(size)


def test_an_unknown_sampling_is_one_sentence() -> None:
    with pytest.raises(
        HeatposeError, match="Sampling 'cubic' is unknown; choose one of nearest, bilinear"
    ):
        Preprocessing(192, "cubic")
