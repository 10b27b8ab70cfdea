"""Estimates: counted features, error of the shipped coefficients, and extrapolation notes."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from heatpose.deploy.estimate import (
    Estimate,
    Interval,
    check_budget,
    estimate,
    network_estimate,
    profiles,
)
from heatpose.deploy.features import features_of
from heatpose.deploy.network_graph import graph_of_network
from heatpose.deploy.targets import Budget, load_target
from heatpose.errors import HeatposeError
from heatpose.models.movenet import MoveNet
from heatpose.tflite.reader import read_graph
from tests.conftest import load_module

N6, MP2, MP1 = (load_target(name) for name in ("stm32n6", "stm32mp2", "stm32mp1"))


@pytest.fixture(scope="module")
def fitting() -> ModuleType:
    """benchmarks/fit_estimator.py as a module."""
    return load_module(Path(__file__).parents[2] / "benchmarks/fit_estimator.py")


def _expected(
    width: float = 1.0,
    size: int = 192,
    keypoints: int = 13,
    profile: str | None = None,
    target: object = N6,
) -> Estimate:
    assert target in (N6, MP2, MP1)
    return estimate(graph_of_network(MoveNet(keypoints, width), size), target, profile)  # type: ignore[arg-type]


# What is counted.


def test_features_of_a_file_counted_by_hand(tflite_files: dict[str, Path]) -> None:
    features = features_of(read_graph(tflite_files["int8_out"]))
    side, half, quarter, eighth = 64 * 64, 32 * 32, 16 * 16, 8 * 8
    convolutions = (
        half * 27 * 8
        + quarter * 72 * 8
        + eighth * 9 * 8
        + eighth * 8 * 12
        + quarter * 8 * 12
        + quarter * 12 * 13
    )
    assert features.macs == convolutions == features.macs_power_of_two and features.macs_other == 0
    assert features.resized == quarter * 12 and features.softmax == 0 and features.inference == 1
    assert features.largest == side * 3  # the image
    read_and_written = (
        2 * side * 3  # quantise
        # stem, second, depthwise, project
        + side * 3
        + half * 8
        + half * 8
        + quarter * 8
        + quarter * 8
        + eighth * 8
        + eighth * 8
        + eighth * 12
        # lateral, sum, head, sigmoid
        + quarter * 8
        + quarter * 12
        + 3 * quarter * 12
        + quarter * 12
        + quarter * 13
        + 2 * quarter * 13
    )
    assert features.traffic == read_and_written


@pytest.mark.parametrize("keypoints", [13, 17])
def test_a_network_counts_as_its_file_will(shared: Path, keypoints: int) -> None:
    """Against Google's own int8 file, whose graph is this network's with four heads and a decode.

    The backbone and pyramid agree.
    """
    path = shared / "models/movenet_singlepose_lightning_int8_4.tflite"
    if not path.is_file():
        pytest.skip("the MoveNet file is not there")
    real, own = read_graph(path), graph_of_network(MoveNet(keypoints, norm=False), 192)

    def convolutions(graph: object) -> list[tuple[str, tuple[int, ...]]]:
        return [
            (o.name, graph.tensors[o.inputs[1]].shape) for o in graph.operators if "CONV" in o.name
        ]  # type: ignore[attr-defined]

    count = len(convolutions(own)) - 3  # without the head
    theirs = convolutions(real)
    assert count > 60 and sum(entry in theirs for entry in convolutions(own)[:count]) == count
    assert features_of(own).resized == features_of(real).resized


def test_a_training_network_is_left_as_it_was() -> None:
    network = MoveNet(13, 0.35).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    graph_of_network(network, 64)
    assert network.training and all(
        torch.equal(value, before[name]) for name, value in network.state_dict().items()
    )
    assert not any(module._forward_hooks for module in network.modules())


# What the coefficients are worth.


@pytest.mark.slow
def test_the_shipped_coefficients_are_those_of_the_rows(fitting: ModuleType) -> None:
    fresh = fitting.coefficients()["profiles"]
    assert fresh.keys() == profiles().keys()
    for name, profile in fresh.items():
        shipped = profiles()[name]
        assert profile["rows"] == shipped["rows"]
        for what in ("ms", "ram_kib", "peak_kib", "flash_kib"):
            if profile.get(what):
                fitted = profile[what].get("coefficients", {})  # RAM is planned, not fitted
                assert fitted == pytest.approx(shipped[what].get("coefficients", {}), rel=1e-3)
                assert profile[what]["left_out_percent"] == pytest.approx(
                    shipped[what]["left_out_percent"], abs=0.05
                )


@pytest.mark.slow
def test_left_out_errors_by_another_solver(fitting: ModuleType) -> None:
    """Multiplicative updates instead of trying all subsets.

    Another way to the same non-negative least squares.
    """
    rows = [
        *fitting.own_rows("2.0.0"),
        *fitting.published_rows(lambda row: row.n6_ms if row.n6_stedgeai_core == "2.0.0" else None),
    ]
    assert len(rows) == 12
    matrix = np.array([[row.features.of(name) / row.ms for name in fitting.TIME] for row in rows])
    matrix /= matrix.max(0)
    for left in (0, 4, 8, 11):
        kept = np.delete(matrix, left, 0)
        solution = np.ones(matrix.shape[1])
        for _ in range(200_000):
            solution *= (kept.T @ np.ones(11)) / (kept.T @ (kept @ solution) + 1e-300)
        error = (matrix[left] @ solution - 1) * 100
        assert error == pytest.approx(
            profiles()["n6_core_2.0"]["ms"]["left_out_percent"][rows[left].name], abs=0.15
        )


def test_the_errors_that_are_promised() -> None:
    for name in ("n6_core_2.0", "n6_core_4.0"):
        ms = profiles()[name]["ms"]
        assert ms["left_out_max_percent"] <= 10 and ms["left_out_max_percent_movenet"] <= 3
        assert (
            ms["left_out_max_percent"]
            == max(abs(error) for error in ms["left_out_percent"].values())
            and len(ms["left_out_percent"]) >= 11
        )
    assert profiles()["n6_core_4.0"]["ram_kib"]["left_out_max_percent"] <= 6


@pytest.mark.parametrize(
    ("profile", "size", "keypoints", "ms", "ram", "flash"),
    [
        ("n6_core_2.0", 192, 13, 18.44, 1674, 3036.17),
        ("n6_core_2.0", 224, 17, 22.33, 2058, 3088.56),
        ("n6_core_2.0", 256, 17, 27.01, 2360, 3141.36),
    ],
)
def test_published_networks_lie_in_their_intervals(
    profile: str, size: int, keypoints: int, ms: float, ram: float, flash: float
) -> None:
    expected = _expected(size=size, keypoints=keypoints, profile=profile)
    assert not expected.extrapolates and expected.ms and expected.ram_kib and expected.flash_kib
    for interval, published in (
        (expected.ms, ms),
        (expected.ram_kib, ram),
        (expected.flash_kib, flash),
    ):
        assert (
            interval.low <= published <= interval.high
            and interval.low < interval.value < interval.high
        )


def test_newer_core_without_a_softmax_spans_both_explanations() -> None:
    plain, ending = (
        graph_of_network(MoveNet(17), 192, output="int8", ending=end)
        for end in ("LOGISTIC", "SOFTMAX")
    )  # type: ignore[arg-type]
    without, published = estimate(plain, N6), estimate(ending, N6)
    assert published.ms and published.ms.low <= 22.17 <= published.ms.high
    assert published.peak_kib and published.peak_kib.low <= 914.88 <= published.peak_kib.high
    assert (
        without.ms
        and without.ms.value < published.ms.low
        and without.ms.high > 22
        and any("softmax" in note for note in without.notes)
    )


def test_larger_networks_take_more() -> None:
    small, large = _expected(0.5, 192), _expected(1.0, 256)
    assert (
        small.ms
        and large.ms
        and small.ram_kib
        and large.ram_kib
        and small.flash_kib
        and large.flash_kib
    )
    assert (
        small.ms.high < large.ms.low
        and small.ram_kib.value < large.ram_kib.value
        and small.flash_kib.value < large.flash_kib.value
    )


# When they do not apply.


def test_outside_the_rows_the_interval_is_wider_with_a_note() -> None:
    expected = _expected(0.25)
    assert expected.extrapolates and any("weights" in text for text in expected.outside)
    assert expected.flash_kib and expected.flash_kib.high >= 1.25 * expected.flash_kib.value
    huge = _expected(1.4, 320)
    assert (
        any("(time)" in text for text in huge.outside)
        and huge.ms
        and huge.ms.high / huge.ms.value >= 1.25
    )


@pytest.mark.parametrize(
    ("artefact", "words"), [("float32", "Not estimated: not int8"), ("int8_pt", "per tensor")]
)
def test_what_no_row_is_of_gets_no_numbers(
    tflite_files: dict[str, Path], artefact: str, words: str
) -> None:
    expected = estimate(read_graph(tflite_files[artefact]), N6)
    assert expected.outside[0].startswith("Not estimated") and words in expected.outside[0]
    assert expected.ms is expected.ram_kib is expected.flash_kib is expected.peak_kib is None


def test_a_network_of_another_family_gets_no_numbers(tflite_files: dict[str, Path]) -> None:
    graph = read_graph(tflite_files["int8_pc"])
    foreign = [replace(o, name="MUL") if o.name == "CONV_2D" else o for o in graph.operators]
    expected = estimate(replace(graph, operators=tuple(foreign)), N6)
    assert "Not estimated: operators of no published network" in expected.outside[0]
    assert expected.ms is None and expected.ram_kib is None and expected.extrapolates


# Published rows.


def _registry() -> list[dict[str, str]]:
    text = (resources.files("heatpose.deploy") / "rows.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.parametrize(
    ("source", "numbers", "core"),
    [
        (
            "a100_heatmaps",
            [("192", "", "22.17"), ("224", "", "27.00"), ("256", "", "34.16")],
            "4.0.0",
        ),
        ("13 keypoints", [("192", "3036.17", "")], "2.2.0"),
        ("for the DK ST 13", [("192", "2580", "18")], "4.0.0"),
        ("user's build", [("256", "2702", "")], "3.0.0"),
        ("on STM32N6570-DK", [("192", "", "18")], "4.0.0"),
        ("SPI display", [("192", "", "18")], "4.0.0"),
        ("UVC display", [("192", "", "14")], "4.0.0"),
        (
            "model zoo re-identification",
            [
                ("256x128", "2786.52", "13.37"),
                ("256x128", "553.58", "4.15"),
                ("256x128", "404.9", "3.53"),
                ("256x128", "2375.33", "13.44"),
            ],
            "3.0.0",
        ),
    ],
)
def test_the_registry_has_every_published_row_with_source_and_version(
    source: str, numbers: list[tuple[str, str, str]], core: str
) -> None:
    rows = [
        row for row in _registry() if source in row["source"] and row["n6_stedgeai_core"] == core
    ]
    for size, flash, ms in numbers:
        same = [row for row in rows if row["resolution"] == size and row["n6_ms"] == ms]
        assert [row for row in same if flash in ("", row["n6_flash_kib"])], (size, flash, ms)
    assert all(row["ref"] and row["scheduler"] in ("alternative", "automatic") for row in rows)


def _built(row: dict[str, str], fitting: ModuleType) -> Estimate:
    profile = {"alternative": "n6_core_2.0", "automatic": "n6_core_4.0"}[row["scheduler"]]
    name = fitting._own_row(row).name
    return estimate(fitting.GRAPHS[name], load_target(row["board"]), profile)


@pytest.mark.slow
def test_rows_that_were_not_fitted_are_within_their_promise_or_their_interval(
    fitting: ModuleType,
) -> None:
    """10 % in RAM and flash, 5 % in time; what is missed lies inside its interval."""
    missed = []
    for row in _registry():
        if row["use"] != "held-out":
            continue
        expected, board = _built(row, fitting), row["memory"] == "board"
        for key, interval, limit in (
            ("n6_ram_kib", expected.ram_kib if board else None, 0.1),
            ("n6_flash_kib", expected.flash_kib if board else None, 0.1),
            ("n6_ms", expected.ms, 0.05),
        ):
            if not row[key] or interval is None:
                continue
            real = float(row[key])
            assert interval.low - 0.01 <= real <= interval.high + 0.01, (
                row["source"],
                key,
                interval,
            )
            if abs(interval.value / real - 1) > limit:
                missed.append((row["source"], key))
    assert missed == [("ST application 2.3 on NUCLEO-N657X0-Q with UVC display", "n6_ms")]


def test_a_published_time_that_is_missed_widens_the_interval_of_its_board() -> None:
    """ST's application took 14 ms on the NUCLEO by USB."""
    graph = graph_of_network(MoveNet(13), 192, output="int8")
    kit, nucleo = (estimate(graph, load_target(name)) for name in ("stm32n6", "nucleo_n657x0"))
    assert kit.ms and nucleo.ms and kit.ms.value == nucleo.ms.value
    assert nucleo.ms.low <= 14.01 < kit.ms.low
    assert any("NUCLEO" in note for note in nucleo.notes) and "NUCLEO" not in "".join(kit.notes)


def test_flash_of_generated_code_counted_by_hand() -> None:
    """Kernels and tables of the 13-keypoint network that ST built with Core 2.1 for release 2.0.

    2168.2 KiB of kernels, 511.9 of depthwise ones for groups of 8 channels, 2 x 156.8 of tables.
    """
    counted = features_of(graph_of_network(MoveNet(13), 192, output="int8"))
    assert counted.kernels / 1024 == pytest.approx(2168.2, abs=0.2)
    assert 8 * counted.depthwise / 1024 == pytest.approx(511.9, abs=0.1)
    assert counted.row_tables / 1024 == pytest.approx(2 * 156.8, abs=0.2)


# RAM in the board's memories, against builds.


def test_ram_of_the_generated_code() -> None:
    """864 + 378 + 432 KiB in cpuRAM2, npuRAM4 and npuRAM5, as ST built the network."""
    expected = _expected()
    assert expected.ram_kib and expected.ram_kib.value == pytest.approx(864 + 378 + 432)


@pytest.mark.parametrize(("size", "real"), [(192, 1674), (224, 2058), (256, 2352)])
def test_ram_of_real_builds_within_ten_percent(size: int, real: float) -> None:
    expected = _expected(size=size)
    assert expected.ram_kib and expected.ram_kib.value == pytest.approx(real, rel=0.1)
    assert expected.ram_kib.low <= real <= expected.ram_kib.high and not expected.warnings


def test_flash_of_the_build_for_the_discovery_kit() -> None:
    expected = _expected()
    assert expected.flash_kib and expected.flash_kib.value == pytest.approx(2580, rel=0.1)
    assert expected.ms and expected.ms.value == pytest.approx(18, rel=0.05)


def test_a_network_that_leaves_the_chip_is_reported_with_its_cost() -> None:
    network = MoveNet(17)
    expected = network_estimate(network, 320, N6)  # a user's build took 3297 KiB
    assert expected.ram_kib and expected.ram_kib.value == pytest.approx(3297, rel=0.1)
    assert "external RAM" in expected.warnings[0] and "451 ms" in expected.warnings[0]
    with pytest.raises(HeatposeError, match=r"RAM: .* the budget is 2816 KiB.*451 ms"):
        check_budget(expected, N6)
    nucleo = load_target("nucleo_n657x0")
    assert check_budget(network_estimate(network, 192, nucleo), nucleo) == []
    with pytest.raises(HeatposeError, match="do not fit into"):
        check_budget(network_estimate(network, 320, nucleo), nucleo)


def test_operators_that_no_row_has_are_named(shared: Path) -> None:
    path = shared / "models/movenet_singlepose_lightning_int8_4.tflite"
    if not path.is_file():
        pytest.skip("the MoveNet file is not there")
    decoded = estimate(read_graph(path), N6)
    assert (
        any("ARG_MAX" in text and "GATHER_ND" in text for text in decoded.outside)
        and decoded.ms
        and decoded.ms.high >= 1.25 * decoded.ms.value
    )
    # there, networks with a decode are among the rows
    assert not estimate(read_graph(path), MP2).extrapolates


def test_mp2_takes_the_profile_of_the_files_granularity(tflite_files: dict[str, Path]) -> None:
    assert estimate(read_graph(tflite_files["int8_pt"]), MP2).profile == "mp257_npu"
    channel = estimate(read_graph(tflite_files["int8_pc"]), MP2)
    assert channel.profile == "mp257_gpu" and any("per channel" in note for note in channel.notes)
    expected = _expected(target=MP2)  # not exported yet: the target's own granularity
    assert (
        expected.profile == "mp257_npu"
        and expected.ms
        and expected.ms.low <= 7.93 <= expected.ms.high
        and expected.ram_kib is None
    )


def test_mp1_states_the_limits_of_its_estimate() -> None:
    expected = _expected(target=MP1)
    assert (
        expected.ms
        and expected.ms.high / expected.ms.low > 2
        and any("factor of two" in note for note in expected.notes)
    )


def test_unknown_profiles() -> None:
    with pytest.raises(HeatposeError, match="'none' is unknown.*n6_core_4.0"):
        _expected(profile="none")
    with pytest.raises(HeatposeError, match="has no estimator"):
        estimate(graph_of_network(MoveNet(13, 0.35), 64), replace(N6, estimator=None))


def test_plain_values(tflite_files: dict[str, Path]) -> None:
    content = estimate(read_graph(tflite_files["int8_pc"]), N6).to_json()
    assert {"ms", "ram_kib", "flash_kib", "extrapolates", "features", "profile"} <= set(
        content
    ) and set(content["ms"]) == {"value", "low", "high"}
    assert str(Interval(18.44, 17.9, 101.26)) == "18.4 [17.9 .. 101.3]" and math.isfinite(
        content["ms"]["value"]
    )


# Budgets.


def test_a_network_that_cannot_fit_is_refused_before_training() -> None:
    target = replace(N6, budget=Budget(ram_kib=400))
    with pytest.raises(
        HeatposeError,
        match=r"does not fit stm32n6: RAM: .* KiB expected, the budget is 400 KiB\..*target=null",
    ):
        check_budget(network_estimate(MoveNet(13), 192, target), target)


def test_a_network_that_may_not_fit_is_reported() -> None:
    network = MoveNet(13)
    expected = network_estimate(network, 192, N6)
    assert expected.ms is not None and check_budget(expected, N6) == []
    target = replace(N6, budget=Budget(ms=expected.ms.value))
    assert ["Time" in text for text in check_budget(expected, target)] == [True]
