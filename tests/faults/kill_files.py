"""Kills of what writes files without a network to train.

Small json files, downloads, rendered people, caches of images (`kill_campaign.py`).
"""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import random
import shutil
import sys
import threading
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

from kills import Tally, campaign, json_file, json_files

VICTIM = [sys.executable, str(Path(__file__).with_name("kill_campaign.py")), "--victim"]

# --- the small files
# --------------------------------------------------------------------------------------------------


def write_jsons(folder: Path) -> None:
    """Victim: writes manifests, results and run records over and over."""
    from heatpose.utils.files import write_json, write_json_output

    end = time.monotonic() + 2
    while time.monotonic() < end:
        content = {"numbers": list(range(random.randrange(2000, 20000)))}
        write_json(folder / "manifest.json", content)
        write_json_output(folder / "result.json", content)


def kill_json(folder: Path, moments: int, seed: int) -> Tally:
    """Whole or absent, and the next write succeeds."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [*VICTIM, "json", str(folder)]

    def absent():
        return [
            f"'{name}' is missing"
            for name in ("manifest.json", "result.json")
            if not (folder / name).is_file()
        ]

    return campaign(
        "json",
        lambda: command,
        lambda: json_files(folder),
        lambda: json_files(folder) + absent(),
        moments,
        seed,
    )


# --- download
# --------------------------------------------------------------------------------------------------


class _Slow(http.server.SimpleHTTPRequestHandler):
    """Serves a folder slowly, with ranges, as the host of the archives does."""

    def log_message(self, *arguments: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        wanted = self.headers.get("Range")
        first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.send_header("ETag", '"1"')
        self.end_headers()
        for at in range(first, len(content), 1 << 16):
            self.wfile.write(content[at : min(len(content), at + (1 << 16))])
            time.sleep(0.02)


def _archives(served: Path) -> dict[str, dict[str, Any]]:
    """Small zips in the official layout; returns what `Archive` takes."""
    chance, described = random.Random(0), {}
    parts = {
        "annotations": (
            "annotations",
            ("person_keypoints_train2017.json", "person_keypoints_val2017.json"),
            2,
        ),
        "val2017": ("val2017", tuple(f"{i:012d}.jpg" for i in range(120)), 120),
    }
    for name, (folder, names, count) in parts.items():
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as file:
            for entry in names:
                file.writestr(f"{folder}/{entry}", chance.randbytes(10_000))
        content = sink.getvalue()
        (served / f"{name}.zip").write_bytes(content)
        described[name] = {
            "path": f"{name}.zip",
            "folder": folder,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "unpacked": 10_000 * count,
            "files": count,
            "names": names if name == "annotations" else (),
        }
    return described


def download(folder: Path, url: str, described: Path) -> None:
    """Victim: the official download, from a local server."""
    from heatpose.data.download import Archive, download_coco

    entries = json.loads(described.read_text())
    download_coco(
        folder,
        ("val2017",),
        url,
        {
            name: Archive(**{**entry, "names": tuple(entry["names"])})
            for name, entry in entries.items()
        },
    )


def kill_download(folder: Path, moments: int, seed: int) -> Tally:
    """A folder of images is whole or absent, and the next run completes it."""
    served, root = folder / "served", folder / "root"
    served.mkdir(parents=True)
    described = _archives(served)
    (folder / "archives.json").write_text(json.dumps(described))
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Slow, directory=str(served))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    expected = {}
    for name in described:
        with zipfile.ZipFile(served / f"{name}.zip") as file:
            expected |= {entry.filename: file.read(entry) for entry in file.infolist()}

    def start() -> list[str]:
        shutil.rmtree(root, ignore_errors=True)
        return [
            *VICTIM,
            "download",
            str(root),
            f"http://127.0.0.1:{server.server_port}",
            str(folder / "archives.json"),
        ]

    def check() -> list[str]:
        found = [
            f"'{name}' is not whole"
            for name, data in expected.items()
            if (root / name).is_file() and (root / name).read_bytes() != data
        ]
        images = len(list((root / "val2017").glob("*"))) if (root / "val2017").exists() else 0
        return (
            found
            + ([f"val2017 has {images} of 120 images"] if images not in (0, 120) else [])
            + json_file(root / ".heatpose-download.json")
        )

    def finished() -> list[str]:
        missing = [
            f"'{name}' is missing or wrong"
            for name, data in expected.items()
            if not (root / name).is_file() or (root / name).read_bytes() != data
        ]
        left = [
            f"'{path.name}' was left" for path in root.iterdir() if path.suffix in (".part", ".zip")
        ]
        return missing + left

    try:
        return campaign("download", start, check, finished, moments, seed)
    finally:
        server.shutdown()


# --- rendering
# --------------------------------------------------------------------------------------------------


def render(folder: Path) -> None:
    """Victim: renders a small data set."""
    from heatpose.data.synthetic.dataset import SyntheticSettings, build_synthetic

    build_synthetic(folder, SyntheticSettings(train_images=6, val_images=4), progress=False)


def kill_rendering(folder: Path, moments: int, seed: int) -> Tally:
    """What is taken for a finished set is one, byte for byte."""
    whole: dict[str, str] = {}

    def start() -> list[str]:
        shutil.rmtree(folder, ignore_errors=True)
        return [*VICTIM, "rendering", str(folder)]

    def contents() -> dict[str, str]:
        files = (
            path
            for path in folder.rglob("*")
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }

    def check() -> list[str]:
        return [
            f"'{name}' is not whole"
            for name, digest in contents().items()
            if whole.get(name) != digest
        ]

    def finished() -> list[str]:
        if not whole:
            whole.update(contents())
        return (
            []
            if contents() == whole and whole
            else ["the set is not the one that an undisturbed run renders"]
        )

    return campaign("rendering", start, check, finished, moments, seed)


# --- cache of decoded images
# --------------------------------------------------------------------------------------------------

SIDES = range(24, 64, 2)
"""Each short side has a cache of its own.

The victim builds them one after the other, so that a kill meets a build nearly always.
"""


def build_caches(images: Path, place: Path) -> None:
    """Victim: decodes the same images into one cache after the other."""
    import numpy as np

    from heatpose.data.image_cache import open_cache
    from heatpose.data.sample import Person

    none = np.zeros((0, 4), np.float32)
    instances = [
        Person(
            path,
            number,
            number,
            96,
            120,
            np.zeros((13, 2), np.float32),
            np.ones(13, np.bool_),
            (0, 0, 9, 9),
            81,
            True,
            none,
        )
        for number, path in enumerate(sorted(images.iterdir()))
    ]
    for side in SIDES:
        open_cache(instances, place, side)


def kill_cache(folder: Path, moments: int, seed: int) -> Tally:
    """A cache is whole, byte for byte, or absent.

    The next run goes on with those that are whole and builds the others.
    """
    import numpy as np
    from PIL import Image

    from heatpose.data.image_cache import ImageCache
    from heatpose.errors import HeatposeError

    images, place = folder / "pictures", folder / "caches"
    images.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(noise.integers(0, 256, (120, 96, 3), np.uint8)).save(
            images / f"{number}.jpg"
        )
    whole: dict[str, str] = {}

    def start() -> list[str]:
        shutil.rmtree(place, ignore_errors=True)
        return [*VICTIM, "cache", str(images), str(place)]

    def contents() -> dict[str, str]:
        """What a run would take for caches: the folders with a cache's name."""
        found = {}
        for path in place.glob("*"):
            if path.is_dir() and path.suffix != ".part":
                try:
                    ImageCache(path)
                    found[path.name] = hashlib.sha256(
                        (path / "pixels.u8").read_bytes() + (path / "index.json").read_bytes()
                    ).hexdigest()
                except HeatposeError as error:
                    found[path.name] = str(error)
        return found

    def check() -> list[str]:
        return [
            f"cache '{name}' is not whole: {digest}"
            for name, digest in contents().items()
            if whole[name] != digest
        ]

    def finished() -> list[str]:
        if not whole:
            whole.update(contents())
        left = [f"'{path.name}' was left" for path in place.glob("*.part")]
        return left + (
            []
            if contents() == whole and len(whole) == len(SIDES)
            else ["the caches are not those of an undisturbed run"]
        )

    return campaign("cache", start, check, finished, moments, seed)
