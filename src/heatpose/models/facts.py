"""What a checkpoint is, in the form of `heatpose inspect`."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from heatpose.models.checkpoint import load_checkpoint
from heatpose.models.movenet import STRIDE


def inspect_checkpoint(path: str | Path) -> dict[str, Any]:
    """The keys of `heatpose inspect --json` for a checkpoint; operators are torch's layers.

    Raises:
        HeatposeError: No checkpoint.
    """
    # Imported here: only this needs it.
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    path = Path(path)
    loaded = load_checkpoint(path)
    size, keypoints = loaded.preprocessing.size, loaded.network.keypoints
    layers: Counter[str] = Counter()
    for module in loaded.network.modules():
        if not list(module.children()) and type(module).__name__ != "Identity":
            module.register_forward_hook(lambda m, inputs, output: layers.update([type(m).__name__]))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        loaded.network(torch.zeros(1, 3, size, size))
    channels = {"logits": keypoints}
    if loaded.network.four_heads:
        channels = {"centre": 1, "regression": 2 * keypoints, "heatmaps": keypoints, "offset": 2 * keypoints}
    cells = size // STRIDE
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size,
        "inputs": [{"name": "image", "shape": [1, 3, size, size], "dtype": "float32", "scale": None, "zero_point": None}],
        "outputs": [
            {"name": name, "shape": [1, count, cells, cells], "dtype": "float32", "scale": None, "zero_point": None} for name, count in channels.items()
        ],
        "operators": dict(layers.most_common()), "granularity": "float", "full_integer": False,
        "weights_bytes": sum(p.numel() * p.element_size() for p in loaded.network.parameters()),
        "macs": counter.get_total_flops() // 2, "peak_activation_bytes": None, "findings": [],
        "skeleton": loaded.skeleton.to_dict(), "preprocessing": loaded.preprocessing.to_dict(), "metadata": loaded.metadata,
    }  # fmt: skip
