"""What `heatpose debug-quant` writes and prints."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from heatpose.debug.drift import Drift, drift_of, worst_sheet
from heatpose.debug.layers import Layer, compare_layers
from heatpose.errors import HeatposeError
from heatpose.predict.results import make_folder, save_picture, write_whole
from heatpose.runners.manifest import MANIFEST, read_manifest
from heatpose.skeleton import Skeleton

FORMS = ("int8_pc", "int8_pt")
_LAYER_IMAGES = 16
_TOLD = 8  # layers that the terminal shows


def debug_bundle(bundle: Path, sources: Sequence[Path], form: str, out: Path | None, limit: int, console: Console) -> Path:
    """Explains the drift of one int8 file of a bundle.

    Args:
        bundle: A finished bundle that holds the float file too.
        sources: Pictures and folders.
        form: "int8_pc" or "int8_pt".
        out: Folder to write to; `debug_<form>` in the bundle by default.
        limit: At most so many pictures.
        console: Where tables are printed.

    Returns:
        The folder, with drift.csv, layers.csv, layers.html and worst.jpg.

    Raises:
        HeatposeError: The bundle or one of its two files is not there, or there are no pictures.
    """
    skeleton = _skeleton(bundle)
    float_file, int8_file = _file(bundle, "float32"), _file(bundle, form)
    folder = out or bundle / f"debug_{form}"
    make_folder(folder)
    with console.status(f"{int8_file.name}: pictures"):
        drift = drift_of(float_file, int8_file, sources, skeleton, limit)
    with console.status(f"{int8_file.name}: layers"):
        layers = compare_layers(float_file, int8_file, drift.images[:_LAYER_IMAGES])
    _write_rows(folder / "drift.csv", _drift_rows(drift))
    _write_rows(folder / "layers.csv", [vars(layer) for layer in layers])
    write_whole(folder / "layers.html", lambda path: path.write_text(_plot(layers, int8_file.name), encoding="utf-8"))
    save_picture(folder / "worst.jpg", worst_sheet(drift, skeleton))
    _print(drift, layers, console)
    return folder


def _skeleton(bundle: Path) -> Skeleton:
    skeleton = read_manifest(bundle / MANIFEST).skeleton
    if skeleton is None:
        raise HeatposeError(f"'{bundle}' is no bundle; give a folder that export.py wrote.")
    return skeleton


def _file(bundle: Path, form: str) -> Path:
    found = sorted([*bundle.glob(f"*_{form}.tflite"), *bundle.glob(f"*_{form}.rejected.tflite")])
    if not found:
        raise HeatposeError(f"'{bundle}' has no {form} file; export it with quant.forms naming float32 and {form}.")
    return found[0]


def _drift_rows(drift: Drift) -> list[dict[str, Any]]:
    rows = [{"keypoint": "all", "p50": drift.total.p50, "p95": drift.total.p95, "p99": drift.total.p99}]
    rows += [{"keypoint": name, **quantiles} for name, quantiles in drift.total.per_keypoint.items()]
    return [{**row, **(vars(drift.outputs[str(row["keypoint"])]) if row["keypoint"] in drift.outputs else {})} for row in rows]


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    fields = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows)
    write_whole(path, lambda part: part.write_text(text.getvalue(), encoding="utf-8"))


def _plot(layers: Sequence[Layer], title: str) -> str:
    """A page with bars of signal to noise by layer, that works without a network."""
    import plotly.graph_objects as go  # type: ignore[import-untyped,unused-ignore]
    import plotly.io  # type: ignore[import-untyped,unused-ignore]

    names = [f"{layer.position} {layer.operator}" for layer in layers]
    hover = [f"{layer.name}<br>{layer.shape}" for layer in layers]
    bars = [
        go.Bar(x=names, y=[min(getattr(layer, key), 99.0) for layer in layers], name=label, hovertext=hover)
        for key, label in (("decibels", "all channels"), ("worst", "worst channel"))
    ]
    figure = go.Figure(bars, {"title": {"text": f"{title}: signal to noise (dB)"}, "barmode": "overlay", "yaxis": {"title": {"text": "dB"}}})
    return str(plotly.io.to_html(figure, include_plotlyjs=True, full_html=True))


def _print(drift: Drift, layers: Sequence[Layer], console: Console) -> None:
    table = Table(title="Keypoints: distance from the float file, pixels of the input", title_justify="left")
    for heading in ("keypoint", "p50", "p95", "p99", "tied maps %", "dead maps %", "range used %"):
        table.add_column(heading, justify="left" if heading == "keypoint" else "right", no_wrap=heading == "keypoint")
    for row in _drift_rows(drift):
        used = [f"{row[key]:.1f}" if key in row else "-" for key in ("tied", "dead", "peak_range")]
        table.add_row(str(row["keypoint"]), *(f"{row[key]:.2f}" for key in ("p50", "p95", "p99")), *used)
    console.print(table)
    worst = Table(title=f"The {_TOLD} layers with most noise", title_justify="left")
    for heading in ("operator", "tensor", "dB", "worst channel", "values used %"):
        worst.add_column(heading, justify="left" if heading in ("operator", "tensor") else "right", no_wrap=heading == "operator")
    for layer in sorted(layers, key=lambda layer: layer.decibels)[:_TOLD]:
        name = layer.name if len(layer.name) <= 60 else f"…{layer.name[-59:]}"
        worst.add_row(f"{layer.position} {layer.operator}", name, f"{layer.decibels:.1f}", f"{layer.worst:.1f}", f"{100 * layer.used:.0f}")
    console.print(worst)
