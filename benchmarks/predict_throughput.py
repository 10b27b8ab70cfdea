"""Throughput of `heatpose predict` relative to the interpreter alone.

Poses per second over `interpreter.invoke` calls per second, in one run.

    python benchmarks/predict_throughput.py MODEL.tflite [--frames 60] [--size 640 480] \\
        [--threads 1] [--repeats 9] [--json OUT]

Frames are smooth noise. "memory": they are in memory, and the output is poses. "video": they are
an .mp4, and the output is the files of `heatpose predict`, json and drawn video. Each repeat
measures, one after the other, the bare interpreter and the four workloads; the ratio of each repeat
is taken against its own bare measurement, so that a load which changes between repeats does not
count.
Printed are the medians. "network thread" is the processor time of `invoke` over that of everything
which the network's thread does for a frame: what is left of the speed where the other threads have
cores of their own. `heatpose --help` is timed in the end, the best of five.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from measuring import help_seconds, smooth_noise

from heatpose.evaluation.evaluate import skeleton_of
from heatpose.predict import Drawing, VideoOptions
from heatpose.predict.estimator import Estimator, Tracker
from heatpose.predict.files import Names
from heatpose.predict.frames import Frame, Mp4
from heatpose.predict.run import drawn, predict_video
from heatpose.runners.tflite_runner import TFLiteRunner


def _frames(count: int, width: int, height: int) -> list[Frame]:
    few = smooth_noise(width, height)
    return [Frame(n, n / 30, few[n % len(few)]) for n in range(count)]


def _rate(count: int, work: Callable[[], Iterable[Any]]) -> float:
    start = time.perf_counter()
    for _ in work():
        pass
    return count / (time.perf_counter() - start)


def _bare(runner: TFLiteRunner, count: int) -> Iterable[None]:
    interpreter = runner._interpreter
    return (interpreter.invoke() for _ in range(count))


def _workloads(
    estimator: Estimator, frames: list[Frame], folder: Path
) -> dict[str, Callable[[], Iterable[Any]]]:
    # A threshold of 0 draws every keypoint, a skeleton as large as the image: no person costs
    # more.
    alone, shown = Drawing([estimator], 0.0, draw=False), Drawing([estimator], 0.0)
    film = Mp4(folder / "film.mp4", 30.0)
    for frame in frames:
        film.write(frame.number, frame.image)
    film.finish()

    def files(drawing: Drawing) -> Iterable[Any]:
        predict_video(
            film.path,
            folder / "out",
            drawing,
            VideoOptions(),
            Names(folder / "out", []),
            lambda done, total: None,
        )
        return ()

    return {
        "memory, poses": lambda: drawn(frames, alone, VideoOptions()),
        "memory, drawn": lambda: drawn(frames, shown, VideoOptions()),
        "video, json": lambda: files(alone),
        "video, drawn": lambda: files(shown),
    }


def _network_thread(estimator: Estimator, frames: list[Frame]) -> float:
    assert isinstance(estimator.runner, TFLiteRunner)
    tracker, interpreter = (
        Tracker(estimator, smooth=True, crop=False, threshold=0.0),
        estimator.runner._interpreter,
    )
    shares = []
    for frame in frames:
        prepared = tracker.prepare(frame)
        start = time.thread_time()
        interpreter.invoke()
        middle = time.thread_time()
        tracker.run(frame, prepared)
        shares.append((middle - start) / (time.thread_time() - middle))
    return statistics.median(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT")
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runner = TFLiteRunner(options.model, threads=options.threads)
    estimator = Estimator.of(runner, skeleton_of(runner))
    frames = _frames(options.frames, *options.size)
    rates: dict[str, list[float]] = {"bare invoke": []}
    with tempfile.TemporaryDirectory() as folder:
        workloads = _workloads(estimator, frames, Path(folder))
        for _ in range(options.repeats):
            for name, work in {
                "bare invoke": lambda: _bare(runner, options.frames),
                **workloads,
            }.items():
                rates.setdefault(name, []).append(_rate(options.frames, work))
    result: dict[str, Any] = {
        "model": options.model.name,
        "kernels": runner.kernels,
        "frame": list(options.size),
        "frames": options.frames,
    }
    for name, values in rates.items():
        ratios = [value / bare for value, bare in zip(values, rates["bare invoke"], strict=True)]
        result[name] = {
            "per_second": statistics.median(values),
            "ratio": statistics.median(ratios),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
        print(
            f"{name:16s} {result[name]['per_second']:8.1f} /s   ratio {result[name]['ratio']:.2f}  "
            f" {result[name]['ratios']}"
        )
    result["network thread"] = _network_thread(estimator, frames)
    print(f"network thread   {result['network thread']:.3f}")
    result["help_seconds"] = help_seconds()
    print(f"heatpose --help  {result['help_seconds']:.2f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
