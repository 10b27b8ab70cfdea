"""Torch network -> ONNX file as the TFLite converter and onnxruntime take it.

Also the metadata of ONNX and TFLite files: keypoints, preprocessing, versions.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heatpose.bundles.facts import METADATA
from heatpose.bundles.provenance import versions
from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing, check_resolution
from heatpose.pose.skeleton import Skeleton
from heatpose.utils.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor, nn

    from heatpose.models.decode import PoseLayout
    from heatpose.models.movenet import MoveNet

FORMAT = 1


def description(
    skeleton: Skeleton,
    preprocessing: Preprocessing,
    *,
    probabilities: bool,
    pose: PoseLayout | None,
) -> str:
    """Metadata text of a model file: JSON with keypoints, preprocessing and output.

    Args:
        skeleton: Keypoints of the channels.
        preprocessing: From images to the input.
        probabilities: The file gives probabilities, not logits.
        pose: Order of a decoded output; None for heatmaps.
    """
    output = {
        "form": "heatmaps" if pose is None else f"{', '.join(pose)}, score",
        "values": "probabilities" if probabilities else "logits",
        "coordinates": (
            "fractions of the input" if pose else "cell k of n is at (k + 0.5) / n of the input"
        ),
    }
    content = {
        "format": FORMAT,
        "written_by": f"heatpose {versions().get('heatpose', 'from a checkout')}",
        "skeleton": skeleton.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "input": {"channels": "RGB", "values": "byte / divisor - shift"},
        "output": output,
    }
    return json.dumps(content, separators=(",", ":"))


def into_tflite(content: bytes, text: str) -> bytes:
    """A TFLite file with the text as one more entry of its `metadata`, in place of an older one.

    The file is packed anew: tensors, operators and constants keep their order and their values.
    """
    from ai_edge_litert import schema_py_generated as schema

    from heatpose.tflite.writer import Model

    model = Model(content)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    entry.name, entry.buffer = METADATA.encode(), len(model.model.buffers)
    others = [known for known in model.model.metadata or [] if known.name != METADATA.encode()]
    model.model.buffers.append(buffer)
    model.model.metadata = [*others, entry]
    return model.pack()


def into_onnx(path: Path, text: str) -> None:
    """Appends the text to an ONNX file that has none: joined protobuf messages are one message."""
    import onnx

    addition = onnx.ModelProto()
    addition.metadata_props.add(key=METADATA, value=text)
    with path.open("ab") as file:
        file.write(addition.SerializeToString())


OPSET = 17
INPUT = "image"
OUTPUT, POSE = "heatmaps", "pose"


def export_onnx(
    network: MoveNet,
    size: int,
    path: Path,
    *,
    sigmoid: bool,
    pose: PoseLayout = "xy",
    metadata: str = "",
) -> None:
    """Writes a network as ONNX.

    "image" f32[1, 3, S, S] in [-1, 1] -> "heatmaps" f32[1, K, S/4, S/4].

    A network with four heads ends in its decode instead: "pose" f32[1, K * 3] or f32[1, 1, K, 3].

    Batch norm is folded first, so that the file holds convolutions with biases only. The same
    weights give the same bytes.

    Args:
        network: With or without batch norm; it is left as it is.
        size: Side S of the input, a multiple of 32.
        path: The file to write, atomically.
        sigmoid: Ends the graph in a sigmoid: probabilities instead of logits. A decode always gives
            probabilities.
        pose: Layout of a decoded output: "xy" or Google's "yx", as in
            `models.decode.DecodedMoveNet`.
        metadata: Result of `description`, stored in the file; empty for none.

    Raises:
        HeatposeError: A bad size, or the package `onnx` is not installed.
    """
    # Imported here: torch takes seconds, and listing what can be exported needs none of it.
    import torch

    from heatpose.models.decode import DecodedMoveNet
    from heatpose.models.layers import dense_transposed
    from heatpose.quantize.equalize import fold_batch_norm

    check_resolution(size)
    _check_installed()
    folded = fold_batch_norm(network)
    dense_transposed(folded)
    decoded = network.four_heads
    module: torch.nn.Module = DecodedMoveNet(folded, pose) if decoded else folded
    if sigmoid and not decoded:
        module = torch.nn.Sequential(module, torch.nn.Sigmoid())
    _write(
        module.eval(), torch.zeros(1, 3, size, size), path, POSE if decoded else OUTPUT, metadata
    )


def _write(module: nn.Module, image: Tensor, path: Path, output: str, metadata: str) -> None:
    """Traces a module on an image and writes the file atomically."""
    import torch

    names = {"input_names": [INPUT], "output_names": [output]}
    settings: dict[str, Any] = {**names, "opset_version": OPSET, "dynamo": False}
    with atomic_write(path) as part:
        with torch.no_grad(), warnings.catch_warnings():
            # The TorchScript exporter is deprecated, but the newer one has no opset 17 and needs
            # onnxscript.
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (image,), str(part), **settings)
        if metadata:
            into_onnx(part, metadata)


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise HeatposeError(
            "Exporting needs the package 'onnx': install heatpose[export]."
        ) from error
