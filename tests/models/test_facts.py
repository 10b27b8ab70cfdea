"""Output of `heatpose inspect` on a checkpoint, against counting by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from heatpose.errors import HeatposeError
from heatpose.models.checkpoint import inspect_checkpoint, load_checkpoint
from heatpose.pose.skeleton import ST_13

CONTRACT = {
    "sha256",
    "bytes",
    "inputs",
    "outputs",
    "operators",
    "granularity",
    "full_integer",
    "weights_bytes",
    "macs",
    "peak_activation_bytes",
    "findings",
}


def multiplications(path: Path, size: int) -> int:
    """Kernel size times the number of outputs, over all convolutions as they run."""
    network = load_checkpoint(path).network
    total = 0

    def count(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        total += weight[0].numel() * output[0].numel()

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size))
    return total


def test_facts_are_those_of_the_file(tiny_checkpoint: Path) -> None:
    facts = inspect_checkpoint(tiny_checkpoint)
    content = tiny_checkpoint.read_bytes()
    assert set(facts) >= CONTRACT and json.loads(json.dumps(facts)) == facts
    assert (facts["sha256"], facts["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert [entry["shape"] for entry in facts["inputs"]] == [[1, 3, 64, 64]]
    assert [entry["shape"] for entry in facts["outputs"]] == [[1, 13, 16, 16]]
    assert (facts["granularity"], facts["full_integer"]) == ("float", False)
    assert facts["operators"]["Conv2d"] == facts["operators"]["BatchNorm2d"] == 65
    assert "Identity" not in facts["operators"]
    parameters = load_checkpoint(tiny_checkpoint).network.parameters()
    assert facts["weights_bytes"] == 4 * sum(p.numel() for p in parameters)
    assert facts["macs"] == multiplications(tiny_checkpoint, 64)
    assert facts["skeleton"] == ST_13.to_dict() and facts["preprocessing"]["size"] == 64
    assert facts["metadata"]["model"] == "tiny"


def test_a_file_that_is_not_a_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_text("hello")
    with pytest.raises(HeatposeError, match="is not a readable checkpoint"):
        inspect_checkpoint(tmp_path / "a.ckpt")
