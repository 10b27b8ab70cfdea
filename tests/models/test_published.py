"""Google's files, fetched from a real local server that breaks off, lies and is absent."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from heatpose.errors import HeatposeError
from heatpose.models import published
from heatpose.models.init import from_movenet
from heatpose.models.movenet import MoveNet
from heatpose.models.published import PUBLISHED, Address, PublishedFile, published_file
from heatpose.models.tflite_import import import_movenet
from heatpose.pose.skeleton import COCO_17

DATA = os.urandom(300_000)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache folder, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "heatpose"


def known(*addresses: Address, data: bytes = DATA) -> PublishedFile:
    """A file of these bytes at these addresses."""
    digest = hashlib.sha256(data).hexdigest()
    return PublishedFile("Somebody's network", "net.tflite", len(data), digest, addresses)


def packed(data: bytes, name: str = "./4.tflite") -> bytes:
    """A tar.gz as Kaggle packs it, with a second file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for sweep_run, content in (("notes.txt", b"notes"), (name, data)):
            entry = tarfile.TarInfo(sweep_run)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def offer(server: Any) -> Callable[..., Address]:
    """Puts a file on the server; its address."""

    def offered(name: str, data: bytes, **settings: Any) -> Address:
        return Address(server.offer(name, data).url, **settings)

    return offered


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_what_is_published_is_complete() -> None:
    for file in PUBLISHED.values():
        assert re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size > 4_000_000
        hosts = ["tfhub.dev", "www.kaggle.com", "storage.googleapis.com"]
        assert [address.url.split("/")[2] for address in file.addresses] == hosts
        assert all(address.url.startswith("https://") for address in file.addresses)
    assert PUBLISHED["lightning"].sha256 != PUBLISHED["thunder"].sha256


def test_it_is_fetched_once_and_where_from_is_told(
    server: Any, offer: Callable[..., Address], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = known(offer("a.tflite", DATA))
    assert published_file(file) == cache / "net.tflite" and kept(cache) == ["net.tflite"]
    said = capsys.readouterr().out
    assert (
        said == f"Somebody's network is fetched from {server.url}/a.tflite and kept as"
        f" '{cache}/net.tflite'.\n"
    )
    assert published_file(file).read_bytes() == DATA and len(server.requests) == 1
    assert capsys.readouterr().out == ""


def test_an_archive_is_unpacked_and_verified(
    server: Any, offer: Callable[..., Address], cache: Path
) -> None:
    file = known(offer("download", packed(DATA), packed=True))
    assert published_file(file).read_bytes() == DATA and kept(cache) == ["net.tflite"]


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_broken_transfer_goes_on(
    server: Any, offer: Callable[..., Address], cache: Path, is_packed: bool
) -> None:
    content = packed(DATA) if is_packed else DATA
    server.cuts = [150_000]
    assert published_file(known(offer("a", content, packed=is_packed))).read_bytes() == DATA
    (_, first), (_, second) = server.requests
    assert first is None and int(second.removeprefix("bytes=")[:-1]) > 80_000
    assert kept(cache) == ["net.tflite"]


def test_an_archive_whose_part_is_whole_is_fetched_anew(
    server: Any, offer: Callable[..., Address], cache: Path
) -> None:
    """Killed between the last byte and the name.

    A server of archives answers 416 to what is behind it.
    """
    content = packed(DATA)
    cache.mkdir(parents=True)
    (cache / "net.tflite.tar.gz.part").write_bytes(content)
    server.status = [416]
    assert published_file(known(offer("a", content, packed=True))).read_bytes() == DATA


def test_the_next_address_is_asked(
    server: Any, offer: Callable[..., Address], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = Address(f"{server.url}/gone.tflite")
    page = offer("page.html", b"<html>Sign in</html>")
    server.kinds["page.html"] = "text/html; charset=utf-8"
    long_page = offer("long.html", b"<html>" + b" " * 500_000)
    other = offer("other.tflite", os.urandom(len(DATA)))
    cut = offer("cut", packed(DATA)[:-1000], packed=True)
    text = offer("text", b"not an archive", packed=True)
    strange = offer("strange", packed(os.urandom(len(DATA))), packed=True)
    empty = offer("empty", packed(b"x"), packed=True)
    wrong = (gone, page, long_page, other, cut, text, strange, empty)
    good = offer("good.tflite", DATA)
    assert published_file(known(*wrong, good)).read_bytes() == DATA
    assert kept(cache) == ["net.tflite"] and "good.tflite" in capsys.readouterr().out
    with pytest.raises(HeatposeError) as refused:
        published_file(replace(known(*wrong), name="b.tflite"))
    said = str(refused.value)
    for words in (
        "404",
        "the server sends a web page instead of the file",
        "Content-Length is '500006' where '300000' is expected",
        "the file has the wrong checksum",
        "the archive is damaged",
        "the archive has no file of the known size",
    ):
        assert words in said
    assert said.endswith(f"download the file from {published.PAGE} and set init.path=FILE.")
    assert kept(cache) == ["net.tflite"]


def test_answers_without_a_length(server: Any, offer: Callable[..., Address], cache: Path) -> None:
    server.has_length = False
    assert published_file(known(offer("a", packed(DATA), packed=True))).read_bytes() == DATA
    (cache / "net.tflite").unlink()
    assert published_file(known(offer("b", DATA))).read_bytes() == DATA


def test_a_damaged_file_is_fetched_anew(
    server: Any, offer: Callable[..., Address], cache: Path
) -> None:
    file = known(offer("a.tflite", DATA))
    path = published_file(file)
    path.write_bytes(DATA[:-1] + b"x")
    os.truncate(path, len(DATA) - 1)
    assert published_file(file).read_bytes() == DATA
    path.write_bytes(bytes(len(DATA)))
    assert published_file(file).read_bytes() == DATA and len(server.requests) == 3


def test_without_a_network(offline: Path) -> None:
    with pytest.raises(HeatposeError) as refused:
        published_file(PUBLISHED["thunder"])
    said = str(refused.value)
    assert PUBLISHED["thunder"].addresses[0].url in said and said.count("Connection refused") == 3
    assert "init.path=FILE" in said and "\n" not in said


def test_a_cache_folder_that_takes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        HeatposeError, match="set XDG_CACHE_HOME to another folder, or init.path=FILE"
    ):
        published_file(known())


def test_the_cache_folder_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert published.cache_folder() == Path("/home/somebody/.cache/heatpose")


def test_the_fetched_file_is_imported(
    server: Any, offer: Callable[..., Address], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (files / "plain_float16.tflite").read_bytes()
    file = known(offer("download", packed(data), packed=True), data=data)
    monkeypatch.setitem(published.PUBLISHED, "lightning", file)  # type: ignore[misc]
    network = from_movenet(MoveNet(17, 0.35, norm=False), COCO_17)
    expected = import_movenet(files / "plain_float16.tflite").state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())
