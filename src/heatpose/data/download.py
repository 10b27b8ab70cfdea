"""The official COCO 2017 archives, fetched and unpacked into the official layout.

`root/train2017/*.jpg`, `root/val2017/*.jpg`, `root/annotations/person_keypoints_{train,val}2017.json`. What is already whole is neither fetched
nor touched. An archive is removed once it is unpacked.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from heatpose.data.transfer import RemoteFile, fetch, progress_bar, size_of
from heatpose.errors import HeatposeError

COCO_URL = "http://images.cocodataset.org"
"""The official host. It has no valid certificate for https; the SHA-256 below vouches for the content."""
MARKER = ".heatpose-download.json"
RESERVE = 500_000_000
"""Bytes left free on the disk."""


@dataclass(frozen=True)
class Archive:
    """One zip of the data set and what is taken out of it.

    Attributes:
        path: Where it is below the base URL.
        folder: The folder inside the zip, and below the root, that files are taken from and put into.
        size: Bytes of the zip.
        sha256: SHA-256 of the zip, hexadecimal.
        unpacked: Bytes needed on the disk for what is taken, rounded up.
        files: How many files are taken.
        names: The names taken; empty means every .jpg.
    """

    path: str
    folder: str
    size: int
    sha256: str
    unpacked: int
    files: int
    names: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """True for the file name of a member that belongs to the data set."""
        return name in self.names if self.names else name.endswith(".jpg")


# Sizes and hashes as published by several independent projects (torchvision's prototype data sets, FastAI.jl, OpenVINO's downloaders).
COCO_ARCHIVES: Mapping[str, Archive] = {
    "annotations": Archive(
        "annotations/annotations_trainval2017.zip", "annotations", 252_907_541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268", 260_000_000, 2,
        ("person_keypoints_train2017.json", "person_keypoints_val2017.json"),
    ),
    "val2017": Archive(
        "zips/val2017.zip", "val2017", 815_585_330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05", 840_000_000, 5_000,
    ),
    "train2017": Archive(
        "zips/train2017.zip", "train2017", 19_336_861_798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929", 19_700_000_000, 118_287,
    ),
}  # fmt: skip


def download_coco(
    root: Path,
    splits: Sequence[str] = ("train2017", "val2017"),
    base_url: str = COCO_URL,
    archives: Mapping[str, Archive] = COCO_ARCHIVES,
) -> None:
    """Brings the keypoint annotations and the images of `splits` into `root`, in the official layout.

    A call after a failure or a kill continues where the last one stopped; a call on whole data does nothing.

    Args:
        root: Folder of the data set; made if missing.
        splits: Any of "train2017" and "val2017".
        base_url: Host of the archives, for a mirror with the same paths.
        archives: The archives by name, with "annotations" among them.

    Raises:
        HeatposeError: An unknown split, no network, not enough room, a wrong checksum, a bad zip, or a folder that holds something else.
    """
    # Imported here: needed for a download only. It keeps two runs with `data.download=true` from writing into the same part.
    from filelock import FileLock

    if unknown := sorted(set(splits) - (set(archives) - {"annotations"})):
        raise HeatposeError(f"COCO has no split {unknown} to download; choose among {sorted(set(archives) - {'annotations'})}.")
    root = Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".heatpose-download.lock"):
            missing = [archives[name] for name in ("annotations", *splits) if not _is_whole(root, archives[name])]
            _check_room(root, missing)
            for archive in missing:
                _bring(root, archive, base_url)
    except OSError as error:
        raise HeatposeError(f"The data folder '{root}' cannot be written ({error.strerror or error}); make room or pick another folder.") from error


def _bring(root: Path, archive: Archive, base_url: str) -> None:
    target = root / PurePosixPath(archive.path).name
    url = f"{base_url.rstrip('/')}/{archive.path}"
    fetch(RemoteFile(url, archive.size, archive.sha256), target)
    unpack(target, root, archive)
    files, size = _found(root, archive)
    marker = {**_read_marker(root), archive.folder: {"url": url, "sha256": archive.sha256, "files": files, "bytes": size}}
    temporary = root / (MARKER + ".part")
    temporary.write_text(json.dumps(marker, indent=1), encoding="utf-8")
    os.replace(temporary, root / MARKER)
    target.unlink()


def unpack(path: Path, root: Path, archive: Archive) -> None:
    """Takes the archive's files out of the zip at `path` into `root / archive.folder`; all of them or none.

    Raises:
        HeatposeError: The zip is broken, lacks files, or has members that point elsewhere; the zip is kept.
    """
    temporary = root / f".{archive.folder}.part"
    shutil.rmtree(temporary, ignore_errors=True)  # left by a kill
    try:
        with zipfile.ZipFile(path) as file:
            members = _members(file, archive)
            temporary.mkdir()
            _extract(file, members, temporary)
        _move_in(temporary, root / archive.folder, archive)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise HeatposeError(f"'{path}' is no whole zip ({error}); remove it and run again.") from error
    except OSError as error:
        raise HeatposeError(f"'{path}' cannot be unpacked ({error.strerror or error}); the archive is kept, so make room and run again.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _members(file: zipfile.ZipFile, archive: Archive) -> list[zipfile.ZipInfo]:
    """The members to take, after a look at all of them: one that would land elsewhere condemns the whole zip."""
    taken = []
    for member in file.infolist():
        path = PurePosixPath(member.filename)
        link = stat.S_ISLNK(member.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename or link:
            raise HeatposeError(f"'{file.filename}' holds '{member.filename}', which points outside its folder; it is not used, remove it.")
        if path.parts[:-1] == (archive.folder,) and archive.takes(path.name) and not member.is_dir():
            taken.append(member)
    if len(taken) != archive.files:
        raise HeatposeError(f"'{file.filename}' holds {len(taken)} of the {archive.files} expected files of '{archive.folder}'; remove it and run again.")
    return taken


def _extract(file: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    _require_room(folder, sum(member.file_size for member in members))
    with progress_bar("files") as progress:
        for member in progress.track(members, description=f"unpacking {Path(str(file.filename)).name}"):
            with file.open(member) as source, (folder / PurePosixPath(member.filename).name).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)  # zipfile checks each member's CRC at its end


def _move_in(temporary: Path, folder: Path, archive: Archive) -> None:
    if not archive.names:
        os.replace(temporary, folder)  # an image folder appears at once
        return
    folder.mkdir(exist_ok=True)
    for name in archive.names:
        if not (folder / name).exists():  # a user's own file is left alone
            os.replace(temporary / name, folder / name)


def _is_whole(root: Path, archive: Archive) -> bool:
    """True when the archive's files are all there.

    Raises:
        HeatposeError: An image folder holds some of the files only; it is not this function's to empty.
    """
    files, size = _found(root, archive)
    recorded = _read_marker(root).get(archive.folder)
    if (files, size) == (recorded["files"], recorded["bytes"]) if recorded else files == archive.files:
        return True
    if files and not archive.names:
        raise HeatposeError(f"'{root / archive.folder}' holds {files} images where COCO has {archive.files}; move it away or complete it, then run again.")
    return False


def _found(root: Path, archive: Archive) -> tuple[int, int]:
    """Number and bytes of the archive's files below the root."""
    folder = root / archive.folder
    if not folder.is_dir():
        return 0, 0
    with os.scandir(folder) as entries:
        sizes = [entry.stat().st_size for entry in entries if archive.takes(entry.name)]
    return len(sizes), sum(sizes)


def _read_marker(root: Path) -> dict[str, dict[str, int]]:
    try:
        content: dict[str, dict[str, int]] = json.loads((root / MARKER).read_text(encoding="utf-8"))
        return {folder: {"files": int(entry["files"]), "bytes": int(entry["bytes"]), **entry} for folder, entry in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeatposeError(f"'{root / MARKER}' is damaged ({error}); remove it and run again.") from error


def _check_room(root: Path, missing: Sequence[Archive]) -> None:
    """Room for everything unpacked and for the largest archive beside it, less what has already arrived."""
    names = [root / PurePosixPath(archive.path).name for archive in missing]
    arrived = sum(size_of(path) + size_of(path.with_name(path.name + ".part")) for path in names)
    _require_room(root, sum(archive.unpacked for archive in missing) + max((archive.size for archive in missing), default=0) - arrived)


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > 0 and needed + RESERVE > free:
        raise HeatposeError(f"'{folder}' has {free / 1e9:.1f} GB free and {(needed + RESERVE) / 1e9:.1f} GB are needed; make room or set another data.root.")
