"""Runs the entries one after the other without the ten seconds that importing torch and Lightning
takes each time.

They are imported once; each command line from standard input then runs in a fork, which is a
process like any other.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import sys
import traceback
from typing import Any


def serve() -> None:
    """Takes jobs as lines of json, `argv`, `cwd`, `out` and `err`.

    Answers each with its exit status.

    A job with `group` becomes the head of a group of processes, whose id is written in a line
    before: it may be killed.
    """
    import heatpose.entries.build
    import heatpose.entries.evaluate_and_export
    import heatpose.training.fit  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            if job.get("group"):
                os.setpgid(0, 0)
            os._exit(run(job))
        if job.get("group"):
            with contextlib.suppress(OSError):  # whoever of the two comes first
                os.setpgid(child, child)
            print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(job: dict[str, Any]) -> int:
    """Runs a script as `python argv...` would; returns the exit status."""
    os.chdir(job["cwd"])
    files = (
        (os.devnull, os.O_RDONLY),
        (job["out"], os.O_WRONLY | os.O_CREAT),
        (job["err"], os.O_WRONLY | os.O_CREAT),
    )
    for number, (path, flags) in enumerate(files):
        os.dup2(os.open(path, flags), number)
    sys.argv = job["argv"]
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    serve()
