"""The sweep runs of all processes are summarised together."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from heatpose.sweeps.summary import (
    NO_RESULT,
    SEARCH,
    SweepRun,
    begin,
    summarise,
    sweep_runs,
    write_csv,
)
from heatpose.training.result import BoardNumbers, RunResult


def sweep_run(run: str, result: RunResult, **overrides: str) -> SweepRun:
    return SweepRun(run, overrides, result)


def test_sweep_runs_are_in_order_and_once_each(tmp_path: Path) -> None:
    sweep_run("b", RunResult(oks=1.0), seed="1").write(tmp_path, 1)
    sweep_run("a", RunResult("failed", "First try."), seed="0").write(tmp_path, 0)
    sweep_run("a", RunResult(oks=2.0), seed="0").write(tmp_path, 10)
    found = sweep_runs(tmp_path)
    assert [(m.run, m.result.oks) for m in found] == [("b", 1.0), ("a", 2.0)]


def test_one_that_never_ended_has_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_run("a", RunResult("running"), seed="0").write(tmp_path, 0)
    failed = summarise(tmp_path, "mine")
    assert [(m.run, m.result.reason) for m in failed] == [("a", NO_RESULT)]
    assert "failed" in capsys.readouterr().out


def test_a_sweep_begins_empty_and_a_search_goes_on(tmp_path: Path) -> None:
    sweep_run("a", RunResult(), seed="0").write(tmp_path, 0)
    (tmp_path / SEARCH).touch()
    begin(tmp_path)
    assert len(sweep_runs(tmp_path)) == 1
    (tmp_path / SEARCH).unlink()
    begin(tmp_path)
    assert sweep_runs(tmp_path) == []
    assert summarise(tmp_path, "mine") == [] and not (tmp_path / "sweep.csv").exists()


def test_the_csv_has_differing_settings_and_results(tmp_path: Path) -> None:
    board = BoardNumbers("int8_pc", 60.0, 16.0, 800.0, 2500.0, False)
    whole = RunResult(
        oks=61.0,
        files={"float32": 61.0, "int8_pc": 60.0},
        boards={"stm32n6": board},
        bundle="exports/a",
        seconds=3.25,
    )
    found = [
        sweep_run("a", whole, resolution="192", recipe="scratch"),
        sweep_run("b", RunResult("failed", 'Bad, "very" bad.'), resolution="224", recipe="scratch"),
    ]
    write_csv(found, tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "run",
        "resolution",
        "oks",
        "float32_oks",
        "int8_pc_oks",
        "stm32n6_artefact",
        "stm32n6_oks",
        "stm32n6_ms",
        "stm32n6_ram_kib",
        "stm32n6_flash_kib",
        "stm32n6_extrapolates",
        "status",
        "reason",
        "seconds",
        "bundle",
    ]
    assert (rows[0]["stm32n6_ms"], rows[0]["seconds"], rows[0]["bundle"]) == (
        "16.0",
        "3.2",
        "exports/a",
    )
    assert (
        rows[1]["reason"] == 'Bad, "very" bad.'
        and rows[1]["oks"] == ""
        and rows[1]["stm32n6_ms"] == ""
    )


def test_the_table_is_not_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = BoardNumbers("int8_pc", 60.123, 16.04, 812.4, 2500.0, True)
    names = ("stm32n6", "stm32mp2", "stm32mp1")
    result = RunResult(
        oks=61.0, files={"int8_pc": 60.123, "int8_pt": 55.5}, boards=dict.fromkeys(names, board)
    )
    for number in range(2):
        sweep_run(f"m{number}", result, resolution=str(192 + 32 * number)).write(tmp_path, number)
    assert summarise(tmp_path, "mine") == []
    out = capsys.readouterr().out
    assert (
        all(text in out for text in ("192", "224", "60.12", "55.50", *names))
        and out.count("16.0*") == 6
    )
    assert "* extrapolated" in out
