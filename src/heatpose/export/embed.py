"""Metadata of exported files: keypoints, preprocessing and output.

A JSON text under the name `bundles.facts.METADATA`: in TFLite an entry of `metadata` with its
buffer, as converters write theirs; in ONNX an entry of `metadata_props`. It holds neither
time nor place, so that equal exports are equal files. Int8 files are written from the float file
and keep its text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heatpose.bundles.facts import METADATA
from heatpose.bundles.provenance import versions
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton

if TYPE_CHECKING:
    from heatpose.models.decode import PoseForm

FORMAT = 1


def description(
    skeleton: Skeleton, preprocessing: Preprocessing, *, probabilities: bool, pose: PoseForm | None
) -> str:
    """The text.

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
