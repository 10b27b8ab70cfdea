"""Sections on curves: learning curves (TensorBoard or CSV logs) and the score threshold."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heatpose.evaluation.metrics import CORRECT, ThresholdCurve
from heatpose.report.bundle import ARTEFACT_TITLES, Bundle
from heatpose.report.content import Values, reading
from heatpose.report.plots import Trace, colour, figure, plain, scatter
from heatpose.utils.process import without_tensorflow

Curve = Sequence[tuple[int, float]]
"""(optimiser step, value), in the order of the log."""
LONGEST = 400
"""Maximum number of displayed points of a curve; more are thinned out evenly."""
_GROUPS = (
    ("OKS of the held-out people, %", ("val/oks",)),
    ("Loss", ("train/loss_step", "train/loss_epoch", "train/loss", "val/loss")),
)


@dataclass(frozen=True)
class Log:
    """Name -> curve, and the folder of the log."""

    folder: Path
    values: Mapping[str, Curve]


def run_folders(bundle: Bundle) -> Iterator[Path]:
    """Possible folders of a bundle's run: as configured, or beside the folder of the bundles."""
    config, provenance = _part(bundle, "config"), _part(bundle, "provenance")
    runs = str(config.get("runs") or "runs")
    for name in dict.fromkeys(
        str(value) for value in (provenance.get("run"), config.get("run")) if value
    ):
        yield Path(runs) / name
        yield bundle.folder.resolve().parents[1] / Path(runs).name / name


def _part(bundle: Bundle, name: str) -> Mapping[str, Any]:
    found = bundle.manifest.get(name)
    return found if isinstance(found, Mapping) else {}


def read_log(bundle: Bundle) -> Log | None:
    """Reads the curves of the bundle's run; None if there are none."""
    for folder in run_folders(bundle):
        events = (
            sorted({path.parent for path in folder.rglob("events.out.tfevents.*")})
            if folder.is_dir()
            else []
        )
        tables = sorted(folder.rglob("metrics.csv")) if folder.is_dir() else []
        values = next(
            (found for found in (*map(_events, events), *map(_table, tables)) if found), None
        )
        if values:
            return Log(folder, values)
    return None


def _events(folder: Path) -> dict[str, Curve]:
    """Scalars of TensorBoard's event files, including those of resumed runs."""
    without_tensorflow()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it logs every opened file
    log = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1})
    log.Reload()
    return {
        tag: [(event.step, event.value) for event in log.Scalars(tag)]
        for tag in log.Tags()["scalars"]
    }


def _table(path: Path) -> dict[str, Curve]:
    """Columns of Lightning's metrics.csv, without their empty cells."""
    curves: dict[str, list[tuple[int, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if name not in ("step", "epoch") and text:
                    curves.setdefault(name, []).append((int(row["step"]), float(text)))
    return dict(curves)


def thinned(curve: Curve) -> list[tuple[int, float]]:
    """At most `LONGEST` finite points of a curve, including the last."""
    points = [(step, value) for step, value in curve if math.isfinite(value)]
    every = max(1, math.ceil(len(points) / LONGEST))
    return points[(len(points) - 1) % every :: every] if points else []


def curves(bundles: Sequence[Bundle]) -> Values:
    """Plots of the score and the loss in the logs of the bundles' runs."""
    missing, logs = list[str](), list[tuple[int, Bundle, Log]]()
    for position, bundle in enumerate(bundles):
        log = read_log(bundle)
        if log is None:
            missing.append(_why_not(bundle))
        else:
            logs.append((position, bundle, log))
    figures = []
    for i, (heading, tags) in enumerate(_GROUPS):
        traces = [
            trace
            for position, bundle, log in logs
            for trace in _traces(position, bundle, log, tags, several=len(logs) > 1)
        ]
        if traces:
            spec = figure(traces, x="step", y=heading, legend=len(traces) <= 8)
            figures.append({"name": f"curve_{i}", "heading": heading, "spec": spec})
    return {"figures": figures, "missing": missing}


def _why_not(bundle: Bundle) -> str:
    config = _part(bundle, "config")
    if config.get("fit") is False and not config.get("checkpoint"):
        return f"'{bundle.label}' was exported without training, so there is no curve."
    looked = (
        ", ".join(f"'{folder}'" for folder in run_folders(bundle))
        or "nowhere, because the manifest names no run"
    )
    return f"The logs of the run of '{bundle.label}' are not found (searched in {looked})."


def _traces(
    position: int, bundle: Bundle, log: Log, tags: Sequence[str], *, several: bool
) -> list[Trace]:
    found = [tag for tag in tags if log.values.get(tag)]
    # one line per run: the loss of steps would hide the others
    if "train/loss_epoch" in found and several:
        found = [tag for tag in found if tag != "train/loss_step"]
    traces = []
    for i, tag in enumerate(found):
        points, name = thinned(log.values[tag]), f"{bundle.label}: {tag}" if several else tag
        step = tag.endswith("_step")
        line = {
            "width": 1 if step else 2,
            "color": colour(position if several else i),
            "dash": "dot" if several and tag.startswith("val") and i else "solid",
        }
        traces.append(
            scatter(
                name,
                [p[0] for p in points],
                [p[1] for p in points],
                f"{plain(name)}<br>step %{{x}}: %{{y:.4g}}",
                "lines" if len(points) > 40 else "lines+markers",
                line=line,
                opacity=0.5 if step else 1,
            )
        )
    return traces


def thresholds(bundles: Sequence[Bundle]) -> Values:
    """A plot for each int8 file with a measured curve; of several bundles for the first of each."""
    figures, missing = list[dict[str, Any]](), list[str]()
    for bundle in bundles:
        measured = [a for a in bundle.artefacts if a.entry.get("threshold") is not None]
        if not measured:
            missing.append(f"No score threshold was measured for '{bundle.label}'.")
        for artefact in measured if len(bundles) == 1 else measured[:1]:
            kind = artefact.kind
            with reading(f"The threshold of {artefact.title} of '{bundle.label}'", missing):
                heading = ARTEFACT_TITLES[kind] if len(bundles) == 1 else f"{bundle.label}: {kind}"
                figures.append(
                    {"name": f"threshold_{len(figures)}", "heading": heading}
                    | _plot(artefact.entry["threshold"])
                )
    return {"figures": figures, "missing": missing, "correct": CORRECT}


def _plot(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Specification and caption of a plot.

    Args:
        entry: `ThresholdCurve.to_dict`.
    """
    scores, precision, recall = (
        np.asarray(entry[key], np.float64) for key in ("thresholds", "precision", "recall")
    )
    curve = ThresholdCurve(
        scores, precision, recall, int(entry["keypoints"]), int(entry["instances"])
    )
    lines = {"precision": 100 * precision, "recall": 100 * recall, "F1": 100 * curve.f1}
    traces = [
        scatter(
            name,
            scores.tolist(),
            values.tolist(),
            f"threshold %{{x:.2f}}: {name} %{{y:.1f}} %",
            "lines",
            line={"width": 2, "color": colour(i)},
        )
        for i, (name, values) in enumerate(lines.items())
    ]
    best = float(entry["best"])
    chosen = [float(np.interp(best, scores, values)) for values in lines.values()]
    ring = {"size": 11, "color": colour(3), "symbol": "circle-open", "line": {"width": 2.5}}
    traces.append(scatter("chosen", [best] * 3, chosen, "%{x:.2f}: %{y:.1f} %", marker=ring))
    caption = (
        f"Chosen: {best:.2f}, with precision {chosen[0]:.1f} %, recall {chosen[1]:.1f} % and F1"
        f" {chosen[2]:.1f} %. Measured on {curve.instances} held-out training instances with"
        f" {curve.keypoints} keypoints, used for neither calibration nor QAT."
    )
    return {"spec": figure(traces, x="score threshold", y="%"), "caption": caption}
