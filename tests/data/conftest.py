"""A local server that counts what it serves, breaks off and lies, and small data sets for it."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from heatpose.data.download import MARKER, Archive
from tests.serving import Server


@dataclass(frozen=True)
class SmallCoco:
    """A data set laid out like the official archives.

    Attributes:
        archives: As `COCO_ARCHIVES`.
        labels: The two label files' names.
        images: Name below the root -> bytes.
    """

    archives: dict[str, Archive]
    labels: tuple[str, str]
    images: dict[str, bytes]

    @property
    def files(self) -> set[str]:
        """Everything below the root after a download."""
        return {*self.images, *(f"annotations/{name}" for name in self.labels)}

    @staticmethod
    def found(root: Path) -> set[str]:
        """Everything below a root but the lock and the marker."""
        kept = {".heatpose-download.lock", MARKER}
        return {
            p.relative_to(root).as_posix()
            for p in root.rglob("*")
            if p.is_file() and p.name not in kept
        }


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
    images = {f"val2017/{i:012d}.jpg": os.urandom(70_000) for i in range(5)}
    texts = {f"annotations/{name}": name.encode() for name in (*names, "captions_val2017.json")}
    labels = zips.of({"annotations/": b"", **texts})
    val = zips.of({"val2017/": b"", **images, "readme.txt": b"-"})
    archives = {
        "annotations": zips.describe(labels, "annotations", 2, names),
        "val2017": zips.describe(val, "val2017", 5),
    }
    server.files.update({archives["annotations"].path: labels, archives["val2017"].path: val})
    return SmallCoco(archives, names, images)
