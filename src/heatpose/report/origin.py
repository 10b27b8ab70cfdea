"""Sections on the files of bundles: their operators, hashes, commands and versions."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from heatpose.errors import HeatposeError
from heatpose.report.bundle import Bundle
from heatpose.report.content import Cell, Row, Values, name, number, reading
from heatpose.tflite.inspect import Inspection, inspect_tflite

_FACTS: Mapping[str, Callable[[Inspection], Cell]] = {
    "all operators": lambda file: number(sum(file.operators.values()), 0),
    "multiply-accumulates, million": lambda file: number(_divided(file.macs, 1e6), 1),
    "constants, KiB": lambda file: number(file.weights_bytes / 1024, 0),
    "activations alive at once, KiB": lambda file: number(
        _divided(file.peak_activation_bytes, 1024), 0
    ),
    "weights": lambda file: Cell(file.granularity.replace("_", " ")),
    "integer operators only": lambda file: Cell("yes" if file.full_integer else "no"),
}


def operators(bundles: Sequence[Bundle]) -> Values:
    """A table with the number of each operator in the TFLite files."""
    files, missing = dict[str, Inspection](), list[str]()
    for bundle in bundles:
        for artefact in bundle.artefacts:
            if artefact.path is None or artefact.path.suffix != ".tflite":
                continue
            title = artefact.form if len(bundles) == 1 else f"{bundle.label}: {artefact.form}"
            try:
                files[title] = inspect_tflite(artefact.path)
            except HeatposeError as error:
                missing.append(str(error))
    if not files:
        missing.append("There is no TFLite file.")
    found = list(files.values())
    rows = [
        [name(operator, "code"), *(number(file.operators.get(operator), 0) for file in found)]
        for operator in dict.fromkeys(operator for file in found for operator in file.operators)
    ]
    totals = [[Cell(title), *map(fact, found)] for title, fact in _FACTS.items()] if files else []
    return {"columns": ["operator", *files], "rows": rows, "totals": totals, "missing": missing}


def _divided(value: float | None, by: float) -> float | None:
    return None if value is None else value / by


def reproduction(bundles: Sequence[Bundle]) -> Values:
    """Commands, hashes and versions of each bundle."""
    read, missing = list[Values](), list[str]()
    for bundle in bundles:
        with reading(f"The manifest of '{bundle.label}'", missing):
            read.append(_of_bundle(bundle))
    return {"bundles": read, "missing": missing}


def _of_bundle(bundle: Bundle) -> Values:
    manifest, deployed = bundle.manifest, bundle.deployed
    provenance = manifest.get("provenance") or {}
    commands, missing = list[str](), list[str]()
    if provenance.get("command"):
        commands.append(str(provenance["command"]))
    else:
        missing.append(
            f"The export command of '{bundle.label}' was not recorded; its configuration is in"
            " manifest.json."
        )
    place = f"exports/{manifest.get('name') or bundle.folder.name}"
    if deployed is not None and deployed.path is not None:
        commands.append(
            f"uv run heatpose evaluate {shlex.quote(f'{place}/{deployed.path.name}')} --annotations"
            " LABELS.json --images FOLDER"
        )
    commands.append(f"uv run heatpose report {shlex.quote(place)} --out report.html")
    files: list[Row] = [
        [name(file, "code"), Cell(str(entry["sha256"]), mark="hash"), number(entry["bytes"], 0)]
        for file, entry in (manifest.get("files") or {}).items()
    ]
    origin = [[Cell(key), Cell(value, mark="long")] for key, value in _origin(manifest, provenance)]
    return {
        "label": bundle.label,
        "commands": commands,
        "missing": missing,
        "files": files,
        "origin": origin,
    }


def _origin(
    manifest: Mapping[str, Any], provenance: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    git, data, calibration, versions = (
        manifest.get(key) or {} for key in ("git", "data", "calibration", "versions")
    )
    changed = " with changes that are not committed" if git.get("changed") else ""
    yield "made", str(manifest.get("created", "not known"))
    yield "from commit", f"{git.get('commit', 'not known')}{changed}"
    yield "checkpoint", str(provenance.get("checkpoint", "not known"))
    for part, entry in data.items():
        yield (
            f"{part} labels",
            f"{entry['people']} people on {entry['images']} images, sha256 {entry['labels_sha256']}"
            if entry
            else "none",
        )
    images, seed, digest = (calibration.get(key, "?") for key in ("images", "seed", "sha256"))
    yield "calibration", f"{images} training images, seed {seed}, sha256 of the list {digest}"
    yield "versions", ", ".join(f"{package} {version}" for package, version in versions.items())
    yield "machine", str(manifest.get("platform", "not known"))
