"""A first run of a file from elsewhere in a process of its own.

A damaged one can end the process that runs it, inside LiteRT or onnxruntime.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from heatpose.errors import HeatposeError
from heatpose.utils.files import sha256

RUNTIMES = {".tflite": "LiteRT", ".onnx": "onnxruntime"}
LONGEST_S = 300
"""For one image, and the start of the process."""


def check_runs(path: str | Path, size: int | None = None) -> None:
    """Refuses a TFLite or ONNX file that ends its runtime.

    Everything else about the file is left to `open_runner`.

    A file whose content is what the manifest beside it says came out of an export, which ran it,
    and is not tried again.

    Args:
        path: The file; other kinds, and none at all, pass.
        size: Input side for files that leave it open.

    Raises:
        HeatposeError: The process that ran it crashed, or did not come to an end.
    """
    path = Path(path)
    runtime = RUNTIMES.get(path.suffix.lower())
    if runtime is None or not path.is_file() or _vouched_for(path):
        return
    command = [
        sys.executable,
        "-m",
        __name__,
        str(path.resolve()),
        *([] if size is None else [str(size)]),
    ]
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired as error:
        raise HeatposeError(
            f"'{path}' did not run through {runtime} once in {LONGEST_S} s; it is damaged or far"
            " too large: get it again."
        ) from error
    if done.returncode not in (0, 1):  # 1 is Python's own, which the caller will meet again
        raise HeatposeError(
            f"'{path}' crashes {runtime} ({_ending(done.returncode)}); the file is damaged: export"
            " or download it again."
        )


def _vouched_for(path: Path) -> bool:
    """The manifest beside it has its hash."""
    try:
        files = json.loads((path.parent / "manifest.json").read_text(encoding="utf-8"))["files"]
        return bool(files[path.name]["sha256"] == sha256(path))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _ending(status: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"status {status}"


def main() -> None:
    """One black image through the file.

    Ends with 0 also where the file is refused: the caller says why.
    """
    # Imported here: the caller needs none of it.
    import numpy as np

    from heatpose.runners import open_runner

    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(HeatposeError):
        runner = open_runner(
            sys.argv[1], threads=1, size=int(sys.argv[2]) if len(sys.argv) > 2 else None
        )
        runner.predict(np.zeros((1, runner.size, runner.size, 3), np.uint8))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
