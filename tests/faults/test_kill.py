"""Kills at a few random moments.

`kill_campaign.py` does it at many more, and kills exports as well (docs/reliability.md).
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills are POSIX's")
CAMPAIGN = Path(__file__).with_name("kill_campaign.py")


def killed(folder: Path, what: str, moments: int) -> None:
    command = [
        sys.executable,
        str(CAMPAIGN),
        str(folder),
        "--what",
        what,
        "--moments",
        str(moments),
        "--seed",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and " 0 losses" in done.stdout.splitlines()[-1], (
        done.stdout + done.stderr
    )


@pytest.mark.parametrize(("what", "moments"), [("json", 3), ("download", 3), ("cache", 3)])
def test_what_is_left_is_whole_or_absent(what: str, moments: int, tmp_path: Path) -> None:
    killed(tmp_path / "place", what, moments)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnx2tf") is None, reason="the export extra is not installed")
@pytest.mark.parametrize("what", ["training", "report"])
def test_what_is_killed_in_its_work_is_made_good(what: str, tmp_path: Path) -> None:
    killed(tmp_path / "place", what, 2)
