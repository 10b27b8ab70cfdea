"""Draws the published int8 rows and the released networks into one plot.

    uv run --extra docs python benchmarks/plot_results.py --out docs/pictures/results.svg

Published scores are over 921 images; those of the released networks are from their `metrics.json`,
with the number of images in the legend.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

from heatpose.evaluation.published import rows

REPOSITORY = Path(__file__).parents[1]
VARIANTS = {"int8_pc": "per channel", "int8_pt": "per tensor"}
NAMES = {
    "google": "Google's weights",
    "public": "ST, 13 keypoints",
    "coco": "ST, COCO",
    "st-custom": "ST, own data",
}
SHIFT = {"int8_pc": -1.5, "int8_pt": 1.5}

Point = tuple[float, float, float, str]
"""Resolution, OKS, its standard error and the variant."""


def released(folder: Path) -> dict[str, list[Point]]:
    """The int8 files of all released networks, by number of keypoints, training data and images."""
    found: dict[str, list[Point]] = defaultdict(list)
    for path in sorted(folder.glob("*/metrics.json")):
        data = ", COCO and Open Images" if path.parent.name.endswith("_open") else ""
        artefacts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["artefacts"]
        for variant in VARIANTS:
            report = (artefacts.get(variant) or {}).get("report")
            if report is not None:
                people = f"Heatpose, {report['keypoints']} keypoints{data}"
                label = f"{people} ({report['images']} images)"
                size = float(report["protocol"]["resolution"])
                found[label].append((size, report["oks"], report["oks_standard_error"], variant))
    return found


def published() -> dict[str, list[Point]]:
    """The rows of ST's tables that are heatmap networks."""
    found: dict[str, list[Point]] = defaultdict(list)
    for row in rows():
        if row.output == "heatmaps":
            point = (row.resolution, row.oks_percent, 0.0, row.quantization)
            found[NAMES[row.training_data]].append(point)
    return found


def draw(out: Path, series: dict[str, list[Point]]) -> None:
    """Writes the plot."""
    mpl.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "heatpose", "font.size": 9}
    figure, axes = plt.subplots(figsize=(7, 4))
    colours = {name: f"C{number}" for number, name in enumerate(series)}
    for name, points in series.items():
        ours = name.startswith("Heatpose")
        for variant, marker in (("int8_pc", "o"), ("int8_pt", "s")):
            chosen = sorted(point for point in points if point[3] == variant)
            if chosen:
                sizes, scores, errors, _ = zip(*chosen, strict=True)
                axes.errorbar(
                    [size + SHIFT[variant] for size in sizes],
                    scores,
                    yerr=errors if ours else None,
                    fmt=f"{marker}-" if ours else f"{marker}:",
                    color=colours[name],
                    label=f"{name}, {VARIANTS[variant]}",
                    markersize=5,
                    linewidth=1.6 if ours else 0.8,
                    capsize=2,
                )
    axes.set(xlabel="input resolution, pixels", ylabel="OKS, %", xticks=[192, 224, 256])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(out, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    """Reads the arguments and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--released", type=Path, default=REPOSITORY / "exports" / "released")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs/pictures/results.svg")
    options = parser.parse_args()
    draw(options.out, {**published(), **released(options.released)})
    print(f"{options.out} is drawn.")


if __name__ == "__main__":
    main()
