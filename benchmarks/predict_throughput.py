"""How much of the interpreter's own speed `heatpose predict` keeps: poses per second over bare `interpreter.invoke` calls per second, in one run.

    python benchmarks/predict_throughput.py MODEL.tflite [--frames 200] [--size 640 480] [--threads 2] [--repeats 5] [--json OUT]

Frames are pre-decoded (rendered people, all in memory). Each repeat measures, one after the other, the bare interpreter, `predict` without drawing and with
drawing; the ratio of each repeat is taken against its own bare measurement, so that a load which changes between repeats does not count. Printed are the
medians. `heatpose --help` is timed in the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from heatpose.evaluate import skeleton_of
from heatpose.predict import Drawing, VideoOptions
from heatpose.predict.estimator import Estimator
from heatpose.predict.frames import Frame
from heatpose.predict.video import drawn
from heatpose.runners.tflite_runner import TFLiteRunner


def _frames(count: int, width: int, height: int) -> list[Frame]:
    """Smooth noise: what a picture holds costs the network and the resizing nothing more or less."""
    from PIL import Image

    random = np.random.default_rng(0)
    few = [np.array(Image.fromarray(random.integers(0, 255, (12, 16, 3), np.uint8)).resize((width, height), 3)) for _ in range(8)]
    return [Frame(n, n / 30, few[n % len(few)]) for n in range(count)]


def _rate(count: int, work: Callable[[], Iterable[Any]]) -> float:
    start = time.perf_counter()
    for _ in work():
        pass
    return count / (time.perf_counter() - start)


def _bare(runner: TFLiteRunner, count: int) -> Iterable[None]:
    interpreter = runner._interpreter
    return (interpreter.invoke() for _ in range(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runner = TFLiteRunner(options.model, threads=options.threads)
    estimator = Estimator.of(runner, skeleton_of(runner))
    frames = _frames(options.frames, *options.size)
    # A threshold of 0 draws every keypoint, a skeleton as large as the picture: no person costs more.
    forms = {"without drawing": Drawing([estimator], 0.0, draw=False), "with drawing": Drawing([estimator], 0.0)}
    rates: dict[str, list[float]] = {"bare invoke": [], **{name: [] for name in forms}}
    for _ in range(options.repeats):
        rates["bare invoke"].append(_rate(options.frames, lambda: _bare(runner, options.frames)))
        for name, drawing in forms.items():
            rates[name].append(_rate(options.frames, lambda d=drawing: drawn(frames, d, VideoOptions())))  # type: ignore[misc]
    result: dict[str, Any] = {"model": options.model.name, "kernels": runner.kernels, "frame": list(options.size), "frames": options.frames}
    for name, values in rates.items():
        ratios = [value / bare for value, bare in zip(values, rates["bare invoke"], strict=True)]
        result[name] = {"per_second": statistics.median(values), "ratio": statistics.median(ratios), "ratios": [round(ratio, 3) for ratio in ratios]}
        print(f"{name:16s} {result[name]['per_second']:8.1f} /s   ratio {result[name]['ratio']:.2f}   {result[name]['ratios']}")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "heatpose.cli", "--help"], check=True, stdout=subprocess.DEVNULL)
    result["help_seconds"] = time.perf_counter() - start
    print(f"heatpose --help  {result['help_seconds']:.2f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
