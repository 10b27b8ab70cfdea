"""The official layout from a local server with small archives."""

from __future__ import annotations

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from heatpose.data import download
from heatpose.data.download import COCO_ARCHIVES, MARKER, download_coco, unpack
from heatpose.data.formats.folder import find_split
from heatpose.errors import HeatposeError

EVIL: dict[str, tuple[str, str | None]] = {
    "parent": ("../evil.jpg", None),
    "parent inside": ("val2017/../../evil.jpg", None),
    "absolute": ("/evil.jpg", None),
    "backslash": ("..\\evil.jpg", None),
    "drive": ("C:evil.jpg", None),
    "link": ("val2017/b.jpg", "/etc/passwd"),
}
PICTURES = {f"val2017/{i}.jpg": bytes(range(256)) * (i + 1) for i in range(5)}
FOUR = dict(list(PICTURES.items())[1:])


@pytest.mark.parametrize("kind", EVIL)
def test_a_zip_that_points_elsewhere_is_not_unpacked_at_all(
    kind: str, zips: Any, tmp_path: Path
) -> None:
    root, (name, link) = tmp_path / "root", EVIL[kind]
    root.mkdir()
    members = {"val2017/a.jpg": b"a", **({name: b"b"} if link is None else {})}
    data = zips.of(members, {name: link} if link else None)
    (root / "val2017.zip").write_bytes(data)
    with pytest.raises(HeatposeError, match="link or points outside"):
        unpack(root / "val2017.zip", root, zips.describe(data, "val2017", 1))
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")} == {
        "root",
        "root/val2017.zip",
    }


def test_files_of_other_folders_and_other_kinds_are_not_taken(zips: Any, tmp_path: Path) -> None:
    data = zips.of(
        {"val2017/a.jpg": b"a", "val2017/sub/b.jpg": b"b", "val2017/run.sh": b"c", "c.jpg": b"d"}
    )
    (tmp_path / "a.zip").write_bytes(data)
    unpack(tmp_path / "a.zip", tmp_path, zips.describe(data, "val2017", 1))
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    assert found == {"a.zip", "val2017", "val2017/a.jpg"}


@pytest.mark.parametrize(
    "kind", ["truncated", "flipped byte", "no zip", "a file missing", "the same file twice"]
)
def test_a_corrupt_zip_is_one_sentence_and_leaves_nothing(
    kind: str, zips: Any, tmp_path: Path
) -> None:
    whole = zips.of(PICTURES)
    twice = io.BytesIO(zips.of(FOUR))
    with zipfile.ZipFile(twice, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(next(iter(FOUR)), b"again")
    data = {
        "truncated": whole[: len(whole) // 2],
        "flipped byte": whole[:100] + bytes([whole[100] ^ 255]) + whole[101:],
        "no zip": b"<html>404</html>",
        "a file missing": zips.of(FOUR),
        "the same file twice": twice.getvalue(),
    }[kind]
    (tmp_path / "val2017.zip").write_bytes(data)
    with pytest.raises(HeatposeError):
        unpack(tmp_path / "val2017.zip", tmp_path, zips.describe(data, "val2017", 5))
    assert [p.name for p in tmp_path.iterdir()] == ["val2017.zip"]


def test_named_files_join_a_folder_and_keep_its_files(zips: Any, tmp_path: Path) -> None:
    data = zips.of(
        {"annotations/a.json": b"new", "annotations/b.json": b"new", "annotations/c.json": b"new"}
    )
    (tmp_path / "x.zip").write_bytes(data)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.json").write_text("mine")
    unpack(
        tmp_path / "x.zip", tmp_path, zips.describe(data, "annotations", 2, ("a.json", "b.json"))
    )
    found = {path.name: path.read_text() for path in (tmp_path / "annotations").iterdir()}
    assert found == {"a.json": "mine", "b.json": "new"}


def test_the_official_archives_are_pinned() -> None:
    assert {name: a.path for name, a in COCO_ARCHIVES.items()} == {
        "annotations": "annotations/annotations_trainval2017.zip",
        "val2017": "zips/val2017.zip",
        "train2017": "zips/train2017.zip",
    }
    assert all(len(bytes.fromhex(a.sha256)) == 32 and a.size > 2e8 for a in COCO_ARCHIVES.values())


def test_a_download_has_the_official_layout_and_the_second_call_fetches_nothing(
    server: Any, coco: Any, tmp_path: Path
) -> None:
    root = tmp_path / "new" / "coco"
    download_coco(root, ["val2017"], server.url, coco.archives)
    assert coco.found(root) == coco.files
    assert all((root / name).read_bytes() == content for name, content in coco.images.items())
    split = find_split(root, "val")
    assert (
        split.annotations == root / "annotations" / coco.labels[1]
        and split.images == root / "val2017"
    )
    marker = json.loads((root / MARKER).read_text())
    assert (
        marker["val2017"]["sha256"] == coco.archives["val2017"].sha256
        and marker["val2017"]["files"] == 5
    )
    requests, served = len(server.requests), server.served
    assert served == coco.archives["annotations"].size + coco.archives["val2017"].size
    download_coco(root, ["val2017"], server.url, coco.archives)
    assert (len(server.requests), server.served) == (requests, served)


def test_images_that_a_user_unpacked_himself_are_not_fetched(
    server: Any, coco: Any, tmp_path: Path
) -> None:
    for name, content in coco.images.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / coco.labels[0]).write_text("mine")
    download_coco(tmp_path, ["val2017"], server.url, coco.archives)
    assert [path for path, _ in server.requests] == ["/zips/annotations.zip"]
    assert (tmp_path / "annotations" / coco.labels[0]).read_text() == "mine"


def test_an_image_folder_that_is_not_whole_is_left_alone(
    server: Any, coco: Any, tmp_path: Path
) -> None:
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(HeatposeError, match="holds 1 images"):
        download_coco(tmp_path, ["val2017"], server.url, coco.archives)
    assert server.requests == [] and coco.found(tmp_path) == {"val2017/mine.jpg"}


def test_an_image_cut_after_the_download_is_noticed(server: Any, coco: Any, tmp_path: Path) -> None:
    download_coco(tmp_path, ["val2017"], server.url, coco.archives)
    (tmp_path / next(iter(coco.images))).write_bytes(b"cut")
    with pytest.raises(HeatposeError, match="move it away"):
        download_coco(tmp_path, ["val2017"], server.url, coco.archives)


def test_a_wrong_checksum_leaves_nothing(server: Any, coco: Any, tmp_path: Path) -> None:
    path = coco.archives["val2017"].path
    server.files[path] = server.files[path][:-1] + b"?"
    with pytest.raises(
        HeatposeError, match=r"val2017.zip.part' has the wrong checksum .*run again"
    ):
        download_coco(tmp_path, ["val2017"], server.url, coco.archives)
    assert coco.found(tmp_path) == coco.files - set(coco.images)


def test_a_file_of_another_size_is_refused_before_it_is_fetched(
    server: Any, coco: Any, tmp_path: Path
) -> None:
    path = coco.archives["val2017"].path
    server.files[path] = server.files[path][:-1000]
    with pytest.raises(HeatposeError, match="not the known file"):
        download_coco(tmp_path, ["val2017"], server.url, coco.archives)


def test_no_network_keeps_the_part(
    server: Any, coco: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "annotations.zip.part"
    part.write_bytes(b"x" * 100)
    with pytest.raises(HeatposeError, match=r"cannot be fetched .*check the network") as caught:
        download_coco(tmp_path, ["val2017"], "http://127.0.0.1:9", coco.archives)
    assert "\n" not in str(caught.value) and part.stat().st_size == 100


def test_too_little_room_is_reported_before_the_first_request(
    server: Any, coco: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "RESERVE", 10**18)
    with pytest.raises(HeatposeError, match=r"GB free and .* GB are needed"):
        download_coco(tmp_path, ["val2017"], server.url, coco.archives)
    assert server.requests == []


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match=r"no split .*test2017"):
        download_coco(tmp_path, ["test2017"])


def test_a_kill_while_unpacking_leaves_no_half_folder(
    server: Any, coco: Any, tmp_path: Path
) -> None:
    (tmp_path / ".val2017.part").mkdir()  # what a killed unpacking leaves
    (tmp_path / ".val2017.part" / "half.jpg").write_bytes(b"half")
    download_coco(tmp_path, ["val2017"], server.url, coco.archives)
    assert coco.found(tmp_path) == coco.files


def test_an_archive_that_was_fetched_before_is_only_verified(
    server: Any, coco: Any, tmp_path: Path
) -> None:
    for path, data in server.files.items():
        (tmp_path / Path(path).name).write_bytes(data)
    download_coco(tmp_path, ["val2017"], server.url, coco.archives)
    assert server.requests == [] and coco.found(tmp_path) == coco.files


def test_an_archive_of_the_user_that_is_another_is_named_and_kept(
    server: Any, coco: Any, tmp_path: Path
) -> None:
    (tmp_path / "val2017.zip").write_bytes(b"mine")
    with pytest.raises(HeatposeError, match=r"val2017\.zip' has the wrong checksum .*remove it"):
        download_coco(tmp_path, ["val2017"], server.url, coco.archives)
    assert (tmp_path / "val2017.zip").read_bytes() == b"mine"


def test_two_runs_at_once_fetch_once(server: Any, coco: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(download_coco, tmp_path, ["val2017"], server.url, coco.archives)
            for _ in range(2)
        ]
    assert [run.result() for run in runs] == [None, None]
    assert server.served == sum(item.size for item in coco.archives.values())


def test_a_damaged_marker_is_one_sentence(server: Any, coco: Any, tmp_path: Path) -> None:
    for text in ("{", "3", "null"):
        (tmp_path / MARKER).write_text(text)
        with pytest.raises(HeatposeError, match="damaged"):
            download_coco(tmp_path, ["val2017"], server.url, coco.archives)
