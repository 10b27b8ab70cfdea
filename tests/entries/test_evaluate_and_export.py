"""What a target decides where the configuration leaves it open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heatpose.deploy.targets import Export, load_target
from heatpose.entries.evaluate_and_export import QuantSettings, endings


@pytest.mark.parametrize(
    ("board", "expected"),
    [
        (None, ("float32", True)),
        ("stm32n6", ("int8", True)),
        ("stm32mp2", ("float32", True)),
        ("stm32mp1", ("float32", True)),
    ],
)
def test_the_target_decides_how_files_end(board: str | None, expected: tuple[str, bool]) -> None:
    assert endings(QuantSettings(), load_target(board) if board else None) == expected


def test_what_is_configured_goes_first() -> None:
    board = replace(load_target("stm32n6"), export=Export("int8", sigmoid=False))
    assert endings(QuantSettings(), board) == ("int8", False)
    assert endings(QuantSettings(output="float32", sigmoid=True), board) == ("float32", True)
    assert endings(QuantSettings(output="int8", sigmoid=False), None) == ("int8", False)


def test_decoded_poses_stay_float() -> None:
    assert endings(QuantSettings(), load_target("stm32n6"), four_heads=True) == ("float32", True)
