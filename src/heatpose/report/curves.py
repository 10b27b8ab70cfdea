"""Learning curves out of a run's logs: TensorBoard's event files, or Lightning's CSV."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatpose.report.bundle import Bundle
from heatpose.report.content import Block, Figure, Figures, Section, missing
from heatpose.report.figures import Trace, colour, figure, plain
from heatpose.utils.process import without_tensorflow

Curve = Sequence[tuple[int, float]]
"""Optimiser step and value, in the order of the log."""
LONGEST = 400
"""Points of a curve that are shown; more are thinned out evenly."""
_GROUPS = (
    ("OKS of the held-out people, %", ("val/oks",)),
    ("Loss", ("train/loss_step", "train/loss_epoch", "train/loss", "val/loss")),
)


@dataclass(frozen=True)
class Log:
    """Name of a value -> its curve, and the folder that it was read from."""

    folder: Path
    values: Mapping[str, Curve]


def run_folders(bundle: Bundle) -> Iterator[Path]:
    """Where the run that made a bundle may be.

    As configured, or beside the folder of the bundles.
    """
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
    """The curves of the bundle's run; None where there are none."""
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
    """Scalars of TensorBoard's event files.

    Those of a run that was resumed go on where the earlier ones end.
    """
    without_tensorflow()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every file that it opens
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
    """At most `LONGEST` points of a curve, its last among them.

    Values that are no numbers are left out.
    """
    points = [(step, value) for step, value in curve if math.isfinite(value)]
    every = max(1, math.ceil(len(points) / LONGEST))
    return points[(len(points) - 1) % every :: every] if points else []


def curves(bundles: Sequence[Bundle]) -> Section:
    """What was logged while the bundles' networks were trained."""
    blocks, logs = list[Block](), list[tuple[int, Bundle, Log]]()
    for position, bundle in enumerate(bundles):
        log = read_log(bundle)
        if log is None:
            blocks.append(missing(_why_not(bundle)))
        else:
            logs.append((position, bundle, log))
    figures = (
        [
            Figure(f"curve_{i}", title, _spec(logs, tags, title))
            for i, (title, tags) in enumerate(_GROUPS)
        ]
        if logs
        else []
    )
    drawn = [entry for entry in figures if entry.spec["data"]]
    lead = (
        "Held-out people are a share of the training images; the checkpoint is the one with the"
        " highest OKS on them. The evaluation set has no part in it."
    )
    return Section(
        "curves", "Learning curves", lead, [*([Figures(drawn)] if drawn else []), *blocks]
    )


def _why_not(bundle: Bundle) -> str:
    config = _part(bundle, "config")
    if config.get("fit") is False and not config.get("checkpoint"):
        return f"'{bundle.label}' was exported without training, so that there is no curve."
    looked = (
        ", ".join(f"'{folder}'" for folder in run_folders(bundle))
        or "nowhere, for the manifest names no run"
    )
    return f"The logs of the run behind '{bundle.label}' are not here (looked in {looked})."


def _spec(
    logs: Sequence[tuple[int, Bundle, Log]], tags: Sequence[str], title: str
) -> dict[str, Any]:
    traces = [
        trace
        for position, bundle, log in logs
        for trace in _traces(position, bundle, log, tags, several=len(logs) > 1)
    ]
    return figure(traces, x="step", y=title, legend=len(traces) <= 8)


def _traces(
    position: int, bundle: Bundle, log: Log, tags: Sequence[str], *, several: bool
) -> list[Trace]:
    found = [tag for tag in tags if log.values.get(tag)]
    # one line a run: the steps' loss would hide the others
    if "train/loss_epoch" in found and several:
        found = [tag for tag in found if tag != "train/loss_step"]
    traces = []
    for i, tag in enumerate(found):
        points, name = thinned(log.values[tag]), plain(f"{bundle.label}: {tag}" if several else tag)
        dash = "dot" if several and tag.startswith("val") and i else "solid"
        line = {
            "width": 1 if tag.endswith("_step") else 2,
            "color": colour(position if several else i),
            "dash": dash,
        }
        traces.append(
            {
                "type": "scatter",
                "mode": "lines" if len(points) > 40 else "lines+markers",
                "name": name,
                "x": [p[0] for p in points],
                "y": [p[1] for p in points],
                "line": line,
                "opacity": 0.5 if tag.endswith("_step") else 1,
                "hovertemplate": f"{name}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
            }
        )
    return traces
