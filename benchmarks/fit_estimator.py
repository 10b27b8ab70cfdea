"""Fits the estimator of `heatpose estimate` on published rows and writes
`src/heatpose/deploy/coefficients.json`.

    python benchmarks/fit_estimator.py [--check]

The published networks are built here, untrained, at each published width, resolution and number of
outputs; their features are counted as for any model. A time is a sum of features times
coefficients that are not negative, least squares of the relative error. Every row is predicted once
without having been fitted on; the largest such error is the half width of the interval that users
see. `--check` writes nothing and fails if the file differs.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heatpose.deploy.estimate import estimate, profiles
from heatpose.deploy.features import Features, allocate, features_of
from heatpose.deploy.network_graph import graph_of_network
from heatpose.deploy.targets import load_target
from heatpose.evaluation import published as reference
from heatpose.models.movenet import MobileNetV2, MoveNet
from heatpose.tflite.graph import Graph

FOLDER = Path(__file__).parents[1] / "src/heatpose/deploy"
Array = NDArray[np.float64]
TIME = ("weights", "traffic", "macs", "resized", "softmax", "inference")
OPERATORS = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "ADD",
    "RESIZE_BILINEAR",
    "QUANTIZE",
    "DEQUANTIZE",
    "LOGISTIC",
    "SOFTMAX",
    "FULLY_CONNECTED",
    "MEAN",
    "RESHAPE",
    "PAD",
)
"""Operators of the published networks for the N6."""
ROUNDED = 0.25
"""Percent: sizes are published as rounded MiB, 5 KiB of 2304 apart.

Rows of one size of weights do not determine it for others.
"""
RANGE = ("weights", "traffic", "macs", "resized", "softmax")


class Classifier(nn.Module):
    """MobileNetV2 as ST's model zoo publishes it.

    Global pooling, and a dense layer where there are classes.
    """

    def __init__(self, width: float, classes: int) -> None:
        super().__init__()
        last = 1280 if width <= 1 else round(1280 * width / 8) * 8
        self.features, self.pool, self.flat, self.dense = (
            MobileNetV2(width, last),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(last, classes) if classes else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """f32[B, 3, S, S] -> f32[B, classes]."""
        out: Tensor = self.dense(self.flat(self.pool(self.features(x)[-1])))
        return out


@dataclass(frozen=True)
class Row:
    """A published network and what was measured; `pose` for MoveNet networks.

    None where nothing was published.
    """

    name: str
    features: Features
    pose: bool
    ms: float
    ram_kib: float | None = None
    flash_kib: float | None = None
    planned_kib: float | None = None
    board: bool = True
    core: str = ""
    scheduler: str = "alternative"
    target: str = "stm32n6"


@cache
def graph(
    network: str,
    width: float,
    outputs: int,
    size: int | tuple[int, int],
    ending: Literal["LOGISTIC", "SOFTMAX"] | None,
    heads: Literal["heatmap", "all"],
) -> Graph:
    """A published network, untrained."""
    torch.manual_seed(0)
    built: nn.Module = (
        Classifier(width, outputs)
        if network == "mobilenetv2"
        else MoveNet(outputs, width, heads=heads)
    )
    return graph_of_network(built, size, ending=ending)


def planned(counted: Graph) -> float:
    """RAM in KiB that the activations take in the memory pools of the discovery kit's target."""
    npu = load_target("stm32n6").npu
    assert npu is not None
    return allocate(counted, npu).on_chip


@cache
def features(
    network: str,
    width: float,
    outputs: int,
    size: int,
    ending: Literal["LOGISTIC", "SOFTMAX"],
    heads: Literal["heatmap", "all"],
) -> Features:
    """Counts a published network."""
    return features_of(graph(network, width, outputs, size, ending, heads))


GRAPHS: dict[str, Graph] = {}
"""Of the rows that were read, by name."""
ENDINGS: dict[str, Literal["LOGISTIC", "SOFTMAX"] | None] = {
    "softmax": "SOFTMAX",
    "sigmoid": "LOGISTIC",
    "none": None,
}


def own_rows(core: str | None, use: str = "fit") -> list[Row]:
    """Rows of `rows.csv` for a version of ST Edge AI Core and a use; None is every version."""
    found = []
    with (FOLDER / "rows.csv").open(encoding="utf-8", newline="") as file:
        for entry in csv.DictReader(file):
            if core in (None, entry["n6_stedgeai_core"]) and entry["use"] == use:
                found.append(_own_row(entry))
    return found


def _own_row(entry: Mapping[str, str]) -> Row:
    sides = [int(side) for side in entry["resolution"].split("x")]
    size = sides[0] if len(sides) == 1 else (sides[0], sides[1])
    outputs, width = int(entry["keypoints_or_classes"]), float(entry["width"])
    ending = ENDINGS[entry["ending"]]
    counted = graph(entry["network"], width, outputs, size, ending, "heatmap")
    ms, ram, flash = (
        float(entry[key]) if entry[key] else None for key in ("n6_ms", "n6_ram_kib", "n6_flash_kib")
    )
    name = f"{entry['source']} {width:g}@{entry['resolution']}"
    GRAPHS[name] = counted
    pose, board = entry["network"] == "movenet", entry["memory"] == "board"
    made = Row(name, features_of(counted), pose, ms or 0.0, ram, flash, planned(counted), board)
    return replace(
        made,
        core=entry["n6_stedgeai_core"],
        scheduler=entry["scheduler"],
        target=entry["board"],
    )


def published_rows(time: Callable[[reference.Published], float | None], **wanted: Any) -> list[Row]:
    """Rows of the registry that have a time.

    Equal networks of different training data that share it count once.
    """
    found: dict[tuple[Any, ...], Row] = {}
    for row in reference.published(**wanted):
        ms = time(row)
        if ms is None:
            continue
        heads: Literal["heatmap", "all"] = "all" if row.output == "keypoints" else "heatmap"
        ending: Literal["LOGISTIC", "SOFTMAX"] = "SOFTMAX" if "a100" in row.variant else "LOGISTIC"
        counted = features("movenet", row.width, row.keypoints, row.resolution, ending, heads)
        key = (row.source, row.variant, row.keypoints, row.resolution, row.quantization, ms)
        name = f"{row.source} {row.variant} {row.keypoints} keypoints @{row.resolution}"
        built = graph("movenet", row.width, row.keypoints, row.resolution, ending, heads)
        GRAPHS[name] = built
        made = Row(name, counted, True, ms, row.n6_ram_kib, row.n6_flash_kib, planned(built))
        found.setdefault(key, replace(made, core=row.n6_stedgeai_core or ""))
    return list(found.values())


def non_negative(matrix: Array, wanted: Array) -> Array:
    """Least squares with coefficients >= 0, by trying every set of columns; there are few."""
    best, best_error = np.zeros(matrix.shape[1]), np.inf
    for count in range(1, matrix.shape[1] + 1):
        for columns in itertools.combinations(range(matrix.shape[1]), count):
            solution = np.linalg.lstsq(matrix[:, columns], wanted, rcond=None)[0]
            error = float(((matrix[:, columns] @ solution - wanted) ** 2).sum())
            if (solution >= 0).all() and error < best_error - 1e-12:
                best, best_error = np.zeros(matrix.shape[1]), error
                best[list(columns)] = solution
    return best


@dataclass(frozen=True)
class Fit:
    """Coefficients, and the error in percent of each row when it was left out."""

    coefficients: dict[str, float]
    left_out: dict[str, float]

    def to_json(self, rows: Sequence[Row]) -> dict[str, Any]:
        """For the file."""
        pose = [abs(self.left_out[row.name]) for row in rows if row.pose]
        return {
            "coefficients": {
                name: float(f"{value:.6g}") for name, value in self.coefficients.items() if value
            },
            "left_out_max_percent": round(max(map(abs, self.left_out.values())), 2),
            "left_out_max_percent_movenet": round(max(pose), 2),
            "left_out_percent": {name: round(error, 2) for name, error in self.left_out.items()},
        }


def fit(
    rows: Sequence[Row], names: Sequence[str], what: str, known: Mapping[str, float] | None = None
) -> Fit:
    """Fits one quantity, and again without each row.

    Args:
        rows: All of one board and tool.
        names: Features.
        what: "ms", "ram_kib" or "flash_kib".
        known: Coefficients that are taken as given.
    """
    known = known or {}
    scale = np.array([max(row.features.of(name) for row in rows) or 1 for name in names])
    matrix = np.array([[row.features.of(name) for name in names] for row in rows]) / scale
    given = np.array(
        [sum(value * row.features.of(name) for name, value in known.items()) for row in rows]
    )
    wanted = np.array([float(getattr(row, what)) for row in rows])

    def solve(chosen: list[int]) -> Array:
        relative = matrix[chosen] / wanted[chosen, None]
        return non_negative(relative, (wanted[chosen] - given[chosen]) / wanted[chosen])

    errors = {}
    for i, row in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        errors[row.name] = float((matrix[i] @ solve(others) + given[i]) / wanted[i] - 1) * 100
    return Fit(
        {
            **dict(zip(names, map(float, solve(list(range(len(rows)))) / scale), strict=True)),
            **known,
        },
        errors,
    )


def ranges(rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[float]]:
    """Range of each feature over the rows, (min, max).

    The minimum of work on the processor is 0: its term vanishes, so less is not an extrapolation.
    """
    found = {name: [row.features.of(name) for row in rows] for name in names}
    return {
        name: [0 if name in ("resized", "softmax") else min(values), max(values)]
        for name, values in found.items()
    }


def size(
    rows: Sequence[Row],
    what: str,
    names: Sequence[str],
    known: Mapping[str, float] | None = None,
    others: Sequence[Row] = (),
) -> dict[str, Any]:
    """Peak of the activations, or flash; the interval covers `others`, which are not fitted."""
    found = fit(rows, names, what, known)
    fitted = found.to_json(rows)
    widest = max([fitted["left_out_max_percent"], ROUNDED, *missed(found, others, what)])
    return fitted | {"interval_percent": up(widest)}


def missed(found: Fit, rows: Sequence[Row], what: str) -> list[float]:
    """Percent of the estimate by which the published values of rows differ from it."""
    pairs = [
        (
            float(getattr(row, what) or 0),
            sum(c * row.features.of(name) for name, c in found.coefficients.items()),
        )
        for row in rows
    ]
    return [abs(real / expected - 1) * 100 for real, expected in pairs if real]


def up(percent: float) -> float:
    """Rounded up, so that no row leaves its interval by rounding."""
    return math.ceil(round(percent * 100, 6)) / 100


FLASH = {"kernels": 1 / 1024, "row_tables": 1 / 1024}
"""KiB per byte: ST's builds hold them as they are."""
EXPANDED = {**FLASH, "depthwise": 8 / 1024}
"""With the alternative scheduler, whose builds hold depthwise kernels for groups of 8 channels."""


def ram_errors(rows: Sequence[Row]) -> dict[str, float]:
    """Percent by which the planned RAM of each row is off."""
    known = [row for row in rows if row.board and row.ram_kib and row.planned_kib]
    return {row.name: (row.planned_kib or 0) / (row.ram_kib or 1) * 100 - 100 for row in known}


def plan(rows: Sequence[Row], every: Sequence[Row]) -> dict[str, Any]:
    """Errors of the planned RAM (`heatpose.deploy.features`); nothing is fitted.

    The interval is the largest error of `every` row, of all versions of the tool.
    """
    known = [row for row in rows if row.board]
    errors = ram_errors(rows)
    widest = max(abs(100 / (1 + error / 100) - 100) for error in ram_errors(every).values())
    worst = max(map(abs, errors.values()))
    pose = [abs(errors[row.name]) for row in known if row.pose]
    return {
        "left_out_max_percent": round(worst, 2),
        "left_out_max_percent_movenet": round(max(pose), 2),
        "left_out_percent": {name: round(error, 2) for name, error in errors.items()},
        "interval_percent": up(widest),
    }


def n6_profile(
    rows: Sequence[Row],
    core: str,
    ms: dict[str, Any],
    memory: Sequence[Row],
    flash: tuple[str, Mapping[str, float]],
    notes: list[str],
    every: Sequence[Row],
    others: Sequence[Row],
) -> dict[str, Any]:
    """A profile of the N6.

    Args:
        rows: With a time.
        core: Version of the tool.
        ms: The fitted time.
        memory: Builds with the memory pool that is shipped.
        flash: The fitted feature of the flash, and the known coefficients.
        notes: Sentences.
        every: Builds of all versions, for the interval of RAM.
        others: Rows of the same scheduler that are not fitted, for the other intervals.
    """
    peak = [row for row in rows if not row.board]
    return {
        "target": "stm32n6",
        "granularity": "int8_pc",
        "based_on": f"STM32N6570-DK, ST Edge AI Core {core}",
        "ms": ms,
        "ram_kib": plan([*rows, *(row for row in memory if row not in rows)], every),
        "peak_kib": size(peak, "ram_kib", ("largest",)) if peak else None,
        "flash_kib": size(
            [row for row in memory if row.flash_kib],
            "flash_kib",
            flash[:1],
            flash[1],
            [row for row in others if row.board],
        ),
        "ranges": {"ms": ranges(rows, RANGE), "memory": ranges(memory, ("weights", "largest"))},
        "rows": [row.name for row in rows],
        "notes": notes,
        "operators": list(OPERATORS),
    }


def n6() -> dict[str, dict[str, Any]]:
    """Both versions. The rows of the newer one do not separate resizes from softmax, because their
    amounts are proportional.
    """
    old = [
        *own_rows("2.0.0"),
        *published_rows(lambda row: row.n6_ms if row.n6_stedgeai_core == "2.0.0" else None),
    ]
    new = own_rows("4.0.0")
    memory_new = [row for row in new if row.board] + own_rows("4.0.0", "memory")
    first = fit(old, TIME, "ms")
    resized = first.coefficients["resized"]
    second = fit(new, [name for name in TIME if name != "resized"], "ms", {"resized": resized})
    other = fit(new, [name for name in TIME if name != "softmax"], "ms").to_json(new)[
        "coefficients"
    ]
    memory = (
        "RAM is what the activations take in the board's memories as the target describes them; "
        "flash is weights and the compiler's program; code and the runtime library come on top."
    )
    shared = (
        "The published MoveNet networks of this version end in a softmax. The shares of softmax and"
        " resizing in their time cannot be separated; the value takes resizing from Core 2.0"
        " and the rest as softmax, the upper end takes all of it as resizing."
    )
    unseen = own_rows(None, "held-out")
    every = [*old, *memory_new, *unseen]
    alternative, automatic = (
        [row for row in unseen if row.scheduler == scheduler]
        for scheduler in ("alternative", "automatic")
    )
    time = time_of(second, new, automatic) | {"alternatives": [other]}
    return {
        "n6_core_4.0": n6_profile(
            new,
            "4.0.0",
            time,
            memory_new,
            ("depthwise", FLASH),
            [shared, memory],
            every,
            automatic,
        ),
        "n6_core_2.0": n6_profile(
            old,
            "2.0.0",
            time_of(first, old, alternative),
            old,
            ("inference", EXPANDED),
            [memory],
            every,
            alternative,
        ),
    }


def time_of(found: Fit, rows: Sequence[Row], others: Sequence[Row]) -> dict[str, Any]:
    """A fitted time; its interval covers rows that were not fitted.

    What a board of its own has published beyond that widens the interval of that board alone.
    """
    fitted = found.to_json(rows)
    same = [row for row in others if row.target == "stm32n6"]
    widest = max(fitted["left_out_max_percent"], *missed(found, same, "ms"), 0.0)
    boards: dict[str, float] = {}
    for row in others:
        worst = max(missed(found, [row], "ms"), default=0.0)
        if row.target != "stm32n6" and worst > widest:
            boards[row.target] = up(max(worst, boards.get(row.target, 0.0)))
    return fitted | {"interval_percent": up(widest), "boards_percent": boards}


def linux(
    board: str,
    target: str,
    rows: Sequence[Row],
    names: Sequence[str],
    granularity: str,
    other: str | None,
    note: str,
) -> dict[str, Any]:
    """A profile of a Linux board: time alone."""
    found = {
        "target": target,
        "granularity": granularity,
        "based_on": f"{board}, X-LINUX-AI 5.0 to 6.1",
        "ms": fit(rows, names, "ms").to_json(rows),
        "ram_kib": None,
        "flash_kib": None,
        "ranges": {"ms": ranges(rows, ("macs",)), "memory": {}},
        "rows": [row.name for row in rows],
        "notes": [
            note,
            (
                "RAM on Linux is not published; the model file's size and the activations are the"
                " least it takes."
            ),
        ],
    }
    return found if other is None else found | {"other_granularity": other}


def boards() -> dict[str, dict[str, Any]]:
    """STM32MP2 and STM32MP1."""
    sides = ("macs_power_of_two", "macs_other")
    message = (
        "The units of the STM32MP2 are faster where the input's side is a power of two; apart from"
        " that, time goes with multiply-accumulates."
    )
    cpu = (
        "Published networks of one size differ by a factor of two on this processor, for reasons"
        " that the tables do not show."
    )
    tensor, channel = ({"quantization": artefact} for artefact in ("int8_pt", "int8_pc"))
    found = {
        "mp257_npu": linux(
            "STM32MP257",
            "stm32mp2",
            published_rows(lambda r: r.mp257_ms, **tensor),
            sides,
            "int8_pt",
            "mp257_gpu",
            message,
        ),
        "mp257_gpu": linux(
            "STM32MP257, GPU",
            "stm32mp2",
            published_rows(lambda r: r.mp257_ms, **channel),
            sides,
            "int8_pc",
            "mp257_npu",
            message,
        ),
    }
    for key, board, time in (
        ("mp157", "STM32MP157", lambda r: r.mp157_ms),
        ("mp135", "STM32MP135", lambda r: r.mp135_ms),
    ):
        found[f"{key}_cpu"] = linux(
            board,
            "stm32mp1",
            published_rows(time, **channel),
            ("macs",),
            "int8_pc",
            f"{key}_cpu_pt",
            cpu,
        )
        found[f"{key}_cpu_pt"] = linux(
            board,
            "stm32mp1",
            published_rows(time, **tensor),
            ("macs",),
            "int8_pt",
            f"{key}_cpu",
            cpu,
        )
    # the per-tensor rows are all of one network, so they do not show the spread over networks
    for key in ("mp157_cpu", "mp135_cpu"):
        found[f"{key}_pt"]["ms"]["interval_percent"] = max(
            found[name]["ms"]["left_out_max_percent"] for name in (key, f"{key}_pt")
        )
    return found


def held_out() -> list[str]:
    """Each row of the newest profile, and rows that it has not seen: lines of a table.

    A fitted quantity is the one of a fit without that row.
    """
    lines = []
    fits = [
        *own_rows("4.0.0"),
        *own_rows("4.0.0", "memory"),
        *own_rows("2.0.0"),
        *published_rows(lambda row: row.n6_ms if row.n6_stedgeai_core == "2.0.0" else None),
    ]
    for row, made in [(row, False) for row in own_rows(None, "held-out")] + [
        (row, True) for row in fits
    ]:
        profile = "n6_core_2.0" if row.scheduler == "alternative" else "n6_core_4.0"
        left_out = profiles()[profile]
        expected = estimate(GRAPHS[row.name], load_target(row.target), profile)
        cells = []
        pairs = (
            (row.ram_kib if row.board else None, expected.ram_kib),
            (row.flash_kib if row.board else None, expected.flash_kib),
            (row.ms, expected.ms),
        )
        for what, (real, interval) in zip(("ram_kib", "flash_kib", "ms"), pairs, strict=True):
            if not real or interval is None:
                cells.append("-")
                continue
            if not interval.low - 0.5 <= real <= interval.high + 0.5:
                raise SystemExit(f"{row.name}: {real} lies outside {interval}")
            error = interval.value / real * 100 - 100
            if made:
                error = left_out[what]["left_out_percent"].get(row.name, error)
            cells.append(f"{real:g} / {real * (1 + error / 100):.4g} ({error:+.1f} %)")
        lines.append(
            f"| {row.name}{f', Core {row.core}' if row.core != '4.0.0' else ''}"
            f"{'' if made else ' (hold-out)'} |"
            f" {' | '.join(cells)} |"
        )
    return lines


def coefficients() -> dict[str, Any]:
    """The content of the file."""
    units = "milliseconds or KiB (1024 bytes) per feature of heatpose.deploy.features"
    return {
        "made_by": "benchmarks/fit_estimator.py",
        "units": units,
        "profiles": {**n6(), **boards()},
    }


def main() -> None:
    """Writes or checks the file, and prints the errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing, fail where the file differs"
    )
    check = parser.parse_args().check
    content = coefficients()
    for name, profile in content["profiles"].items():
        for what in ("ms", "ram_kib", "peak_kib", "flash_kib"):
            if profile.get(what):
                worst, pose = (
                    profile[what][key]
                    for key in ("left_out_max_percent", "left_out_max_percent_movenet")
                )
                count = len(profile[what]["left_out_percent"])
                print(
                    f"{name:14} {what:9} left out: {worst:6.2f} % over all rows, {pose:6.2f} % on"
                    f" MoveNet rows; {count} rows"
                )
    text, path = json.dumps(content, indent=1) + "\n", FOLDER / "coefficients.json"
    if check:
        sys.exit(
            0
            if path.read_text(encoding="utf-8") == text
            else "coefficients.json differs from what the rows give"
        )
    path.write_text(text, encoding="utf-8")
    profiles.cache_clear()
    print("\n".join(["", "| row | RAM KiB | flash KiB | ms |", "|---|---|---|---|", *held_out()]))


if __name__ == "__main__":
    main()
