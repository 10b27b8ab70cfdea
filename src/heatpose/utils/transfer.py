"""Downloads one large file over HTTP, resumes interrupted transfers and verifies size and SHA-256.

`requests` handles proxies, redirects and timeouts; this module handles ranges and retries.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heatpose.errors import HeatposeError
from heatpose.utils.progress import progress_bar

if TYPE_CHECKING:
    import requests
    from rich.progress import Progress

ATTEMPTS = 5
"""Consecutive requests without new bytes after which the transfer fails."""
TIMEOUT = (15.0, 60.0)
"""Seconds to connect, and between two chunks of the response."""
CHUNK = 1 << 16
"""Bytes written at a time; at most this many are lost when a transfer is interrupted."""


@dataclass(frozen=True)
class RemoteFile:
    """Address, size in bytes and SHA-256 (hexadecimal) of a file.

    Size and hash are None for an archive that a server packs on request; the caller then verifies
    its content.
    """

    url: str
    size: int | None
    sha256: str | None


class TransferError(HeatposeError):
    """A failed download.

    Attributes:
        reason: The cause alone, without address and remedy, for callers that try another address.
    """

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def fetch(remote: RemoteFile, target: Path, attempts: int = ATTEMPTS) -> None:
    """Downloads a file to `target`, which appears complete and verified or not at all.

    Received bytes are kept in `target` + ".part" with the server's ETag beside it, and the next
    call requests the rest. A part of another version of the file is discarded. An existing `target`
    is verified only.

    Args:
        remote: File to download.
        target: Local path.
        attempts: Consecutive requests without new bytes after which the transfer fails.

    Raises:
        TransferError: No connection, an HTTP error, or another file than expected.
        HeatposeError: The disk is full.
    """
    part = part_of(target)
    try:
        with progress_bar("bytes") as progress:
            if target.is_file():
                _verify(remote, target, progress, "remove it and run again")
                return
            _transfer(remote, part, progress, attempts)
            try:
                _verify(remote, part, progress, "it was removed, run again")
            except HeatposeError:
                _forget(part)  # resuming cannot repair it
                raise
            os.replace(part, target)
            _forget(part)
    except OSError as error:
        reason = error.strerror or error
        raise HeatposeError(
            f"'{part}' cannot be written ({reason}); what has arrived is kept: make room and run"
            " again."
        ) from error


def part_of(target: Path) -> Path:
    """Path of the received bytes of a transfer to `target`."""
    return target.with_name(target.name + ".part")


def size_of(path: Path) -> int:
    """Bytes of the file, 0 if it does not exist."""
    return path.stat().st_size if path.is_file() else 0


def _transfer(remote: RemoteFile, part: Path, progress: Progress, attempts: int) -> None:
    # Imported here: only downloads need it, and it takes a tenth of a second.
    import requests

    size = remote.size
    if size is not None and size_of(part) > size:
        _forget(part)
    furthest, fruitless = size_of(part), 0
    task = progress.add_task(f"fetching {part.stem}", total=size, completed=furthest, visible=False)

    def arrived(count: int) -> None:
        progress.update(task, completed=count, visible=True)

    with requests.Session() as session:
        while size is None or size_of(part) < size:
            reason = "the answer was cut short"
            try:
                size = _append(session, remote, part, arrived)
                progress.update(task, total=size)
            except requests.RequestException as error:  # before the answer or in the middle of it
                reason = _plain(error)
            fruitless = 0 if size_of(part) > furthest else fruitless + 1
            furthest = max(furthest, size_of(part))
            if size is not None and size_of(part) >= size:
                return
            if fruitless >= attempts:
                raise TransferError(
                    f"{remote.url} cannot be fetched ({reason}); check the network and run again: "
                    f"the {_megabytes(size_of(part))} of {_megabytes(size)} MB that arrived "
                    "are kept.",
                    reason,
                )
            time.sleep(min(2.0**fruitless, 30.0))


def _megabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.0f}"


def _append(
    session: requests.Session, remote: RemoteFile, part: Path, arrived: Callable[[int], None]
) -> int | None:
    """Sends one request for the missing bytes and appends the response to `part`.

    Returns:
        Size of the whole file; None if still unknown because the part was discarded.
    """
    have, etag = size_of(part), _read_etag(part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        # RFC 9110, 13.1.5: If-Range takes a strong validator only
        if etag and not etag.startswith("W/"):
            headers["If-Range"] = etag
    with session.get(remote.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416 and remote.size is None:
            _forget(part)  # complete, or of another version
            return None
        _check_status(response, remote)
        resumed = response.status_code == 206
        if resumed and etag and response.headers.get("ETag", etag) != etag:
            _forget(part)  # the server's file has changed: the next request starts at byte 0
            return remote.size
        _check_offer(response, remote, have)
        _etag_file(part).write_text(response.headers.get("ETag", ""), encoding="utf-8")
        with part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                arrived(file.tell())
            return file.tell() if remote.size is None else remote.size


def _check_status(response: requests.Response, remote: RemoteFile) -> None:
    status = response.status_code
    if status in (408, 429) or status >= 500:
        response.raise_for_status()  # worth another attempt
    if status not in (200, 206):
        reason = f"{status} {response.reason}"
        raise TransferError(f"{remote.url} is refused ({reason}); check the address.", reason)


def _check_offer(response: requests.Response, remote: RemoteFile, have: int) -> None:
    """Checks that the response is the file of the expected size, or its rest from byte `have`."""
    if response.headers.get("Content-Type", "").startswith("text/html"):
        reason = "the server sends a web page instead of the file"
        raise TransferError(f"{remote.url} is not the file ({reason}); check the network.", reason)
    if remote.size is None:
        return
    if response.status_code == 206:
        header, wanted = "Content-Range", f"bytes {have}-{remote.size - 1}/{remote.size}"
    else:
        header, wanted = "Content-Length", str(remote.size)
    offered = response.headers.get(header, wanted)
    if offered != wanted:
        reason = f"{header} is '{offered}' where '{wanted}' is expected"
        sentence = f"{remote.url} is not the known file ({reason}); check the address."
        raise TransferError(sentence, reason)


def _verify(remote: RemoteFile, path: Path, progress: Progress, advice: str) -> None:
    if remote.sha256 is None:
        return
    task = progress.add_task(f"checking {path.name}", total=remote.size)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            progress.advance(task, len(chunk))
    if digest.hexdigest() != remote.sha256:
        found = digest.hexdigest()
        raise TransferError(
            f"'{path}' has the wrong checksum (SHA-256 {found}, not {remote.sha256}); {advice}.",
            f"the file has the wrong checksum, SHA-256 {found}",
        )


def _etag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _read_etag(part: Path) -> str:
    path = _etag_file(part)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag_file(part).unlink(missing_ok=True)


def _plain(error: BaseException) -> str:
    """The innermost cause of a chain of network errors, in one line."""
    while inner := [
        e for e in (getattr(error, "reason", None), *error.args) if isinstance(e, Exception)
    ]:
        error = inner[0]
    if isinstance(error.__cause__, OSError) and error.__cause__.strerror:
        return error.__cause__.strerror
    return " ".join(str(error).split()) or type(error).__name__
