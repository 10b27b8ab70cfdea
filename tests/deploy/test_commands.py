"""`heatpose deploy`, `estimate` and `inspect --target` as a user types them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import st_reports

from heatpose.deploy.targets import built_in
from tests.conftest import Heatpose, Ran

Install = Callable[..., Path]


def _refused(ran: Ran, *words: str) -> None:
    lines = ran.err.strip().splitlines()
    assert (
        ran.status == 1
        and len(lines) == 1
        and lines[0].startswith("error: ")
        and lines[0].endswith(".")
    ), ran.err
    assert all(word in lines[0] for word in words), lines[0]


def test_a_dry_run_prints_the_exact_command(
    heatpose: Heatpose, bundle: Path, tmp_path: Path
) -> None:
    ran = heatpose("deploy", bundle, "--target", "stm32n6", "--json", tmp_path / "out.json")
    record = json.loads((tmp_path / "out.json").read_text())
    assert (
        ran.status == 0
        and record["command"] in ran.out
        and "RESIZE_BILINEAR" in ran.out
        and str(bundle / "stm32n6") in ran.out
    )


def test_mp1_needs_no_conversion(heatpose: Heatpose, bundle: Path) -> None:
    ran = heatpose("deploy", bundle, "--target", "stm32mp1")
    assert ran.status == 0 and "No conversion" in ran.out


def test_a_board_of_ones_own(heatpose: Heatpose, bundle: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.yaml"
    board.write_text(
        built_in()["stm32n6"]
        .read_text()
        .replace("name: stm32n6\n", "name: mine\n")
        .replace("estimator: n6_core_4.0", "estimator: null #")
    )
    assert (
        heatpose("deploy", bundle, "--target", board).status == 0
        and (bundle / "mine/mine.mpool").is_file()
    )
    _refused(heatpose("deploy", bundle, "--target", "mine"), "stm32n6")


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_a_build(heatpose: Heatpose, bundle: Path, install: Install, tmp_path: Path) -> None:
    ran = heatpose(
        "deploy",
        bundle,
        "--target",
        "stm32n6",
        "--run",
        "--tool",
        install(),
        "--board",
        "serial:921600",
        "--json",
        tmp_path / "out.json",
    )
    result = json.loads((tmp_path / "out.json").read_text())
    assert ran.status == 0 and result["status"] == "validated" and result["ms"] == 18.44
    assert (
        "71 hardware, 4 software" in ran.out
        and "DequantizeLinear" in ran.out
        and "18.440 ms" in ran.out
    )
    assert (
        "cosine 0.99" in ran.out
        and str(bundle / "stm32n6") in ran.out.replace("\n", "")
        and "tool_output/" in ran.out
    )


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_a_failed_build_ends_with_its_sentence_and_the_log(
    heatpose: Heatpose, bundle: Path, install: Install
) -> None:
    ran = heatpose(
        "deploy", bundle, "--target", "stm32n6", "--run", "--tool", install(mode="E103_2")
    )
    _refused(ran, "3211264 bytes", "stedgeai.log")
    assert "failed" in ran.out


def test_import(heatpose: Heatpose, bundle: Path, tmp_path: Path) -> None:
    content = st_reports.c_info()
    content["environment"]["tools"][0]["input_model"]["name"] = "pose_64_int8_pc"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/network_c_info.json").write_text(json.dumps(content))
    ran = heatpose("deploy", bundle, "--target", "stm32n6", "--import", tmp_path / "in")
    assert ran.status == 0 and "imported" in ran.out and (bundle / "stm32n6/result.json").is_file()


@pytest.mark.parametrize(
    "options",
    [
        ["--run", "--import", "x"],
        ["--board", "serial:1"],
        ["--tool", "x"],
        ["--time-limit", "5"],
        ["--run", "--time-limit=0"],
    ],
)
def test_options_that_do_not_go_together(
    heatpose: Heatpose, bundle: Path, options: list[str]
) -> None:
    assert heatpose("deploy", bundle, "--target", "stm32n6", *options).status == 2


def test_refusals(heatpose: Heatpose, bundle: Path, tmp_path: Path) -> None:
    _refused(heatpose("deploy", tmp_path, "--target", "stm32n6"), "not a bundle")
    _refused(heatpose("deploy", bundle, "--target", "stm32mp1", "--run"), "leave out --run")
    _refused(
        heatpose("deploy", bundle, "--target", "stm32n6", "--run", "--tool", tmp_path / "none"),
        "neither stedgeai",
    )


def test_estimates(
    heatpose: Heatpose, tflite_files: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = tflite_files["int8_pc"]
    for target in ("stm32n6", "stm32mp2", "stm32mp1"):
        ran = heatpose("estimate", model, "--target", target, "--json", tmp_path / "out.json")
        content = json.loads((tmp_path / "out.json").read_text())
        assert (
            ran.status == 0
            and content["target"] == target
            and content["ms"]["low"] < content["ms"]["value"] < content["ms"]["high"]
        )
        assert content["extrapolates"] and "Extrapolation" in ran.out  # a very small network
    ran = heatpose("estimate", tiny_checkpoint, "--target", "stm32n6", "--profile", "n6_core_2.0")
    assert ran.status == 0 and "Core 2.0.0" in ran.out
    _refused(heatpose("estimate", model, "--target", "stm32n6", "--profile", "n7"), "n6_core_4.0")
    _refused(heatpose("estimate", tmp_path / "x.onnx", "--target", "stm32n6"), "ONNX")
    _refused(heatpose("estimate", tmp_path / "x.tflite", "--target", "stm32n6"), "x.tflite")


def test_inspect_with_a_target(
    heatpose: Heatpose, tflite_files: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    ran = heatpose(
        "inspect", tflite_files["int8_pc"], "--target", "stm32mp2", "--json", tmp_path / "out.json"
    )
    rules = [
        finding["rule"] for finding in json.loads((tmp_path / "out.json").read_text())["findings"]
    ]
    assert ran.status == 0 and "target_granularity" in rules and "GPU" in ran.out
    _refused(heatpose("inspect", tiny_checkpoint, "--target", "stm32n6"), "not a TFLite")


@pytest.mark.parametrize("target", ["stm32n6", "nucleo_n657x0", "stm32mp2", "stm32mp1"])
def test_a_bare_file_gives_the_same_package(
    heatpose: Heatpose, bundle: Path, tflite_files: dict[str, Path], tmp_path: Path, target: str
) -> None:
    name = "int8_pt" if target == "stm32mp2" else "int8_pc"
    bare = tmp_path / "other" / f"pose_64_{name}.tflite"
    bare.parent.mkdir()
    bare.write_bytes(tflite_files[name].read_bytes())
    ran = heatpose("deploy", bare, "--target", target)
    assert (
        ran.status == 0
        and "Assumed: Keypoints are those of" in ran.out
        and "score threshold" in ran.out
    )
    assert heatpose("deploy", bundle, "--target", target).status == 0
    made, wanted = bare.with_suffix("") / target, bundle / target
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert names == {p.relative_to(wanted).as_posix() for p in wanted.rglob("*") if p.is_file()}
    assert "Assumed, because the file does not state it" in (made / "README.md").read_text()
    inside = heatpose("deploy", bundle / bare.name, "--target", target)  # a file of a bundle
    assert inside.status == 0 and "Keypoints are those of" not in inside.out


def test_estimate_and_inspect_take_a_bundle(
    heatpose: Heatpose, bundle: Path, tmp_path: Path
) -> None:
    ran = heatpose("estimate", bundle, "--target", "stm32mp2")
    assert ran.status == 0 and "pose_64_int8_pt.tflite" in ran.out
    ran = heatpose("inspect", bundle, "--target", "stm32n6")
    assert ran.status == 0 and "pose_64_int8_pc.tflite" in ran.out and "RESIZE_BILINEAR" in ran.out
    assert heatpose("inspect", bundle).status == 0
    _refused(heatpose("estimate", tmp_path, "--target", "stm32n6"), "not a bundle", ".tflite")


def test_estimates_of_other_files_print_their_assumptions(
    heatpose: Heatpose, tflite_files: dict[str, Path]
) -> None:
    ran = heatpose("estimate", tflite_files["float32"], "--target", "stm32n6")
    assert ran.status == 0 and "not estimated" in ran.out and "Not estimated: not int8" in ran.out
    assert (
        "Assumed: " in ran.out and "0.0" not in ran.out.split("budget")[1].split("one inference")[0]
    )


def test_a_rejected_file_names_the_command_that_repairs(heatpose: Heatpose, bundle: Path) -> None:
    (bundle / "pose_64_int8_pt.tflite").rename(bundle / "pose_64_int8_pt.rejected.tflite")
    _refused(heatpose("deploy", bundle, "--target", "stm32mp2"), "quant=auto", "--allow-rejected")


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_a_pair_that_cannot_build_is_refused_before_the_tool_runs(
    heatpose: Heatpose, bundle: Path, install: Install, tmp_path: Path
) -> None:
    checkout = tmp_path / "app"
    checkout.mkdir()
    (checkout / "Release_Notes.md").write_text("### v2.3.1 / September\n\n### v2.2.0 / January\n")
    older = install("3.0", version="3.0.0")
    call = ["deploy", bundle, "--target", "stm32n6", "--run", "--tool"]
    _refused(heatpose(*call, older, "--app", checkout), "2.3.1 builds with ST Edge AI Core 4.0.0")
    assert not (bundle / "stm32n6/result.json").exists()
    assert heatpose(*call, older, "--app", "2.2.0").status == 0
    assert heatpose(*call, install("4.0", version="4.0.0"), "--app", checkout).status == 0
    newer = heatpose(*call, install("4.0.1", version="4.0.1"))
    assert newer.status == 0 and "No release of STM32N6-GettingStarted-PoseEstimation" in newer.out
    dry = heatpose("deploy", bundle, "--target", "stm32n6")
    assert "2.3 with Core 4.0.0" in dry.out
