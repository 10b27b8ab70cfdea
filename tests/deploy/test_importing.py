"""Results of a run made elsewhere."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import st_reports

from heatpose.deploy.build import import_results
from heatpose.deploy.package import DeploymentPackage, write_package
from heatpose.deploy.targets import load_target
from heatpose.errors import HeatposeError


@pytest.fixture
def n6(bundle: Path) -> DeploymentPackage:
    return write_package(bundle, load_target("stm32n6"))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A tool's output folder for the model `pose_64_int8_pc`."""
    folder = tmp_path / "elsewhere/st_ai_output"
    folder.mkdir(parents=True)
    content = st_reports.c_info()
    content["environment"]["tools"][0]["input_model"]["name"] = "pose_64_int8_pc"
    (folder / "network_c_info.json").write_text(json.dumps(content))
    (folder / "network.c").write_text("/* */")
    (folder / "st_ai_ws").mkdir()
    (folder / "st_ai_ws/c_info.json").write_text("{}")
    return folder


def test_a_folder(n6: DeploymentPackage, output: Path) -> None:
    imported = import_results(n6, output)
    result = json.loads((n6.folder / "result.json").read_text())
    assert (
        imported.status == result["status"] == "imported"
        and result["flash_kib"] == st_reports.FLASH / 1024
        and result["model_sha256"] == n6.model.sha256
    )
    assert (n6.folder / "tool_output/network.c").is_file() and not (
        n6.folder / "tool_output/st_ai_ws"
    ).exists()
    again = import_results(n6, n6.folder / "tool_output")  # its own folder
    assert again.facts == imported.facts and (n6.folder / "tool_output/network.c").is_file()


def test_a_build_with_its_validation(n6: DeploymentPackage, output: Path) -> None:
    (output / "network_c_info_valid.json").write_text(json.dumps(st_reports.validation_c_info()))
    (output / "console.log").write_text(
        f"ST Edge AI Core v4.0.0-20500 359356bb0\n{st_reports.validate_report()}"
    )
    imported = import_results(n6, output.parent)
    assert imported.facts.ms == 18.44 and imported.facts.ram_internal == st_reports.RAM
    assert "duration" in (n6.folder / "stedgeai.log").read_text()


def test_an_archive(n6: DeploymentPackage, output: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "download.zip", "w") as archive:
        archive.write(output / "network_c_info.json", "job/network_c_info.json")
    assert import_results(n6, tmp_path / "download.zip").facts.ram_internal == st_reports.RAM


def test_a_clouds_benchmark_of_a_linux_board(bundle: Path, tmp_path: Path) -> None:
    mp2 = write_package(bundle, load_target("stm32mp2"))
    answer = {
        "board": "STM32MP257F-EV1",
        "exec_time": {"duration_ms": 8.2, "npu_percent": 82.1},
        "tool_version": "2.2.0",
        "model_size": 1,
        "ram_peak": 2,
    }
    (tmp_path / "in").mkdir()
    (tmp_path / "in/benchmark.json").write_text(json.dumps({"benchmark": answer}))
    (tmp_path / "in/pose_64_int8_pt.nb").write_bytes(b"VPMN")
    imported = import_results(mp2, tmp_path / "in")
    assert (imported.facts.ms, imported.facts.device, imported.facts.tool_version) == (
        8.2,
        "STM32MP257F-EV1",
        "2.2.0",
    )
    assert imported.products == ("benchmark.json", "pose_64_int8_pt.nb") and any(
        "do not name their model" in text for text in imported.warnings
    )


def test_a_clouds_benchmark_of_a_microcontroller(n6: DeploymentPackage, tmp_path: Path) -> None:
    content = st_reports.c_info()
    content["environment"]["tools"][0]["input_model"]["name"] = "pose_64_int8_pc"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/answer.json").write_text(
        json.dumps({"benchmark": {"info": content, "report": {}}})
    )
    assert import_results(n6, tmp_path / "in").facts.ram_internal == st_reports.RAM


def test_refusals(n6: DeploymentPackage, output: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../outside.json", "{}")
    for source, words in (
        ("absent", "neither a folder"),
        ("empty", "no result"),
        ("text.zip", "a zip archive"),
        ("evil.zip", "outside the archive"),
    ):
        with pytest.raises(HeatposeError, match=words):
            import_results(n6, tmp_path / source)
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed/stedgeai.log").write_text("ST Edge AI Core v4.0.0-20500 359356bb0\n")
    with pytest.raises(HeatposeError, match="holds no result"):
        import_results(n6, tmp_path / "failed")
    (tmp_path / "failed/stedgeai.log").write_text(
        "ST Edge AI Core v4.0.0-20500 359356bb0\nE103(CliRuntimeError): Error calling the Neural"
        " Art compiler\n"
    )
    with pytest.raises(HeatposeError, match="run that failed: The NPU's compiler failed"):
        import_results(n6, tmp_path / "failed")
    # of the model `pose_192`
    (output / "network_c_info.json").write_text(json.dumps(st_reports.c_info()))
    with pytest.raises(HeatposeError, match="'pose_192'.*'pose_64_int8_pc'"):
        import_results(n6, output)
    assert not (n6.folder / "result.json").exists()
