"""What is read from reports: formats written out here, and real ones where they are at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import st_reports

from heatpose.deploy.reports import (
    Facts,
    ReportError,
    SoftwareOperator,
    facts_in,
    merged,
    read_c_info,
    read_text_report,
)

SOFTWARE = tuple(
    SoftwareOperator(f"epoch_{number}", operator)
    for number, operator in st_reports.SOFTWARE.items()
)


def _c_info(tmp_path: Path, content: object) -> Facts:
    path = tmp_path / "network_c_info.json"
    path.write_text(json.dumps(content))
    return read_c_info(path)


def test_c_info_of_an_npu_build(tmp_path: Path) -> None:
    facts = _c_info(tmp_path, st_reports.c_info())
    assert (facts.ram_internal, facts.ram_external, facts.flash) == (
        st_reports.RAM,
        0,
        st_reports.FLASH,
    )
    assert (facts.epochs_hw, facts.epochs_sw, facts.epochs_hybrid) == (
        71,
        4,
        0,
    ) and facts.software == SOFTWARE
    assert (
        facts.macc == st_reports.MACC
        and facts.tool_version == "4.0.0-20500 359356bb0"
        and facts.compiler_version == "1.1.3-262"
    )
    assert facts.runtime_flash is None and facts.ms is None and facts.declares_sizes()
    # without the virtual one
    assert facts.pools is not None and {pool.name for pool in facts.pools} == set(st_reports.POOLS)
    flash = next(pool for pool in facts.pools if pool.name == "octoFlash")
    assert flash.address == 0x70380000 and flash.external and not flash.writable


def test_c_info_with_external_ram_zero_macc_and_hybrid_epochs(tmp_path: Path) -> None:
    content = st_reports.c_info(macc=0, spilled=4096)
    content["graphs"][0]["nodes"][2]["subgraph_nodes"].append(
        {"name": "Gather_3", "type": "Gather", "mapping": "NODE_SW_FLOAT"}
    )
    facts = _c_info(tmp_path, content)
    assert facts.ram_external == 4096 and facts.macc is None
    assert facts.epochs_hybrid == 1 and facts.epochs_hw == 70 and facts.software is not None
    assert SoftwareOperator("epoch_2", "Gather") in facts.software


def test_c_info_of_a_processor_build_and_of_a_validation(tmp_path: Path) -> None:
    facts = _c_info(tmp_path, st_reports.processor_c_info())
    assert (facts.ram_internal, facts.ram_external, facts.flash, facts.macc) == (
        23936,
        None,
        492504,
        5345,
    )
    assert (facts.runtime_flash, facts.runtime_ram, facts.epochs_hw) == (10846, 1984, None)
    measured = _c_info(tmp_path, st_reports.validation_c_info(18.5))
    assert (measured.ms, measured.rmse, measured.cosine) == (
        18.5,
        0.0012,
        0.9998,
    ) and not measured.declares_sizes()
    assert "STM32N6" in str(measured.device)
    both = merged([facts, measured])
    assert both.ms == 18.5 and both.flash == 492504


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"json_schema_version": "3.0"},
        {"json_schema_version": "2.0", "memory_footprint": {"activations": "x"}},
        3,
    ],
)
def test_garbage_for_c_info(tmp_path: Path, content: object) -> None:
    with pytest.raises(ReportError, match="network_c_info"):
        _c_info(tmp_path, content)


def test_no_json_at_all(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\x80\xff{")
    for name in ("x.json", "none.json"):
        with pytest.raises(ReportError, match=name):
            read_c_info(tmp_path / name)


@pytest.mark.parametrize(
    ("generation", "version"),
    [
        ("old", "2.2.0-20266 2adc00962"),
        ("new", "3.0.0-20426 123672867"),
        ("blobs", "4.0.0-20500 359356bb0"),
    ],
)
def test_text_report_of_an_npu_build(tmp_path: Path, generation: str, version: str) -> None:
    path = tmp_path / "network_generate_report.txt"
    path.write_text(st_reports.report(generation, version))
    facts = read_text_report(path)
    assert (
        facts.tool_version == version
        and facts.macc == st_reports.MACC
        and facts.model == "pose_192"
    )
    assert (facts.epochs_hw, facts.epochs_sw, facts.epochs_hybrid) == (
        71,
        4,
        0,
    ) and facts.software == SOFTWARE
    assert (facts.ram_internal, facts.ram_external) == (st_reports.RAM, 0)
    # printed as MB with three decimals
    assert facts.flash == pytest.approx(st_reports.FLASH, abs=1024**2 / 2000 + 1)
    assert (facts.runtime_flash, facts.runtime_ram) == (18531, 13)


def test_units_are_1024_based() -> None:
    row = (
        "\tnpuRAM5    [0x342E0000 - 0x34350000]:    240.000 kB /    448.000 kB  ( 53.57 % used) --"
        " weights:          0  B (  0.00 % used)  "
    )
    assert facts_in(row + "activations:    240.000 kB ( 53.57 % used)").ram_internal == 245760


def test_an_unknown_table_of_epochs_is_not_guessed_at() -> None:
    facts = facts_in(st_reports.report("unknown", "5.0.0-1 abcdef0"))
    assert (
        facts.epochs_hw is None
        and facts.epochs_sw is None
        and facts.software is None
        and facts.ram_internal == st_reports.RAM
    )


def test_text_report_of_a_processor_build_and_of_a_validation() -> None:
    facts = facts_in(st_reports.processor_report())
    assert (facts.ram_internal, facts.flash, facts.macc, facts.epochs_hw) == (
        24960,
        492504,
        5345,
        None,
    )
    measured = facts_in(st_reports.validate_report())
    assert (measured.ms, measured.rmse, measured.cosine) == (18.44, 0.0012, 0.9998)
    assert measured.device == "stm32 family - 0x486 - STM32N6xx @800/400MHz"


def test_a_log_of_cubemx_with_carriage_returns_reads_the_same() -> None:
    lines = st_reports.report("old", "2.2.0-20266 2adc00962").split("\n")
    logged = "\r\n".join(f"2026-06-16 21:38:16,976 [INFO] CmdLine:76 - {line}" for line in lines)
    assert facts_in(logged) == facts_in("\n".join(lines))


def test_a_report_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_bytes(b"\xff\xfe nothing \x00 here")
    with pytest.raises(ReportError, match="not a report"):
        read_text_report(tmp_path / "report.txt")
    with pytest.raises(ReportError, match="cannot be read"):
        read_text_report(tmp_path / "absent.txt")


# Real files.


@pytest.fixture(scope="module")
def samples(shared: Path) -> Path:
    folder = shared / "reference/stedgeai_samples"
    if not folder.is_dir():
        pytest.skip("no sample reports")
    return folder


def test_both_files_of_a_real_core_3_0_build_agree(samples: Path) -> None:
    folder = samples / "n6_npu_core3.0_mobilenetv2"
    exact, printed = (
        read_c_info(folder / "network_c_info.json"),
        read_text_report(folder / "network_generate_report.txt"),
    )
    assert (exact.ram_internal, exact.flash, exact.epochs_hw, exact.epochs_sw) == (
        245760,
        212609,
        55,
        1,
    )
    assert exact.software == printed.software == (SoftwareOperator("epoch_56", "Softmax"),)
    assert (printed.ram_internal, printed.flash, printed.epochs_hw) == (
        245760,
        212609,
        55,
    ) and printed.macc == 22464344


def test_real_core_2_2_console_and_validation(samples: Path) -> None:
    console = read_text_report(samples / "n6_cubemx_console/mobilenet_v2_224.txt")
    assert console.ram_internal == 2107392 and console.epochs_sw == 3 and console.ms == 20.694
    assert console.software is not None and [entry.operator for entry in console.software] == [
        "DequantizeLinear",
        "GlobalAveragePool",
        "QuantizeLinear",
    ]
    folder = samples / "n6_target_validate_core2.2/Conv2d_16f_3x3"
    measured = read_c_info(folder / "network_c_info.json")
    assert (
        measured.ms == pytest.approx(0.0793, abs=1e-4)
        and read_text_report(folder / "network_validate_report.txt").ms == 0.079
    )


def test_real_core_4_builds(samples: Path) -> None:
    blobs = read_text_report(
        samples / "n6_devcloud/core4.0_conv2d_32f_7x7_epochController_report.txt"
    )
    assert (blobs.epochs_hw, blobs.epochs_sw, blobs.ram_internal, blobs.flash, blobs.macc) == (
        5,
        0,
        1585152,
        4704,
        19660800,
    )
    audio = read_text_report(samples / "n6_npu_core4.0.1_stt/g800_st_summary.txt")
    assert (audio.epochs_hw, audio.ram_internal) == (618, 925 * 1024)
    processor = read_c_info(samples / "packetqc/network_c_info.json")
    assert (processor.ram_internal, processor.flash) == (23936, 492504)
