"""Files: configuration folder, writability checks, locks, atomic writes, JSON, SHA-256."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatpose.errors import HeatposeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PACKAGE = Path(__file__).parents[1]
CONF_FOLDERS = (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf")
"""Configuration folder of an installed package, and of a checkout."""
PROBE = 1 << 16
"""Bytes written to test whether a folder is writable."""


def conf_folder() -> Path:
    """Folder of the configuration files.

    Raises:
        HeatposeError: The folder is missing: the installation is incomplete.
    """
    for folder in CONF_FOLDERS:
        if (folder / "train.yaml").is_file():
            return folder
    raise HeatposeError(f"The configuration is not in '{CONF_FOLDERS[0]}'; install heatpose again.")


# --- writability --------------------------------------------------------------------------------


def require_writable(folder: Path) -> None:
    """Creates a folder and writes a temporary file into it.

    Raises:
        HeatposeError: A file has the folder's name, the folder is read-only or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".heatpose_", dir=folder) as file:
            file.write(bytes(PROBE))
            file.flush()
    except OSError as error:
        raise _not_writable(folder, error) from error


def require_writable_files(*paths: Path | None) -> None:
    """Checks output paths before a long computation; None is skipped.

    Raises:
        HeatposeError: A path is a folder, or lies below a file or in a folder without write
            permission.
    """
    for path in paths:
        if path is None:
            continue
        reason = "it is a folder" if path.is_dir() else ""
        try:
            with tempfile.TemporaryFile(dir=next(f for f in path.absolute().parents if f.exists())):
                pass
        except OSError as error:
            reason = reason or error.strerror or type(error).__name__
        if reason:
            raise HeatposeError(
                f"'{path}' cannot be written ({reason}); give the path of a file in a folder of"
                " yours."
            )


def _not_writable(folder: Path, error: OSError) -> HeatposeError:
    return HeatposeError(
        f"Nothing can be written into '{folder}' ({error.strerror or error}); make room there"
        " or choose another folder."
    )


# --- locks --------------------------------------------------------------------------------------


@contextmanager
def only_one(
    folder: Path, name: str, what: str, advice: str = "choose another name=..."
) -> Iterator[None]:
    """Holds the lock file `folder/.name.lock`; the operating system releases it with the process.

    Args:
        folder: Created if missing.
        name: Name of the run or bundle.
        what: Subject of the error message, "The run" or "The bundle".
        advice: Alternative to waiting, for the error message.

    Raises:
        HeatposeError: Another process holds the lock, or the folder cannot be written.
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
        raise _not_writable(folder, error) from error
    try:
        yield
    finally:
        # Unlinked while the lock is held: a process that opened the file before finds it unlinked
        # when it locks it and creates a new one (filelock checks the link count).
        with suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


# --- atomic writes ------------------------------------------------------------------------------


@contextmanager
def atomic_write(path: Path, *, part: Path | None = None, sync: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to `path` at the end of the context.

    After an exception the temporary file is removed and an older `path` is unchanged.

    Args:
        path: Target, in an existing folder.
        part: Temporary path; None for `path` + ".part".
        sync: Flushes the content to the disk before the rename, so that after a power failure
            `path` is the old or the new file.

    Raises:
        OSError: The file cannot be written.
    """
    part = path.with_name(path.name + ".part") if part is None else part
    try:
        yield part
        if sync:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):  # missing, or below a file: the error of the write is raised
            part.unlink(missing_ok=True)


@contextmanager
def output_file(path: Path, advice: str = "give the path of a file") -> Iterator[Path]:
    """`atomic_write` for a path given by the user: creates parent folders.

    The temporary path has the suffix of `path`, which chooses the format in image and video
    writers.

    Args:
        path: Target.
        advice: Remedy at the end of the error message.

    Raises:
        HeatposeError: The file cannot be written, or the format of its suffix is unknown.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, part=temporary_sibling(path)) as part:
            yield part
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise HeatposeError(f"'{path}' cannot be written ({reason}); {advice}.") from error


def temporary_sibling(path: Path) -> Path:
    """Hidden path in the same folder, unique per process and target.

    It has the target's suffix, except for JSON: what a killed process leaves of that must not be
    found by a search for `*.json`.
    """
    suffix = "" if path.suffix == ".json" else path.suffix
    return path.with_name(f".{os.getpid()}.{abs(hash(path.name))}.part{suffix}")


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a new empty folder, which replaces `target` at the end of the context.

    After an exception an older `target` is unchanged.

    Args:
        target: Folder whose parent exists.

    Raises:
        OSError: The folder cannot be written.
    """
    # In the same folder as the target, so that the last step is a rename.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        yield new
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(new, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise


def remove_left_overs(folder: Path, prefix: str) -> None:
    """Removes temporary folders that killed processes left; the caller holds the name's lock.

    Args:
        folder: Parent of the temporary folders.
        prefix: As given to `tempfile`, which appends eight characters.
    """
    for path in folder.iterdir():
        if (
            path.name.startswith(prefix)
            and len(path.name) == len(prefix) + 8
            and path.is_dir()
            and not path.is_symlink()
        ):
            shutil.rmtree(path, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes u8[H, W, 3] RGB in the format of the path's suffix.

    Raises:
        HeatposeError: The path cannot be written, or its suffix is not an image format.
    """
    from PIL import Image

    with output_file(path, "give a path that ends in .png or .jpg") as part:
        Image.fromarray(image).save(part)


# --- JSON and hashes ----------------------------------------------------------------------------


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Reads a JSON file; None if it is missing, unreadable, damaged or not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically, keys in the given order; other types are written as strings."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def write_json_output(path: Path | None, content: Any) -> None:
    """Writes JSON to a path given by the user; does nothing for None.

    Raises:
        HeatposeError: The path cannot be written.
    """
    if path is not None:
        with output_file(path) as part:
            part.write_text(json.dumps(content, indent=1), encoding="utf-8")


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(content: Any, *, sort_keys: bool = True) -> str:
    """SHA-256 of plain values as JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=sort_keys).encode()).hexdigest()
