"""A bundle as a report sees it.

What its `manifest.json` and `metrics.json` say, and which files are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from heatpose.bundles import bundle as on_disk
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import Skeleton
from heatpose.report.content import UNREADABLE
from heatpose.utils.files import read_json_object

METRICS = "metrics.json"
FORMS = {
    "torch": "torch network",
    "onnx": "ONNX",
    "float32": "float32",
    "int8_pc": "int8 per channel",
    "int8_pt": "int8 per tensor",
}
DEPLOYED = ("int8_pc", "int8_pt", "float32", "onnx", "torch")
"""What a bundle is judged by: the first of these that it has."""


@dataclass(frozen=True)
class Artefact:
    """One model of a bundle.

    Attributes:
        form: "torch", "onnx", "float32", "int8_pc" or "int8_pt".
        path: Its file, where there is one.
        entry: What `metrics.json` says about it.
    """

    form: str
    path: Path | None
    entry: Mapping[str, Any]

    @property
    def title(self) -> str:
        """For people."""
        return FORMS.get(self.form, self.form)

    @property
    def report(self) -> Mapping[str, Any] | None:
        """Its score (`EvalReport.to_json`); None where nothing was scored."""
        found = self.entry.get("report")
        return found if isinstance(found, Mapping) else None

    @property
    def oks(self) -> float | None:
        """Mean OKS in percent."""
        return None if self.report is None else float(self.report["oks"])

    @property
    def rejected(self) -> bool:
        """A gate refused it."""
        return self.entry.get("passed") is False


@dataclass(frozen=True)
class Bundle:
    """A folder with a manifest.

    Attributes:
        folder: Where it is.
        label: What the report calls it; no two alike.
        manifest: Content of `manifest.json`.
        metrics: Content of `metrics.json`; empty where there is none.
        missing: Sentences about what is not there.
    """

    folder: Path
    label: str
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any]
    missing: tuple[str, ...] = ()

    @cached_property
    def artefacts(self) -> list[Artefact]:
        """Every model that the metrics or the folder know, in the order of `FORMS`."""
        entries = self.metrics.get("artefacts")
        known: Mapping[str, Any] = entries if isinstance(entries, Mapping) else {}
        found = []
        for form in FORMS:
            path, entry = self._file(form), known.get(form)
            if path is not None or isinstance(entry, Mapping):
                found.append(Artefact(form, path, entry if isinstance(entry, Mapping) else {}))
        return found

    def _file(self, form: str) -> Path | None:
        patterns = (
            ("*.onnx",) if form == "onnx" else (f"*_{form}.tflite", f"*_{form}.rejected.tflite")
        )
        found = [path for pattern in patterns for path in sorted(self.folder.glob(pattern))]
        return next(iter(found), None)

    def artefact(self, form: str) -> Artefact | None:
        """The model of that form."""
        return next((artefact for artefact in self.artefacts if artefact.form == form), None)

    @cached_property
    def deployed(self) -> Artefact | None:
        """What the bundle is judged by."""
        return next(
            (artefact for form in DEPLOYED if (artefact := self.artefact(form)) is not None), None
        )

    @cached_property
    def skeleton(self) -> Skeleton | None:
        """What its channels are; None where the manifest does not say."""
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
        """The files decode inside: they give keypoints, not heatmaps."""
        network = self.manifest.get("network")
        return isinstance(network, Mapping) and network.get("heads") == "all"


def read_bundles(folders: Sequence[Path]) -> list[Bundle]:
    """Reads bundles; those of one name are told apart by their folders.

    Raises:
        HeatposeError: A folder is no bundle.
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
    """Reads a bundle; only the manifest must be there.

    Raises:
        HeatposeError: It has no manifest that can be read.
    """
    manifest = on_disk.Bundle.read(folder).manifest
    metrics, said = read_json_object(folder / METRICS), []
    name = str(manifest.get("name") or folder.resolve().name)
    if metrics is None:
        what = "cannot be read" if (folder / METRICS).exists() else "is not there"
        said.append(f"'{name}' has no scores: its {METRICS} {what}; export the bundle again.")
    elif not metrics.get("scored"):
        said.append(
            f"'{name}' was not scored, because its export had no evaluation set; add"
            " data.eval_root=FOLDER and export it again."
        )
    return Bundle(folder, name, manifest, metrics or {}, tuple(said))
