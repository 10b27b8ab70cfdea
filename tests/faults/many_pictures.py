"""`heatpose predict` on a folder of thousands of images with broken files among them.

All others are drawn, every broken one is reported.

python tests/faults/many_pictures.py FOLDER --count 10000 --broken 500
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

MODEL = Path(__file__).parent / "files/tiny_64_int8_pt.tflite"


def jpeg(number: int) -> bytes:
    """A small image of noise."""
    noise, sink = (
        np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8),
        io.BytesIO(),
    )
    Image.fromarray(noise).resize((160, 120)).save(sink, "JPEG")
    return sink.getvalue()


def swollen() -> bytes:
    """A PNG of a few bytes that says it is of 3.6 thousand million pixels."""
    data = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + data
        + struct.pack(">I", zlib.crc32(b"IHDR" + data))
        + b"\0" * 20
    )


def fill(folder: Path, count: int, broken: int) -> list[str]:
    """Writes `count` files, `broken` of them in one of eight ways; the broken ones' names."""
    folder.mkdir(parents=True)
    images = [jpeg(number) for number in range(20)]
    stock = [folder.parent / f"stock{number}.jpg" for number in range(len(images))]
    for path, content in zip(stock, images, strict=True):
        path.write_bytes(content)
    names, every = [], count // broken
    contents = [
        b"",
        b"no image\n",
        images[0][:300],
        images[1][: len(images[1]) // 2],
        bytes(5000),
        swollen(),
        None,
        b"\xff\xd8\xff\xe0" * 50,
    ]
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if number % every or len(names) >= broken:
            os.link(stock[number % len(stock)], path)
            continue
        content = contents[len(names) % len(contents)]
        if content is None:
            path.symlink_to(folder / f"nowhere{number}")
        else:
            path.write_bytes(content)
        names.append(path.name)
    (folder / "a_folder.jpg").mkdir()
    return names


def main() -> int:
    """Status 1 where a good image is not drawn, or a broken one not reported."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--broken", type=int, default=500)
    options = parser.parse_args()
    images, out = options.folder / "pictures", options.folder / "drawn"
    names = fill(images, options.count, options.broken)
    begin = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "heatpose.cli",
        "predict",
        str(MODEL),
        str(images),
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    message = [line for line in done.stdout.splitlines() if line.startswith("Skipped: ")]
    listed = json.loads((out / "predictions.json").read_text())
    good = options.count - len(names)
    wrong = [name for name, line in zip(names, message, strict=False) if name not in line]
    whole = (
        done.returncode == 0
        and "Traceback" not in done.stderr
        and len(listed) == len(list(out.glob("*_pose.jpg"))) == good
    )
    whole = whole and len(message) == len(names) and not wrong
    holdout_score = "as it must be" if whole else f"WRONG {wrong[:3]} {done.stderr[-500:]}"
    cost = (
        f"{time.monotonic() - begin:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of the processor,"
        f" {used.ru_maxrss / 1024:.0f} MB at most"
    )
    print(
        f"{options.count} images: {len(listed)} drawn, {len(message)} reported as broken,"
        f" {holdout_score}; {cost}"
    )
    return int(not whole)


if __name__ == "__main__":
    sys.exit(main())
