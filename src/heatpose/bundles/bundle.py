"""The folder that an export writes: its files and `manifest.json`, which lists them with hashes.

`verify_bundle` compares the files with the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from heatpose.errors import HeatposeError, first_line
from heatpose.utils.files import sha256, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        folder: Its folder.
        manifest: Content of its `manifest.json`.
    """

    folder: Path
    manifest: dict[str, Any]

    @staticmethod
    def is_bundle(folder: Path) -> bool:
        """Whether the folder has a manifest."""
        return (folder / MANIFEST).is_file()

    @classmethod
    def read(cls, folder: Path, remedy: str = "give a folder below exports/") -> Bundle:
        """Reads a bundle's manifest.

        Args:
            folder: The bundle.
            remedy: What to do where the folder is not a bundle, for the message.

        Raises:
            HeatposeError: The folder is not a bundle, or its manifest cannot be read.
        """
        if not cls.is_bundle(folder):
            raise HeatposeError(f"'{folder}' is not a bundle (it has no {MANIFEST}); {remedy}.")
        content = _content(folder / MANIFEST)
        if not isinstance(content, dict):
            raise HeatposeError(
                f"'{folder / MANIFEST}' is damaged (it is not a JSON object); export the bundle"
                " again."
            )
        return cls(folder, content)

    @classmethod
    def around(cls, file: Path) -> Bundle | None:
        """The bundle that a file lies in; None where the folder has no manifest of this software.

        Raises:
            HeatposeError: The manifest cannot be read.
        """
        if not cls.is_bundle(file.parent):
            return None
        content = _content(file.parent / MANIFEST)
        return cls(file.parent, content) if isinstance(content, dict) else None

    @property
    def path(self) -> Path:
        """The manifest."""
        return self.folder / MANIFEST

    def files(self) -> dict[str, dict[str, Any]]:
        """File name -> recorded size and sha256; an entry that is not an object is empty.

        Raises:
            HeatposeError: The manifest's list is damaged.
        """
        table = self.manifest.get("files") or {}
        if not isinstance(table, dict):
            raise HeatposeError(
                f"'{self.path}' is damaged (its list of files is not an object); export the bundle"
                " again."
            )
        return {
            str(name): entry if isinstance(entry, dict) else {} for name, entry in table.items()
        }

    def describes(self, file: Path) -> bool:
        """Whether the manifest lists a file, by name or hash; one without a list describes all.

        Raises:
            OSError: The file cannot be read.
        """
        table = self.manifest.get("files")
        if not isinstance(table, dict) or file.name in table or not file.is_file():
            return True
        digest = sha256(file)
        return any(entry.get("sha256") == digest for entry in self.files().values())

    def check_file(self, file: Path) -> None:
        """Refuses a file of the bundle that is not the exported one; others pass.

        Raises:
            HeatposeError: Its hash is not the recorded one, or its entry is damaged.
        """
        files = self.files()
        if file.name not in files:
            return
        if not isinstance(self.manifest["files"][file.name], dict):
            raise HeatposeError(
                f"'{self.path}' is damaged (its entry for '{file.name}' is not an object); export"
                " the bundle again."
            )
        recorded = files[file.name].get("sha256")
        if recorded is not None and recorded != sha256(file):
            raise HeatposeError(
                f"'{file}' is not the file that was exported (its sha256 differs from {MANIFEST});"
                " export the bundle again."
            )

    def failures(self, artefact: str) -> list[str]:
        """The sentences of the acceptance checks that an artefact failed."""
        checks = [check for check in self.manifest.get("gates") or [] if isinstance(check, dict)]
        return [
            str(check.get("sentence", ""))
            for check in checks
            if check.get("artefact") == artefact and not check.get("passed")
        ]

    def record(self, name: str) -> None:
        """Lists a file that was added or written again, and writes the manifest."""
        files = {**self.manifest["files"], name: file_entry(self.folder / name)}
        self.manifest["files"] = dict(sorted(files.items()))
        self.write()

    def write(self) -> None:
        """Writes the manifest."""
        write_json(self.path, self.manifest)


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HeatposeError(f"'{path}' cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise HeatposeError(
            f"'{path}' is damaged ({first_line(error)}); export the bundle again, or move the model"
            " out of it."
        ) from error


def renew_entry(file: Path) -> None:
    """Updates the manifest's entry of a file that was written again, where there is one.

    Raises:
        OSError: The manifest cannot be written.
    """
    try:
        bundle = Bundle.around(file)
        listed = bundle is not None and file.name in bundle.files()
    except HeatposeError:
        return
    if bundle is not None and listed:
        bundle.record(file.name)


def file_table(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> size and sha256 of every file in a folder except the manifest."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    return {path.name: file_entry(path) for path in files}


def file_entry(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


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
