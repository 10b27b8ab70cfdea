"""Checks of the machine (processor, memory, GPUs, disks, programs) and of a data set."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from heatpose.data.coco import CocoLabels
from heatpose.data.download import changed_folders
from heatpose.data.formats.folder import Split
from heatpose.data.sources import find_part, labels_of
from heatpose.deploy.stedgeai import find_installation, missing_compiler
from heatpose.deploy.targets import Target, built_in, load_target
from heatpose.doctor.checks import Check
from heatpose.errors import HeatposeError, first_line
from heatpose.utils.files import sha256, sha256_of_json

GIB = 1 << 30
LITTLE_MEMORY, LITTLE_ROOM, NO_ROOM = 4 * GIB, 10 * GIB, GIB
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Memory limit of a container, in both versions of Linux control groups."""


def device_checks() -> list[Check]:
    """Checks of processor, memory and accelerator."""
    return [_processor(), _memory(), _accelerator()]


def _processor() -> Check:
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return Check("processor", "ok", f"{usable} of {cores} cores usable")


def _memory() -> Check:
    size = _memory_bytes()
    if size is None:
        return Check("memory", "ok", "unknown on this system")
    if size < LITTLE_MEMORY:
        return Check(
            "memory",
            "warn",
            f"{size / GIB:.1f} GiB",
            "Train with a smaller data.batch_size, and close other programs for an export.",
        )
    return Check("memory", "ok", f"{size / GIB:.1f} GiB")


def _memory_bytes() -> int | None:
    """Memory of the machine, or the container's limit if that is less; None if unknown."""
    try:
        sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):
        return None  # Windows
    for path in _LIMITS:
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        sizes += [int(text)] if text.isdigit() else []
    return min(sizes)


def _accelerator() -> Check:
    """Imports torch if there is an accelerator, to test whether build and driver match."""
    if not _has_accelerator():
        return Check("accelerator", "ok", "none, the processor is used")
    try:
        import torch
    except (ImportError, OSError, RuntimeError) as error:
        return Check(
            "accelerator",
            "fail",
            f"torch cannot be loaded ({first_line(error)})",
            "Reinstall torch and torchvision, both from the same index.",
        )
    if torch.cuda.is_available():
        names = [
            f"{torch.cuda.get_device_name(i)},"
            f" {torch.cuda.get_device_properties(i).total_memory / GIB:.0f} GiB"
            for i in range(torch.cuda.device_count())
        ]
        return Check("accelerator", "ok", f"CUDA {torch.version.cuda}: {'; '.join(names)}")
    if torch.backends.mps.is_available():
        return Check("accelerator", "ok", "MPS")
    built = torch.version.cuda or "none"
    remedy = (
        "torch does not detect the GPU: install a torch build for a CUDA version that the driver"
        " supports (see nvidia-smi)."
    )
    return Check(
        "accelerator", "warn", f"a GPU that torch (built for CUDA {built}) cannot use", remedy
    )


def _has_accelerator() -> bool:
    """Whether there is an NVIDIA or AMD driver, or an Apple processor."""
    drivers = (
        any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
        or shutil.which("nvidia-smi") is not None
    )
    return drivers or (platform.system(), platform.machine()) == ("Darwin", "arm64")


def disk_checks(folders: Iterable[Path]) -> list[Check]:
    """Checks write access to the first folder, and free space of all folders and TMPDIR."""
    here, *others = [*folders]
    checks = [_writable(here)]
    devices = {
        folder.stat().st_dev: folder
        for folder in reversed((here, Path(tempfile.gettempdir()), *others))
        if folder.exists()
    }
    return checks + [_room(folder) for folder in reversed(devices.values())]


def _writable(folder: Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check("working folder", "ok", str(folder))
    except OSError as error:
        remedy = "Use another working directory: runs, data_cache and exports are created there."
        return Check(
            "working folder", "fail", f"'{folder}' cannot be written ({error.strerror})", remedy
        )


def _room(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free in '{folder}'"
    if free < NO_ROOM:
        return Check(
            "disk",
            "fail",
            found,
            "Make room: a run with checkpoints and an export need more.",
        )
    if free < LITTLE_ROOM:
        return Check(
            "disk",
            "warn",
            found,
            "Make room before a long run; the download of COCO 2017 alone needs 41 GB.",
        )
    return Check("disk", "ok", found)


def program_checks(versions: Mapping[str, str]) -> list[Check]:
    """Checks of external programs.

    Args:
        versions: Installed packages, from `installed_versions`.
    """
    checks = [
        _program(
            "git",
            ["git"],
            "Install git: without it a bundle's manifest does not record the commit.",
        ),
        _program(
            "C compiler",
            ["cc", "gcc", "clang", "cl"],
            "Install gcc or clang to test the C code of a bundle on this machine.",
        ),
    ]
    if "onnx2tf" in versions:
        checks.append(_onnxsim())
    return checks + [
        check
        for path in built_in().values()
        if (check := _stedgeai(load_target(str(path)))) is not None
    ]


def _program(name: str, candidates: Iterable[str], remedy: str) -> Check:
    found = next((path for candidate in candidates if (path := shutil.which(candidate))), None)
    return Check(name, "warn", "not found", remedy) if found is None else Check(name, "ok", found)


def _onnxsim() -> Check:
    """Searches beside the interpreter first, as the export does."""
    path = shutil.which(
        "onnxsim",
        path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    )
    if path is None:
        return Check(
            "onnxsim",
            "fail",
            "not found",
            "onnx2tf runs the program onnxsim and fails without it: pip install --force-reinstall"
            " onnxsim==0.4.36.",
        )
    return Check("onnxsim", "ok", path)


def _stedgeai(target: Target) -> Check | None:
    if target.tool is None:
        return None
    name = f"ST Edge AI Core for {target.name}"
    try:
        found = find_installation(target)
    except HeatposeError as error:
        return Check(name, "warn", "not ready", str(error))
    doubt = missing_compiler(found, target.tool)
    if doubt is not None:
        return Check(name, "warn", f"{found.version_text}, {found.path}", doubt)
    return Check(name, "ok", f"{found.version_text}, {found.path}")


def data_checks(root: Path) -> list[Check]:
    """Checks labels (with hash) and the presence of their images, for training and evaluation.

    Args:
        root: Folder in COCO 2017 layout, or with one `person_keypoints_*.json` and its images.
    """
    if not root.exists():
        return [
            Check(
                "data",
                "fail",
                f"'{root}' is not a folder",
                "Give the folder of a data set, as in data.root.",
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
                "Correct the folder, or download COCO 2017: train.py data.root=FOLDER"
                " data.download=true.",
            )
        )
    return checks


def _absent(name: str, error: HeatposeError) -> Check:
    need = "used for training" if name == "train" else "used for exports and scores"
    return Check(
        f"data, {name}",
        "warn",
        "not found",
        f"Add this part if needed ({need}); {str(error)[0].lower()}{str(error)[1:]}",
    )


def _different(parts: dict[str, Split]) -> dict[str, Split]:
    """Merges equal parts: a folder with one label file has the same one for both."""
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
            f"Add the missing images to '{part.images}' or remove them from the labels; heatpose"
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
    """Hash of the label file, or of the parsed labels if they are several files."""
    if labels.source.files == 1 and part.annotations.is_file():
        return sha256(part.annotations)
    return sha256_of_json(labels.source.content)


def _downloaded(root: Path) -> list[Check]:
    """Compares folders downloaded by the package with the record of the download."""
    try:
        changed = changed_folders(root)
    except HeatposeError as error:
        return [Check("data, download", "fail", "the record cannot be read", str(error))]
    if changed is None:
        return []
    if changed:
        remedy = "Remove these folders and download them again with data.download=true."
        return [Check("data, download", "fail", f"changed since: {', '.join(changed)}", remedy)]
    return [Check("data, download", "ok", "unchanged")]
