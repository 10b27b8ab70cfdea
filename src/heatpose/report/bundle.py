"""Bundles as inputs of a report: manifest, metrics, files, and their resources on boards.

Resources are those of a build or measurement (`<target>/result.json`), else estimates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from heatpose.bundles import bundle as on_disk
from heatpose.deploy.estimate import Interval, estimate
from heatpose.deploy.package import ESTIMATE, RESULT
from heatpose.deploy.targets import Target, built_in, load_target
from heatpose.deploy.tool_result import read_result
from heatpose.errors import HeatposeError
from heatpose.evaluation.published import Published, has_published_keypoints, published
from heatpose.pose.skeleton import Skeleton
from heatpose.report.content import UNREADABLE
from heatpose.tflite.reader import read_graph
from heatpose.utils.files import read_json_object, sha256

METRICS = "metrics.json"
ARTEFACT_TITLES = {
    "torch": "torch network",
    "onnx": "ONNX",
    "float32": "float32",
    "int8_pc": "int8 per channel",
    "int8_pt": "int8 per tensor",
}
DEPLOYED = ("int8_pc", "int8_pt", "float32", "onnx", "torch")
"""Order of preference of the artefact that represents a bundle."""


@dataclass(frozen=True)
class Artefact:
    """A model of a bundle.

    Attributes:
        kind: "torch", "onnx", "float32", "int8_pc" or "int8_pt".
        path: Its file, if any.
        entry: Its entry in `metrics.json`.
    """

    kind: str
    path: Path | None
    entry: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Name for display."""
        return ARTEFACT_TITLES.get(self.kind, self.kind)

    @property
    def report(self) -> Mapping[str, Any] | None:
        """Its scores (`EvalReport.to_json`); None if not scored."""
        found = self.entry.get("report")
        return found if isinstance(found, Mapping) else None

    @property
    def oks(self) -> float | None:
        """Mean OKS in percent."""
        return None if self.report is None else float(self.report["oks"])

    @property
    def image_scores(self) -> dict[int, float]:
        """Image id -> OKS in percent; empty if not scored."""
        entries = () if self.report is None else self.report["per_image"]
        return {int(entry["image_id"]): float(entry["oks"]) for entry in entries}

    @property
    def rejected(self) -> bool:
        """Whether it failed an acceptance check."""
        return self.entry.get("passed") is False


@dataclass(frozen=True)
class Bundle:
    """A bundle.

    Attributes:
        folder: Folder of the bundle.
        label: Unique name in the report.
        manifest: Content of `manifest.json`.
        metrics: Content of `metrics.json`; empty if missing.
        missing: Sentences on missing parts.
    """

    folder: Path
    label: str
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any]
    missing: tuple[str, ...] = ()

    @cached_property
    def artefacts(self) -> list[Artefact]:
        """All models in the metrics or the folder, in the order of `ARTEFACT_TITLES`."""
        entries = self.metrics.get("artefacts")
        known: Mapping[str, Any] = entries if isinstance(entries, Mapping) else {}
        found = []
        for kind in ARTEFACT_TITLES:
            path, entry = self._file(kind), known.get(kind)
            if path is not None or isinstance(entry, Mapping):
                found.append(Artefact(kind, path, entry if isinstance(entry, Mapping) else {}))
        return found

    def _file(self, kind: str) -> Path | None:
        patterns = (
            ("*.onnx",) if kind == "onnx" else (f"*_{kind}.tflite", f"*_{kind}.rejected.tflite")
        )
        found = [path for pattern in patterns for path in sorted(self.folder.glob(pattern))]
        return next(iter(found), None)

    def artefact(self, kind: str) -> Artefact | None:
        """The model of that kind; None if there is none."""
        return next((artefact for artefact in self.artefacts if artefact.kind == kind), None)

    @cached_property
    def deployed(self) -> Artefact | None:
        """The artefact that represents the bundle (`DEPLOYED`)."""
        return next(
            (artefact for kind in DEPLOYED if (artefact := self.artefact(kind)) is not None), None
        )

    @cached_property
    def skeleton(self) -> Skeleton | None:
        """Keypoint set; None if the manifest has none."""
        try:
            return Skeleton(**self.manifest["skeleton"])
        except (*UNREADABLE, HeatposeError):
            return None

    @property
    def resolution(self) -> int | None:
        """Side of the input in pixels."""
        size = self.manifest.get("resolution")
        return size if isinstance(size, int) else None

    @property
    def width(self) -> float | None:
        """Width multiplier of the backbone."""
        network = self.manifest.get("network")
        width = network.get("width") if isinstance(network, Mapping) else None
        return float(width) if isinstance(width, int | float) else None

    @property
    def decoded(self) -> bool:
        """Whether the files contain the decoding and output keypoints."""
        network = self.manifest.get("network")
        return isinstance(network, Mapping) and network.get("heads") == "all"


def read_bundles(folders: Sequence[Path]) -> list[Bundle]:
    """Reads bundles; equal names are made unique by their folders.

    Raises:
        HeatposeError: A folder is not a bundle.
    """
    bundles = [read_bundle(folder) for folder in dict.fromkeys(folders)]
    counts = Counter(bundle.label for bundle in bundles)
    return [
        (
            replace(bundle, label=f"{bundle.label} ({bundle.folder})")
            if counts[bundle.label] > 1
            else bundle
        )
        for bundle in bundles
    ]


def read_bundle(folder: Path) -> Bundle:
    """Reads a bundle; only the manifest is required.

    Raises:
        HeatposeError: The manifest is missing or damaged.
    """
    manifest = on_disk.Bundle.read(folder).manifest
    metrics, missing = read_json_object(folder / METRICS), []
    name = str(manifest.get("name") or folder.resolve().name)
    if metrics is None:
        what = "cannot be read" if (folder / METRICS).exists() else "is missing"
        missing.append(f"'{name}' has no scores: its {METRICS} {what}; export the bundle again.")
    elif not metrics.get("scored"):
        missing.append(
            f"'{name}' was not scored, because its export had no evaluation set; add"
            " data.eval_root=FOLDER and export it again."
        )
    return Bundle(folder, name, manifest, metrics or {}, tuple(missing))


QUANTITIES = {"ms": "ms", "ram_kib": "RAM KiB", "flash_kib": "flash KiB"}
PUBLISHED = {
    ("stm32n6", "ms"): "n6_ms",
    ("stm32n6", "ram_kib"): "n6_ram_kib",
    ("stm32n6", "flash_kib"): "n6_flash_kib",
    ("stm32mp2", "ms"): "mp257_ms",
    ("stm32mp1", "ms"): "mp157_ms",
}
"""Target and quantity -> field of a published row."""
_RESULTS = {"ms": "ms", "ram_kib": "ram_internal_kib", "flash_kib": "flash_kib"}


@dataclass(frozen=True)
class Taken:
    """A quantity on a board.

    Attributes:
        interval: Value with bounds, which are equal for built and measured values.
        source: "estimated", "built" or "measured".
        message: Sentence on its source.
    """

    interval: Interval
    source: str
    message: str

    def __str__(self) -> str:
        digits = 1 if self.interval.value < 100 else 0
        return f"{'~' if self.source == 'estimated' else ''}{self.interval.value:,.{digits}f}"


@dataclass(frozen=True)
class OnBoard:
    """Resources of a file on a board.

    Attributes:
        target: Name of the target.
        board: Name of the board.
        artefact: Model file.
        figures: "ms", "ram_kib", "flash_kib" -> known quantities.
        notes: Sentences.
    """

    target: str
    board: str
    artefact: Artefact
    figures: Mapping[str, Taken]
    notes: tuple[str, ...] = ()


def on_boards(bundle: Bundle) -> list[OnBoard]:
    """Resources on all built-in targets, and on custom ones with a deployment package."""
    found = [_on_board(bundle, load_target(name)) for name in built_in()]
    others = (
        folder
        for folder in sorted(bundle.folder.glob("*/"))
        if folder.name not in built_in() and (folder / ESTIMATE).is_file()
    )
    return [
        entry
        for entry in (*found, *(_packaged(bundle, folder) for folder in others))
        if entry is not None
    ]


def _on_board(bundle: Bundle, target: Target) -> OnBoard | None:
    artefact = bundle.artefact(target.artefact)
    if artefact is None or artefact.path is None or target.estimator is None:
        return None
    try:
        expected = estimate(read_graph(artefact.path), target)
    except HeatposeError as error:
        return OnBoard(target.name, target.board, artefact, {}, (str(error),))
    message = f"Estimated from {expected.based_on}" + (
        ", extrapolated" if expected.extrapolates else ""
    )
    figures = {
        name: Taken(value, "estimated", message)
        for name in QUANTITIES
        if (value := getattr(expected, name)) is not None
    }
    return _with_result(
        bundle.folder / target.name,
        OnBoard(target.name, target.board, artefact, figures, (*expected.outside, *expected.notes)),
    )


def _packaged(bundle: Bundle, folder: Path) -> OnBoard | None:
    """Resources on a custom board, from its deployment package."""
    record, content = (
        read_result(folder / "deploy.json") or {},
        read_result(folder / ESTIMATE) or {},
    )
    artefact = next(
        (
            a
            for a in bundle.artefacts
            if a.path is not None and sha256(a.path) == record.get("model_sha256")
        ),
        None,
    )
    if artefact is None:
        return None
    try:
        expected = content.get("estimate") or {}
        message = f"Estimated from {expected.get('based_on')}"
        figures = {
            name: Taken(Interval(**expected[name]), "estimated", message)
            for name in QUANTITIES
            if expected.get(name)
        }
    except UNREADABLE:
        figures = {}
    return _with_result(
        folder, OnBoard(folder.name, str(record.get("board", folder.name)), artefact, figures)
    )


def _with_result(folder: Path, expected: OnBoard) -> OnBoard:
    """Replaces estimates by the results of a build or measurement of the same file."""
    result = read_result(folder / RESULT)
    if result is None or expected.artefact.path is None:
        return expected
    if result.get("model_sha256") not in (None, sha256(expected.artefact.path)):
        notes = (
            *expected.notes,
            (
                f"{folder.name}/{RESULT} belongs to another file and is ignored; run heatpose"
                " deploy again."
            ),
        )
        return replace(expected, notes=notes)
    failure = result.get("failure")
    failed = (
        (f"The last build failed: {failure['sentence']}",)
        if isinstance(failure, Mapping) and failure.get("sentence")
        else ()
    )
    figures = {**expected.figures, **_reported(result)}
    return replace(expected, figures=figures, notes=(*expected.notes, *failed))


def _reported(result: Mapping[str, Any]) -> dict[str, Taken]:
    tool = str(result.get("tool_version") or "").split(" ")[0]
    found = {}
    for name, key in _RESULTS.items():
        value = result.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            source = "measured" if name == "ms" else "built"
            message = (
                f"Measured on {result.get('device') or 'a board'}"
                if name == "ms"
                else f"Built by ST Edge AI Core {tool}".rstrip()
            )
            found[name] = Taken(Interval(value, value, value), source, message)
    return found


def published_rows(bundle: Bundle) -> tuple[Published, ...]:
    """Published rows with the bundle's keypoints and output, at all resolutions."""
    if bundle.skeleton is None or not has_published_keypoints(bundle.skeleton):
        return ()
    return published(
        keypoints=len(bundle.skeleton), output="keypoints" if bundle.decoded else "heatmaps"
    )
