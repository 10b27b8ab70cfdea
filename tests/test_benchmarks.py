"""Every script of benchmarks/ starts: it imports, and --help prints its docstring's first line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import load_module

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHARED = ("measuring",)
"""Modules without a command line."""
SCRIPTS = sorted(p.stem for p in BENCHMARKS.glob("*.py") if p.stem not in SHARED)


@pytest.fixture(autouse=True)
def as_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script finds the modules beside it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_module(BENCHMARKS / f"{name}.py", f"benchmark_{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    printed = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert " ".join(str(script.__doc__).splitlines()[0].split()) in printed


def test_everyday_names_what_a_part_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script = load_module(BENCHMARKS / "everyday.py", "benchmark_everyday")
    model = tmp_path / "model.tflite"
    model.touch()
    options = ["--parts", "latency", "--int8", str(model), "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["everyday.py", *options])
    script.main()
    assert "latency is left out: it needs --reference." in capsys.readouterr().out


def test_the_clock_leaves_the_warm_up_out() -> None:
    script = load_module(BENCHMARKS / "training_against_keras.py", "benchmark_keras")
    clock = script.Clock(warm_up=2)
    clock.ends = [(0.0, 0.0), (100.0, 7.0), (101.0, 9.0), (102.0, 11.0)]
    assert clock.rates() == {
        "images_per_second": script.BATCH,
        "images_per_cpu_second": script.BATCH / 2,
    }


def test_ratios_are_those_of_the_rounds() -> None:
    script = load_module(BENCHMARKS / "training_against_keras.py", "benchmark_keras")

    def runs(*rates: float) -> list[dict[str, float]]:
        return [{"images_per_second": rate, "images_per_cpu_second": 2 * rate} for rate in rates]

    found = {"heatpose": runs(30, 10, 20), "keras": runs(10, 5, 5)}
    result = script.result_of("heatpose", found)
    assert result["images_per_second"] == 20
    assert result["images_per_second_over_keras"] == 3
    assert "images_per_second_over_keras_cached" not in result
    assert not [name for name in script.result_of("keras", found) if "over" in name]
