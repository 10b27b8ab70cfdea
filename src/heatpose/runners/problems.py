"""How the runners say that a file is not what they need."""

from __future__ import annotations

from pathlib import Path

from heatpose.errors import HeatposeError


def no_pose_model(path: Path, reason: str) -> HeatposeError:
    """The error for a readable file that holds something else."""
    return HeatposeError(f"'{path}' is no single-person pose model: {reason}.")


def no_scale(path: Path, output: str, dtype: str) -> HeatposeError:
    """The error for an output of integers whose real values nothing tells."""
    reason = f"its output '{output}' is {dtype} without a scale"
    return HeatposeError(f"'{path}' cannot be scored: {reason}; export it with a float output.")


def first_line(error: Exception) -> str:
    """The gist of a library's error as a clause; these libraries write paragraphs and source lines."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(". ")
