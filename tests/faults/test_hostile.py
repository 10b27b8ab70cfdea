"""Files that mean harm: code in checkpoints, classes in manifests.

Images and archives that swell, names that lead elsewhere.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from heatpose.bundles.facts import read_manifest
from heatpose.data.coco import read_labels
from heatpose.data.download import Archive, unpack
from heatpose.data.report import check_images
from heatpose.data.sources import from_description
from heatpose.deploy.build import opened
from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import KEY, load_checkpoint
from heatpose.models.init import from_checkpoint
from heatpose.models.movenet import MoveNet
from heatpose.pose.skeleton import ST_13
from heatpose.runners import open_runner
from heatpose.utils.image_files import load_image


class Evil:
    """Calls a function with one argument when it is unpickled without care."""

    def __init__(self, function: Any, argument: str) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def evil(tmp_path: Path) -> list[Evil]:
    """Three ways to leave a file named `pwned`."""
    mark = tmp_path / "pwned"
    code = f"open({str(mark)!r}, 'w').close()"
    return [
        Evil(os.system, f"touch {mark}"),
        Evil(builtins.exec, code),
        Evil(builtins.eval, f"[{code}]"),
    ]


def test_these_files_do_harm_elsewhere(evil: list[Evil], tmp_path: Path) -> None:
    """Else the next tests would prove nothing."""
    for attack in evil:
        torch.save({"state_dict": attack}, tmp_path / "evil.ckpt")
        torch.load(tmp_path / "evil.ckpt", weights_only=False)
        assert (tmp_path / "pwned").exists()
        (tmp_path / "pwned").unlink()


@pytest.mark.parametrize("place", ["whole", "state_dict", "metadata", "network", "loops"])
def test_a_checkpoint_cannot_run_code(
    place: str, evil: list[Evil], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for number, attack in enumerate(evil):
        content = torch.load(tiny_checkpoint, weights_only=True)
        if place == "whole":
            content = attack
        elif place in ("metadata", "network"):
            content[KEY][place] = attack
        else:
            content[place] = {"network.head.output.conv.bias": attack}
        for zipped in (True, False):
            path = tmp_path / f"evil{number}.ckpt"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            for read in (
                load_checkpoint,
                open_runner,
                lambda p: from_checkpoint(MoveNet(13, 0.35), ST_13, str(p)),
            ):
                with pytest.raises(HeatposeError, match="is not a readable checkpoint"):
                    read(path)
        (tmp_path / f"plain{number}.ckpt").write_bytes(pickle.dumps(content))
        with pytest.raises(HeatposeError, match="is not a readable checkpoint"):
            load_checkpoint(tmp_path / f"plain{number}.ckpt")
    assert not (tmp_path / "pwned").exists()


TARGETS = {"_target_": "os.system", "command": "touch pwned", "_args_": ["touch pwned"]}


def test_no_class_that_an_artefact_names_is_built(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = torch.load(tiny_checkpoint, weights_only=True)
    for key in ("network", "skeleton", "preprocessing"):
        spoiled = {**content, KEY: {**content[KEY], key: {**content[KEY][key], **TARGETS}}}
        torch.save(spoiled, "evil.ckpt")
        with pytest.raises(HeatposeError, match="does not fit its own description"):
            load_checkpoint("evil.ckpt")
        if key != "network":
            Path("manifest.json").write_text(
                json.dumps({key: {**content[KEY][key], **TARGETS}, "config": {"model": TARGETS}})
            )
            with pytest.raises(HeatposeError, match="is damaged"):
                read_manifest(Path("pose.tflite"))
    Path("manifest.json").write_text(
        json.dumps({"config": {"model": TARGETS, "init": TARGETS}, "provenance": TARGETS})
    )
    assert read_manifest(Path("pose.tflite")).skeleton is None
    for description in (
        TARGETS,
        {"kind": "coco", **TARGETS},
        {"kind": "heatpose.data.sources.CocoSource"},
    ):
        with pytest.raises(HeatposeError):
            from_description(description)
    assert not Path("pwned").exists()


def growth(code: str, *arguments: object) -> tuple[float, str]:
    """Peak memory in MB that a statement takes in a process of its own.

    Over what its imports take, and what it printed.
    """
    program = (
        "import resource, sys; from pathlib import Path\nfrom heatpose.errors import"
        " HeatposeError\nfrom heatpose.models.checkpoint import load_checkpoint\nfrom"
        " heatpose.utils.image_files import load_image\nfrom PIL import Image; Image.init()\npeak"
        " = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\nbefore ="
        f" peak()\ntry:\n    {code}\n    print('read')\nexcept HeatposeError as error:\n   "
        " print(error)\nprint(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    message, grown = done.stdout.strip().rsplit("\n", 1)
    return float(grown), message


def test_a_checkpoint_takes_no_more_memory_than_its_file(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(tiny_checkpoint, weights_only=True)
    wide = {
        **content[KEY],
        "network": {**content[KEY]["network"], "width": 1e5, "last_channels": 10**9},
    }
    torch.save({**content, KEY: wide}, tmp_path / "wide.ckpt")
    name = "network.head.output.conv.bias"
    thin = {**content["state_dict"], name: torch.zeros(1).expand(10**9)}
    torch.save({**content, "state_dict": thin}, tmp_path / "thin.ckpt")
    torch.save(
        {**content, "state_dict": {**content["state_dict"], name: torch.zeros(10**8)}},
        tmp_path / "big.ckpt",
    )
    with (
        zipfile.ZipFile(tmp_path / "big.ckpt") as source,
        zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in source.infolist():
            packed.writestr(entry.filename, source.read(entry))
    (tmp_path / "big.ckpt").unlink()
    assert (tmp_path / "packed.ckpt").stat().st_size < 5_000_000  # and 400 MB inside
    code = "[read(Path(sys.argv[1]) / f'{n}.ckpt') for n in ('wide', 'thin', 'packed')]"
    attempts = (
        f"read = lambda p: told.append(str(attempt(p)))\n    told = []\n    {code}\n   "
        " print(len(told), *told)"
    )
    helper = (
        "def attempt(p):\n        try: load_checkpoint(p)\n        except HeatposeError as e:"
        " return e\n        return 'READ'\n    "
    )
    grown, message = growth(helper + attempts, tmp_path)
    assert message.startswith("3 ") and "READ" not in message.removesuffix("\nread")
    assert grown < 200


def png(width: int, height: int) -> bytes:
    """A black image: a few kilobytes, whatever its sides."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer, row = zlib.compressobj(9), bytes(1 + (width + 7) // 8)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("width", "height"), [(13_000, 13_000), (60_000, 60_000), (2**31 - 1, 1), (100_001, 1_000)]
)
def test_a_decompression_bomb_is_not_decoded(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    content = png(min(width, 60_000), min(height, 60_000)) if width == height else png(64, 64)
    path.write_bytes(content)
    if width != height:  # a header that lies
        data = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
        path.write_bytes(
            content[:16] + data + struct.pack(">I", zlib.crc32(b"IHDR" + data)) + content[33:]
        )
    start = time.monotonic()
    with pytest.raises(HeatposeError, match=r"more than 100 million pixels: reduce it"):
        load_image(path)
    assert time.monotonic() - start < 5


def test_an_image_at_the_limit_takes_less_than_two_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png(10_000, 10_000))
    grown, message = growth(
        "load_image(Path(sys.argv[1])); load_image(Path(sys.argv[1]), 10_000, 10_000)",
        tmp_path / "large.png",
    )
    assert message == "read" and grown < 2000


def test_an_image_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript, whatever the file is called."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/pwned\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    with pytest.raises(HeatposeError):
        load_image(path)
    assert check_images(
        {1: {"file_name": path.name, "width": 8, "height": 8}}, tmp_path, [1]
    ).unreadable
    assert not (tmp_path / "pwned").exists()


@pytest.mark.skipif(os.name != "posix", reason="named pipes are POSIX's")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(HeatposeError, match="not a file"):
        load_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.jpg", "a/../../secret.jpg", "..\\secret.jpg"]
)
def test_labels_cannot_name_files_outside_their_folder(
    name: str, synthetic_root: Path, tmp_path: Path
) -> None:
    content = json.loads((synthetic_root / "annotations/person_keypoints_val2017.json").read_text())
    content["images"][0]["file_name"] = name
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(HeatposeError, match="outside the image folder"):
        read_labels(tmp_path / "labels.json")


def test_an_archive_that_swells_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "val2017.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(3):
            file.writestr(f"val2017/{i}.jpg", bytes(20_000_000))
    with pytest.raises(HeatposeError, match="would unpack to"):
        unpack(
            tmp_path / "val2017.zip",
            tmp_path,
            Archive("val2017.zip", "val2017", 0, "", 1_000_000, 3),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["val2017.zip"]


def lying_zip(size: int) -> bytes:
    """One member of 20 MB of zeros that says it is of `size` bytes."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("val2017/0.jpg", bytes(20_000_000))
    content, true, said = sink.getvalue(), struct.pack("<I", 20_000_000), struct.pack("<I", size)
    return content.replace(true, said)


def test_an_archive_that_lies_about_its_size(tmp_path: Path) -> None:
    (tmp_path / "val2017.zip").write_bytes(lying_zip(1000))
    with pytest.raises(HeatposeError):
        unpack(
            tmp_path / "val2017.zip",
            tmp_path,
            Archive("val2017.zip", "val2017", 0, "", 1_000_000, 1),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["val2017.zip"]
    (tmp_path / "taken").mkdir()
    with pytest.raises(HeatposeError, match="cannot be unpacked"):
        opened(tmp_path / "val2017.zip", tmp_path / "taken")
    assert sum(path.stat().st_size for path in (tmp_path / "taken").rglob("*")) < 1_000_000


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil"])
def test_results_cannot_be_written_elsewhere(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "results.zip", "w") as file:
        file.writestr(name, "x")
    with pytest.raises(HeatposeError, match="an entry outside the archive"):
        opened(tmp_path / "results.zip", tmp_path / "taken")


def test_damaged_and_locked_results_are_sentences(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "results.zip", "w") as file:
        file.writestr("network_c_info.json", "x" * 1000)
    whole = (tmp_path / "results.zip").read_bytes()
    locked = bytearray(whole)
    locked[6] |= 1  # "encrypted", in both headers
    locked[whole.index(b"PK\x01\x02") + 8] |= 1
    for content in (whole[:50] + b"\0" * 20 + whole[70:], bytes(locked)):
        (tmp_path / "results.zip").write_bytes(content)
        with pytest.raises(HeatposeError, match="cannot be unpacked"):
            opened(tmp_path / "results.zip", tmp_path / "taken")


@pytest.mark.parametrize(
    "values",
    [
        {"divisor": 0},
        {"divisor": "x"},
        {"shift": float("nan")},
        {"divisor": -1},
        {"size": 32 * 10**9},
        {"size": 64.0},
    ],
)
def test_a_preprocessing_that_cannot_be(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"preprocessing": {"size": 64, **values}}))
    with pytest.raises(HeatposeError):
        read_manifest(tmp_path / "pose.tflite")


def test_a_good_checkpoint_is_read_as_ever(tiny_checkpoint: Path) -> None:
    loaded, stored = (
        load_checkpoint(tiny_checkpoint),
        torch.load(tiny_checkpoint, weights_only=True)["state_dict"],
    )
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, stored[f"network.{name}"]) and value.is_contiguous()
    parameters = list(loaded.network.parameters())
    assert all(
        parameter.requires_grad and parameter.dtype == torch.float32 and not parameter.is_meta
        for parameter in parameters
    )
    assert len({parameter.data_ptr() for parameter in parameters}) == len(parameters)
    assert open_runner(tiny_checkpoint).predict(np.zeros((1, 64, 64, 3), np.uint8)).shape == (
        1,
        13,
        3,
    )
