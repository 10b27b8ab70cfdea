"""Runs of ST Edge AI Core, by a stand-in that behaves as the real one is known to.

Successes, failures, and their messages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import st_reports

from heatpose.deploy.build import build
from heatpose.deploy.package import DeploymentPackage, write_package
from heatpose.deploy.targets import Budget, load_target
from heatpose.deploy.tool_result import ToolResult, diagnose
from heatpose.errors import HeatposeError
from heatpose.utils.process import Ended

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
Install = Callable[..., Path]
MP2_COMPONENTS = {"STM32CubeAI": "10.2.0", "STM32MP2": "1.0"}


@pytest.fixture
def n6(bundle: Path) -> DeploymentPackage:
    return write_package(bundle, load_target("stm32n6"))


@pytest.fixture
def mp2(bundle: Path) -> DeploymentPackage:
    return write_package(bundle, load_target("stm32mp2"))


def _result(package: DeploymentPackage) -> dict[str, object]:
    content: dict[str, object] = json.loads((package.folder / "result.json").read_text())
    return content


def _failure(built: ToolResult) -> tuple[str, str]:
    assert built.status == "failed" and built.failure is not None
    return built.failure.code, built.failure.sentence


@pytest.mark.parametrize(("version", "made"), [("4.0.0", 10), ("3.0.0", 10), ("2.2.0", 6)])
def test_a_good_build(n6: DeploymentPackage, install: Install, version: str, made: int) -> None:
    built = build(n6, explicit=install(version=version))
    assert (
        built.status == "built"
        and built.exit_status == 0
        and built.failure is None
        and built.warnings == ()
    )
    assert len(built.products) == made and "network_atonbuf.xSPI2.raw" in built.products
    result = _result(n6)
    assert (
        result["ram_internal_kib"] == round(st_reports.RAM / 1024, 2)
        and result["flash_kib"] == st_reports.FLASH / 1024
    )
    assert (
        result["epochs"] == {"hardware": 71, "software": 4, "hybrid": 0}
        and result["ram_external_kib"] == 0
    )
    assert [entry["operator"] for entry in result["software_operators"]] == list(
        st_reports.SOFTWARE.values()
    )  # type: ignore[attr-defined]
    assert result["macc"] == st_reports.MACC  # from the text report, where the json says 0 (3.0)
    assert (
        str(result["tool_version"]).startswith(version)
        and result["model_sha256"] == n6.model.sha256
    )
    assert (n6.folder / "tool_output/network.c").is_file() and not list(n6.folder.rglob("st_ai_ws"))
    assert "EXECUTING NEURAL ART COMPILER" in (n6.folder / "stedgeai.log").read_text()


def test_progress_is_printed_while_it_runs(n6: DeploymentPackage, install: Install) -> None:
    seen: list[tuple[str, int | None]] = []
    build(n6, explicit=install(), progress=lambda line, percent: seen.append((line, percent)))
    percents = [percent for _, percent in seen if percent is not None]
    assert (
        percents == [0, 49, 98]
        and any("DONE EXECUTING" in line for line, _ in seen)
        and not any("PASS" in line for line, _ in seen)
    )


def test_a_fresh_installation_that_asks_is_answered(
    n6: DeploymentPackage, install: Install
) -> None:
    assert build(n6, explicit=install(first_run=True)).status == "built"


def test_a_bad_status_with_a_usable_build_is_a_success_with_a_warning(
    n6: DeploymentPackage, install: Install
) -> None:
    built = build(n6, explicit=install(mode="status"))
    assert (
        built.status == "built"
        and built.exit_status == 255
        and any("status 255" in text for text in built.warnings)
    )


def test_a_good_status_without_a_build_is_a_failure(
    n6: DeploymentPackage, install: Install
) -> None:
    built = build(n6, explicit=install(mode="nothing"))
    code, sentence = _failure(built)
    assert code == "no output" and "reported success" in sentence and built.exit_status == 0
    assert _result(n6)["status"] == "failed"


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("E010_nbg", "E010", "per-tensor"),
        ("E010_number", "E010", "TFLite"),
        ("E010_keras", "E010", "Keras"),
        ("E102_api", "E102", "tool.options"),
        ("E103_2", "E103", "3211264 bytes"),
        ("E103_4", "E103", "heatpose inspect --target"),
        ("E700", "E700", "6405160 bytes"),
        ("tool", "TOOL ERROR", "list index out of range"),
        ("ir_version", "INTERNAL ERROR", "IR version 10"),
        ("malformed", "INTERNAL ERROR", "standard export"),
        ("not_implemented", "NOT IMPLEMENTED", "layer Input_72"),
        ("unknown_code", "E999", "something that no one has seen yet"),
        ("no_words", "unknown", "status 255"),
        ("crash", "signal", "signal 11"),
    ],
)
def test_every_error_is_a_sentence_with_a_remedy(
    n6: DeploymentPackage, install: Install, mode: str, code: str, words: str
) -> None:
    built = build(n6, explicit=install(mode=mode))
    found, sentence = _failure(built)
    assert found == code and words in sentence and sentence.endswith(".") and "{" not in sentence
    failure = _result(n6)["failure"]
    assert (
        isinstance(failure, dict)
        and failure["sentence"] == sentence
        and (n6.folder / "stedgeai.log").read_text().startswith("$ stedgeai generate")
    )


def test_a_hang_is_ended_and_reported(n6: DeploymentPackage, install: Install) -> None:
    start = time.monotonic()
    code, sentence = _failure(build(n6, explicit=install(mode="hang"), time_limit_s=2))
    assert code == "time limit" and "--time-limit" in sentence and time.monotonic() - start < 30
    assert "answer" not in sentence  # the "?" of a progress bar is no question


def test_what_a_hanging_tool_has_started_ends_with_it(
    n6: DeploymentPackage, install: Install
) -> None:
    assert (
        _failure(build(n6, explicit=install(mode="hang_with_child"), time_limit_s=2))[0]
        == "time limit"
    )
    assert not _standing_in()


def test_what_lives_on_after_the_tool_is_not_waited_for(
    n6: DeploymentPackage, install: Install
) -> None:
    start = time.monotonic()
    assert build(n6, explicit=install(mode="leaves_child"), time_limit_s=300).status == "built"
    assert time.monotonic() - start < 60 and not _standing_in()


@pytest.mark.skipif(
    not Path("/proc/self/environ").is_file(), reason="the system does not list its processes there"
)
def test_those_that_live_on_are_seen(tmp_path: Path) -> None:
    (tmp_path / "stand_in.py").write_text("import time; time.sleep(60)")
    with subprocess.Popen([sys.executable, str(tmp_path / "stand_in.py")]) as living:
        while not (found := _standing_in()):
            assert living.poll() is None
        living.kill()
    assert found == {str(living.pid)}


def _standing_in() -> set[str]:
    """Process numbers of this test's stand-ins, where the system lists them.

    Other tests may run beside it.
    """
    found, this = set(), os.environ["PYTEST_CURRENT_TEST"].encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                b"stand_in.py" in (folder / "cmdline").read_bytes()
                and this in (folder / "environ").read_bytes()
            ):
                found.add(folder.name)
        except OSError:
            continue
    return found


def test_a_question_that_is_not_answered_is_quoted(n6: DeploymentPackage, install: Install) -> None:
    _, sentence = _failure(build(n6, explicit=install(mode="asks"), time_limit_s=2))
    assert "Overwrite existing files? [y/n]" in sentence


def test_garbage_in_the_json_leaves_the_text_report(
    n6: DeploymentPackage, install: Install
) -> None:
    built = build(n6, explicit=install(mode="garbage_info"))
    assert built.status == "built" and built.facts.ram_internal == st_reports.RAM
    assert [
        text
        for text in built.warnings
        if text.startswith("'network_c_info.json' is") and "text report" in text
    ]


def test_a_missing_json_leaves_the_text_report(n6: DeploymentPackage, install: Install) -> None:
    built = build(n6, explicit=install(mode="no_info"))
    assert built.status == "built" and built.facts.ram_internal == st_reports.RAM and built.warnings


def test_garbage_everywhere_is_not_a_success(n6: DeploymentPackage, install: Install) -> None:
    assert _failure(build(n6, explicit=install(mode="garbage")))[0] == "unreadable report"


def test_an_unknown_table_of_epochs_costs_nothing_but_itself(
    n6: DeploymentPackage, install: Install
) -> None:
    built = build(n6, explicit=install(mode="unknown_epochs"))
    assert built.status == "built" and built.facts.epochs_sw == 4  # the json has them


def test_the_tools_warnings_are_passed_on(n6: DeploymentPackage, install: Install) -> None:
    warnings = build(n6, explicit=install(mode="warns")).warnings
    assert any("memory_desc" in text for text in warnings) and any(
        "2 tensors are not quantised" in text for text in warnings
    )


def test_a_missing_npu_compiler_is_a_warning(n6: DeploymentPackage, install: Install) -> None:
    assert any("atonn" in text for text in build(n6, explicit=install(compiler=False)).warnings)


def test_a_build_over_the_budget_is_reported(bundle: Path, install: Install) -> None:
    target = replace(load_target("stm32n6"), budget=Budget(ram_kib=1000, flash_kib=2000, ms=10))
    built = build(write_package(bundle, target), explicit=install(), board="serial:921600")
    assert [text.split()[0] for text in built.over_budget] == ["RAM", "Weights", "One"]


def test_a_folder_with_an_accent_works(bundle: Path, install: Install) -> None:
    odd = bundle.with_name("piñata")
    bundle.rename(odd)
    assert build(write_package(odd, load_target("stm32n6")), explicit=install()).status == "built"


def test_a_model_with_an_accent_gets_a_plain_name(bundle: Path, install: Install) -> None:
    (bundle / "pose_64_int8_pc.tflite").rename(bundle / "mañana_int8_pc.tflite")
    package = write_package(bundle, load_target("stm32n6"))
    assert (
        package.model_name == "ma_ana_int8_pc.tflite"
        and build(package, explicit=install()).status == "built"
    )


def test_without_a_profile_the_network_is_built_for_the_processor(
    bundle: Path, install: Install
) -> None:
    built = build(
        write_package(bundle, replace(load_target("stm32n6"), npu=None)), explicit=install()
    )
    assert built.status == "built" and built.facts.epochs_hw is None and built.facts.flash == 492504


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            (
                "terminate called after throwing an instance of 'std::range_error'\n  what(): "
                " wstring_convert::from_bytes\n"
            ),
            "plain ASCII",
        ),
        (
            (
                "E102(CliArgumentError): Validation on host is not supported for devices based on"
                " Arm Cortex M55/M85 core.\n"
            ),
            "--board serial:921600",
        ),
        (
            "E801(HwIOError): No NBG (.nb) file detected… use 'generate' before 'validate'\n",
            "no .nb file",
        ),
        ("PASS:   0%|  | 0/103\r\nE010(InvalidModelError): whatever\n", "not accepted as a model"),
    ],
)
def test_texts_that_a_hand_off_should_not_meet(text: str, words: str) -> None:
    assert words in diagnose(Ended(255, 1.0, text), "x").sentence


def test_a_temporary_folder_with_an_accent_is_refused(
    n6: DeploymentPackage, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tëmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tëmp"))
    with pytest.raises(HeatposeError, match="TMPDIR"):
        build(n6, explicit=install())


def test_validation_on_a_board_adds_the_time_and_keeps_the_sizes(
    n6: DeploymentPackage, install: Install
) -> None:
    built = build(n6, explicit=install(), board="serial:921600")
    assert built.status == "validated" and built.facts.ms == 18.44 and built.facts.cosine == 0.9998
    assert (
        built.facts.ram_internal == st_reports.RAM
        and built.facts.epochs_sw == 4
        and "STM32N6" in str(built.facts.device)
    )
    assert {"network_build_c_info.json", "network_validate_report.txt"} <= set(built.products)


@pytest.mark.parametrize(
    ("mode", "words"), [("no_board", "cable"), ("wrong_firmware", "n6_loader.py")]
)
def test_a_board_that_does_not_answer_leaves_the_build(
    n6: DeploymentPackage, install: Install, mode: str, words: str
) -> None:
    built = build(n6, explicit=install(mode=mode), board="serial:921600")
    assert (
        built.status == "built"
        and built.facts.ram_internal == st_reports.RAM
        and built.failure is not None
    )
    assert words in built.failure.sentence and any(words in text for text in built.warnings)


def test_a_board_that_hangs_is_left(n6: DeploymentPackage, install: Install) -> None:
    built = build(n6, explicit=install(mode="board_hangs"), board="serial:921600", time_limit_s=3)
    assert built.status == "built" and built.facts.ram_internal == st_reports.RAM
    assert built.failure is not None and built.failure.code == "time limit"


def test_a_garbled_validation_leaves_the_build(n6: DeploymentPackage, install: Install) -> None:
    built = build(n6, explicit=install(mode="garbage_validation"), board="serial:921600")
    assert (
        built.status == "built"
        and built.facts.ram_internal == st_reports.RAM
        and built.facts.ms is None
    )
    assert built.failure is not None


def test_a_tool_caught_in_a_loop_fills_neither_memory_nor_disk(
    n6: DeploymentPackage, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatpose.utils.process.MOST_LOG", 1_000_000)
    built = build(n6, explicit=install(mode="flood"))  # 46 MB
    assert built.failure is not None and built.failure.code == "E103"  # what was said last
    assert (n6.folder / "stedgeai.log").stat().st_size < 2_000_000


def test_words_in_another_code_page_hide_no_error(n6: DeploymentPackage, install: Install) -> None:
    assert _failure(build(n6, explicit=install(mode="latin")))[0] == "E700"


@pytest.mark.parametrize("mode", ["", "own_folder", "status"])
def test_a_build_for_mp2_is_checked_by_its_file(
    mp2: DeploymentPackage, install: Install, mode: str
) -> None:
    built = build(mp2, explicit=install(version="2.2.0", components=MP2_COMPONENTS, mode=mode))
    assert built.status == "built" and built.products == ("pose_64_int8_pt.nb",)
    assert (mp2.folder / "tool_output/pose_64_int8_pt.nb").stat().st_size > 2000 and str(
        built.facts.tool_version
    ).startswith("2.2.0")


@pytest.mark.parametrize(("mode", "code"), [("empty_product", "no output"), ("E010_nbg", "E010")])
def test_failures_for_mp2(mp2: DeploymentPackage, install: Install, mode: str, code: str) -> None:
    assert (
        _failure(
            build(mp2, explicit=install(version="2.2.0", components=MP2_COMPONENTS, mode=mode))
        )[0]
        == code
    )


def test_mp1_needs_no_tool(bundle: Path, install: Install) -> None:
    with pytest.raises(HeatposeError, match="leave out --run"):
        build(write_package(bundle, load_target("stm32mp1")), explicit=install())


def test_results_stay_when_the_same_model_is_handed_over_again(
    n6: DeploymentPackage, bundle: Path, install: Install
) -> None:
    build(n6, explicit=install())
    again = write_package(bundle, load_target("stm32n6"))
    assert (
        _result(again)["status"] == "built" and (again.folder / "tool_output/network.c").is_file()
    )
    assert os.listdir(bundle) and not [
        path for path in bundle.iterdir() if path.name.startswith(".")
    ]
