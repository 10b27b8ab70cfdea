"""Fetches one large file of known size and hash over HTTP; a broken or killed transfer continues where it stopped.

`requests` does the transfer (proxies, redirects, timeouts); this file keeps the part, asks for the rest of it, and vouches for the whole.
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

if TYPE_CHECKING:
    import requests
    from rich.progress import Progress

ATTEMPTS = 6
"""Attempts in a row that bring nothing new before the transfer gives up."""
TIMEOUT = (15.0, 60.0)
"""Seconds to connect, and between two pieces of the answer."""
CHUNK = 1 << 20
Advance = Callable[[int], None]


@dataclass(frozen=True)
class RemoteFile:
    """A file somewhere else, known beforehand: its address, its size in bytes and its SHA-256 (hexadecimal)."""

    url: str
    size: int
    sha256: str


def fetch(remote: RemoteFile, target: Path) -> None:
    """Puts the file at `target`, whole and verified, or not at all.

    What has arrived is kept in `target` + ".part" across failures and kills, with the server's ETag beside it, and the next call asks only for
    the rest. A part that does not belong to the server's present file is thrown away.

    Raises:
        HeatposeError: No connection, a refusal, another file than the known one, or a full disk.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with progress_bar("bytes") as progress:
            if not target.is_file():
                _transfer(remote, part, progress)
                _verify(remote, part, progress)
                os.replace(part, target)
                _etag_file(part).unlink(missing_ok=True)
            else:
                _verify(remote, target, progress)
    except OSError as error:
        raise HeatposeError(
            f"'{target}' cannot be written ({error.strerror or error}); what has arrived is kept, so make room or pick another folder and run again."
        ) from error


def progress_bar(unit: str) -> Progress:
    """A progress bar on stderr that counts bytes or things (`unit` is "bytes" or the name of the things)."""
    # Imported here: only a command that shows a bar pays for it.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    counts = (DownloadColumn(binary_units=True), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
    return Progress(TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn(), console=Console(stderr=True))


def _transfer(remote: RemoteFile, part: Path, progress: Progress) -> None:
    # Imported here: nothing but a download needs it, and it costs a tenth of a second.
    import requests

    if size_of(part) > remote.size:
        part.unlink()
    task = progress.add_task(f"fetching {part.stem}", total=remote.size, completed=size_of(part))
    furthest, fruitless = size_of(part), 0
    with requests.Session() as session:
        while size_of(part) < remote.size:
            try:
                _append(session, remote, part, lambda done: progress.update(task, completed=done))
            except requests.RequestException as error:  # also raised in the middle of the answer
                fruitless = 0 if size_of(part) > furthest else fruitless + 1
                furthest = max(furthest, size_of(part))
                if fruitless >= ATTEMPTS:
                    raise HeatposeError(
                        f"{remote.url} cannot be fetched ({_plain(error)}); check the network and run again: "
                        f"{size_of(part) / 1e6:.0f} of {remote.size / 1e6:.0f} MB are kept."
                    ) from error
                time.sleep(min(2.0**fruitless, 30.0))


def _append(session: requests.Session, remote: RemoteFile, part: Path, done: Advance) -> None:
    """One request for what is missing; returns or raises with whatever arrived in the part."""
    have, etag = size_of(part), _read_etag(part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if etag and not etag.startswith("W/"):  # RFC 9110, 13.1.5: only a strong validator
            headers["If-Range"] = etag
    with session.get(remote.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        _refuse_errors(response, remote)
        resumed = response.status_code == 206
        if resumed and etag and response.headers.get("ETag", etag) != etag:
            part.unlink()  # the server's file has changed: the next round starts over
            return
        _check_offer(response, remote, have if resumed else 0)
        _etag_file(part).write_text(response.headers.get("ETag", ""), encoding="utf-8")
        with part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                done(file.tell())


def _refuse_errors(response: requests.Response, remote: RemoteFile) -> None:
    status = response.status_code
    if status in (408, 429) or status >= 500:
        response.raise_for_status()  # worth another attempt
    if status not in (200, 206):
        raise HeatposeError(f"{remote.url} is refused by the server (status {status} {response.reason}); check the address.")


def _check_offer(response: requests.Response, remote: RemoteFile, start: int) -> None:
    """The answer must be the rest of a file of the known size, from byte `start`."""
    wanted = f"bytes {start}-{remote.size - 1}/{remote.size}" if response.status_code == 206 else str(remote.size)
    offered = response.headers.get("Content-Range" if response.status_code == 206 else "Content-Length", wanted)
    if offered != wanted:
        raise HeatposeError(
            f"{remote.url} is another file than the known one (the server offers '{offered}', expected is '{wanted}'); check the address."
        )


def _verify(remote: RemoteFile, path: Path, progress: Progress) -> None:
    task = progress.add_task(f"checking {path.name}", total=remote.size)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            progress.advance(task, len(chunk))
    if digest.hexdigest() != remote.sha256:
        path.unlink()  # no resume can mend it
        _etag_file(path).unlink(missing_ok=True)
        raise HeatposeError(f"'{path}' has a wrong checksum (SHA-256 {digest.hexdigest()}, expected {remote.sha256}) and was removed; run again.")


def size_of(path: Path) -> int:
    """Bytes of the file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def _etag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _read_etag(part: Path) -> str:
    file = _etag_file(part)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _plain(error: Exception) -> str:
    """The innermost reason of a chain of network errors, in one line."""
    while isinstance(reason := getattr(error, "reason", None) or (error.args[0] if error.args else None), Exception):
        error = reason
    return " ".join(str(error).split()) or type(error).__name__
