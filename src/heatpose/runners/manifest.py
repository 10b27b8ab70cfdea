"""What the manifest of a bundle says about the model files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatpose.errors import HeatposeError
from heatpose.preprocessing import Preprocessing
from heatpose.skeleton import Skeleton

MANIFEST = "manifest.json"


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
    """What is known about a model file apart from its graph; None where nobody says so.

    Attributes:
        skeleton: What its channels are.
        preprocessing: How its training images were made; the size is the bundle's, a file's own counts.
        threshold: From which score on its keypoints are drawn.
    """

    skeleton: Skeleton | None = None
    preprocessing: Preprocessing | None = None
    threshold: ScoreThreshold | None = None

    def checked(self, path: Path, keypoints: int) -> FileFacts:
        """The same facts, once they fit the file.

        Raises:
            HeatposeError: The skeleton is for another number of keypoints than the file has.
        """
        if self.skeleton is not None and len(self.skeleton) != keypoints:
            raise HeatposeError(
                f"'{path}' has {keypoints} keypoints, but the {MANIFEST} beside it describes "
                f"{len(self.skeleton)} ('{self.skeleton.name}'); the two do not belong together, "
                "so move one of them elsewhere."
            )
        return self


def read_manifest(model: Path) -> FileFacts:
    """Reads `manifest.json` in the model file's folder, if there is one; other software's says nothing.

    Raises:
        HeatposeError: The manifest is no json, or its skeleton or preprocessing cannot be understood.
    """
    path = model.parent / MANIFEST
    if not path.is_file():
        return FileFacts()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return _facts(content) if isinstance(content, dict) else FileFacts()
    except OSError as error:
        raise HeatposeError(f"'{path}' cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError, TypeError, AttributeError) as error:
        raise HeatposeError(f"'{path}' is damaged ({error}); export the bundle again, or move the model out of it.") from error


def _facts(content: Mapping[str, Any]) -> FileFacts:
    """The facts out of a manifest's entries `skeleton` and `preprocessing`.

    Raises:
        TypeError, ValueError, AttributeError: An entry is malformed.
    """
    skeleton, preprocessing = content.get("skeleton"), content.get("preprocessing")
    threshold = content.get("score_threshold")
    return FileFacts(
        Skeleton(**skeleton) if skeleton is not None else None,
        Preprocessing(**preprocessing) if preprocessing is not None else None,
        ScoreThreshold(**threshold) if threshold is not None else None,
    )
