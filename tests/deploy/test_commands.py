"""`heatpose deploy`, `estimate` and `inspect --target` as a user types them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import report_forms as forms

from heatpose.deploy.target_files import built_in
from tests.conftest import Heatpose, Ran

Install = Callable[..., Path]


def _refused(ran: Ran, *words: str) -> None:
    lines = ran.err.strip().splitlines()
    assert ran.status == 1 and len(lines) == 1 and lines[0].startswith("error: ") and lines[0].endswith("."), ran.err
    assert all(word in lines[0] for word in words), lines[0]


def test_a_dry_run_prints_the_exact_command(heatpose: Heatpose, bundle: Path, tmp_path: Path) -> None:
    ran = heatpose("deploy", bundle, "--target", "stm32n6", "--json", tmp_path / "out.json")
    record = json.loads((tmp_path / "out.json").read_text())
    assert ran.status == 0 and record["command"] in ran.out and "RESIZE_BILINEAR" in ran.out and str(bundle / "stm32n6") in ran.out


def test_mp1_needs_no_conversion(heatpose: Heatpose, bundle: Path) -> None:
    ran = heatpose("deploy", bundle, "--target", "stm32mp1")
    assert ran.status == 0 and "No conversion" in ran.out


def test_a_board_of_ones_own(heatpose: Heatpose, bundle: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.yaml"
    board.write_text(built_in()["stm32n6"].read_text().replace("name: stm32n6\n", "name: mine\n").replace("estimator: n6_core_4.0", "estimator: null #"))
    assert heatpose("deploy", bundle, "--target", board).status == 0 and (bundle / "mine/mine.mpool").is_file()
    _refused(heatpose("deploy", bundle, "--target", "mine"), "stm32n6")


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_a_build(heatpose: Heatpose, bundle: Path, install: Install, tmp_path: Path) -> None:
    ran = heatpose("deploy", bundle, "--target", "stm32n6", "--run", "--tool", install(), "--board", "serial:921600", "--json", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert ran.status == 0 and result["status"] == "validated" and result["ms"] == 18.44
    assert "71 hardware, 4 software" in ran.out and "DequantizeLinear" in ran.out and "18.440 ms" in ran.out
    assert "cosine 0.99" in ran.out and str(bundle / "stm32n6") in ran.out.replace("\n", "") and "tool_output/" in ran.out


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_a_failed_build_ends_with_its_sentence_and_the_log(heatpose: Heatpose, bundle: Path, install: Install) -> None:
    ran = heatpose("deploy", bundle, "--target", "stm32n6", "--run", "--tool", install(mode="E103_2"))
    _refused(ran, "3211264 bytes", "stedgeai.log")
    assert "failed" in ran.out


def test_import(heatpose: Heatpose, bundle: Path, tmp_path: Path) -> None:
    content = forms.c_info()
    content["environment"]["tools"][0]["input_model"]["name"] = "pose_64_int8_pc"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/network_c_info.json").write_text(json.dumps(content))
    ran = heatpose("deploy", bundle, "--target", "stm32n6", "--import", tmp_path / "in")
    assert ran.status == 0 and "imported" in ran.out and (bundle / "stm32n6/result.json").is_file()


@pytest.mark.parametrize("options", [["--run", "--import", "x"], ["--board", "serial:1"], ["--tool", "x"], ["--time-limit", "5"], ["--run", "--time-limit=0"]])
def test_options_that_do_not_go_together(heatpose: Heatpose, bundle: Path, options: list[str]) -> None:
    assert heatpose("deploy", bundle, "--target", "stm32n6", *options).status == 2


def test_refusals(heatpose: Heatpose, bundle: Path, tmp_path: Path) -> None:
    _refused(heatpose("deploy", tmp_path, "--target", "stm32n6"), "no bundle")
    _refused(heatpose("deploy", bundle, "--target", "stm32mp1", "--run"), "leave out --run")
    _refused(heatpose("deploy", bundle, "--target", "stm32n6", "--run", "--tool", tmp_path / "none"), "no stedgeai")


def test_estimates(heatpose: Heatpose, tflite_files: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = tflite_files["int8_pc"]
    for target in ("stm32n6", "stm32mp2", "stm32mp1"):
        ran = heatpose("estimate", model, "--target", target, "--json", tmp_path / "out.json")
        content = json.loads((tmp_path / "out.json").read_text())
        assert ran.status == 0 and content["target"] == target and content["ms"]["low"] < content["ms"]["value"] < content["ms"]["high"]
        assert content["extrapolates"] and "Extrapolation" in ran.out  # a very small network
    ran = heatpose("estimate", tiny_checkpoint, "--target", "stm32n6", "--profile", "n6_core_2.0")
    assert ran.status == 0 and "Core 2.0.0" in ran.out
    _refused(heatpose("estimate", model, "--target", "stm32n6", "--profile", "n7"), "n6_core_4.0")
    _refused(heatpose("estimate", tmp_path / "x.onnx", "--target", "stm32n6"), "ONNX")
    _refused(heatpose("estimate", tmp_path / "x.tflite", "--target", "stm32n6"), "x.tflite")


def test_inspect_with_a_target(heatpose: Heatpose, tflite_files: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path) -> None:
    ran = heatpose("inspect", tflite_files["int8_pc"], "--target", "stm32mp2", "--json", tmp_path / "out.json")
    rules = [finding["rule"] for finding in json.loads((tmp_path / "out.json").read_text())["findings"]]
    assert ran.status == 0 and "target_granularity" in rules and "GPU" in ran.out
    _refused(heatpose("inspect", tiny_checkpoint, "--target", "stm32n6"), "no TFLite")
