"""Folders and files that are written.

Writable, by one process at a time, whole or absent, hashed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from heatpose.errors import HeatposeError

PROBE = 1 << 16
"""Bytes that are written to see whether a folder takes any."""


def require_writable(folder: Path) -> None:
    """Makes a folder and writes a file into it for a moment.

    Raises:
        HeatposeError: That is not possible: a file has its name, it is read-only, or the disk is
            full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".heatpose_", dir=folder) as file:
            file.write(bytes(PROBE))
            file.flush()
    except OSError as error:
        raise HeatposeError(
            f"Nothing can be written into '{folder}' ({error.strerror or error}); make room there"
            " or choose another folder."
        ) from error


@contextmanager
def only_one(
    folder: Path, name: str, what: str, advice: str = "choose another name=..."
) -> Iterator[None]:
    """Holds `folder/.name.lock` for as long as the context lasts.

    The system lets go of it when a process ends, however it ends.

    Args:
        folder: Made if missing.
        name: Of the run or bundle.
        what: For the sentence, "The run" or "The bundle".
        advice: What to do instead of waiting.

    Raises:
        HeatposeError: Another process holds it, or the folder cannot be written.
    """
    # Imported here: commands that only read need no locks.
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{name}.lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise HeatposeError(
            f"{what} '{folder / name}' is being written by another process; "
            f"wait for it, or {advice}."
        ) from error
    except OSError as error:
        # some network file systems have no locks
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            yield
            return
        raise HeatposeError(
            f"Nothing can be written into '{folder}' ({error.strerror or error}); make room there"
            " or choose another folder."
        ) from error
    try:
        yield
    finally:
        # While it is held: whoever opened the file before finds it unlinked when locking it, and
        # makes a new one (filelock looks at the link count).
        with suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


def remove_left_overs(folder: Path, prefix: str) -> None:
    """Removes the temporary folders of a name that killed processes left.

    Whoever calls this holds the name's lock.

    Args:
        folder: Of the temporary folders.
        prefix: Theirs, as given to `tempfile`, which adds eight characters.
    """
    for path in folder.iterdir():
        if (
            path.name.startswith(prefix)
            and len(path.name) == len(prefix) + 8
            and path.is_dir()
            and not path.is_symlink()
        ):
            shutil.rmtree(path, ignore_errors=True)


def replace_whole(part: Path, target: Path) -> None:
    """Puts a finished file in its place, its content on the disk first.

    After a power cut, too, the target is the old file or the new one.
    """
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes plain values, keys in the given order; the file appears whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8; the file appears whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
