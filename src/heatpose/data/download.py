"""Downloads the official COCO 2017 archives and unpacks them into the official layout.

The layout is `root/train2017/*.jpg`, `root/val2017/*.jpg` and
`root/annotations/person_keypoints_{train,val}2017.json`. Complete parts are neither fetched again
nor changed. An archive is removed after it was unpacked.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from heatpose.errors import HeatposeError
from heatpose.utils.files import write_json
from heatpose.utils.progress import progress_bar
from heatpose.utils.transfer import RemoteFile, fetch, part_of, size_of

RESERVE = 500_000_000
"""Bytes that must stay free on the disk."""
MOST_SWELLING = 1.1
"""Maximum ratio of unpacked to expected bytes; more indicates a zip bomb."""


@dataclass(frozen=True)
class Archive:
    """A zip of a data set and the files that are extracted from it.

    Attributes:
        path: Where it is below the base URL.
        folder: Folder inside the zip whose files are extracted, and of the same name below the
            root.
        size: Bytes of the zip.
        sha256: SHA-256 of the zip, hexadecimal.
        unpacked: Bytes of the extracted files, rounded up.
        files: Number of extracted files.
        names: Their names; empty for every .jpg.
    """

    path: str
    folder: str
    size: int
    sha256: str
    unpacked: int
    files: int
    names: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Whether a member with this file name is extracted."""
        return name in self.names if self.names else name.endswith(".jpg")


def unpack(path: Path, root: Path, archive: Archive) -> None:
    """Extracts the archive's files from the zip at `path` into `root / archive.folder`.

    An image folder (`names` empty) is moved into place as a whole and must not exist before, or be
    empty. Named files are added to existing ones; an existing file of the same name is kept.

    Raises:
        HeatposeError: The zip is damaged, incomplete or has members outside its folder, or the disk
            is full. The zip is kept.
    """
    temporary = root / f".{archive.folder}.part"
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed run
    try:
        with zipfile.ZipFile(path) as file:
            members = _members(file, archive)
            total = sum(member.file_size for member in members)
            if total > MOST_SWELLING * archive.unpacked:
                raise HeatposeError(
                    f"'{path}' would unpack to {total / 1e9:.1f} GB instead of"
                    f" {archive.unpacked / 1e9:.1f}; it is not the official archive, remove it."
                )
            require_room(root, total)
            temporary.mkdir()
            _extract(file, members, temporary)
        _move_in(temporary, root / archive.folder, archive)
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
        NotImplementedError,
        EOFError,
        RuntimeError,
    ) as error:
        raise HeatposeError(
            f"'{path}' is not a complete zip ({error}); remove it and run again."
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise HeatposeError(
            f"'{path}' cannot be unpacked ({reason}); the archive is kept: make room and run again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_room(folder: Path, needed: int, advice: str = "set another data.root") -> None:
    """Refuses to begin a write for which the disk has too little space.

    Args:
        folder: On the disk.
        needed: Bytes.
        advice: Alternative remedy, for the message.

    Raises:
        HeatposeError: Fewer than `needed` bytes and `RESERVE` are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > 0 and needed + RESERVE > free:
        raise HeatposeError(
            f"'{folder}' has {free / 1e9:.1f} GB free and {(needed + RESERVE) / 1e9:.1f} GB are"
            f" needed; make room or {advice}."
        )


def _members(file: zipfile.ZipFile, archive: Archive) -> list[zipfile.ZipInfo]:
    """The members to extract; refuses the zip if any member would be written elsewhere."""
    taken = []
    for member in file.infolist():
        path = PurePosixPath(member.filename)
        if (
            path.is_absolute()
            or ".." in path.parts
            or set(member.filename) & set("\\:")
            or _is_link(member)
        ):
            raise HeatposeError(
                f"'{file.filename}' holds '{member.filename}', which is a link or points outside"
                " its folder; it is not the official archive, remove it."
            )
        if (
            path.parts[:-1] == (archive.folder,)
            and archive.takes(path.name)
            and not member.is_dir()
        ):
            taken.append(member)
    if len(taken) != archive.files:
        raise HeatposeError(
            f"'{file.filename}' holds {len(taken)} of the {archive.files} files expected in "
            f"'{archive.folder}'; remove it and run again."
        )
    return taken


def _is_link(member: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(member.external_attr >> 16)


def _extract(file: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    with progress_bar("files") as progress:
        for member in progress.track(
            members, description=f"unpacking {Path(str(file.filename)).name}"
        ):
            name = PurePosixPath(member.filename).name
            with file.open(member) as source, (folder / name).open("xb") as target:
                # zipfile checks each member's CRC at its end
                shutil.copyfileobj(source, target, 1 << 20)


def _move_in(temporary: Path, folder: Path, archive: Archive) -> None:
    if not archive.names:
        os.replace(temporary, folder)
        return
    folder.mkdir(exist_ok=True)
    for name in archive.names:
        if not (folder / name).exists():
            os.replace(temporary / name, folder / name)


COCO_URL = "http://images.cocodataset.org"
"""The official host. It has no valid HTTPS certificate; the SHA-256 below verify the content."""
MARKER = ".heatpose-download.json"
"""File below the root that records what was unpacked, its URL and hash."""

# Sizes and SHA-256 agree in independent projects (torchvision's prototype data sets, FastAI.jl,
# checks of mirrors).
COCO_ARCHIVES: Mapping[str, Archive] = {
    "annotations": Archive(
        path="annotations/annotations_trainval2017.zip",
        folder="annotations",
        size=252_907_541,
        sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        unpacked=260_000_000,
        files=2,
        names=("person_keypoints_train2017.json", "person_keypoints_val2017.json"),
    ),
    "val2017": Archive(
        path="zips/val2017.zip",
        folder="val2017",
        size=815_585_330,
        sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        unpacked=840_000_000,
        files=5_000,
    ),
    "train2017": Archive(
        path="zips/train2017.zip",
        folder="train2017",
        size=19_336_861_798,
        sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        unpacked=19_700_000_000,
        files=118_287,
    ),
}


def download_coco(
    root: Path,
    splits: Sequence[str] = ("train2017", "val2017"),
    base_url: str = COCO_URL,
    archives: Mapping[str, Archive] = COCO_ARCHIVES,
) -> None:
    """Downloads the keypoint annotations and the images of `splits` into `root`.

    A call after a failure or a kill resumes; a call on complete data does nothing.

    Args:
        root: Folder of the data set; made if missing.
        splits: Any of "train2017" and "val2017".
        base_url: Host of the archives, for a mirror with the same paths.
        archives: The archives by name, with "annotations" among them.

    Raises:
        HeatposeError: A split is unknown, the network or disk space is missing, a checksum or zip
            is wrong, or an image folder has other files.
    """
    # Imported here: only a download needs it. The lock prevents two runs from writing one file.
    from filelock import FileLock

    known = [name for name in archives if name != "annotations"]
    if unknown := [split for split in splits if split not in known]:
        raise HeatposeError(f"COCO has no split {unknown} to download; choose among {known}.")
    root = Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".heatpose-download.lock"):
            missing = [
                archives[name]
                for name in ("annotations", *splits)
                if not _is_whole(root, archives[name])
            ]
            _check_room(root, missing)
            for archive in missing:
                _bring(root, archive, base_url)
    except OSError as error:
        reason = error.strerror or error
        raise HeatposeError(
            f"The data folder '{root}' cannot be used ({reason}); set another data.root."
        ) from error


def changed_folders(
    root: Path, archives: Mapping[str, Archive] = COCO_ARCHIVES
) -> list[str] | None:
    """Folders below the root whose number of files or bytes differs from the download.

    Returns:
        Their names; None if nothing was downloaded into the root.

    Raises:
        HeatposeError: The record of the download is damaged.
    """
    marker = _read_marker(root)
    known = {archive.folder: archive for archive in archives.values()}
    if not marker:
        return None
    recorded = {
        folder: (entry.get("files"), entry.get("bytes")) for folder, entry in marker.items()
    }
    return [
        folder
        for folder, counted in recorded.items()
        if folder in known and _found(root, known[folder]) != counted
    ]


def _bring(root: Path, archive: Archive, base_url: str) -> None:
    target = _zip_of(root, archive)
    url = f"{base_url.rstrip('/')}/{archive.path}"
    fetch(RemoteFile(url, archive.size, archive.sha256), target)
    unpack(target, root, archive)
    files, size = _found(root, archive)
    _write_marker(
        root, archive.folder, {"url": url, "sha256": archive.sha256, "files": files, "bytes": size}
    )
    target.unlink()


def _is_whole(root: Path, archive: Archive) -> bool:
    """Whether the archive's files are all present.

    Raises:
        HeatposeError: An image folder has other files, which only the user may remove.
    """
    files, size = _found(root, archive)
    recorded = _read_marker(root).get(archive.folder, {}).get("bytes", size)
    if files == archive.files and (archive.names or size == recorded):
        return True
    folder = root / archive.folder
    if not archive.names and folder.exists() and any(folder.iterdir()):
        raise HeatposeError(
            f"'{folder}' holds {files} images ({size} bytes), not the {archive.files} of the"
            " official archive; move it away and run again, or turn data.download off."
        )
    return False


def _found(root: Path, archive: Archive) -> tuple[int, int]:
    """Number and total bytes of the archive's files below the root."""
    folder = root / archive.folder
    if not folder.is_dir():
        return 0, 0
    with os.scandir(folder) as entries:
        sizes = [entry.stat().st_size for entry in entries if archive.takes(entry.name)]
    return len(sizes), sum(sizes)


def _check_room(root: Path, missing: Sequence[Archive]) -> None:
    """Requires space for all unpacked files and the largest archive, less what is downloaded."""
    zips = [_zip_of(root, archive) for archive in missing]
    arrived = sum(size_of(path) + size_of(part_of(path)) for path in zips)
    largest = max((archive.size for archive in missing), default=0)
    require_room(root, sum(archive.unpacked for archive in missing) + largest - arrived)


def _zip_of(root: Path, archive: Archive) -> Path:
    return root / PurePosixPath(archive.path).name


def _read_marker(root: Path) -> dict[str, dict[str, Any]]:
    path = root / MARKER
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise HeatposeError(f"'{path}' is damaged ({error}); remove it and run again.") from error
    return {name: entry for name, entry in content.items() if isinstance(entry, dict)}


def _write_marker(root: Path, folder: str, entry: Mapping[str, Any]) -> None:
    write_json(root / MARKER, {**_read_marker(root), folder: entry})
