"""Freed memory is kept: seen by the page faults of a child process, which the system counts."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from heatpose.utils.process import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
network = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Conv2d(64, 64, 1), torch.nn.ReLU()) for _ in range(4)))
images = torch.randn(40, 64, 64, 64)  # maps of 40 MiB
def steps(count):
    for _ in range(count):
        network(images).sum().backward()
steps(2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps(2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Pages that two training steps asked the system for, after two others."""
    return int(
        subprocess.run(
            [sys.executable, "-c", STEPS, mode], capture_output=True, text=True, check=True
        ).stdout
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_training_steps_use_the_pages_of_the_steps_before() -> None:
    """By default each large tensor is mapped anew, page by page."""
    default = faults("default")
    assert default > 100  # even in pages of 2 MiB
    assert faults("keep") < default / 10
