"""Signal to noise of every activation of an int8 file, the float file being the signal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.export.flatbuffer import read_graph
from heatpose.export.graph import Graph
from heatpose.runners.metadata import tflite_facts
from heatpose.runners.tflite_forms import input_form, read_input

BODY = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "ADD", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
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
        decibels: 10 log10 (variance of the signal / variance of the noise), over all channels; infinite without noise.
        worst: The same of the channel where it is lowest, among those that move at all.
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

    Recovery scales and shifts the channels of hidden tensors, which changes nothing of what the network computes. So each channel of the int8 file is
    first laid over the float one by the line that fits best, and what that line does not explain is noise.

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
        raise HeatposeError(f"'{float_file}' and '{int8_file}' have no tensor in common; give both files of one bundle.")
    runs = [_Run(path, [found[name][0] for name in shared]) for path, found in zip((float_file, int8_file), names, strict=True)]
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
            found[tensor.name.removesuffix(_SUFFIX)] = (tensor.index, operator.index, operator.name, tensor.shape)
    return found


class _Run:
    """An interpreter that gives inner tensors: they are made outputs of the graph, so the kernels are those of the file itself."""

    def __init__(self, path: Path, tensors: Sequence[int]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        from heatpose.export.schema import Model

        graph = read_graph(path)
        self.form = input_form(path, graph)
        self.reading = read_input(graph, self.form, tflite_facts(path).preprocessing)
        model = Model(path.read_bytes())
        for position, tensor in enumerate(tensors):
            model.graph.tensors[tensor].name = f"tapped{position}".encode()
        model.graph.outputs = np.array([*dict.fromkeys([*map(int, model.graph.outputs), *tensors])], np.int32)
        model.model.signatureDefs = []
        self.interpreter = Interpreter(model_content=model.pack(), num_threads=2)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        details = {entry["name"].split(";")[0]: entry for entry in self.interpreter.get_output_details()}
        self.outputs = [details[f"tapped{position}"] for position in range(len(tensors))]

    def __call__(self, image: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Every tensor of u8[S, S, 3], as stored."""
        self.interpreter.set_tensor(self.input, self.form.fill(image, self.reading))
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(entry["index"]) for entry in self.outputs]


class _Sums:
    """Moments of the channels of two tensors, f64[C], gathered picture by picture."""

    def __init__(self) -> None:
        self.moments: NDArray[np.float64] | None = None
        self.count = 0
        self.values: set[int] = set()

    def add(self, exact: NDArray[Any], rounded: NDArray[Any]) -> None:
        """Two tensors [H, W, C]."""
        a, b = (values.reshape(-1, values.shape[-1]).astype(np.float64) for values in (exact, rounded))
        moments = np.stack([a.sum(0), b.sum(0), (a * a).sum(0), (a * b).sum(0), (b * b).sum(0)])
        self.moments = moments if self.moments is None else self.moments + moments
        self.count += len(a)
        self.values.update(np.unique(rounded).tolist())

    def variances(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Variance of the signal and of what the best line leaves of it, f64[C] each."""
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
    return Layer(position, operator, name, shape, _decibels(signal, noise), min(channels, default=float("inf")), len(sums.values) / 256)


def _decibels(signal: Iterable[float], noise: Iterable[float]) -> float:
    loud, left = float(np.sum(list(signal))), float(np.sum(list(noise)))
    return float(10 * np.log10(loud / left)) if left > _SILENT and loud > 0 else float("inf")
