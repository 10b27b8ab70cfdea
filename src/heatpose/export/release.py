"""Makes a released folder from a bundle and its checkpoint, atomically.

The folder has the int8 files, a checkpoint with float16 weights, and the records of the export. It
is small enough for a repository. The int8 files can be made again from the checkpoint, which is
why the weights must be rounded before the export, not after it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from heatpose.bundles.bundle import Bundle, file_table, verify_bundle
from heatpose.bundles.released import ENTRY, PATTERNS
from heatpose.errors import HeatposeError
from heatpose.evaluation.published import image_set
from heatpose.models.checkpoint import (
    WEIGHTS,
    LoadedCheckpoint,
    load_checkpoint,
    save_checkpoint,
    weights_hash,
)
from heatpose.utils.files import require_writable, write_json, write_text

LARGEST = 11 << 20
"""Bytes of a released folder."""
PACKAGED_RESOLUTION = 192
"""Side of the input of the networks that are part of the wheel by default."""
CARD, METRICS, CALIBRATION = "README.md", "metrics.json", "calibration.json"
INT8_ARTEFACTS = ("int8_pc", "int8_pt")
_PLACE = re.compile(
    r"(?<![\w.:/\\])(?:~|[A-Za-z]:)?[/\\](?=[^\s/\\])(?:[^\s/\\'\",=\[\]{}]+[/\\])*"
)
"""The folders of an absolute path within a text."""


def write_half(checkpoint: Path, out: Path) -> Path:
    """Writes a checkpoint's network with float16 weights (`half_precision`), and nothing else.

    What a training needs to continue (optimiser, averages) is left out.

    Args:
        checkpoint: Any Heatpose checkpoint.
        out: The file to write.

    Raises:
        HeatposeError: No checkpoint, weights too large for float16, or a file that cannot be
            written.
    """
    loaded = load_checkpoint(checkpoint)
    require_writable(out.parent)
    _save(out, loaded, loaded.metadata)
    return out


def write_release(
    bundle: Path,
    checkpoint: Path,
    out: Path,
    package: bool | None = None,
    terms: Mapping[str, str] | None = None,
) -> Path:
    """Makes a released folder out of a bundle and the checkpoint that it was exported from.

    Copies the int8 files and the calibration record; leaves out float32, ONNX and the report;
    writes a checkpoint with float16 weights and the manifest's file table. Absolute paths in the
    records lose their folders. A released folder of that name is replaced.

    Args:
        bundle: Whole, every file accepted, with an int8 file per channel and one per tensor.
        checkpoint: Its weights are rounded again, without effect on one of `write_half`.
        out: The folder to write, `exports/released/NAME`; NAME becomes the network's name.
        package: Whether the wheel has this network; None for those with an input of 192.
        terms: Origin and licence of the initial "weights" and of the training "data" in words, in
            place of what the export recorded; either may be absent.

    Raises:
        HeatposeError: The bundle is incomplete, changed or not accepted, was exported from other
            weights, or the folder would exceed `LARGEST`.
    """
    manifest, metrics = _checked(bundle)
    manifest = {**manifest, "terms": {**(manifest.get("terms") or {}), **(terms or {})}}
    if out.exists() and not Bundle.is_bundle(out):
        raise HeatposeError(f"'{out}' exists and is not a bundle; choose another --out.")
    require_writable(out.parent)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        for name in (*_int8_files(bundle), CALIBRATION):
            shutil.copyfile(bundle / name, folder / name)
        weights = folder / f"{manifest['model']}_{manifest['resolution']}_float16.ckpt"
        _save_weights(weights, checkpoint, manifest, bundle)
        dropped = sorted({*manifest["files"]} - {path.name for path in folder.iterdir()})
        dropped = [name for name in dropped if name not in (CARD, METRICS)]
        write_json(folder / METRICS, _without_places(_metrics(metrics, dropped)))
        write_text(folder / CARD, _card(bundle, manifest, out.name, weights.name, dropped))
        entry = {
            "checkpoint": weights.name,
            "package": manifest["resolution"] == PACKAGED_RESOLUTION
            if package is None
            else package,
            "scored_on": _scored_on(metrics),
        }
        records = {**manifest, "name": out.name, "forms": list(INT8_ARTEFACTS), ENTRY: entry}
        Bundle(folder, {**_without_places(records), "files": file_table(folder)}).write()
        _check_size(folder)
        assert not verify_bundle(folder).findings
        if out.exists():
            os.replace(out, Path(temporary) / "old")
        os.replace(folder, out)
    return out


def _checked(bundle: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and metrics of a bundle that may be released."""
    if findings := verify_bundle(bundle).findings:
        raise HeatposeError(f"{findings[0].rstrip('.')}; export '{bundle}' again.")
    manifest = Bundle.read(bundle).manifest
    try:
        metrics = json.loads((bundle / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HeatposeError(f"'{bundle / METRICS}' cannot be read; export it again.") from error
    lacking = [artefact for artefact in INT8_ARTEFACTS if not list(bundle.glob(PATTERNS[artefact]))]
    if lacking or not manifest.get("passed"):
        why = f"lacks {' and '.join(lacking)}" if lacking else "has a rejected file"
        raise HeatposeError(
            f"'{bundle}' {why}; export with quant.artefacts=[float32,int8_pc,int8_pt] until every"
            " file is accepted."
        )
    return manifest, metrics


def _int8_files(bundle: Path) -> list[str]:
    return [
        path.name for artefact in INT8_ARTEFACTS for path in sorted(bundle.glob(PATTERNS[artefact]))
    ]


def _save(path: Path, loaded: LoadedCheckpoint, metadata: Mapping[str, Any]) -> None:
    save_checkpoint(
        path, loaded.network, loaded.skeleton, loaded.preprocessing, half=True, **metadata
    )


def _save_weights(path: Path, checkpoint: Path, manifest: Mapping[str, Any], bundle: Path) -> None:
    """Writes the float16 checkpoint.

    Raises:
        HeatposeError: The bundle was exported from other weights than it holds.
    """
    loaded = load_checkpoint(checkpoint)
    # An export may have another input side than the checkpoint (`resolution=`).
    side = replace(loaded.preprocessing, size=manifest["resolution"])
    _save(path, replace(loaded, preprocessing=side), _without_places(loaded.metadata))
    recorded = manifest.get("provenance", {}).get(WEIGHTS)
    if recorded != weights_hash(load_checkpoint(path).network):
        raise HeatposeError(
            f"'{bundle}' was not exported from the float16 weights of '{checkpoint}'; run `heatpose"
            " half` on the checkpoint, export what it writes, and release that bundle."
        )


def _metrics(metrics: Mapping[str, Any], dropped: list[str]) -> dict[str, Any]:
    """Without the names of files that are left out."""
    artefacts = {
        artefact: {**entry, "file": None if entry.get("file") in dropped else entry.get("file")}
        for artefact, entry in metrics.get("artefacts", {}).items()
    }
    return {**metrics, "artefacts": artefacts}


def _scored_on(metrics: Mapping[str, Any]) -> str | None:
    """The evaluation set in words; None where nothing was scored."""
    report = metrics.get("artefacts", {}).get("torch", {}).get("report")
    if report is None:
        return None
    kind = image_set(entry["image_id"] for entry in report["per_image"])
    images = f"{report['images']} images with one person"
    return images if kind == "other" else f"COCO val2017, {images}"


def _card(
    bundle: Path, manifest: Mapping[str, Any], name: str, weights: str, dropped: list[str]
) -> str:
    """The bundle's card under the released name, with what the folder lacks and has in addition."""
    text = (bundle / CARD).read_text(encoding="utf-8")
    terms = manifest["terms"]
    for start, key in (("- initial weights: ", "weights"), ("- data: ", "data")):
        before, found, after = text.partition(f"\n{start}")
        if found:  # the first such line; the records below have entries of these names too
            text = f"{before}{found}{terms.get(key)}\n{after.partition(chr(10))[2]}"
    text = re.sub(
        rf"^(# |- name: ){re.escape(str(manifest['name']))}$", rf"\g<1>{name}", text, flags=re.M
    )
    for file in dropped:
        text = text.replace(f"| {file} |", f"| {file} (not in this folder) |")
    for place, last in _places(manifest).items():
        text = text.replace(place, last)
    return "\n".join(
        [
            text,
            "## This folder",
            "",
            f"`{weights}` has the weights that the int8 files were made from: convolutions in"
            " float16, biases and batch norm in float32. With the same training data the command",
            "",
            "```",
            f"heatpose export checkpoint={name}/checkpoint data.root=FOLDER name={name}",
            "```",
            "",
            "and the settings under `config` in `manifest.json` makes the int8 files again, byte"
            " for byte, and the files that are left out here. `heatpose report"
            f" {name} --images FOLDER` writes the report.",
            "",
        ]
    )


def _check_size(folder: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    if sum(sizes.values()) > LARGEST:
        largest = ", ".join(
            f"{name} {size / 2**20:.1f}"
            for name, size in sorted(sizes.items(), key=lambda e: -e[1])
        )
        raise HeatposeError(
            f"The released folder would have {sum(sizes.values()) / 2**20:.1f} MiB, more than"
            f" {LARGEST >> 20} ({largest}); release a narrower network."
        )


def _without_places(value: Any) -> Any:
    """Plain values without absolute paths, which would describe the exporting machine."""
    if isinstance(value, Mapping):
        return {key: _without_places(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(entry) for entry in value]
    return _without_place(value) if isinstance(value, str) else value


def _without_place(text: str) -> str:
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute() and "\n" not in text:
            return kind(text).name or text
    return _PLACE.sub("", text)


def _places(value: Any) -> dict[str, str]:
    """What `_without_places` changes: text -> what it becomes, longest first."""
    found: dict[str, str] = {}
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            found |= _places(entry)
    elif isinstance(value, str) and _without_place(value) != value:
        found[value] = _without_place(value)
    return dict(sorted(found.items(), key=lambda entry: -len(entry[0])))
