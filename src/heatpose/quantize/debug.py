"""Compares an int8 file with its float file: keypoint distances, layers, worst images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from heatpose.bundles.bundle import Bundle
from heatpose.bundles.facts import bundle_facts, tflite_facts
from heatpose.errors import HeatposeError
from heatpose.evaluation.parity import OutputUse, PixelDrift, output_use, pixel_drift, pose_drift
from heatpose.pose.draw import contact_sheet, draw_pose
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.predict.files import find_sources, make_folder, save_image
from heatpose.runners import PoseRunner, open_runner
from heatpose.runners.tflite_runner import input_encoding, read_input
from heatpose.tflite.graph import Graph
from heatpose.tflite.reader import read_graph
from heatpose.utils.files import output_file
from heatpose.utils.image_files import load_image

_SHOWN = 320  # longest side of an image on the sheet


@dataclass(frozen=True)
class Drift:
    """Differences of an int8 file's keypoints from its float file's.

    Attributes:
        total: Distances in pixels of the input.
        outputs: Per keypoint: ties, dead maps, range; empty for files that decode inside.
        files: The images.
        distances: f32[N] mean over the keypoints, in pixels of the input.
        poses: The float file's and the int8 file's, f32[N, K, 3] each.
        images: u8[N, S, S, 3] as both got them.
    """

    total: PixelDrift
    outputs: dict[str, OutputUse]
    files: list[Path]
    distances: NDArray[np.float32]
    poses: tuple[NDArray[np.float32], NDArray[np.float32]]
    images: NDArray[np.uint8]


def drift_of(
    float_file: Path, int8_file: Path, sources: Sequence[Path], skeleton: Skeleton, limit: int
) -> Drift:
    """Runs both files over images.

    Args:
        float_file: TFLite, float32.
        int8_file: TFLite, int8.
        sources: Images and folders.
        skeleton: Keypoints of the channels.
        limit: At most so many images, evenly spread over those that are found.

    Raises:
        HeatposeError: There is no image, or a file is not a pose model.
    """
    runners = [open_runner(path) for path in (float_file, int8_file)]
    size = runners[0].size
    found = find_sources(sources).images
    if not found:
        raise HeatposeError(
            "There is no image among the sources; give images or folders of images."
        )
    files = [
        found[i]
        for i in np.unique(np.linspace(0, len(found) - 1, min(limit, len(found))).astype(int))
    ]
    preprocessing = runners[0].preprocessing or Preprocessing(size)
    images = np.stack([preprocessing.resize(load_image(path)) for path in files])
    names = skeleton.keypoints
    try:
        exact, rounded = (_maps(runner, images) for runner in runners)
    except HeatposeError:  # decoded inside
        poses = (runners[0].predict(images), runners[1].predict(images))
        total, outputs = pose_drift(*poses, size=size, names=names), {}
    else:
        poses = (runners[0].predict(images, "refined"), runners[1].predict(images, "refined"))
        total, outputs = (
            pixel_drift(exact, rounded, size=size, names=names),
            output_use(rounded, names),
        )
    distances = size * np.linalg.norm((poses[0] - poses[1])[..., :2], axis=-1).mean(-1)
    return Drift(total, outputs, files, distances.astype(np.float32), poses, images)


def _maps(runner: PoseRunner, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate([runner.heatmaps(image[None]) for image in images])


def worst_sheet(
    drift: Drift, skeleton: Skeleton, count: int = 10, threshold: float = 0.1
) -> NDArray[np.uint8]:
    """Contact sheet u8[H, W, 3] of the images with the largest distances.

    Each image is drawn with the poses of the float file and of the int8 file.
    """
    worst = np.argsort(-drift.distances, kind="stable")[:count]
    tiles, captions = [], []
    for i in worst:
        image = load_image(drift.files[i])
        step = max(1, max(image.shape[:2]) // _SHOWN)
        small = np.ascontiguousarray(image[::step, ::step])
        tiles += [
            draw_pose(small, poses[i], skeleton, threshold=threshold) for poses in drift.poses
        ]
        captions += [f"float  {drift.files[i].name}", f"int8: {drift.distances[i]:.1f} px away"]
    return contact_sheet(tiles, columns=4, captions=captions)


BODY = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "TRANSPOSE_CONV",
    "ADD",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
)
_SUFFIX = "/int8"  # what the int8 writer adds to the name of a tensor that has a float copy
_SILENT = 1e-12


@dataclass(frozen=True)
class Layer:
    """One tensor of both files.

    Attributes:
        position: Of its operator in the int8 file.
        operator: Its kind.
        name: The tensor's.
        shape: (1, H, W, C).
        decibels: 10 log10 (variance of the signal / variance of the noise), over all channels;
            infinite without noise.
        worst: The same of the channel where it is lowest, constant channels excluded.
        used: Share of the 256 stored values that occurs.
    """

    position: int
    operator: str
    name: str
    shape: tuple[int, ...]
    decibels: float
    worst: float
    used: float


def compare_layers(float_file: Path, int8_file: Path, images: NDArray[np.uint8]) -> list[Layer]:
    """Runs both files by the same kernels and compares their tensors.

    PTQ scales and shifts the channels of hidden tensors without changing the network's output. So
    each channel of the int8 file is first fitted to the float one by a least-squares line, and the
    residual is the noise.

    Args:
        float_file: TFLite, float32.
        int8_file: The int8 file made from it.
        images: u8[N, S, S, 3].

    Returns:
        The tensors that both have, in the order of the int8 file.

    Raises:
        HeatposeError: The files have no tensor in common, or one cannot be run.
    """
    names = [_tensors(read_graph(path)) for path in (float_file, int8_file)]
    shared = [name for name in names[1] if name in names[0]]
    if not shared:
        raise HeatposeError(
            f"'{float_file}' and '{int8_file}' have no tensor in common; give both files of one"
            " bundle."
        )
    runs = [
        _Run(path, [found[name][0] for name in shared])
        for path, found in zip((float_file, int8_file), names, strict=True)
    ]
    sums = [_Sums() for _ in shared]
    for image in images:
        for total, exact, rounded in zip(sums, *(run(image) for run in runs), strict=True):
            total.add(exact[0], rounded[0])
    return [_layer(name, names[1][name], total) for name, total in zip(shared, sums, strict=True)]


def _tensors(graph: Graph) -> dict[str, tuple[int, int, str, tuple[int, ...]]]:
    """Name -> tensor, operator's position, its kind, shape; of the body's outputs."""
    found = {}
    for operator in graph.operators:
        if operator.name in BODY:
            tensor = graph.tensors[operator.outputs[0]]
            found[tensor.name.removesuffix(_SUFFIX)] = (
                tensor.index,
                operator.index,
                operator.name,
                tensor.shape,
            )
    return found


class _Run:
    """An interpreter whose hidden tensors can be read.

    They are made outputs of the graph, so the kernels are those of the file itself.
    """

    def __init__(self, path: Path, tensors: Sequence[int]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        from heatpose.tflite.writer import Model

        graph = read_graph(path)
        self.encoding = input_encoding(path, graph)
        self.reading = read_input(graph, self.encoding, tflite_facts(path).preprocessing)
        model = Model(path.read_bytes())
        for position, tensor in enumerate(tensors):
            model.graph.tensors[tensor].name = f"tapped{position}".encode()
        model.graph.outputs = np.array(
            [*dict.fromkeys([*map(int, model.graph.outputs), *tensors])], np.int32
        )
        model.model.signatureDefs = []
        self.interpreter = Interpreter(model_content=model.pack(), num_threads=2)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        details = {
            entry["name"].split(";")[0]: entry for entry in self.interpreter.get_output_details()
        }
        self.outputs = [details[f"tapped{position}"] for position in range(len(tensors))]

    def __call__(self, image: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Every tensor of u8[S, S, 3], as stored."""
        self.interpreter.set_tensor(self.input, self.encoding.fill(image, self.reading))
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(entry["index"]) for entry in self.outputs]


class _Sums:
    """Moments of the channels of two tensors, f64[C], gathered image by image."""

    def __init__(self) -> None:
        self.moments: NDArray[np.float64] | None = None
        self.count = 0
        self.values: set[int] = set()

    def add(self, exact: NDArray[Any], rounded: NDArray[Any]) -> None:
        """Two tensors [H, W, C]."""
        a, b = (
            values.reshape(-1, values.shape[-1]).astype(np.float64) for values in (exact, rounded)
        )
        moments = np.stack([a.sum(0), b.sum(0), (a * a).sum(0), (a * b).sum(0), (b * b).sum(0)])
        self.moments = moments if self.moments is None else self.moments + moments
        self.count += len(a)
        self.values.update(np.unique(rounded).tolist())

    def variances(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Variances of the signal and of the residual of the fitted line, f64[C] each."""
        assert self.moments is not None
        mean_a, mean_b, aa, ab, bb = self.moments / self.count
        signal, spread, joint = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
        explained = np.divide(joint**2, spread, out=np.zeros_like(joint), where=spread > _SILENT)
        return signal.clip(0), (signal - explained).clip(0)


def _layer(name: str, where: tuple[int, int, str, tuple[int, ...]], sums: _Sums) -> Layer:
    _, position, operator, shape = where
    signal, noise = sums.variances()
    moving = signal > 1e-6 * signal.max(initial=0)
    channels = [_decibels([s], [n]) for s, n in zip(signal[moving], noise[moving], strict=True)]
    return Layer(
        position,
        operator,
        name,
        shape,
        _decibels(signal, noise),
        min(channels, default=float("inf")),
        len(sums.values) / 256,
    )


def _decibels(signal: Iterable[float], noise: Iterable[float]) -> float:
    loud, left = float(np.sum(list(signal))), float(np.sum(list(noise)))
    return float(10 * np.log10(loud / left)) if left > _SILENT and loud > 0 else float("inf")


_LAYER_IMAGES = 16
_TOLD = 8  # layers that the terminal shows


def debug_bundle(
    bundle: Path,
    sources: Sequence[Path],
    artefact: str,
    out: Path | None,
    limit: int,
    console: Console,
) -> Path:
    """Explains the drift of one int8 file of a bundle.

    Args:
        bundle: A finished bundle that holds the float file too.
        sources: Images and folders.
        artefact: "int8_pc" or "int8_pt".
        out: Folder to write to; `debug_<artefact>` in the bundle by default.
        limit: At most so many images.
        console: Where tables are printed.

    Returns:
        The folder, with drift.csv, layers.csv, layers.html and worst.jpg.

    Raises:
        HeatposeError: The bundle or one of its two files is not there, or there are no images.
    """
    skeleton = _skeleton(bundle)
    float_file, int8_file = _file(bundle, "float32"), _file(bundle, artefact)
    folder = out or bundle / f"debug_{artefact}"
    make_folder(folder)
    with console.status(f"{int8_file.name}: images"):
        drift = drift_of(float_file, int8_file, sources, skeleton, limit)
    with console.status(f"{int8_file.name}: layers"):
        layers = compare_layers(float_file, int8_file, drift.images[:_LAYER_IMAGES])
    _write_rows(folder / "drift.csv", _drift_rows(drift))
    _write_rows(folder / "layers.csv", [vars(layer) for layer in layers])
    with output_file(folder / "layers.html") as part:
        part.write_text(_plot(layers, int8_file.name), encoding="utf-8")
    save_image(folder / "worst.jpg", worst_sheet(drift, skeleton))
    _print(drift, layers, console)
    return folder


def _skeleton(bundle: Path) -> Skeleton:
    skeleton = bundle_facts(Bundle.read(bundle)).skeleton
    if skeleton is None:
        raise HeatposeError(f"'{bundle}' is not a bundle; give a folder that export.py wrote.")
    return skeleton


def _file(bundle: Path, artefact: str) -> Path:
    found = sorted(
        [*bundle.glob(f"*_{artefact}.tflite"), *bundle.glob(f"*_{artefact}.rejected.tflite")]
    )
    if not found:
        raise HeatposeError(
            f"'{bundle}' has no {artefact} file; export it with quant.artefacts naming float32 and"
            f" {artefact}."
        )
    return found[0]


def _drift_rows(drift: Drift) -> list[dict[str, Any]]:
    rows = [
        {"keypoint": "all", "p50": drift.total.p50, "p95": drift.total.p95, "p99": drift.total.p99}
    ]
    rows += [
        {"keypoint": name, **quantiles} for name, quantiles in drift.total.per_keypoint.items()
    ]
    return [
        {
            **row,
            **(
                vars(drift.outputs[str(row["keypoint"])])
                if row["keypoint"] in drift.outputs
                else {}
            ),
        }
        for row in rows
    ]


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    fields = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    )
    with output_file(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8")


def _plot(layers: Sequence[Layer], title: str) -> str:
    """HTML page with a bar per layer: signal to noise in decibels; opens without a network."""
    import plotly.graph_objects as go  # type: ignore[import-untyped,unused-ignore]
    import plotly.io  # type: ignore[import-untyped,unused-ignore]

    names = [f"{layer.position} {layer.operator}" for layer in layers]
    hover = [f"{layer.name}<br>{layer.shape}" for layer in layers]
    bars = [
        go.Bar(
            x=names,
            y=[min(getattr(layer, key), 99.0) for layer in layers],
            name=label,
            hovertext=hover,
        )
        for key, label in (("decibels", "all channels"), ("worst", "worst channel"))
    ]
    figure = go.Figure(
        bars,
        {
            "title": {"text": f"{title}: signal to noise (dB)"},
            "barmode": "overlay",
            "yaxis": {"title": {"text": "dB"}},
        },
    )
    return str(plotly.io.to_html(figure, include_plotlyjs=True, full_html=True))


def _print(drift: Drift, layers: Sequence[Layer], console: Console) -> None:
    table = Table(
        title="Keypoints: distance from the float file, pixels of the input", title_justify="left"
    )
    for heading in ("keypoint", "p50", "p95", "p99", "tied maps %", "dead maps %", "range used %"):
        table.add_column(
            heading,
            justify="left" if heading == "keypoint" else "right",
            no_wrap=heading == "keypoint",
        )
    for row in _drift_rows(drift):
        used = [f"{row[key]:.1f}" if key in row else "-" for key in ("tied", "dead", "peak_range")]
        table.add_row(
            str(row["keypoint"]), *(f"{row[key]:.2f}" for key in ("p50", "p95", "p99")), *used
        )
    console.print(table)
    worst = Table(title=f"The {_TOLD} layers with most noise", title_justify="left")
    for heading in ("operator", "tensor", "dB", "worst channel", "values used %"):
        worst.add_column(
            heading,
            justify="left" if heading in ("operator", "tensor") else "right",
            no_wrap=heading == "operator",
        )
    for layer in sorted(layers, key=lambda layer: layer.decibels)[:_TOLD]:
        name = layer.name if len(layer.name) <= 60 else f"…{layer.name[-59:]}"
        worst.add_row(
            f"{layer.position} {layer.operator}",
            name,
            f"{layer.decibels:.1f}",
            f"{layer.worst:.1f}",
            f"{100 * layer.used:.0f}",
        )
    console.print(worst)
