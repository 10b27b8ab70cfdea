"""A local server that counts what it serves, breaks off and lies."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from heatpose.utils.transfer import RemoteFile


@dataclass
class Server:
    """A host on the loopback with Range and If-Range, and the faults a test asks for."""

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    cuts: list[int] = field(
        default_factory=list
    )  # the next answers end after so many bytes of body
    status: list[int] = field(default_factory=list)  # the next answers are these errors
    ranges: bool = True
    hold: int | None = None  # after so many bytes an answer waits for `released`
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    served: int = 0
    url: str = ""
    kinds: dict[str, str] = field(default_factory=dict)  # Content-Type of a file
    has_length: bool = True  # whether the answers say how long they are

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
        if self.has_length:
            handler.send_header("Content-Length", str(len(body) - start))
        if handler.path.lstrip("/") in self.kinds:
            handler.send_header("Content-Type", self.kinds[handler.path.lstrip("/")])
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
    monkeypatch.setattr("heatpose.utils.transfer.time.sleep", lambda seconds: None)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    state.released.set()
    httpd.shutdown()
    httpd.server_close()
    thread.join()
