"""Reads a JSON label file, whatever program on whatever system wrote it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from heatpose.errors import HeatposeError


def load(path: Path) -> Any:
    """The parsed content of a JSON file in UTF-8, UTF-16 or UTF-32.

    With a byte order mark or without.

    Raises:
        HeatposeError: The file is missing, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise HeatposeError(
            f"Label file '{path}' cannot be read ({error.strerror}); give a COCO keypoint json, "
            "or an export that docs/labels.md lists."
        ) from error
    except (ValueError, RecursionError) as error:
        raise HeatposeError(
            f"Label file '{path}' is no json ({error}); give a COCO keypoint json, "
            "or an export that docs/labels.md lists."
        ) from error


def is_finite(value: Any) -> bool:
    """Whether a parsed value is a finite number; true and false are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False
