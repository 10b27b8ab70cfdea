"""Draws the figures of the page on quantisation from measured numbers.

    python benchmarks/quantisation_pictures.py docs/pictures
    python benchmarks/quantisation_pictures.py docs/pictures --model lightning.tflite

The folder holds the numbers, and the images (SVG) are written beside them: `ablation.csv` as
benchmarks/quantisation_ablation.py writes it, and `channels.csv`, the largest weight of each
channel of one layer, which `--model` computes again from a MoveNet TFLite file.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAYER = "backbone.features.3.blocks.1.conv"
"""The depthwise layer whose channels differ most in Google's Lightning.

Channel 0 of the CSV is the constant one.
"""
STEPS = 127
"""Of int8 on each side of zero."""
ARTEFACTS = {
    "int8_pc": ("one scale per channel (int8_pc)", "#1f6f8b"),
    "int8_pt": ("one scale per tensor (int8_pt)", "#d1603d"),
}
GREY = "#8a8a8a"


def measure(model: Path) -> list[list[float]]:
    """Weights f32[channels, 9] of the layer, the channel with the largest first."""
    from heatpose.models.init import from_movenet
    from heatpose.models.movenet import MoveNet
    from heatpose.pose.skeleton import COCO_17

    network = from_movenet(MoveNet(17, norm=False), COCO_17, str(model))
    weights = network.get_submodule(LAYER).weight.detach().flatten(1).numpy()
    order = np.argsort(-np.abs(weights).max(1), kind="stable")
    rows: list[list[float]] = weights[order].tolist()
    return rows


def read(path: Path) -> NDArray[np.float64]:
    """Weights f64[channels, 9]."""
    return np.loadtxt(path, delimiter=",", ndmin=2)


def channels(weights: NDArray[np.float64], axes: Any) -> None:
    """The largest weight of each channel against the step that one scale for all of them has."""
    largest = np.abs(weights).max(1)
    step = largest.max() / STEPS
    lost = largest < step / 2
    axes.bar(
        range(len(largest)), largest, color=np.where(lost, ARTEFACTS["int8_pt"][1], GREY), width=1.0
    )
    axes.set_yscale("log")
    axes.axhline(step / 2, color="black", lw=1)
    axes.text(
        len(largest),
        step / 2 * 1.15,
        f"half a step of one scale for all: {step / 2:.2f}",
        ha="right",
        va="bottom",
    )
    axes.annotate(
        f"the constant channel: {largest[0]:.0f}",
        (1, largest[0] * 0.75),
        (16, largest[0] * 0.55),
        arrowprops={"arrowstyle": "-", "lw": 0.6},
    )
    message = f"below the line every weight becomes 0:\n{lost.sum()} of {len(largest)} channels"
    axes.text(len(largest), largest[0] * 0.5, message, ha="right", color=ARTEFACTS["int8_pt"][1])
    axes.set(
        xlabel="channels, sorted", ylabel="largest weight (absolute)", xlim=(-2, len(largest) + 1)
    )


def one_filter(weights: NDArray[np.float64], axes: Any) -> None:
    """The nine weights of the middle channel.

    As they are and as two ways of rounding leave them.
    """
    middle = weights[len(weights) // 2]
    together, own = np.abs(weights).max() / STEPS, np.abs(middle).max() / STEPS
    shown = {"float": (middle, GREY)} | {
        ARTEFACTS[f][0]: (np.round(middle / s) * s, ARTEFACTS[f][1])
        for f, s in (("int8_pc", own), ("int8_pt", together))
    }
    for at, (label, (values, colour)) in enumerate(shown.items()):
        axes.bar(np.arange(9) + (at - 1) * 0.27, values, width=0.25, color=colour, label=label)
    axes.axhline(0, color="black", lw=0.6)
    axes.set(
        xlabel="the nine weights of one channel (3 x 3)",
        ylabel="weight",
        xticks=range(9),
        xticklabels=range(1, 10),
    )
    axes.margins(y=0.35)
    axes.legend(frameon=False, loc="upper center", ncols=3, columnspacing=1.0, handlelength=1.2)


def ablation(rows: list[dict[str, str]], axes: Any) -> None:
    """Points lost with each set of steps, with its interval.

    The axis is broken by writing the number beside bars that are too long.
    """
    labels = list(dict.fromkeys(row["recovery"] for row in rows))
    longest = 12.0
    for at, (artefact, (name, colour)) in enumerate(ARTEFACTS.items()):
        for row in (row for row in rows if row["artefact"] == artefact):
            place = labels.index(row["recovery"]) + (at - 0.5) * 0.38
            drop, low, high = (float(row[key]) for key in ("drop", "low", "high"))
            axes.barh(
                place,
                min(drop, longest),
                height=0.36,
                color=colour,
                label=name if row["recovery"] == labels[0] else None,
            )
            if drop <= longest:
                axes.plot([low, high], [place, place], color="black", lw=0.8)
            axes.text(
                min(max(high, drop), longest) + 0.15,
                place,
                f"{drop:.2f}" + (" >" if drop > longest else ""),
                va="center",
                fontsize=8,
            )
    for limit, artefact in ((0.5, "int8_pc"), (1.0, "int8_pt")):
        axes.axvline(limit, color=ARTEFACTS[artefact][1], lw=0.8, ls=":")
    axes.axhline(5.5, color=GREY, lw=0.5)
    axes.set(
        yticks=range(len(labels)),
        yticklabels=["none" if label == "min-max" else label for label in labels],
    )
    axes.set(xlim=(-0.6, longest + 1.6), xlabel="OKS points lost against float")
    axes.invert_yaxis()
    axes.legend(frameon=False, loc="lower right")


def save(path: Path, draw: Any, width: float, height: float) -> None:
    """Draws into a file that appears whole or not at all; the same numbers give the same bytes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "heatpose",
            "font.family": "sans-serif",
            "font.size": 9,
        }
    ):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        part = path.with_name(path.name + ".part")
        figure.savefig(part, format="svg", metadata={"Date": None})
        os.replace(part, path)


def main() -> None:
    """Writes the three images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="measure the weights anew")
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.model:
        np.savetxt(folder / "channels.csv", measure(arguments.model), fmt="%.5g", delimiter=",")
    weights = read(folder / "channels.csv")
    with (folder / "ablation.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    save(folder / "dead_channel.svg", lambda axes: channels(weights, axes), 7, 3)
    save(folder / "one_filter.svg", lambda axes: one_filter(weights, axes), 7, 2.6)
    save(folder / "ablation.svg", lambda axes: ablation(rows, axes), 7, 4.6)


if __name__ == "__main__":
    main()
