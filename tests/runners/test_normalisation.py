"""How bytes become values: the notations that are accepted, and what arithmetic points to."""

from __future__ import annotations

import numpy as np
import pytest

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.runners.normalisation import IMAGENET, Normalisation, fitting_range


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("-1..1", [-1] * 3, [1] * 3),
        ("0..1", [0] * 3, [1] * 3),
        ("0..255", [0] * 3, [255] * 3),
        ("-.5..0.5", [-0.5] * 3, [0.5] * 3),
        ("mean=0.5,std=0.5", [-1] * 3, [1] * 3),
        ("mean=127.5, std=127.5", [-1] * 3, [1] * 3),
        ("mean=0,std=255", [0] * 3, [1] * 3),
        ("mean=128,std=1", [-128] * 3, [127] * 3),
        (
            "mean=0.485,0.456,0.406,std=0.229,0.224,0.225",
            [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
            None,
        ),
        (
            "mean=123.675 116.28 103.53;std=58.395 57.12 57.375",
            [-123.675 / 58.395, -116.28 / 57.12, -103.53 / 57.375],
            None,
        ),
        (
            "imagenet",
            [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
            [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225],
        ),
    ],
)
def test_byte_0_and_byte_255(text: str, low: list[float], high: list[float] | None) -> None:
    ends = Normalisation.parse(text).apply(np.array([[0] * 3, [255] * 3], np.uint8))
    np.testing.assert_allclose(ends[0], low, atol=1e-6)
    if high is not None:
        np.testing.assert_allclose(ends[1], high, rtol=1e-6)
    again = Normalisation.parse(str(Normalisation.parse(text)))
    np.testing.assert_allclose(
        again.apply(np.array([[0] * 3, [255] * 3], np.uint8)), ends, rtol=2e-3, atol=1e-6
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1..-1",
        "0..",
        "mean=1",
        "mean=0,1,std=1",
        "mean=0,std=0",
        "mean=x,std=1",
        "caffe",
        "1..nan",
    ],
)
def test_what_is_not_understood(text: str) -> None:
    with pytest.raises(HeatposeError, match=r"is not understood; give LOW\.\.HIGH"):
        Normalisation.parse(text)


@pytest.mark.parametrize(
    "text", ["mean=0,std=1", "mean=0.5,std=127.5", "mean=123.7,std=0.229", "mean=120,std=1,2,0.5"]
)
def test_what_can_be_read_in_two_ways(text: str) -> None:
    with pytest.raises(
        HeatposeError, match="leaves open whether mean and std are fractions of 255 or bytes"
    ):
        Normalisation.parse(text)


def test_a_networks_own_is_computed_as_ever() -> None:
    """To the bit: scores of earlier versions stay."""
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    plain = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(Normalisation.of(Preprocessing(64)).apply(images), plain)
    assert Normalisation.parse("-1..1") == Normalisation.of(Preprocessing(64))


@pytest.mark.parametrize(
    ("gain", "offset", "found"),
    [
        ([1 / 127.5] * 3, [-1] * 3, "0..255"),
        ([1 / 255] * 3, [0] * 3, "0..255"),
        ([1] * 3, [-103.9, -116.8, -123.7], "0..255"),
        ([2] * 3, [-1] * 3, "0..1"),
        ([255] * 3, [0] * 3, "0..1"),
        (
            [1 / 0.229, 1 / 0.224, 1 / 0.225],
            [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
            "0..1",
        ),
        ([1 / 58.4, 1 / 57.1, 1 / 57.4], [-123.7 / 58.4, -116.3 / 57.1, -103.5 / 57.4], "0..255"),
        ([0.5] * 3, [0.5] * 3, "-1..1"),
        ([127.5] * 3, [127.5] * 3, "-1..1"),
        ([1] * 3, [0] * 3, None),
        ([2] * 3, [0] * 3, None),
        ([-1] * 3, [1] * 3, None),
        ([1e-3] * 3, [7] * 3, None),
    ],
)
def test_arithmetic_points_to_a_range_or_to_none(
    gain: list[float], offset: list[float], found: str | None
) -> None:
    result = fitting_range(np.array(gain, np.float64), np.array(offset, np.float64))
    assert (None if result is None else str(result)) == found


def test_imagenet_has_its_name() -> None:
    assert (
        str(IMAGENET)
        == "imagenet"
        == str(Normalisation.parse("mean=0.485,0.456,0.406,std=0.229,0.224,0.225"))
    )
