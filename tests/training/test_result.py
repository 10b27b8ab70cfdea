"""The result of a run is kept with it, and is valid until one of its inputs changes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from heatpose.errors import HeatposeError
from heatpose.training import result as record
from heatpose.training.result import BoardNumbers, RunResult
from heatpose.utils.process import is_first_process

RESULT = RunResult(
    oks=61.5,
    files={"float32": 61.5, "int8_pc": 60.75},
    seconds=12.0,
    boards={
        "stm32n6": BoardNumbers("int8_pc", 60.75, 16.5, 800.0, 2500.0, True),
        "stm32mp2": BoardNumbers("int8_pt", None, 9.0),
    },
)


def config(**changes: Any) -> DictConfig:
    return OmegaConf.create(
        {
            "run": "mine",
            "runs": "a",
            "resolution": 192,
            "init": {"path": None},
            "logger": {"x": 1},
            **changes,
        }
    )


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    record.keep(tmp_path / "mine", config(), RESULT)
    assert record.finished(tmp_path / "mine", config()) == RESULT


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"runs": "b"}, True),
        ({"logger": {"x": 2}}, True),
        ({"resolution": 224}, False),
        ({"quant": {"output": "int8"}}, False),
    ],
)
def test_another_configuration_is_another_run(
    tmp_path: Path, changes: dict[str, Any], same: bool
) -> None:
    record.keep(tmp_path, config(), RESULT)
    assert (record.finished(tmp_path, config(**changes)) == RESULT) == same


@pytest.mark.parametrize("kind", ["init", "distill"])
def test_other_initial_or_teacher_weights_are_another_run(kind: str, tmp_path: Path) -> None:
    weights = tmp_path / "weights.tflite"
    weights.write_bytes(b"first")
    begun = config(**{kind: {"path": str(weights)}})
    record.keep(tmp_path, begun, RESULT)
    assert record.finished(tmp_path, begun) is not None
    weights.write_bytes(b"second")
    assert record.finished(tmp_path, begun) is None


def test_a_bundle_that_is_gone_or_another_is_made_again(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    result = RunResult(bundle=str(bundle))
    record.keep(tmp_path, config(), result)
    assert record.finished(tmp_path, config()) == result
    (bundle / "manifest.json").write_text('{"another": 1}')
    assert record.finished(tmp_path, config()) is None
    (bundle / "manifest.json").unlink()
    assert record.finished(tmp_path, config()) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"fingerprint": 1}'])
def test_a_broken_record_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / record.RESULT).write_text(content)
    assert record.finished(tmp_path, config()) is None


def test_a_failed_run_is_run_again(tmp_path: Path) -> None:
    record.keep(tmp_path, config(), RunResult("failed", "No."))
    assert record.finished(tmp_path, config()) is None


def test_objectives_are_those_of_the_first_board() -> None:
    assert RESULT.objectives(["oks"]) == 61.5
    assert RESULT.objectives(["int8_oks", "ms", "ram_kib", "flash_kib"]) == (
        60.75,
        16.5,
        800.0,
        2500.0,
    )
    assert math.isnan(RunResult(oks=1.0).objective("ms")) and math.isnan(
        RunResult("failed", oks=1.0).objective("oks")
    )
    with pytest.raises(
        HeatposeError, match="'speed', which is unknown; choose among oks, int8_oks"
    ):
        RESULT.objectives(["speed"])


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_only_the_first_process_writes(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], first: bool
) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first
