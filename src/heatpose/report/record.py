"""Sections on the files themselves: their operators, and how to make them again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from heatpose.errors import HeatposeError
from heatpose.report.bundle import Bundle
from heatpose.report.content import Block, Cell, Commands, Row, Section, Table, guarded, missing
from heatpose.report.summary import NOTHING, number
from heatpose.tflite.inspect import Inspection, inspect_tflite


def operators(bundles: Sequence[Bundle]) -> Section:
    """What the TFLite files are made of."""
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
        return Section("operators", "Operators", "What the files are made of.", blocks)
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
        "Counted in the files themselves. `heatpose inspect FILE --target stm32n6` says which of"
        " them an NPU will not like."
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
    """Commands, hashes and versions."""
    blocks: list[Block] = []
    for i, bundle in enumerate(bundles):
        blocks += guarded(f"The manifest of '{bundle.label}'", partial(_of_bundle, bundle, i))
    lead = (
        "What was typed, what was made of it, and the hashes that tell whether it is the same."
        " manifest.json of each bundle has the whole configuration."
    )
    return Section("reproduce", "Made again", lead, blocks)


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
                f"How '{bundle.label}' was exported was not recorded; its configuration is in"
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
