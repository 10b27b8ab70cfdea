"""Unpacking: hostile and broken zips."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from heatpose.data.archive import unpack
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
    sweep_runs = {"val2017/a.jpg": b"a", **({name: b"b"} if link is None else {})}
    data = zips.of(sweep_runs, {name: link} if link else None)
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


def test_named_files_join_a_folder_and_leave_what_is_there(zips: Any, tmp_path: Path) -> None:
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
