"""Keypoints and preprocessing of a model file: its own metadata, else the manifest beside it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatpose.bundles.bundle import MANIFEST, Bundle
from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton

METADATA = "heatpose"
"""Name of the entry, a JSON text, in TFLite's `metadata` and ONNX's `metadata_props`."""
LONGEST = 1 << 20
"""Bytes of that text; a few thousand are usual."""


@dataclass(frozen=True)
class ScoreThreshold:
    """Score above which a keypoint is drawn.

    Attributes:
        value: In the unit of the network's scores, 0 to 1.
        source: How it was determined.
    """

    value: float = 0.2
    source: str = "the default; not measured on images of this network"

    def __post_init__(self) -> None:
        if not 0 <= float(self.value) <= 1:
            raise ValueError(f"score_threshold {self.value} is not between 0 and 1")

    def to_dict(self) -> dict[str, Any]:
        """The manifest's entry `score_threshold`."""
        return {"value": self.value, "source": self.source}


@dataclass(frozen=True)
class FileFacts:
    """Facts about a model file that its graph does not hold; None where they are unknown.

    Attributes:
        skeleton: Keypoints of its channels.
        preprocessing: Of its training images; the size is the bundle's, a file's own takes
            precedence.
        probabilities: Its heatmaps are probabilities, not logits.
        source: Where the facts are from: "the file" or "manifest.json".
        written_by: Version that wrote the file, "heatpose 0.1.0".
        threshold: Score above which its keypoints are drawn.
    """

    skeleton: Skeleton | None = None
    preprocessing: Preprocessing | None = None
    probabilities: bool | None = None
    source: str = MANIFEST
    written_by: str = ""
    threshold: ScoreThreshold | None = None

    def checked(self, path: Path, keypoints: int) -> FileFacts:
        """The same facts, once they fit the file.

        Raises:
            HeatposeError: The skeleton is for another number of keypoints than the file has.
        """
        if self.skeleton is None or len(self.skeleton) == keypoints:
            return self
        described = f"describes {len(self.skeleton)} ('{self.skeleton.name}')"
        if self.source != MANIFEST:
            raise HeatposeError(
                f"'{path}' has {keypoints} keypoints, but its own metadata {described}; "
                "export it again."
            )
        raise HeatposeError(
            f"'{path}' has {keypoints} keypoints, but the {MANIFEST} beside it {described}; "
            "the two do not belong together, so move one of them elsewhere."
        )


def known_facts(model: Path, metadata: bytes | None) -> FileFacts:
    """The facts in the file's metadata, else in the manifest beside it.

    Args:
        model: The file.
        metadata: Its entry `METADATA`; None where it has none.

    Raises:
        HeatposeError: The entry or the manifest cannot be understood.
    """
    if metadata is None:
        return read_manifest(model)
    try:
        content = json.loads(metadata[:LONGEST].decode("utf-8"))
        facts = _facts(content, "the file", str(content.get("written_by", "")))
    except (ValueError, RecursionError, TypeError, AttributeError, HeatposeError) as error:
        sentence = f"'{model}' has damaged metadata ({str(error).rstrip('.')}); export it again."
        raise HeatposeError(sentence) from error
    return facts


def read_manifest(model: Path) -> FileFacts:
    """Reads the manifest of the bundle that contains a model.

    Empty without a manifest of this software, or if it does not list the file by name or by hash.

    Raises:
        HeatposeError: The manifest, its skeleton or its preprocessing cannot be understood.
    """
    try:
        bundle = Bundle.around(model)
        if bundle is None or not bundle.describes(model):
            return FileFacts()
    except OSError as error:
        raise HeatposeError(f"'{model}' cannot be read ({error.strerror}).") from error
    return bundle_facts(bundle)


def bundle_facts(bundle: Bundle) -> FileFacts:
    """The facts that a bundle's manifest states.

    Raises:
        HeatposeError: They cannot be understood.
    """
    try:
        return _facts(bundle.manifest, MANIFEST)
    except (ValueError, TypeError, AttributeError) as error:
        raise HeatposeError(
            f"'{bundle.path}' is damaged ({error}); export the bundle again, or move the model out"
            " of it."
        ) from error


def _facts(content: Mapping[str, Any], source: str, written_by: str = "") -> FileFacts:
    """The facts out of the entries `skeleton`, `preprocessing` and `output`.

    Raises:
        TypeError, ValueError, AttributeError: An entry is malformed.
    """
    skeleton, preprocessing = content.get("skeleton"), content.get("preprocessing")
    threshold = content.get("score_threshold")
    values = content["output"].get("values") if isinstance(content.get("output"), dict) else None
    return FileFacts(
        skeleton=Skeleton(**skeleton) if skeleton is not None else None,
        preprocessing=Preprocessing(**preprocessing) if preprocessing is not None else None,
        probabilities=None if values is None else values == "probabilities",
        source=source,
        written_by=written_by,
        threshold=ScoreThreshold(**threshold) if threshold is not None else None,
    )


_MOST = 1000  # entries of a file's list; converters write two


def tflite_facts(path: Path) -> FileFacts:
    """Facts from a TFLite file's metadata, else from the manifest beside it.

    Raises:
        HeatposeError: The text or the manifest cannot be understood.
    """
    return known_facts(path, tflite_metadata(path))


def onnx_facts(path: Path, entries: Mapping[str, str]) -> FileFacts:
    """Facts from an ONNX file's `metadata_props`, else from the manifest beside it.

    Raises:
        HeatposeError: The text or the manifest cannot be understood.
    """
    return known_facts(
        path, entries[METADATA].encode("utf-8", "replace") if METADATA in entries else None
    )


def tflite_metadata(path: Path) -> bytes | None:
    """The buffer of the entry `METADATA` in a TFLite file's `metadata`; None where there is none.

    Args:
        path: A file that `tflite.reader.read_graph` has read.

    Raises:
        HeatposeError: The list or the buffer is damaged.
    """
    import tflite  # some 200 modules: loaded when a file is read

    try:
        content = path.read_bytes()
        return _entry(tflite.Model.GetRootAs(content), content)
    except OSError as error:
        raise HeatposeError(f"'{path}' cannot be read ({error.strerror}).") from error
    except (
        struct.error,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        OverflowError,
    ) as error:
        raise HeatposeError(
            f"'{path}' has a damaged list of metadata; get the file again."
        ) from error


def _entry(model: Any, content: bytes) -> bytes | None:
    for i in range(min(model.MetadataLength(), _MOST)):
        entry = model.Metadata(i)
        if entry.Name() != METADATA.encode():
            continue
        if entry.Buffer() >= model.BuffersLength():
            raise IndexError(entry.Buffer())
        buffer = model.Buffers(entry.Buffer())
        if buffer.Offset() > 1:  # 0 and 1 mean "not outside"
            return content[buffer.Offset() : buffer.Offset() + min(buffer.Size(), LONGEST)]
        return bytes(buffer.DataAsNumpy()[:LONGEST]) if buffer.DataLength() else b""
    return None
