"""What a model file states about itself, else what the manifest beside it states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.utils.files import sha256

MANIFEST = "manifest.json"
METADATA = "heatpose"
"""Name of the entry, a JSON text, in TFLite's `metadata` and ONNX's `metadata_props`."""
LONGEST = 1 << 20
"""Bytes of that text; a few thousand are usual."""


@dataclass(frozen=True)
class ScoreThreshold:
    """From which score on a keypoint is drawn.

    Attributes:
        value: Of the network's scores, 0 to 1.
        source: How it was found.
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
    """What is known about a model file apart from its graph; None where nothing states it.

    Attributes:
        skeleton: What its channels are.
        preprocessing: How its training images were made; the size is the bundle's, a file's own
            counts.
        probabilities: Whether its heatmaps are probabilities or logits.
        source: What states it: "the file" or "manifest.json".
        written_by: The version that wrote the file, "heatpose 0.1.0".
        threshold: From which score on its keypoints are drawn.
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
    """What the file states itself, else what the manifest beside it states.

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
    """Reads `manifest.json` in the file's folder, if there is one; other software's states nothing.

    Neither does a bundle's about a file that it does not list, by name or by hash.

    Raises:
        HeatposeError: The manifest is not JSON, or its skeleton or preprocessing cannot be
            understood.
    """
    path = model.parent / MANIFEST
    if not path.is_file():
        return FileFacts()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not _lists(content.get("files"), model):
            return FileFacts()
        return _facts(content, MANIFEST)
    except OSError as error:
        raise HeatposeError(f"'{path}' cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError, TypeError, AttributeError) as error:
        raise HeatposeError(
            f"'{path}' is damaged ({error}); export the bundle again, or move the model out of it."
        ) from error


def _lists(files: Any, model: Path) -> bool:
    """Whether a manifest is about a file; one without a list is about all files beside it."""
    if not isinstance(files, dict) or model.name in files:
        return True
    if model.suffix == ".json" or not model.is_file():  # asked about the manifest itself
        return True
    digest = sha256(model)
    entries = [entry for entry in files.values() if isinstance(entry, dict)]
    return any(entry.get("sha256") == digest for entry in entries)


def _facts(content: Mapping[str, Any], source: str, written_by: str = "") -> FileFacts:
    """The facts out of the entries `skeleton`, `preprocessing` and `output`.

    Raises:
        TypeError, ValueError, AttributeError: An entry is malformed.
    """
    skeleton, preprocessing = content.get("skeleton"), content.get("preprocessing")
    threshold = content.get("score_threshold")
    values = content["output"].get("values") if isinstance(content.get("output"), dict) else None
    return FileFacts(
        Skeleton(**skeleton) if skeleton is not None else None,
        Preprocessing(**preprocessing) if preprocessing is not None else None,
        None if values is None else values == "probabilities",
        source,
        written_by,
        ScoreThreshold(**threshold) if threshold is not None else None,
    )
