"""What keeping freed memory (`heatpose.memory`) is worth in training on a processor: the same steps in two fresh processes, taking turns.

    python benchmarks/kept_memory.py --rounds 3

Prints the time of a step by the system's default over the time with freed memory kept, and both peaks of memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from heatpose.memory import keep_freed_memory
from heatpose.models.movenet import MoveNet

BATCH, SIDE, STEPS = 32, 192, 4


def steps() -> dict[str, float]:
    """Seconds of one optimiser step of the default network, and the peak of memory in MB."""
    torch.manual_seed(0)
    network = MoveNet(17, norm=False).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-5, fused=True)
    images = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    start = time.process_time()
    for step in range(STEPS + 1):
        if step == 1:  # the first one makes the optimiser's state
            start = time.process_time()
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()
    seconds = (time.process_time() - start) / STEPS
    return {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Runs both sorts of process in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=("default", "kept"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        if arguments.one == "kept":
            keep_freed_memory()
        print(json.dumps(steps()))
        return
    rounds = []
    for _ in range(arguments.rounds):
        one, other = (
            json.loads(subprocess.run([sys.executable, __file__, "--one", sort], capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            for sort in ("default", "kept")
        )
        rounds.append((one["seconds"] / other["seconds"], one["megabytes"], other["megabytes"]))
        print(f"processor time of a step, default over kept: {rounds[-1][0]:.2f}; peak {rounds[-1][1]:.0f} and {rounds[-1][2]:.0f} MB", flush=True)
    print(f"median of {len(rounds)}: {statistics.median(ratio for ratio, *_ in rounds):.2f}")


if __name__ == "__main__":
    main()
