"""Compares a bundle's files with the hashes in its manifest and its deployment packages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from heatpose.bundles.bundle import MANIFEST, Bundle
from heatpose.errors import HeatposeError, first_line
from heatpose.utils.files import sha256

RECORD = "deploy.json"
"""Of a deployment package, a folder in the bundle."""
MODELS = (".tflite", ".onnx", ".ckpt")


@dataclass(frozen=True)
class Verification:
    """Result of the comparison.

    Attributes:
        folder: The bundle.
        files: Number of recorded files.
        findings: A sentence for each file that differs; empty for an unchanged bundle.
    """

    folder: Path
    files: int
    findings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "bundle": str(self.folder),
            "files": self.files,
            "whole": not self.findings,
            "findings": list(self.findings),
        }


def verify_bundle(folder: str | Path) -> Verification:
    """Compares size and sha256 of every file in the manifest and in the deployment packages.

    A model file that the manifest does not list is a finding, too; other additions, such as reports
    and a tool's results, are not.

    Raises:
        HeatposeError: The folder is not a bundle, or its manifest lists no files.
    """
    bundle = Bundle.read(Path(folder))
    folder, listed = bundle.folder, bundle.files()
    if not listed:
        raise HeatposeError(
            f"'{bundle.path}' lists no files, so nothing can be compared with it; export the bundle"
            " again."
        )
    findings, count = [*_differences(folder, listed), *_strangers(folder, listed)], len(listed)
    for record in sorted(folder.glob(f"*/{RECORD}")):
        handed = _package_files(record)
        findings += _differences(record.parent, handed)
        count += len(handed)
    return Verification(folder, count, tuple(findings))


def _package_files(path: Path) -> dict[str, Mapping[str, Any]]:
    """Name -> recorded hash of a deployment package's files.

    Raises:
        HeatposeError: The record is not JSON with an entry `files`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): {"sha256": entry} for name, entry in (content.get("files") or {}).items()
        }
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise HeatposeError(
            f"'{path}' is damaged ({first_line(error)}); run `heatpose deploy` again."
        ) from error


def _differences(folder: Path, listed: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, recorded in listed.items():
        place = PurePosixPath(name)
        # the record comes from elsewhere as well
        if place.is_absolute() or ".." in place.parts or "\0" in name:
            yield f"'{folder}' lists {name!r}, which is outside of it."
            continue
        if found := _difference(folder / place, recorded):
            yield found


def _difference(path: Path, recorded: Mapping[str, Any]) -> str:
    """A sentence about a file that is not as recorded; empty for one that is."""
    try:
        if not path.is_file():
            return f"'{path}' is missing."
        if recorded.get("bytes") not in (None, path.stat().st_size):
            return f"'{path}' has {path.stat().st_size} bytes instead of {recorded['bytes']}."
        return (
            ""
            if recorded.get("sha256") == sha256(path)
            else f"'{path}' has changed: its sha256 is not the recorded one."
        )
    except OSError as error:  # no rights, or a name that no file can have
        return f"'{path}' cannot be read ({error.strerror})."


def _strangers(folder: Path, listed: Mapping[str, object]) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.suffix in MODELS and path.name not in listed:
            yield f"'{path}' is not a file of this bundle: {MANIFEST} does not list it."
