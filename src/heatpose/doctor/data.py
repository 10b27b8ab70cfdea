"""A data set: is it there, is it whole, and which one is it."""

from __future__ import annotations

from pathlib import Path

from heatpose.data.coco import CocoLabels
from heatpose.data.download import changed_folders
from heatpose.data.formats.folder import Split
from heatpose.data.sources import find_part, labels_of
from heatpose.doctor.check import Check
from heatpose.errors import HeatposeError
from heatpose.utils.files import sha256, sha256_of_json


def data_checks(root: Path) -> list[Check]:
    """Labels with their hash, and whether all their images are there, for training and evaluation.

    Args:
        root: Folder in COCO 2017 layout, or with one `person_keypoints_*.json` and its images.
    """
    if not root.exists():
        return [
            Check(
                "data",
                "fail",
                f"'{root}' is no folder",
                "Give the folder of a data set, the one that data.root names.",
            )
        ]
    checks, parts = [], {}
    for name in ("train", "val"):
        try:
            parts[name] = find_part(root, name)
        except HeatposeError as error:
            checks.append(_absent(name, error))
    for name, part in _different(parts).items():
        checks.append(_part(name, part))
    checks += _downloaded(root)
    if not parts:
        checks.append(
            Check(
                "data",
                "fail",
                f"'{root}' has no labels",
                "Correct the folder, or fetch COCO 2017: train.py data.root=FOLDER"
                " data.download=true.",
            )
        )
    return checks


def _absent(name: str, error: HeatposeError) -> Check:
    need = "training takes it" if name == "train" else "exports and scores take it"
    return Check(
        f"data, {name}",
        "warn",
        "not found",
        f"Add this part where it is wanted ({need}); {str(error)[0].lower()}{str(error)[1:]}",
    )


def _different(parts: dict[str, Split]) -> dict[str, Split]:
    """A folder with one label file gives it for both parts; it is looked at once."""
    if len(parts) == 2 and parts["train"] == parts["val"]:
        return {"labels": parts["train"]}
    return parts


def _part(name: str, part: Split) -> Check:
    title = f"data, {name}"
    try:
        labels = labels_of(part)
        digest = _digest(part, labels)
    except HeatposeError as error:
        return Check(title, "fail", str(part.annotations), str(error))
    except OSError as error:
        return Check(
            title, "fail", str(part.annotations), f"Make the file readable ({error.strerror})."
        )
    missing = [
        entry["file_name"]
        for entry in labels.images.values()
        if not (part.images / str(entry["file_name"])).is_file()
    ]
    found = (
        f"{len(labels.annotations)} people on {len(labels.images)} images, sha256 {digest} of"
        f" {part.annotations.name}"
    )
    if missing:
        remedy = (
            f"Put the missing images into '{part.images}' or take them out of the labels; heatpose"
            " data lists them."
        )
        return Check(
            title,
            "fail",
            f"{len(missing)} of {len(labels.images)} images are missing, such as '{missing[0]}';"
            f" {found}",
            remedy,
        )
    return Check(title, "ok", found)


def _digest(part: Split, labels: CocoLabels) -> str:
    """Of the label file; of what was read, where the labels are many files."""
    if labels.source.files == 1 and part.annotations.is_file():
        return sha256(part.annotations)
    return sha256_of_json(labels.source.content)


def _downloaded(root: Path) -> list[Check]:
    """What was fetched by the package, against the record of it."""
    try:
        changed = changed_folders(root)
    except HeatposeError as error:
        return [Check("data, download", "fail", "its record cannot be read", str(error))]
    if changed is None:
        return []
    if changed:
        remedy = "Remove these folders and fetch them again with data.download=true."
        return [Check("data, download", "fail", f"changed since: {', '.join(changed)}", remedy)]
    return [Check("data, download", "ok", "as it was fetched")]
