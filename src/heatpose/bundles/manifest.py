"""`manifest.json` of a bundle: what is in it, with hashes, and everything it was made from."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heatpose.bundles.facts import MANIFEST
from heatpose.data.sample import Person
from heatpose.utils.files import sha256, sha256_of_json, write_json

FORMAT = 1
_PACKAGES = (
    "heatpose",
    "torch",
    "torchvision",
    "lightning",
    "tensorflow",
    "onnx2tf",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
    "tflite",
    "numpy",
    "pillow",
    "pycocotools",
)


def renew_entry(path: Path) -> None:
    """Where a file of a bundle was written again: its manifest learns the new size and hash.

    Nothing where the file belongs to no bundle.

    Raises:
        OSError: The manifest cannot be written.
    """
    manifest = path.with_name(MANIFEST)
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        known = path.name in content["files"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return
    if known:
        content["files"][path.name] = file_entry(path)
        write_json(manifest, content)


def file_table(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> size and sha256 of every file in a folder but the manifest itself."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    return {path.name: file_entry(path) for path in files}


def file_entry(path: Path) -> dict[str, Any]:
    """What the manifest says about a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def instances_hash(instances: Sequence[Person]) -> str:
    """sha256 over the labels of a set of people, in any order.

    Image, box, keypoints, which are labelled.

    Does not depend on where the images lie; their contents are another matter (`calibration.json`
    has those).
    """
    entries = sorted(
        (p.image_id, p.name, p.annotation_id, p.box, p.keypoints.tolist(), p.labelled.tolist())
        for p in instances
    )
    return sha256_of_json(entries)


def data_entry(instances: Sequence[Person] | None) -> dict[str, Any] | None:
    """What the manifest says about a set of people."""
    if not instances:
        return None
    images = len({person.image_path for person in instances})
    return {"people": len(instances), "images": images, "labels_sha256": instances_hash(instances)}


def surroundings() -> dict[str, Any]:
    """When, with which packages, on what, and from which commit."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **versions()},
        "platform": platform.platform(),
        "git": git_state(Path(__file__).parent),
    }


def versions() -> dict[str, str]:
    """Package -> version, of those that matter to an export and are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not installed: training needs no export package
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that `folder` is a tracked part of.

    And whether its files were changed since.

    None where there is none: an installed package inside someone else's checkout is not tracked
    there.
    """
    tracked = _git(folder, "ls-files", "--error-unmatch", str(folder / "__init__.py"))
    commit = _git(folder, "rev-parse", "HEAD")
    if tracked is None or commit is None:
        return None
    return {
        "commit": commit,
        "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
