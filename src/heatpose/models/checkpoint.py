"""Checkpoints that describe themselves; read with `weights_only=True`, so they cannot run code."""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from heatpose.errors import HeatposeError, first_line
from heatpose.models.movenet import STRIDE, MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.utils.files import atomic_write, sha256

KEY = "heatpose"
"""Entry of a checkpoint file with the description."""
FORMAT = 1
WEIGHTS = "weights_sha256"
"""Entry of a bundle's provenance: `weights_hash` of the checkpoint that was exported."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A network with its description.

    Attributes:
        network: In eval mode, on the CPU.
        skeleton: Of its channels.
        preprocessing: Of its input.
        metadata: Plain values on the origin of the weights (`origin`, `epoch`, `validation_oks`,
            ...).
    """

    network: MoveNet
    skeleton: Skeleton
    preprocessing: Preprocessing
    metadata: dict[str, Any]


def describe(
    network: MoveNet, skeleton: Skeleton, preprocessing: Preprocessing, **metadata: Any
) -> dict[str, Any]:
    """The description as plain values, stored under `KEY`."""
    return {
        "format": FORMAT,
        "network": network.settings,
        "skeleton": skeleton.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "metadata": metadata,
    }


def save_checkpoint(
    path: Path,
    network: MoveNet,
    skeleton: Skeleton,
    preprocessing: Preprocessing,
    *,
    half: bool = False,
    **metadata: Any,
) -> None:
    """Writes the weights and the description, atomically.

    Args:
        path: The file.
        network: Its weights are stored.
        skeleton: What its channels are.
        preprocessing: How images become its input.
        half: Stores the weights as `half_precision` rounds them: about half the size.
        metadata: Where the weights come from, plain values.

    Raises:
        HeatposeError: It cannot be written, or `half` is set and a weight exceeds float16.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    if half:
        state = half_precision(state)
    content = {KEY: describe(network, skeleton, preprocessing, **metadata), "state_dict": state}
    try:
        with atomic_write(path, sync=True) as part:
            torch.save(content, part)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise HeatposeError(
            f"Checkpoint '{path}' cannot be written"
            f" ({getattr(error, 'strerror', None) or 'is the disk full?'}); make room there."
        ) from error


def half_precision(
    state: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float16
) -> dict[str, torch.Tensor]:
    """Rounds the weights of convolutions to 16 bits.

    Tensors of one dimension (biases, batch norm) and counters stay as they are: they are a few per
    cent of the size, and a variance may exceed the range of float16.

    Args:
        state: Name -> tensor.
        dtype: float16, or bfloat16 for values outside of its range.

    Returns:
        Name -> tensor; those of two or more dimensions and floating point in `dtype`.

    Raises:
        HeatposeError: A weight is too large for the type.
    """
    rounded = dict(state)
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 1:
            rounded[name] = value.to(dtype)
            if not torch.isfinite(rounded[name]).all():
                raise HeatposeError(
                    f"'{name}' has values that {dtype} cannot hold; keep this checkpoint in"
                    " float32."
                )
    return rounded


def weights_hash(network: MoveNet) -> str:
    """sha256 over names, shapes and float32 values of a network's state.

    Equal for networks that compute the same, however their checkpoints store them.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_checkpoint(path: str | Path) -> LoadedCheckpoint:
    """Reads a checkpoint written by training or by `save_checkpoint`; its weights become float32.

    Raises:
        HeatposeError: The file is missing or not a Heatpose checkpoint, or its parts do not match.
    """
    path = Path(path)
    content = _read(path)
    description = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(description, dict) or "state_dict" not in content:
        raise HeatposeError(
            f"'{path}' is a torch file but not a Heatpose checkpoint; give one that train.py wrote."
        )
    try:
        with torch.device("meta"):  # allocates nothing for the description's claims
            network = MoveNet(**description["network"])
        skeleton = Skeleton(**description["skeleton"])
        preprocessing = Preprocessing(**description["preprocessing"])
        prefix = "network."
        state = {
            name.removeprefix(prefix): value
            for name, value in content["state_dict"].items()
            if name.startswith(prefix)
        }
        network.load_state_dict(_values(state), assign=True)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        raise HeatposeError(
            f"Checkpoint '{path}' does not fit its own description ({first_line(error)})."
        ) from error
    if len(skeleton) != network.keypoints:
        raise HeatposeError(
            f"Checkpoint '{path}' has {network.keypoints} heatmaps, but its skeleton"
            f" '{skeleton.name}' has {len(skeleton)} keypoints."
        )
    return LoadedCheckpoint(
        network.eval(), skeleton, preprocessing, dict(description.get("metadata") or {})
    )


def _read(path: Path) -> Any:
    if not path.is_file():
        raise HeatposeError(
            f"Checkpoint '{path}' does not exist; give the .ckpt file that train.py wrote."
        )
    try:
        with zipfile.ZipFile(path) as file:
            claimed = sum(entry.file_size for entry in file.infolist())
        # torch stores tensors uncompressed; compressed ones could be a thousand times as large
        if claimed > path.stat().st_size:
            raise ValueError(f"its {claimed} bytes of content do not fit into the file")
        return torch.load(path, map_location="cpu", weights_only=True)
    # the restricted unpickler may raise any exception
    except Exception as error:
        raise HeatposeError(
            f"'{path}' is not a readable checkpoint: it is damaged, holds more than plain values, "
            "or is another kind of file."
        ) from error


def _values(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Contiguous copies of the tensors with separate memory, f32 (counters i64).

    Raises:
        ValueError: A value is not a plain tensor of numbers, or is larger than its storage.
    """
    values = {}
    for name, value in state.items():
        kinds = (
            (torch.int64,)
            if name.endswith("num_batches_tracked")
            else (torch.float32, torch.float64, torch.float16, torch.bfloat16)
        )
        if (
            not isinstance(value, torch.Tensor)
            or value.layout is not torch.strided
            or value.dtype not in kinds
        ):
            raise ValueError(f"{name} is not a tensor of numbers")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{name} has fewer numbers than its shape {list(value.shape)}")
        values[name] = value.clone(memory_format=torch.contiguous_format).to(
            torch.int64 if kinds == (torch.int64,) else torch.float32
        )
    return values


def inspect_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of `heatpose inspect --json` for a checkpoint; operators are torch's layers.

    Raises:
        HeatposeError: The file is not a checkpoint.
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
            module.register_forward_hook(
                lambda m, inputs, output: layers.update([type(m).__name__])
            )
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        loaded.network(torch.zeros(1, 3, size, size))
    channels = {"logits": keypoints}
    if loaded.network.four_heads:
        channels = {
            "centre": 1,
            "regression": 2 * keypoints,
            "heatmaps": keypoints,
            "offset": 2 * keypoints,
        }
    cells = size // STRIDE
    return {
        "sha256": sha256(path),
        "bytes": path.stat().st_size,
        "inputs": [
            {
                "name": "image",
                "shape": [1, 3, size, size],
                "dtype": "float32",
                "scale": None,
                "zero_point": None,
            }
        ],
        "outputs": [
            {
                "name": name,
                "shape": [1, count, cells, cells],
                "dtype": "float32",
                "scale": None,
                "zero_point": None,
            }
            for name, count in channels.items()
        ],
        "operators": dict(layers.most_common()),
        "granularity": "float",
        "full_integer": False,
        "weights_bytes": sum(p.numel() * p.element_size() for p in loaded.network.parameters()),
        "macs": counter.get_total_flops() // 2,
        "peak_activation_bytes": None,
        "findings": [],
        "skeleton": loaded.skeleton.to_dict(),
        "preprocessing": loaded.preprocessing.to_dict(),
        "metadata": loaded.metadata,
    }
