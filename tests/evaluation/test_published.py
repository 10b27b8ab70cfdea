"""The published rows: all of them, as they were published."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from heatpose.evaluation.published import (
    Published,
    counterparts,
    has_published_keypoints,
    published,
    rows,
)
from heatpose.pose.skeleton import COCO_17, ST_13


def test_the_published_table_is_whole_and_typed(shared: Path) -> None:
    with (shared / "reference/st_model_zoo.csv").open(encoding="utf-8") as file:
        expected = list(csv.DictReader(file))
    assert len(rows()) == len(expected)
    for row, entry in zip(rows(), expected, strict=True):
        for name, text in entry.items():
            value = getattr(row, name)
            if not text:
                assert value is None
            elif isinstance(value, str):
                assert value == text
            else:
                assert value == float(text)
        assert (
            isinstance(row.keypoints, int)
            and isinstance(row.resolution, int)
            and isinstance(row.oks_percent, float)
        )


def test_rows_are_sane() -> None:
    assert len(rows()) == 24
    for row in rows():
        assert (
            row.source in ("seed", "zoo-4.0")
            and row.keypoints in (13, 17)
            and row.resolution in (192, 224, 256)
        )
        assert (
            row.quantization in ("int8_pc", "int8_pt")
            and row.output in ("heatmaps", "keypoints")
            and 30 < row.oks_percent < 70
        )
        assert (row.n6_ms is None) == (row.n6_ram_kib is None) == (row.n6_stedgeai_core is None)


def test_a_row_has_its_figures_of_the_boards() -> None:
    (row,) = published(
        source="zoo-4.0", training_data="coco", resolution=192, quantization="int8_pc"
    )
    assert row.variant == "st_movenet_lightning_a100_heatmaps" and row.oks_percent == 55.34
    assert (row.n6_ram_kib, row.n6_flash_kib, row.n6_ms, row.n6_stedgeai_core) == (
        914.88,
        2304.0,
        22.05,
        "3.0.0",
    )
    assert (row.mp257_ms, row.mp257_npu_percent, row.mp157_ms, row.mp135_ms) == (
        55.81,
        2.87,
        315.44,
        484.64,
    )
    (seed,) = published(variant="movenet_thunder", source="seed")
    assert (
        seed.n6_ms is None
        and "n6_ms" not in seed.to_json()
        and seed.to_json()["mp257_ms"] == 187.10
    )
    assert seed.width == 1.75 and row.width == 1.0


def oks(found: tuple[Published, ...]) -> dict[tuple[str, str, str], float]:
    return {(row.variant, row.training_data, row.quantization): row.oks_percent for row in found}


def test_counterparts_have_the_same_keypoints_input_output_and_width() -> None:
    thirteen = "st_movenet_lightning_heatmaps", "public"
    assert oks(counterparts(ST_13, 192)) == {
        (*thirteen, "int8_pc"): 52.10,
        (*thirteen, "int8_pt"): 39.31,
    }
    google, zoo = ("movenet_lightning_heatmaps", "google"), "st_movenet_lightning_a100_heatmaps"
    assert oks(counterparts(COCO_17, 256)) == {
        (*google, "int8_pc"): 58.58,
        (*google, "int8_pt"): 52.86,
        (zoo, "coco", "int8_pc"): 61.99,
        (zoo, "coco", "int8_pt"): 61.63,
        (zoo, "st-custom", "int8_pc"): 62.36,
        (zoo, "st-custom", "int8_pt"): 60.73,
    }
    assert {row.oks_percent for row in counterparts(COCO_17, 192, output="keypoints")} == {54.12}
    assert {
        row.oks_percent for row in counterparts(COCO_17, 256, output="keypoints", width=1.75)
    } == {64.43}


@pytest.mark.parametrize(
    "found",
    [
        counterparts(ST_13, 224),
        counterparts(COCO_17, 64),
        counterparts(COCO_17, 192, width=0.35),
        counterparts(ST_13, 192, output="keypoints"),
        counterparts(COCO_17, 256, output="keypoints"),
    ],
    ids=["resolution", "small", "width", "output", "Lightning at Thunder's size"],
)
def test_another_kind_has_no_row(found: tuple[Published, ...]) -> None:
    assert found == ()


def test_own_keypoints_have_no_row_whatever_their_number() -> None:
    own = replace(COCO_17, keypoints=("tail", *COCO_17.keypoints[1:]), edges=(), name="coco17")
    assert not has_published_keypoints(own) and counterparts(own, 192) == ()
    assert not has_published_keypoints(replace(ST_13, sigmas=(0.05,) * 13))
    redrawn = replace(ST_13, name="mine", edges=())
    assert has_published_keypoints(redrawn) and counterparts(redrawn, 192) == counterparts(
        ST_13, 192
    )
