"""Sections of tables: key numbers, all files beside published rows, operators, reproduction."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from heatpose.errors import HeatposeError
from heatpose.evaluation.metrics import bootstrap_interval
from heatpose.evaluation.published import OutputType, Published, counterparts
from heatpose.report.bundle import ARTEFACT_TITLES, Artefact, Bundle, OnBoard, Taken
from heatpose.report.content import NOTHING, Cell, Row, Values, name, number, passed, reading
from heatpose.tflite.inspect import Inspection, inspect_tflite

Boards = Mapping[str, Sequence[OnBoard]]
"""Label of a bundle -> resources of its files on boards."""
Tile = tuple[str, str, str, str]
"""(label, value, note, CSS class) of a key number."""
TILED = 3
"""Maximum number of bundles with tiles."""
_BOARD_COLUMNS = (
    ("N6 ms", "stm32n6", "ms", "n6_ms"),
    ("N6 RAM KiB", "stm32n6", "ram_kib", "n6_ram_kib"),
    ("N6 flash KiB", "stm32n6", "flash_kib", "n6_flash_kib"),
    ("MP257 ms", "stm32mp2", "ms", "mp257_ms"),
    ("MP157 ms", "stm32mp1", "ms", "mp157_ms"),
)
_TILES = {"ms": ("one inference", "ms"), "ram_kib": ("RAM", "KiB"), "flash_kib": ("flash", "KiB")}


def summary(bundles: Sequence[Bundle], boards: Boards) -> Values:
    """Key numbers of the bundles, a table of all files with published rows, and differences."""
    missing = [text for bundle in bundles for text in bundle.missing]
    tiles, rows, differences = list[tuple[str, list[Tile]]](), list[Row](), list[Row]()
    for bundle in bundles if len(bundles) <= TILED else ():
        with reading(f"The scores of '{bundle.label}'", missing):
            tiles.append((bundle.label, list(_tiles(bundle, boards))))
    for bundle in bundles:
        for artefact in bundle.artefacts:
            with reading(f"{artefact.title} of '{bundle.label}'", missing):
                rows.append(_row(bundle, artefact, boards))
    with reading("The scores of the images", missing):
        for other in bundles[1:]:
            differences += _against(bundles[0], other, missing)
    columns = ["network", "file", "status", "OKS %", "lost [95 %]", "COCO AP %", "KiB", "PC ms"]
    return {
        "several": len(bundles) > 1,
        "first": bundles[0].label,
        "key_numbers": tiles,
        "columns": columns + [title for title, *_ in _BOARD_COLUMNS],
        "rows": rows,
        "published": [_published_row(row) for row in _published(bundles)],
        "published_notes": dict.fromkeys(note for b in bundles if (note := _published_note(b))),
        "differences": differences,
        "missing": missing,
    }


def _tiles(bundle: Bundle, boards: Boards) -> Iterator[Tile]:
    deployed = bundle.deployed
    if deployed is not None and deployed.report is not None:
        report = deployed.report
        message = f"± {report['oks_standard_error']:.2f}, {report['images']} images"
        yield "OKS", f"{deployed.oks:.2f} %", f"{message}, {ARTEFACT_TITLES[deployed.kind]}", ""
    keypoints = len(bundle.skeleton) if bundle.skeleton else "?"
    yield "input", f"{bundle.resolution} × {bundle.resolution}", f"{keypoints} keypoints", ""
    if deployed is not None and deployed.report is not None and deployed.kind != "torch":
        yield _loss_tile(bundle, deployed)
    for entry in boards[bundle.label]:
        if entry.target == "stm32n6":
            for quantity, taken in entry.figures.items():
                title, unit = _TILES[quantity]
                yield f"{entry.board}: {title}", f"{taken} {unit}", _span(taken), ""


def _span(taken: Taken) -> str:
    between = taken.interval
    return (
        f"{between.low:.0f} to {between.high:.0f}, {taken.message[0].lower()}{taken.message[1:]}"
        if taken.source == "estimated"
        else taken.message
    )


def _loss_tile(bundle: Bundle, deployed: Artefact) -> Tile:
    drop, limit = float(deployed.entry["drop"]), limit_of(bundle, deployed.kind)
    message, mark = interval(deployed.entry), ""
    if limit is not None:
        message, mark = f"{message}, the limit is {limit:g}", "good" if drop <= limit else "bad"
    return "lost against the float network", f"{drop:.2f} points", message, mark


def limit_of(bundle: Bundle, kind: str) -> float | None:
    """Limit of the OKS drop in the acceptance check "accuracy", in points; None without check."""
    checks = (
        check
        for check in bundle.manifest.get("gates") or []
        if check["artefact"] == kind and check["name"] == "accuracy"
    )
    limit = next((check["numbers"].get("limit") for check in checks), None)
    return None if limit is None else float(limit)


def interval(entry: Mapping[str, Any]) -> str:
    """Interval of a drop as text, for instance "[0.32, 1.48]"."""
    return f"[{entry['drop_low']:.2f}, {entry['drop_high']:.2f}]"


def _row(bundle: Bundle, artefact: Artefact, boards: Boards) -> Row:
    entry, report = artefact.entry, artefact.report
    score, lost = NOTHING, NOTHING
    if report is not None:
        score = Cell(
            f"{report['oks']:.2f} ± {report['oks_standard_error']:.2f}", float(report["oks"])
        )
    if artefact.kind != "torch" and entry.get("drop") is not None:
        lost = Cell(f"{entry['drop']:.2f} {interval(entry)}", float(entry["drop"]))
    taken = {
        (on.target, quantity): Cell(str(value), value.interval.value, hint=value.message)
        for on in boards[bundle.label]
        if on.artefact.kind == artefact.kind
        for quantity, value in on.figures.items()
    }
    path = artefact.path
    return [
        name(bundle.label),
        name(artefact.title, hint=path.name if path else "not a file"),
        _status(artefact),
        score,
        lost,
        number(None if report is None else report["ap"]),
        number(None if path is None else path.stat().st_size / 1024, 0),
        number(entry.get("milliseconds"), 1),
        *(taken.get((target, quantity), NOTHING) for _, target, quantity, _ in _BOARD_COLUMNS),
    ]


def _status(artefact: Artefact) -> Cell:
    if artefact.kind == "torch":
        return name("reference", "quiet")
    if artefact.rejected:
        return name("rejected", "bad", "failed an acceptance check: see below")
    return passed(True) if artefact.entry.get("passed") else Cell("not known", "", "quiet")


def _published(bundles: Sequence[Bundle]) -> list[Published]:
    """Published rows for the kinds of the bundles, without duplicates."""
    found: dict[Published, None] = {}
    for bundle in bundles:
        if (
            bundle.skeleton is not None
            and bundle.resolution is not None
            and bundle.width is not None
        ):
            output: OutputType = "keypoints" if bundle.decoded else "heatmaps"
            found |= dict.fromkeys(
                counterparts(bundle.skeleton, bundle.resolution, width=bundle.width, output=output)
            )
    return list(found)


def _published_row(row: Published) -> Row:
    hint = (
        f"{row.variant}, {row.resolution} × {row.resolution}, trained on {row.training_data}; ST"
        f" Edge AI Core {row.n6_stedgeai_core or '–'}"
    )
    return [
        Cell(f"{row.variant} {row.resolution} ({row.training_data})", row.variant, hint=hint),
        name(ARTEFACT_TITLES[row.quantization]),
        Cell(f"published ({row.source})", "published", "quiet"),
        number(row.oks_percent),
        *[NOTHING] * 4,
        *(number(getattr(row, k), 1 if k.endswith("ms") else 0) for *_, k in _BOARD_COLUMNS),
    ]


def _published_note(bundle: Bundle) -> str:
    published = bundle.metrics.get("published")
    return str(published.get("note") or "") if isinstance(published, Mapping) else ""


def _against(first: Bundle, other: Bundle, missing: list[str]) -> Iterator[Row]:
    """Paired differences from the first bundle, per artefact, on the same images."""
    for artefact in other.artefacts:
        a, own = artefact.image_scores, first.artefact(artefact.kind)
        b = {} if own is None else own.image_scores
        if not a or not b or artefact.kind in ("onnx", "float32"):
            continue
        if a.keys() != b.keys():
            missing.append(
                f"'{other.label}' and '{first.label}' were scored on different images: their OKS"
                " are not comparable."
            )
            return
        difference = np.array([a[image] - b[image] for image in a])
        mean, (low, high) = float(difference.mean()), bootstrap_interval(difference)
        mark = "good" if low > 0 else "bad" if high < 0 else ""
        yield [
            name(other.label),
            name(artefact.title),
            Cell(f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]", mean, mark),
            number(len(difference), 0),
        ]


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
            title = artefact.kind if len(bundles) == 1 else f"{bundle.label}: {artefact.kind}"
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
