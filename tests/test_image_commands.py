"""The images of the site show the numbers that lie beside them.

And those are the numbers of the text.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

PICTURES = Path(__file__).parents[1] / "docs/pictures"
PAGE = PICTURES.with_name("quantization_pictures.md").read_text(encoding="utf-8")


def test_images_are_small_and_on_the_page() -> None:
    drawn = sorted(PICTURES.glob("*.svg"))
    results = (PICTURES.parent / "results.md").read_text(encoding="utf-8")
    shown = re.findall(r"pictures/(\w+\.svg)", PAGE + results)
    assert {path.name for path in drawn} == set(shown)
    assert all(path.stat().st_size < 100_000 for path in drawn)


def test_the_bars_have_the_tables_numbers() -> None:
    svg = (PICTURES / "ablation.svg").read_text(encoding="utf-8")
    with (PICTURES / "ablation.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    written = re.findall(r">(-?\d+\.\d\d)(?: &gt;)?</text>", svg)
    assert len(rows) == 20 and sorted(written) == sorted(row["drop"] for row in rows)
    # each lost number is the float network's score less the file's, to the rounding of two numbers
    for row in rows:
        assert abs(55.84 - float(row["oks"]) - float(row["drop"])) < 0.011 and float(
            row["low"]
        ) < float(row["drop"]) < float(row["high"])


def test_the_page_has_the_counts_of_the_weights() -> None:
    """By hand: a step is the largest weight over 127, and what is below half a step becomes 0."""
    weights = np.loadtxt(PICTURES / "channels.csv", delimiter=",")
    assert weights.shape == (144, 9)
    largest = np.abs(weights).max(axis=1)
    step = largest[0] / 127
    assert largest[0] == largest.max() and f"{largest[0]:.0f} / 127 = {step:.2f}" in PAGE
    assert f"({largest[0]:.0f}, {largest[1]:.0f} and {largest[2]:.0f})" in PAGE
    assert f"{(largest < step / 2).sum()} of the {len(largest)} channels" in PAGE
    middle = weights[72]
    rounded = np.round(middle / step)
    assert (
        (rounded == 0).sum() == 8
        and f"{abs(rounded).max() * step:.2f} instead of {np.abs(middle).max():.2f}" in PAGE
    )
