"""Shared functions of the benchmarks.

Interleaved repetitions, fresh processes, medians, memory of the process, frames, and the
configuration of a training.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Peak:
    """Peak memory while it is open, watched from a thread (Linux).

    Attributes:
        own_mb: Memory of the process's own.
        mapped_mb: Pages of files that are mapped, the cache's among them: the kernel takes them
            back when it needs room.
    """

    def __init__(self, every: float = 0.05) -> None:
        self.own_mb = self.mapped_mb = 0.0
        self._every, self._stop = every, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
            found = {
                words[0]: float(words[1]) / 1e3
                for words in lines
                if words and words[0].startswith("Rss")
            }
            self.own_mb, self.mapped_mb = (
                max(self.own_mb, found["RssAnon:"]),
                max(self.mapped_mb, found["RssFile:"]),
            )
            if self._stop.wait(self._every):
                return


def interleaved(
    parts: Mapping[str, Callable[[int], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Runs every part once per round, in turn.

    So that whatever else the machine does meets all of them; seconds of each. Round 0 is not
    counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, part in parts.items():
            start = clock()
            part(number)
            if number:
                seconds[name].append(clock() - start)
    return seconds


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def in_fresh_process(
    script: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Runs a script in a new process.

    Returns:
        The JSON object in the last line of its output.

    Raises:
        RuntimeError: The process failed; the message ends with its errors.
    """
    done = subprocess.run(
        [sys.executable, script, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def help_seconds(times: int = 5) -> float:
    """Wall time of `heatpose --help`, the best of several."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "heatpose.cli", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def smooth_noise(width: int, height: int, count: int = 8) -> list[NDArray[np.uint8]]:
    """Images u8[H, W, 3]: the content changes nothing about the cost of resizing and network."""
    from PIL import Image

    random = np.random.default_rng(0)
    return [
        np.array(
            Image.fromarray(random.integers(0, 255, (12, 16, 3), np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
        )
        for _ in range(count)
    ]


def training_config(train: str | None, folder: Path, images: int, *overrides: str) -> DictConfig:
    """Configuration of `train.py experiment=st_movenet_13kpt` on this machine's CPU.

    With random weights, which cost as much as Google's and need no download.

    Args:
        train: Folder in COCO's layout, or an export of a labelling tool; None renders people.
        folder: For the image cache, the runs, the rendered people.
        images: Number of rendered training images.
        overrides: Further ones.
    """
    # Imported here: most benchmarks do not need it.
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    import heatpose.entries.build  # noqa: F401  (registers a resolver)
    from heatpose.utils.files import conf_folder

    rendered = [
        "data=synthetic",
        f"data.source.root={folder}/synthetic",
        f"data.source.train_images={images}",
        f"data.source.val_images={max(2, images // 20)}",
    ]
    chosen = [
        "experiment=st_movenet_13kpt",
        "init=scratch",
        "trainer.accelerator=cpu",
        *([f"data.root={train}"] if train else rendered),
        f"data.cache={folder}/cache",
        f"distill.folder={folder}/teachers",
        f"runs={folder}/runs",
        f"exports={folder}/exports",
    ]
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = hydra.compose("train", [*chosen, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config
