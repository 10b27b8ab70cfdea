"""Many files and many rounds, in a reduced version.

`many_pictures.py` and `long_loop.py` take thousands and hundreds (docs/reliability.md).
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="memory and open files are read as on Linux"
)
HERE = Path(__file__).parent


def ran(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_damaged_images_among_many_are_reported(tmp_path: Path) -> None:
    message = ran("many_pictures.py", tmp_path / "here", "--count", 160, "--broken", 16)
    assert message.startswith("160 images: 144 drawn, 16 reported as broken, as it must be")


@pytest.mark.skipif(find_spec("onnx2tf") is None, reason="the export extra is not installed")
def test_rounds_of_scores_and_exports_leave_nothing_open(
    synthetic_root: Path, tmp_path: Path
) -> None:
    assert (
        ran(
            "long_loop.py",
            tmp_path / "loop",
            "--data",
            synthetic_root,
            "--rounds",
            4,
            "--conversions",
            0,
        )
        .strip()
        .startswith("4 rounds")
    )
