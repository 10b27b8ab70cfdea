"""Keeps a library from loading another that it does not need here."""

from __future__ import annotations

import sys
import types


def without_tensorflow() -> None:
    """TensorBoard's writer and reader load TensorFlow (seconds, and a page of noise) unless this module of its TensorFlow-free build is there."""
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
