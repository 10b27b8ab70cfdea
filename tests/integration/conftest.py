"""The entries, started as a person starts them, with networks and data that are tiny."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MadeOnce

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """One call: exit status and what came out."""

    status: int
    out: str
    err: str

    def fails_with(self, *words: str) -> str:
        """The sentence of a refused call.

        Alone on stderr, with exit status 1 and without a traceback.
        """
        # LiteRT's delegate, and the account of the data, which a run prints before it is refused.
        lines = [
            line
            for line in self.err.splitlines()
            if line and not line.startswith(("INFO:", "Training: "))
        ]
        assert self.status == 1 and len(lines) == 1, self.err
        assert lines[0].startswith("error: ") and lines[0].endswith("."), lines[0]
        assert "Traceback" not in self.out
        assert all(word in lines[0] for word in words), lines[0]
        return lines[0]


class Warm:
    """A process that has imported everything and runs command lines in forks of itself.

    (`warm.py`).
    """

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("warm.py"))]
        self.folder = folder
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )

    def run(self, argv: list[str], cwd: Path) -> Ran:
        """Runs a script to its end."""
        out, err = self.folder / "out", self.folder / "err"
        for path in (out, err):
            path.unlink(missing_ok=True)
        assert self.process.stdin is not None and self.process.stdout is not None
        job = {"argv": argv, "cwd": str(cwd), "out": str(out), "err": str(err)}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        return Ran(status, out.read_text(), err.read_text())


def environment() -> dict[str, str]:
    """One thread: networks this small are no slower with it, and a busy machine matters less."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Place:
    """A working directory for the entries, with runs and bundles below it.

    Attributes:
        folder: The directory.
        data: Folder of the rendered people, 40 to train on and 12 to score on.
        warm: Where `run` runs.
    """

    folder: Path
    data: Path
    warm: Warm = field(repr=False)

    @property
    def tiny(self) -> list[str]:
        """Overrides for a run that takes seconds."""
        source = [
            f"data.source.root={self.data.parent}",
            "data.source.train_images=40",
            "data.source.val_images=12",
        ]
        loaders = ["data.workers=0", "data.batch_size=16", "resolution=64", "model.width=0.35"]
        return [
            "experiment=quickstart",
            *source,
            *loaders,
            "trainer.max_epochs=1",
            "trainer.accelerator=cpu",
            "trainer.precision=32-true",
        ]

    def command(self, entry: str, *overrides: str) -> list[str]:
        """The command line; what it writes stays below the folder.

        Unless the overrides name another place.
        """
        named = {word.partition("=")[0] for word in overrides}
        places = [
            f"{place}={self.folder}/{place}" for place in ("runs", "exports") if place not in named
        ]
        return [sys.executable, str(REPOSITORY / f"{entry}.py"), *overrides, *places]

    def run(self, entry: str, *overrides: str) -> Ran:
        """Runs `train` or `export` to its end, in a process that was warm already."""
        return self.warm.run(self.command(entry, *overrides)[1:], self.folder)

    def run_cold(self, entry: str, *overrides: str) -> Ran:
        """Runs `train` or `export` to its end, as a person would start it."""
        done = subprocess.run(
            self.command(entry, *overrides),
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(self, entry: str, *overrides: str) -> subprocess.Popen[bytes]:
        """Starts `train` or `export` as the head of a group of processes, silent."""
        silent = subprocess.DEVNULL
        # a test run in the background ignores Ctrl-C, and its children would with it
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(
            self.command(entry, *overrides),
            cwd=self.folder,
            env=environment(),
            start_new_session=True,
            stdin=silent,
            stdout=silent,
            stderr=silent,
        )

    def left(self) -> list[str]:
        """Files that are no records of Hydra's and no cache, relative to the folder."""
        files = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return sorted(
            path.as_posix() for path in files if not {"hydra", "data_cache"} & {*path.parts}
        )


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """One warm process for all tests."""
    warm = Warm(tmp_path_factory.mktemp("warm"))
    yield warm
    warm.process.communicate()


@pytest.fixture
def place(tmp_path: Path, synthetic_root: Path, warm: Warm) -> Place:
    """An empty place of its own."""
    return Place(tmp_path, synthetic_root, warm)


@dataclass(frozen=True)
class Finished:
    """A finished `train.py experiment=quickstart`.

    Attributes:
        place: Where its run and its bundle are.
        out: What it printed.
    """

    place: Place
    out: str

    @property
    def bundle(self) -> Path:
        """Folder of the bundle."""
        return self.place.folder / "exports/quickstart"

    @property
    def checkpoint(self) -> Path:
        """The chosen one."""
        return self.place.folder / "runs/quickstart/checkpoints/best.ckpt"

    def read(self, name: str) -> dict[str, Any]:
        """A json of the bundle."""
        content: dict[str, Any] = json.loads((self.bundle / name).read_text())
        return content


@pytest.fixture(scope="session")
def quickstart(made_once: MadeOnce, synthetic_root: Path, warm: Warm) -> Finished:
    """One tiny run of the quick start, started cold, that several modules look at.

    None of them changes it.
    """
    if find_spec("onnx2tf") is None:  # looked for, not imported: it changes the whole process
        pytest.skip("the export extra is not installed")
    # Drops of a network that is hardly trained are noise.
    no_limits = [
        "quant.limits.drop_pc=1000",
        "quant.limits.drop_pt=1000",
        "quant.limits.drift_p50_px=1000",
        "quant.calibration_images=8",
    ]

    def make(folder: Path) -> None:
        place = Place(folder / "place", synthetic_root, warm)
        place.folder.mkdir()
        ran = place.run_cold("train", *place.tiny, *no_limits)
        assert ran.status == 0, ran.err
        (folder / "said.txt").write_text(ran.out, encoding="utf-8")

    folder = made_once("quickstart", make)
    return Finished(
        Place(folder / "place", synthetic_root, warm),
        (folder / "said.txt").read_text(encoding="utf-8"),
    )
