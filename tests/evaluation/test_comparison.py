"""Conditions for the comparison with a published number, and the note if they are not met."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from rich.console import Console

from heatpose.data.coco import benchmark_instances, read_labels
from heatpose.evaluation.published import (
    IMAGES,
    Comparison,
    compare,
    image_set,
    known_images,
    markdown,
    terminal_table,
)
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton

RULES = {"sampling": "nearest", "decode": "argmax", "coordinates": "normalised", "kernels": "any"}
ALL = [*known_images(), *range(1_000_000, 1_000_000 + IMAGES - len(known_images()))]
PART = sorted(known_images())
OTHER = list(range(1, 201))


@dataclass(frozen=True)
class Scored:
    """What a comparison takes from an evaluation."""

    oks: float = 56.33
    oks_standard_error: float = 1.42
    image_ids: list[int] = field(default_factory=lambda: ALL)
    protocol: dict[str, str] = field(default_factory=lambda: RULES)


def compared(ids: list[int], **changes: str) -> Comparison:
    report = Scored(image_ids=ids, protocol={**RULES, **changes})
    return compare(
        ST_13,
        192,
        {
            "torch": report,
            "float32": report,
            "int8_pc": report,
            "int8_pt": replace(report, oks=40.0),
        },
    )


def test_the_known_images_are_those_of_the_benchmark(shared: Path) -> None:
    folder = shared / "data/coco_val_dev"
    instances, _ = benchmark_instances(
        read_labels(folder / "person_keypoints_val2017.json"), folder / "val2017", COCO_17
    )
    assert (
        known_images() == {person.image_id for person in instances} and len(known_images()) == 470
    )


def test_sets_of_images_are_recognised_by_their_ids() -> None:
    assert image_set(ALL) == image_set(reversed(ALL)) == "all"
    assert image_set(PART) == image_set(PART[:17]) == "part"
    assert image_set(range(1, IMAGES + 1)) == "other"  # as many, but others
    assert image_set(ALL[:-1]) == image_set([*ALL, 5]) == image_set(ALL[1:] + [5]) == "other"
    assert image_set(OTHER) == image_set([*PART, 5]) == image_set([]) == "other"


def test_the_same_images_by_the_same_rules_have_a_difference() -> None:
    comparison = compared(ALL)
    assert comparison.comparable and "the same images and protocol" in comparison.note
    assert (
        "| int8_pc | 52.10 | 56.33 ± 1.42 | +4.23 | st_movenet_lightning_heatmaps | public | seed |"
        in markdown(comparison)
    )
    found = {
        pair.row.quantization: (pair.row.oks_percent, pair.oks, pair.difference)
        for pair in comparison.pairs
    }
    assert found["int8_pc"] == (52.10, 56.33, pytest.approx(4.23)) and found["int8_pt"] == (
        39.31,
        40.0,
        pytest.approx(0.69),
    )


@pytest.mark.parametrize(
    ("ids", "rules", "words"),
    [
        (
            PART,
            {},
            ["921 images", "470 of those images", "not directly comparable", "heatpose compare"],
        ),
        (OTHER, {}, ["921 images", "200 other images", "not directly comparable"]),
        (
            ALL,
            {"sampling": "bilinear"},
            ["another protocol", "sampling bilinear", "not comparable"],
        ),
        (ALL, {"decode": "refined"}, ["another protocol", "decode refined", "not comparable"]),
    ],
    ids=["part", "other", "sampling", "decode"],
)
def test_other_images_or_protocols_have_no_difference_and_a_reason(
    ids: list[int], rules: dict[str, str], words: list[str]
) -> None:
    comparison = compared(ids, **rules)
    assert not comparison.comparable and all(word in comparison.note for word in words)
    assert comparison.pairs and all(
        pair.oks is not None and pair.difference is None for pair in comparison.pairs
    )
    text = markdown(comparison) + json.dumps(comparison.to_json())
    assert (
        "4.23" not in text
        and "| difference |" not in text
        and comparison.note in text
        and "52.10" in text
        and "56.33 ± 1.42" in text
    )


def test_one_file_by_other_rules_spoils_the_comparison() -> None:
    reports = {"int8_pc": Scored(), "int8_pt": Scored(protocol={**RULES, "sampling": "bilinear"})}
    assert not compare(ST_13, 192, reports).comparable


def test_files_that_were_not_made_have_no_row() -> None:
    assert [
        pair.row.quantization
        for pair in compare(ST_13, 192, {"torch": Scored(), "int8_pc": Scored()}).pairs
    ] == ["int8_pc"]
    assert compare(ST_13, 192, {"torch": Scored()}).pairs == ()


def test_an_export_that_was_not_scored_shows_the_rows_alone() -> None:
    comparison = compare(COCO_17, 224, {"int8_pc": None})
    assert (
        len(comparison.pairs) == 3
        and not comparison.comparable
        and comparison.note.endswith("This: not scored.")
    )
    assert (
        "| int8_pc | 57.07 | not scored | movenet_lightning_heatmaps | google | seed |"
        in markdown(comparison)
    )


def test_own_keypoints_have_a_note_that_oks_is_not_comparable() -> None:
    five = Skeleton("five", COCO_17.keypoints[:5], COCO_17.sigmas[:5])
    comparison = compare(five, 192, {"int8_pc": Scored()})
    assert (
        not comparison.pairs and "'five'" in comparison.note and "not comparable" in comparison.note
    )
    assert (
        terminal_table(comparison) is None
        and comparison.note in markdown(comparison)
        and "|" not in markdown(comparison)
    )
    assert (
        "13 keypoints at 64, width 0.35"
        in compare(ST_13, 64, {"int8_pc": Scored()}, width=0.35).note
    )


def test_tables_show_each_row_with_its_source_and_the_boards() -> None:
    comparison = compare(COCO_17, 192, {"int8_pc": Scored()})
    console = Console(width=140)
    with console.capture() as captured:
        console.print(terminal_table(comparison))
    shown, card = captured.get(), markdown(comparison)
    for pair in comparison.pairs:
        for text in (shown, card):
            assert (
                f"{pair.row.oks_percent:.2f}" in text
                and pair.row.variant in text
                and pair.row.source in text
            )
        assert f"{pair.row.n6_ms:g}" in card and f"{pair.row.mp257_ms:g}" in card
    assert len(comparison.pairs) == 3 and "not of the files here" in card
