"""Takes the files of a data set out of a zip: only the expected ones, all of them or none."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from heatpose.errors import HeatposeError
from heatpose.utils.console import progress_bar

RESERVE = 500_000_000
"""Bytes left free on the disk."""
MOST_SWELLING = 1.1
"""Of the bytes that an archive is known to hold; more is another archive, made to fill the disk."""


@dataclass(frozen=True)
class Archive:
    """One zip of a data set and what is taken out of it.

    Attributes:
        path: Where it is below the base URL.
        folder: The folder inside the zip, and below the root, that files are taken from and put
            into.
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


def unpack(path: Path, root: Path, archive: Archive) -> None:
    """Takes the archive's files out of the zip at `path` into `root / archive.folder`.

    An image folder (`names` empty) appears at once and must not exist before, or be empty. Named
    files join those that are there; a file of the same name that is there already is left alone.

    Raises:
        HeatposeError: The zip is broken, lacks files or has members that point elsewhere, or the
            disk is full;
            the zip is kept.
    """
    temporary = root / f".{archive.folder}.part"
    shutil.rmtree(temporary, ignore_errors=True)  # left by a kill
    try:
        with zipfile.ZipFile(path) as file:
            sweep_runs = _sweep_runs(file, archive)
            total = sum(sweep_run.file_size for sweep_run in sweep_runs)
            if total > MOST_SWELLING * archive.unpacked:
                raise HeatposeError(
                    f"'{path}' would unpack to {total / 1e9:.1f} GB instead of"
                    f" {archive.unpacked / 1e9:.1f}; it is not the official archive, remove it."
                )
            require_room(root, total)
            temporary.mkdir()
            _extract(file, sweep_runs, temporary)
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
            f"'{path}' is no whole zip ({error}); remove it and run again."
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise HeatposeError(
            f"'{path}' cannot be unpacked ({reason}); the archive is kept: make room and run again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_room(folder: Path, needed: int, advice: str = "set another data.root") -> None:
    """Refuses to start what will not fit; `advice` says what else than making room would help.

    Raises:
        HeatposeError: Fewer than `needed` bytes and a reserve are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > 0 and needed + RESERVE > free:
        raise HeatposeError(
            f"'{folder}' has {free / 1e9:.1f} GB free and {(needed + RESERVE) / 1e9:.1f} GB are"
            f" needed; make room or {advice}."
        )


def _sweep_runs(file: zipfile.ZipFile, archive: Archive) -> list[zipfile.ZipInfo]:
    """The members to take; a single member that would land elsewhere condemns the whole zip."""
    taken = []
    for sweep_run in file.infolist():
        path = PurePosixPath(sweep_run.filename)
        if (
            path.is_absolute()
            or ".." in path.parts
            or set(sweep_run.filename) & set("\\:")
            or _is_link(sweep_run)
        ):
            raise HeatposeError(
                f"'{file.filename}' holds '{sweep_run.filename}', which is a link or points outside"
                " its folder; it is not the official archive, remove it."
            )
        if (
            path.parts[:-1] == (archive.folder,)
            and archive.takes(path.name)
            and not sweep_run.is_dir()
        ):
            taken.append(sweep_run)
    if len(taken) != archive.files:
        raise HeatposeError(
            f"'{file.filename}' holds {len(taken)} of the {archive.files} files expected in "
            f"'{archive.folder}'; remove it and run again."
        )
    return taken


def _is_link(sweep_run: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(sweep_run.external_attr >> 16)


def _extract(file: zipfile.ZipFile, sweep_runs: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    with progress_bar("files") as progress:
        for sweep_run in progress.track(
            sweep_runs, description=f"unpacking {Path(str(file.filename)).name}"
        ):
            name = PurePosixPath(sweep_run.filename).name
            with file.open(sweep_run) as source, (folder / name).open("xb") as target:
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
