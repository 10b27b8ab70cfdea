"""Transfers that break, are killed, or meet a server that lies; the bytes served are counted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from heatpose.errors import HeatposeError
from heatpose.utils.transfer import ATTEMPTS, CHUNK, RemoteFile, fetch


def test_a_broken_transfer_goes_on_within_the_call(server: Any, tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    server.cuts = [300_000, 200_000]
    fetch(server.offer("a.zip", data), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    starts = [int(asked.removeprefix("bytes=")[:-1]) for _, asked in server.requests if asked]
    assert starts[0] > 300_000 - CHUNK and starts[1] > starts[0] + 200_000 - CHUNK
    assert len(server.requests) == 3 and server.served < len(data) + 2 * CHUNK


def test_a_killed_transfer_is_resumed_by_the_next_process(server: Any, tmp_path: Path) -> None:
    data = os.urandom(4_000_000)
    remote, server.hold = server.offer("a.zip", data), 2_000_000
    target, part = tmp_path / "a.zip", tmp_path / "a.zip.part"
    imports = (
        "from pathlib import PosixPath, WindowsPath; from heatpose.utils.transfer import"
        " RemoteFile, fetch"
    )
    code = f"{imports}; fetch({remote!r}, {target!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while (not part.is_file() or part.stat().st_size < 1_000_000) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    process.kill()
    process.wait()
    kept = part.stat().st_size
    assert 1_000_000 <= kept < len(data) and not target.exists()
    server.hold, server.requests = None, []
    server.released.set()
    fetch(remote, target)
    assert target.read_bytes() == data
    assert server.requests == [("/a.zip", f"bytes={kept}-")]


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_a_part_of_another_version_is_thrown_away(
    server: Any, tmp_path: Path, honours_if_range: bool
) -> None:
    old, new = os.urandom(500_000), os.urandom(500_000)
    remote = server.offer("a.zip", new)
    (tmp_path / "a.zip.part").write_bytes(old[:200_000])
    weak = "" if honours_if_range else "W/"  # a weak ETag is never sent
    (tmp_path / "a.zip.part.etag").write_text(f'{weak}"zero"')
    fetch(remote, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == new
    assert len(server.requests) == (1 if honours_if_range else 2)


def test_a_server_without_ranges_starts_over(server: Any, tmp_path: Path) -> None:
    data = os.urandom(400_000)
    server.cuts, server.ranges = [150_000], False
    fetch(server.offer("a.zip", data), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == data and server.served == 550_000


def test_a_whole_part_is_verified_without_a_request_and_a_longer_one_is_dropped(
    server: Any, tmp_path: Path
) -> None:
    data = os.urandom(100_000)
    remote = server.offer("a.zip", data)
    (tmp_path / "a.zip.part").write_bytes(data)
    fetch(remote, tmp_path / "a.zip")
    assert server.requests == []
    (tmp_path / "a.zip").unlink()
    (tmp_path / "a.zip.part").write_bytes(data + b"more")
    fetch(remote, tmp_path / "a.zip")
    assert server.requests == [("/a.zip", None)]


def test_a_missing_file_is_one_sentence_and_one_request(server: Any, tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match=r"a\.zip is refused \(404"):
        fetch(RemoteFile(f"{server.url}/a.zip", 10, "0" * 64), tmp_path / "a.zip")
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again_but_not_for_ever(server: Any, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    remote, server.status = server.offer("a.zip", data), [503, 429]
    fetch(remote, tmp_path / "a.zip")
    assert len(server.requests) == 3
    server.status, server.requests = [503] * 100, []
    with pytest.raises(HeatposeError, match="503"):
        fetch(remote, tmp_path / "b.zip")
    assert len(server.requests) == ATTEMPTS


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(server: Any, tmp_path: Path) -> None:
    remote = server.offer("a.zip", os.urandom(100_000))
    (tmp_path / "a.zip.part").symlink_to("/dev/full")
    with pytest.raises(HeatposeError, match=r"cannot be written \(No space left on device\)"):
        fetch(remote, tmp_path / "a.zip")
