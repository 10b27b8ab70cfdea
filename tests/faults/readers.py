"""The readers of files from elsewhere, each as a person reaches it.

And what real files of its kind are spoiled for it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import mutation
import numpy as np

from heatpose.errors import HeatposeError


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        name: The file's name where it is read.
        pattern: Of the seeds' names, real files.
        read: Reads the file at a path, and does with the result what commands do.
        mutate: Spoils a seed.
    """

    name: str
    pattern: str
    read: Callable[[Path], object]
    mutate: mutation.Mutate


class _Evil:
    """Runs a command where it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


class _EvilBuiltin:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('pwned', 'w').close()",)


MALICIOUS = [
    ("*", pickle.dumps(evil, protocol=2))
    for evil in (_Evil(), _EvilBuiltin(), {"heatpose": _Evil(), "state_dict": {}})
]
"""Pickles that would leave a file named `pwned`."""


@cache
def board(name: str) -> Any:
    """A built-in target."""
    from heatpose.deploy.targets import load_target

    return load_target(name)


@cache
def parse_once() -> None:
    """Commands are processes of their own and parse a model anew.

    Here the same bytes are parsed once, whoever asks. Errors are not kept.
    """
    from heatpose.tflite import reader as flatbuffer

    flatbuffer._parse = lru_cache(maxsize=8)(flatbuffer._parse)


def labels(path: Path) -> None:
    """`heatpose data`, and what training and scoring take from a label file."""
    from heatpose.data.coco import benchmark_instances, instances, read_labels
    from heatpose.data.report import audit_report, print_audit
    from heatpose.pose.skeleton import COCO_17, ST_13, for_labels

    read = read_labels(path)
    for skeleton in (for_labels(read.keypoint_names), COCO_17, ST_13):
        with suppress(HeatposeError):
            instances(read, path.parent, skeleton)
            benchmark_instances(read, path.parent, skeleton)
    from rich.console import Console

    report = audit_report(read, path.parent, for_labels(read.keypoint_names), check_files=True)
    print_audit(report, Console(file=io.StringIO()))
    json.dumps(report.to_json())


def image(path: Path) -> None:
    """As training, scoring, `predict` and the audit read it."""
    from heatpose.data.report import check_images
    from heatpose.pose.preprocessing import Preprocessing
    from heatpose.utils.image_files import load_image

    check_images({1: {"file_name": path.name, "width": 96, "height": 128}}, path.parent, [1])
    with suppress(HeatposeError):
        load_image(path, 96, 128)
    for sampling in ("nearest", "bilinear"):
        Preprocessing(64, sampling).resize(load_image(path))


def tflite(path: Path) -> None:
    """`heatpose inspect`, `estimate`, and the import of weights."""
    from heatpose.deploy.estimate import estimate
    from heatpose.deploy.rules import check_target
    from heatpose.deploy.targets import built_in
    from heatpose.models.tflite_import import import_movenet
    from heatpose.pose.preprocessing import Preprocessing
    from heatpose.runners.reading import describe_file
    from heatpose.tflite.inspect import check_artefact, inspect_tflite
    from heatpose.tflite.reader import read_graph

    parse_once()
    inspection = inspect_tflite(path)
    json.dumps(inspection.to_json(), allow_nan=False)
    json.dumps(describe_file(path), allow_nan=False)
    check_artefact(inspection, "int8_pc", Preprocessing(64))
    graph = read_graph(path)
    for name in built_in():
        target = board(name)
        check_target(graph, target)
        if target.estimator is not None:
            with suppress(HeatposeError):
                json.dumps(estimate(graph, target).to_json())
    import_movenet(path)


def run_model(path: Path) -> None:
    """`heatpose evaluate` and `predict`: one image through the model."""
    from heatpose.evaluation.evaluate import skeleton_of
    from heatpose.runners import open_runner

    runner = open_runner(path, threads=1)
    if runner.size <= 512:
        runner.predict(np.full((1, runner.size, runner.size, 3), 99, np.uint8), "refined")
    skeleton_of(runner, None)


def onnx(path: Path) -> None:
    """`heatpose inspect`."""
    from heatpose.tflite.inspect import inspect_onnx

    json.dumps(inspect_onnx(path).to_json(), allow_nan=False)


def checkpoint(path: Path) -> None:
    """`heatpose inspect` and `evaluate`, the start of another training.

    And the data that a checkpoint names.
    """
    from heatpose.data.sources import from_description
    from heatpose.models.checkpoint import load_checkpoint
    from heatpose.runners.torch_runner import TorchRunner

    loaded = load_checkpoint(path)
    with suppress(HeatposeError):
        from_description(dict(loaded.metadata.get("data") or {}))
    runner = TorchRunner(path, loaded, threads=1)
    if runner.size <= 128:
        runner.predict(np.full((1, runner.size, runner.size, 3), 99, np.uint8), "refined")


def report(path: Path) -> None:
    """`heatpose deploy --import` of what a tool left."""
    from heatpose.deploy.tables import result_lines, result_table
    from heatpose.deploy.tool_result import ToolResult, budget_excess, collect

    facts, warnings = collect([path])
    target = board("stm32n6")
    built = ToolResult(
        target.name,
        "imported",
        facts,
        warnings=tuple(warnings),
        over_budget=budget_excess(facts, target),
    )
    result_table(built), result_lines(built, path.parent)
    json.dumps(built.to_json())


def manifest(path: Path) -> None:
    """What stands beside a model that is run, handed to a board, or verified."""
    from heatpose.bundles.bundle import verify_bundle
    from heatpose.deploy.model import choose_model

    parse_once()
    with suppress(HeatposeError):
        verify_bundle(path.parent)
    for name in ("stm32n6", "stm32mp2"):
        with suppress(HeatposeError):
            choose_model(path.parent, board(name), allow_rejected=True)
    run_model(sorted(path.parent.glob("*.tflite"))[0])


def yaml(path: Path) -> None:
    """A skeleton or a board of one's own."""
    from heatpose.deploy.targets import load_target
    from heatpose.pose.skeleton import Skeleton

    with suppress(HeatposeError):
        Skeleton.from_yaml(path)
    load_target(str(path))


def archive(path: Path) -> None:
    """A download and a tool's results, as zips."""
    from heatpose.data.download import Archive, unpack
    from heatpose.deploy.build import opened

    with suppress(HeatposeError):
        unpack(path, path.parent, Archive("x.zip", "val2017", 0, "", 10**6, 3))
    target = path.parent / "taken"
    target.mkdir(exist_ok=True)
    opened(path, target)


def _mostly(places: Callable[[bytes], Sequence[int]]) -> mutation.Mutate:
    """Changes bytes at the places where structure is, which a file full of weights has few of."""
    known: dict[bytes, Sequence[int]] = {}

    def mutate(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
        key = content[:64] + len(content).to_bytes(8, "big")
        if key not in known:
            known[key] = places(content)
        return mutation.spoiled_bytes(content, others, chance, known[key])

    return mutate


def _outside_weights(content: bytes) -> Sequence[int]:
    """Positions that are not inside long stretches without zeros or repetition.

    Tables have many zero bytes, weights few.
    """
    data = np.frombuffer(content, np.uint8)
    structure = np.convolve(data == 0, np.ones(16), "same") >= 4
    return np.flatnonzero(structure).tolist()


_TABLES = _mostly(_outside_weights)


def _checkpoint(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    return mutation.spoiled_zip(content, others, chance, MALICIOUS)


def _archive(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    extra = [
        ("../evil.jpg", b"x"),
        ("/tmp/evil.jpg", b"x"),
        ("val2017/../../evil.jpg", b"x"),
        ("val2017/a.jpg", bytes(3_000_000)),
    ]
    return mutation.spoiled_zip(content, others, chance, extra)


def _text_or_json(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    return (mutation.spoiled_json if content[:1] == b"{" else mutation.spoiled_bytes)(
        content, others, chance
    )


READERS: dict[str, Reader] = {
    "labels": Reader(
        "person_keypoints_val2017.json", "labels/*.json", labels, mutation.spoiled_json
    ),
    "image": Reader("picture.jpg", "images/*", image, mutation.spoiled_picture),
    "tflite": Reader("model.tflite", "models/*.tflite", tflite, _TABLES),
    "tflite_run": Reader("model.tflite", "models/*.tflite", run_model, _TABLES),
    "onnx": Reader("model.onnx", "models/*.onnx", onnx, _TABLES),
    "onnx_run": Reader("model.onnx", "models/*.onnx", run_model, _TABLES),
    "checkpoint": Reader("best.ckpt", "models/*.ckpt", checkpoint, _checkpoint),
    "report": Reader("network_c_info.json", "reports/*.json", report, mutation.spoiled_json),
    "text_report": Reader(
        "network_generate_report.txt", "reports/*.txt", report, mutation.spoiled_bytes
    ),
    "manifest": Reader("manifest.json", "manifests/*.json", manifest, mutation.spoiled_json),
    "yaml": Reader("own.yaml", "yaml/*.yaml", yaml, mutation.spoiled_bytes),
    "archive": Reader("val2017.zip", "archives/*.zip", archive, _archive),
}
