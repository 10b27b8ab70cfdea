"""A local server that counts what it serves, breaks off and lies, and small data sets for it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from heatpose.data.archive import Archive
from heatpose.data.download import MARKER
from heatpose.data.transfer import RemoteFile


@dataclass
class Server:
    """A host on the loopback with Range and If-Range, and the faults a test asks for."""

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    cuts: list[int] = field(default_factory=list)  # the next answers end after so many bytes of body
    status: list[int] = field(default_factory=list)  # the next answers are these errors
    ranges: bool = True
    hold: int | None = None  # after so many bytes an answer waits for `released`
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    served: int = 0
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        body = self.files.get(handler.path.lstrip("/"))
        error = self.status.pop(0) if self.status else (404 if body is None else 0)
        if error or body is None:
            handler.send_error(error)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if handler.headers.get("If-Range", self.etag) != self.etag:
            start = 0
        handler.send_response(206 if start else 200)
        handler.send_header("ETag", self.etag)
        handler.send_header("Content-Length", str(len(body) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        handler.end_headers()
        end = start + self.cuts.pop(0) if self.cuts else len(body)
        for at in range(start, min(end, len(body)), 1 << 16):
            piece = body[at : min(at + (1 << 16), end)]
            handler.wfile.write(piece)
            self.served += len(piece)
            if self.hold is not None and self.served >= self.hold:
                self.released.wait(60)

    def offer(self, name: str, data: bytes) -> RemoteFile:
        """Puts a file on the server."""
        self.files[name] = data
        return RemoteFile(f"{self.url}/{name}", len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # a killed client hangs up
                state.answer(self)

        def log_message(self, *args: Any) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("heatpose.data.transfer.time.sleep", lambda seconds: None)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    state.released.set()
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@dataclass(frozen=True)
class SmallCoco:
    """A data set in the form of the official archives.

    Attributes:
        archives: As `COCO_ARCHIVES`.
        labels: The two label files' names.
        pictures: Name below the root -> bytes.
    """

    archives: dict[str, Archive]
    labels: tuple[str, str]
    pictures: dict[str, bytes]

    @property
    def files(self) -> set[str]:
        """Everything below the root after a download."""
        return {*self.pictures, *(f"annotations/{name}" for name in self.labels)}

    @staticmethod
    def found(root: Path) -> set[str]:
        """Everything below a root but the lock and the marker."""
        kept = {".heatpose-download.lock", MARKER}
        return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and p.name not in kept}


class Zips:
    """Makes zips and their descriptions."""

    @staticmethod
    def of(members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
        """A zip with these files, and links to these targets."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
            for name, target in (links or {}).items():
                info = zipfile.ZipInfo(name)
                info.create_system = 3
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                file.writestr(info, target)
        return buffer.getvalue()

    @staticmethod
    def describe(data: bytes, folder: str, files: int, names: tuple[str, ...] = ()) -> Archive:
        """The description of a zip whose members lie in `folder`."""
        sha256 = hashlib.sha256(data).hexdigest()
        return Archive(f"zips/{folder}.zip", folder, len(data), sha256, 10_000_000, files, names)


@pytest.fixture
def zips() -> Zips:
    """The maker of zips."""
    return Zips()


@pytest.fixture
def coco(server: Server, zips: Zips) -> SmallCoco:
    """A small data set on the server, with more in its zips than is wanted."""
    names = ("person_keypoints_train2017.json", "person_keypoints_val2017.json")
    pictures = {f"val2017/{i:012d}.jpg": os.urandom(70_000) for i in range(5)}
    texts = {f"annotations/{name}": name.encode() for name in (*names, "captions_val2017.json")}
    labels = zips.of({"annotations/": b"", **texts})
    val = zips.of({"val2017/": b"", **pictures, "readme.txt": b"-"})
    archives = {
        "annotations": zips.describe(labels, "annotations", 2, names),
        "val2017": zips.describe(val, "val2017", 5),
    }
    server.files.update({archives["annotations"].path: labels, archives["val2017"].path: val})
    return SmallCoco(archives, names, pictures)
