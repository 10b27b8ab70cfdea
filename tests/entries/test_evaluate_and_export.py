"""Output type and sigmoid that a target decides where the configuration leaves them open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heatpose.deploy.targets import Export, load_target
from heatpose.entries.evaluate_and_export import resolved
from heatpose.quantize.settings import ExportConfig


def ending(config: ExportConfig) -> tuple[str, bool]:
    return config.output_dtype, config.ends_in_sigmoid


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
    target = load_target(board) if board else None
    assert ending(resolved(ExportConfig(), target)) == expected


def test_what_is_configured_goes_first() -> None:
    board = replace(load_target("stm32n6"), export=Export("int8", sigmoid=False))
    assert ending(resolved(ExportConfig(), board)) == ("int8", False)
    configured = ExportConfig(output="float32", sigmoid=True)
    assert ending(resolved(configured, board)) == ("float32", True)
    configured = ExportConfig(output="int8", sigmoid=False)
    assert ending(resolved(configured, None)) == ("int8", False)


def test_decoded_poses_stay_float() -> None:
    found = resolved(ExportConfig(), load_target("stm32n6"), four_heads=True)
    assert ending(found) == ("float32", True)
