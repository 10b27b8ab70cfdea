"""Kills what writes files, at random moments.

And looks at what is left and at what the next run makes of it.

    python tests/faults/kill_campaign.py FOLDER --what json download rendering cache training \\
        export onnx report --moments 20 --seed 0

Every victim is the head of its own process group, which gets SIGKILL at a random moment between
0 and the duration of an undisturbed run. Then each file that a next run would read must be whole or
absent, and the next run must end as an undisturbed one does.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kill_files import (
    build_caches,
    download,
    kill_cache,
    kill_download,
    kill_json,
    kill_rendering,
    render,
    write_jsons,
)
from kill_runs import kill_export, kill_report, kill_training
from kills import Tally

KINDS: dict[str, Callable[[Path, int, int], Tally]] = {
    "json": kill_json,
    "download": kill_download,
    "rendering": kill_rendering,
    "cache": kill_cache,
    "training": kill_training,
    "export": kill_export,
    "onnx": partial(kill_export, artefacts="[]"),
    "report": kill_report,
}
VICTIMS: dict[str, Callable[..., None]] = {
    "json": lambda folder: write_jsons(Path(folder)),
    "download": lambda folder, url, described: download(Path(folder), url, Path(described)),
    "rendering": lambda folder: render(Path(folder)),
    "cache": lambda images, place: build_caches(Path(images), Path(place)),
}


def main() -> int:
    """Status 1 where anything was lost."""
    if sys.argv[1] == "--victim":
        VICTIMS[sys.argv[2]](*sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--what", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tallies = []
    for what in options.what:
        place = options.folder.resolve() / what
        shutil.rmtree(place, ignore_errors=True)
        tallies.append(KINDS[what](place, options.moments, options.seed))
        print(tallies[-1], flush=True)
    return int(any(tally.lost for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
