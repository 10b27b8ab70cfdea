"""A few hundred spoiled files for every reader.

`fuzzing.py` takes thousands (docs/reliability.md).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="memory and processor time are read as on Linux"
)
FUZZING, SEEDS = Path(__file__).with_name("fuzzing.py"), Path(__file__).with_name("seeds.py")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory, synthetic_root: Path) -> Path:
    """Real files of every kind."""
    folder = tmp_path_factory.mktemp("seeds")
    done = subprocess.run(
        [sys.executable, str(SEEDS), str(folder), "--data", str(synthetic_root)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def fuzzed(seeds: Path, count: int, *readers: str) -> None:
    done = subprocess.run(
        [sys.executable, str(FUZZING), str(seeds), *readers, "--count", str(count)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(readers)
    for reader, line in zip(readers, lines, strict=True):
        assert line.startswith(f"{reader}: {count} inputs, "), line
        # else nothing was spoiled enough to be refused
        assert int(line.split(", ")[1].split()[0]) > count / 10, line


def test_texts(seeds: Path) -> None:
    fuzzed(seeds, 300, "labels", "image", "yaml", "archive")


def test_networks(seeds: Path) -> None:
    fuzzed(seeds, 100, "checkpoint", "tflite", "manifest")


def test_reports_never_end_a_command(seeds: Path) -> None:
    """They are read as far as they can be: a report that says nothing is a warning."""
    done = subprocess.run(
        [sys.executable, str(FUZZING), str(seeds), "report", "text_report", "--count", "300"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.count(": 300 inputs, 0 refused") == 2, (
        done.stdout + done.stderr
    )
