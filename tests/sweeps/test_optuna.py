"""Optuna over Hydra's ranges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from heatpose.errors import HeatposeError
from heatpose.sweeps.optuna import Search, distribution


def opened(
    folder: Path,
    *overrides: str,
    directions: tuple[str, ...] = ("maximize",),
    objectives: tuple[str, ...] = ("oks",),
) -> Search:
    return Search.open(
        folder,
        OverridesParser.create().parse_overrides(list(overrides)),
        directions,
        objectives,
        seed=0,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=192,224,256", CategoricalDistribution(["192", "224", "256"])),
        ("x=choice(adamw, sgd)", CategoricalDistribution(["adamw", "sgd"])),
        ("x=range(160, 257, 32)", IntDistribution(160, 256, step=32)),
        ("x=range(0, 1, 0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("x=interval(0.5, 2)", FloatDistribution(0.5, 2.0)),
        ("x=int(interval(1, 8))", IntDistribution(1, 8)),
        ("x=tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
    ],
)
def test_ranges_have_their_limits_and_steps(text: str, expected: BaseDistribution) -> None:
    assert distribution(OverridesParser.create().parse_override(text)) == expected


def _value(overrides: list[str], key: str) -> float:
    return float(dict(override.split("=") for override in overrides)[key])


def test_a_search_finds_the_top_of_a_hill(tmp_path: Path) -> None:
    search = opened(tmp_path, "x=interval(-4, 4)", "seed=3")
    batches = []

    def launch(batch: list[list[str]], first: int) -> list[Any]:
        batches.append((first, len(batch)))
        assert all("seed=3" in overrides for overrides in batch)
        return [-((_value(overrides, "x") - 1) ** 2) for overrides in batch]

    search.run(launch, trials=30, jobs=4)
    assert batches[0] == (0, 4) and batches[-1] == (28, 2)
    best = search.best()
    assert len(best) == 1 and abs(best[0].params["x"] - 1) < 0.5


def test_failed_sweep_runs_do_not_count_and_ten_in_a_row_end_it(tmp_path: Path) -> None:
    search = opened(
        tmp_path, "x=1,2", directions=("maximize", "minimize"), objectives=("oks", "ms")
    )
    results = iter([(math.nan, math.nan), (50.0, 3.0), (50.0, math.nan), None, (40.0, 2.0)])
    search.run(lambda batch, first: [next(results)], trials=2, jobs=1)
    assert [trial.values for trial in search.succeeded()] == [[50.0, 3.0], [40.0, 2.0]]
    search.run(lambda batch, first: [(math.nan, math.nan)] * len(batch), trials=3, jobs=1)
    assert len(search.study.trials) == 5 + 10


def test_what_was_interrupted_comes_first_with_the_same_values(tmp_path: Path) -> None:
    def killed(batch: list[list[str]], first: int) -> list[Any]:
        given.extend(batch)
        raise KeyboardInterrupt

    given: list[list[str]] = []
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, "x=interval(0, 1)").run(killed, trials=1, jobs=1)
    again: list[list[str]] = []
    search = opened(tmp_path, "x=interval(0, 1)")
    search.run(lambda batch, first: [again.extend(batch) or 1.0], trials=1, jobs=1)
    assert again == given
    assert [trial.state for trial in search.study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_unsupported_searches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match="The search has no range; give one"):
        opened(tmp_path, "seed=1")
    with pytest.raises(
        HeatposeError, match="maximize or minimize for each of the objectives oks, ms"
    ):
        opened(tmp_path, "x=1,2", objectives=("oks", "ms"))
    with pytest.raises(HeatposeError, match="x=.* cannot be searched"):
        opened(tmp_path, "x=glob(*)")
