"""Processor time and memory of an optimiser step on a CPU.

With the system's allocator settings, with freed memory kept (`heatpose.utils.process`, default),
and also with `torch.compile` (`compile=true`). Fresh processes run the same steps in turn.

    python benchmarks/training_step.py --rounds 3 --ways default kept compiled

Prints the processor time of a step relative to `kept`, and peak memory. The first step, which
includes the compilation, is reported separately.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import torch
from measuring import in_fresh_process

from heatpose.models.movenet import MoveNet
from heatpose.utils.process import keep_freed_memory

BATCH, SIDE, STEPS = 32, 192, 4
WAYS = ("default", "kept", "compiled")


def steps(way: str) -> dict[str, float]:
    """Seconds of one optimiser step of the default network, of the first one.

    And the peak of memory in MB.
    """
    if way != "default":
        keep_freed_memory()
    torch.manual_seed(0)
    network = MoveNet(17, norm=False).train().to(memory_format=torch.channels_last)
    if way == "compiled":
        network.compile()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-5, fused=True)
    images = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    begin = start = time.process_time()
    for step in range(STEPS + 1):
        if step == 1:  # the first one makes the optimiser's state, and compiles
            start = time.process_time()
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()
    seconds = (time.process_time() - start) / STEPS
    return {
        "seconds": seconds,
        "first": start - begin,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Runs all sorts of process in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(steps(arguments.one)))
        return
    ratios: dict[str, list[float]] = {way: [] for way in arguments.ways if way != "kept"}
    for _ in range(arguments.rounds):
        found = {way: in_fresh_process(__file__, "--one", way) for way in (*ratios, "kept")}
        for way, of in ratios.items():
            of.append(found[way]["seconds"] / found["kept"]["seconds"])
        print(
            {
                way: {name: round(value, 2) for name, value in one.items()}
                for way, one in found.items()
            },
            flush=True,
        )
    for way, of in ratios.items():
        print(
            f"{way}: {statistics.median(of):.2f} of the time of kept ({min(of):.2f} to"
            f" {max(of):.2f})"
        )


if __name__ == "__main__":
    main()
