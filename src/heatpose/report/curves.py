"""Sections on learning curves (TensorBoard or CSV logs), operators, and reproduction."""

from __future__ import annotations

import csv
import logging
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from heatpose.errors import HeatposeError
from heatpose.report.bundle import Bundle
from heatpose.report.content import (
    Block,
    Cell,
    Commands,
    Figure,
    Figures,
    Row,
    Section,
    Table,
    Trace,
    colour,
    figure,
    guarded,
    missing,
    plain,
)
from heatpose.report.summary import NOTHING, number
from heatpose.tflite.inspect import Inspection, inspect_tflite
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


def curves(bundles: Sequence[Bundle]) -> Section:
    """Section with the learning curves of the bundles' runs."""
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
        "The hold-out split is a share of the training images; the checkpoint is the one with the"
        " highest OKS on it. The evaluation set is not used for this."
    )
    return Section(
        "curves", "Learning curves", lead, [*([Figures(drawn)] if drawn else []), *blocks]
    )


def _why_not(bundle: Bundle) -> str:
    config = _part(bundle, "config")
    if config.get("fit") is False and not config.get("checkpoint"):
        return f"'{bundle.label}' was exported without training, so there is no curve."
    looked = (
        ", ".join(f"'{folder}'" for folder in run_folders(bundle))
        or "nowhere, because the manifest names no run"
    )
    return f"The logs of the run of '{bundle.label}' are not found (searched in {looked})."


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
    # one line per run: the loss of steps would hide the others
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


def operators(bundles: Sequence[Bundle]) -> Section:
    """Section with the operators of the TFLite files."""
    read, blocks = list[tuple[str, Inspection]](), list[Block]()
    for bundle in bundles:
        for artefact in bundle.artefacts:
            if artefact.path is None or artefact.path.suffix != ".tflite":
                continue
            try:
                read.append(
                    (
                        artefact.form if len(bundles) == 1 else f"{bundle.label}: {artefact.form}",
                        inspect_tflite(artefact.path),
                    )
                )
            except HeatposeError as error:
                blocks.append(missing(str(error)))
    if not read:
        blocks.append(missing("There is no TFLite file."))
        return Section("operators", "Operators", "Operators of the files.", blocks)
    names = dict.fromkeys(name for _, inspection in read for name in inspection.operators)
    counts = [
        Row([Cell(name, name, "code"), *(_count(inspection, name) for _, inspection in read)])
        for name in names
    ]
    lines = [
        *counts,
        Row(
            [Cell("all operators"), *(number(sum(i.operators.values()), 0) for _, i in read)],
            "total",
        ),
        *_facts([i for _, i in read]),
    ]
    table = Table(("operator", *(name for name, _ in read)), lines, name="operators-table")
    lead = (
        "Counted in the files. `heatpose inspect FILE --target stm32n6` lists those that an NPU"
        " does not support."
    )
    return Section("operators", "Operators", lead, [table, *blocks])


def _count(inspection: Inspection, name: str) -> Cell:
    count = inspection.operators.get(name)
    return NOTHING if count is None else Cell(str(count), count)


def _facts(inspections: Sequence[Inspection]) -> list[Row]:
    rows = (
        (
            "multiply-accumulates, million",
            [number(None if i.macs is None else i.macs / 1e6, 1) for i in inspections],
        ),
        ("constants, KiB", [number(i.weights_bytes / 1024, 0) for i in inspections]),
        (
            "activations alive at once, KiB",
            [
                number(
                    None if i.peak_activation_bytes is None else i.peak_activation_bytes / 1024, 0
                )
                for i in inspections
            ],
        ),
        ("weights", [Cell(i.granularity.replace("_", " ")) for i in inspections]),
        ("integer operators only", [Cell("yes" if i.full_integer else "no") for i in inspections]),
    )
    return [Row([Cell(title), *cells], "total") for title, cells in rows]


def reproduction(bundles: Sequence[Bundle]) -> Section:
    """Section with commands, hashes and versions."""
    blocks: list[Block] = []
    for i, bundle in enumerate(bundles):
        blocks += guarded(f"The manifest of '{bundle.label}'", partial(_of_bundle, bundle, i))
    lead = (
        "Commands, files and their hashes. manifest.json of each bundle has the complete"
        " configuration."
    )
    return Section("reproduce", "Reproduction", lead, blocks)


def _of_bundle(bundle: Bundle, position: int) -> list[Block]:
    manifest = bundle.manifest
    provenance = manifest.get("provenance") or {}
    deployed = bundle.deployed
    lines = [str(provenance["command"])] if provenance.get("command") else []
    place = f"exports/{manifest.get('name') or bundle.folder.name}"
    if deployed is not None and deployed.path is not None:
        lines.append(
            f"uv run heatpose evaluate {shlex.quote(f'{place}/{deployed.path.name}')} --annotations"
            " LABELS.json --images FOLDER"
        )
    lines.append(f"uv run heatpose report {shlex.quote(place)} --out report.html")
    blocks: list[Block] = [Commands(bundle.label, lines)]
    if not provenance.get("command"):
        blocks.append(
            missing(
                f"The export command of '{bundle.label}' was not recorded; its configuration is in"
                " manifest.json."
            )
        )
    files = manifest.get("files") or {}
    rows = [
        Row(
            [
                Cell(name, name, "code"),
                Cell(str(entry["sha256"]), mark="hash"),
                number(entry["bytes"], 0),
            ]
        )
        for name, entry in files.items()
    ]
    blocks.append(
        Table(("file", "sha256", "bytes"), rows, f"Files of {bundle.label}", 2, f"files_{position}")
    )
    origin = [
        Row([Cell(key), Cell(value, mark="long")]) for key, value in _origin(manifest, provenance)
    ]
    return [*blocks, Table(("what", "which"), origin, f"Origin of {bundle.label}", 9)]


def _origin(manifest: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    git, data, calibration = (manifest.get(key) or {} for key in ("git", "data", "calibration"))
    changed = " with changes that are not committed" if git.get("changed") else ""
    lines = [
        ("made", str(manifest.get("created", "not known"))),
        ("from commit", f"{git.get('commit', 'not known')}{changed}"),
        ("checkpoint", str(provenance.get("checkpoint", "not known"))),
        *((f"{part} labels", _labels(entry)) for part, entry in data.items()),
        (
            "calibration",
            "{} training images, seed {}, sha256 of the list {}".format(
                *(calibration.get(key, "?") for key in ("images", "seed", "sha256"))
            ),
        ),
        (
            "versions",
            ", ".join(
                f"{name} {version}" for name, version in (manifest.get("versions") or {}).items()
            ),
        ),
        ("machine", str(manifest.get("platform", "not known"))),
    ]
    return lines


def _labels(entry: Mapping[str, Any] | None) -> str:
    return (
        "none"
        if not entry
        else (
            f"{entry['people']} people on {entry['images']} images, sha256 {entry['labels_sha256']}"
        )
    )
