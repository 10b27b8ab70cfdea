"""Plots' small parts against slow and plain ones."""

from __future__ import annotations

import numpy as np
import pytest

from heatpose.report.curves import LONGEST, thinned
from heatpose.report.plots import pareto_front, plain, short
from heatpose.report.scores import size_name


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_nothing_beats(seed: int) -> None:
    points = [(float(x), float(y)) for x, y in np.random.default_rng(seed).integers(0, 8, (30, 2))]
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] >= p[1]}
    assert pareto_front(points) == sorted(set(points) - beaten)


def test_tags_of_a_name_are_written_out() -> None:
    assert plain("<b>a</b> & 'b'") == "&lt;b&gt;a&lt;/b&gt; &amp; 'b'"


def test_long_names_keep_their_end() -> None:
    assert short("a" * 26) == "a" * 26 and short("x" * 40 + "_size-96") == f"…{'x' * 17}_size-96"


def test_groups_of_sizes_are_called_as_people_say() -> None:
    named = [
        size_name({"from": low, "to": high})
        for low, high in ((0.0, 0.125), (0.125, 0.25), (0.5, None))
    ]
    assert named == ["under 1/8", "1/8 to 1/4", "from 1/2"]


@pytest.mark.parametrize("count", [0, 1, LONGEST, LONGEST + 1, 10 * LONGEST + 3])
def test_long_curves_are_thinned_and_keep_their_end(count: int) -> None:
    curve = [(step, step / 2) for step in range(count)]
    kept = thinned(curve)
    assert len(kept) <= LONGEST and set(kept) <= set(curve) and kept[-1:] == curve[-1:]
    assert len({b[0] - a[0] for a, b in zip(kept, kept[1:], strict=False)}) <= 1


def test_values_that_are_no_numbers_are_left_out() -> None:
    assert thinned([(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0)]) == [
        (0, 1.0),
        (3, 2.0),
    ]
