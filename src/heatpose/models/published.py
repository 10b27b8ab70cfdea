"""Google's MoveNet files: fetched once from Google's own addresses into the user's cache folder.

To add a file: an entry of `PUBLISHED`, and a `conf/init/*.yaml` that names it.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from heatpose.errors import HeatposeError
from heatpose.utils.files import atomic_write, require_writable, sha256
from heatpose.utils.transfer import RemoteFile, TransferError, fetch

PAGE = "https://www.kaggle.com/models/google/movenet"
"""Where a person finds the files."""


@dataclass(frozen=True)
class Address:
    """Where a file is.

    Attributes:
        url: Of the file, or of a tar archive with it.
        packed: Whether it is an archive; the server packs it, so its own size and hash are not
            known.
    """

    url: str
    packed: bool = False


@dataclass(frozen=True)
class PublishedFile:
    """A file with weights, known by its hash.

    Attributes:
        title: For messages.
        name: In the cache folder.
        size: In bytes.
        sha256: Hexadecimal.
        addresses: Tried in this order.
    """

    title: str
    name: str
    size: int
    sha256: str
    addresses: tuple[Address, ...]


def _addresses(variant: str) -> tuple[Address, ...]:
    """TensorFlow Hub, Kaggle (which took it over.

    No account is needed), TensorFlow Hub's storage.
    """
    path = f"google/lite-model/movenet/singlepose/{variant}/tflite/float16/4"
    kaggle = f"google/movenet/tfLite/singlepose-{variant}-tflite-float16/1"
    return (
        Address(f"https://tfhub.dev/{path}?lite-format=tflite"),
        Address(f"https://www.kaggle.com/api/v1/models/{kaggle}/download", packed=True),
        Address(f"https://storage.googleapis.com/tfhub-lite-models/{path}.tflite"),
    )


# Sizes and SHA-256 agree in several independent projects that record them for these files.
PUBLISHED: Mapping[str, PublishedFile] = {
    "lightning": PublishedFile(
        title="Google's MoveNet SinglePose Lightning (version 4, float16)",
        name="movenet_singlepose_lightning_float16_4.tflite",
        size=4_758_512,
        sha256="0fac2226112d0371903ca86e3853cec24ef603a0b2f96f589b180f0ebdd135ab",
        addresses=_addresses("lightning"),
    ),
    "thunder": PublishedFile(
        title="Google's MoveNet SinglePose Thunder (version 4, float16)",
        name="movenet_singlepose_thunder_float16_4.tflite",
        size=12_584_128,
        sha256="41641538679ec79b07d4101e591dda47d098c09af29607674b2a40b8a3798dd3",
        addresses=_addresses("thunder"),
    ),
}


def cache_folder() -> Path:
    """`heatpose` in XDG_CACHE_HOME, else in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "heatpose"


def published_file(file: PublishedFile) -> Path:
    """The file in the cache folder.

    Fetched now where it is not there yet, or no longer what it was.

    Raises:
        HeatposeError: No address has it, or the cache folder takes no files.
    """
    # Imported here: only weights that are fetched need it. It keeps two runs from fetching into one
    # part.
    from filelock import FileLock

    folder = cache_folder()
    target = folder / file.name
    if _is_whole(file, target):
        return target
    try:
        require_writable(folder)
    except HeatposeError as error:
        said = str(error).partition(";")[0]
        raise HeatposeError(
            f"{said}, where {file.title} is to be kept; set XDG_CACHE_HOME to another folder, or "
            "init.path=FILE."
        ) from error
    with FileLock(folder / f".{file.name}.lock"):
        if not _is_whole(file, target):
            _bring(file, target)
    return target


def _is_whole(file: PublishedFile, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256(path) == file.sha256


def _bring(file: PublishedFile, target: Path) -> None:
    """From the first address that has it."""
    target.unlink(missing_ok=True)  # damaged
    reasons = []
    for address in file.addresses:
        try:
            _fetch(file, address, target)
        except TransferError as error:
            reasons.append(f"{urlsplit(address.url).netloc}: {error.reason}")
        else:
            print(f"{file.title} is fetched from {address.url} and kept as '{target}'.")
            return
    raise HeatposeError(
        f"{file.title} cannot be fetched from {file.addresses[0].url} ({'; '.join(reasons)}); check"
        f" the network and run again, or download the file from {PAGE} and set init.path=FILE."
    )


def _fetch(file: PublishedFile, address: Address, target: Path) -> None:
    if not address.packed:
        fetch(RemoteFile(address.url, file.size, file.sha256), target, attempts=2)
        return
    archive = target.with_name(target.name + ".tar.gz")
    try:
        fetch(RemoteFile(address.url, None, None), archive, attempts=2)
        _unpack(file, archive, target)
    finally:
        archive.unlink(missing_ok=True)  # of no use: what has arrived of it is its part


def _unpack(file: PublishedFile, archive: Path, target: Path) -> None:
    """Takes the one file that the archive is about; nothing else in it is read or written.

    Raises:
        TransferError: It is not an archive, or not one of that file.
    """
    unpacked = target.with_name(target.name + ".unpacked")
    try:
        with tarfile.open(archive) as entries, atomic_write(target, part=unpacked, sync=True):
            found = next((m for m in entries if m.isfile() and m.size == file.size), None)
            content = entries.extractfile(found) if found is not None else None
            if content is None:
                raise TransferError("", "the archive has no file of the known size")
            unpacked.write_bytes(content.read())
            if (digest := sha256(unpacked)) != file.sha256:
                raise TransferError("", f"the file has the wrong checksum, SHA-256 {digest}")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise TransferError("", f"the archive is damaged: {error}") from error
