"""What a bundle was made from: data, packages, platform and commit, for its manifest."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heatpose.data.sample import Person
from heatpose.utils.files import sha256_of_json

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


def instances_hash(instances: Sequence[Person]) -> str:
    """sha256 over the labels of instances, in any order: image, box, keypoints, visibility.

    Depends neither on the folder of the images nor on their contents, whose hashes are in
    `calibration.json`.
    """
    entries = sorted(
        (p.image_id, p.name, p.annotation_id, p.box, p.keypoints.tolist(), p.labelled.tolist())
        for p in instances
    )
    return sha256_of_json(entries)


def data_entry(instances: Sequence[Person] | None) -> dict[str, Any] | None:
    """Counts and hash of the labels of instances; None where there are none."""
    if not instances:
        return None
    images = len({person.image_path for person in instances})
    return {"people": len(instances), "images": images, "labels_sha256": instances_hash(instances)}


def surroundings() -> dict[str, Any]:
    """Time, versions of packages, platform and commit."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **versions()},
        "platform": platform.platform(),
        "git": git_state(Path(__file__).parent),
    }


def versions() -> dict[str, str]:
    """Package -> version, of the installed ones that an export uses."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not installed: training needs no export package
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that `folder` is tracked in, and whether its files have changed.

    None without such a checkout: an installed package inside another checkout is not tracked
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
