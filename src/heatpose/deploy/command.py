"""The command lines of ST Edge AI Core, and the scripts that run them without heatpose."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from heatpose.deploy.npu_profile import PROFILE
from heatpose.deploy.targets import Target, Tool
from heatpose.deploy.templating import render
from heatpose.errors import HeatposeError

OUTPUT, WORKSPACE = "st_ai_output", "st_ai_ws"
SAMPLES = 10
"""Inputs that a validation on the board runs."""


def _tool(target: Target) -> Tool:
    if target.tool is None:
        raise HeatposeError(
            f"Target '{target.name}' needs no ST Edge AI Core: its TFLite runs as it is."
        )
    return target.tool


def io_options(target: Target) -> list[str]:
    """Options about inputs and outputs, the same for `generate` and `validate`.

    The output's type is left to the file unless the target names one.
    """
    if target.npu is None:  # a converter for Linux boards keeps the file's own
        return []
    output = [] if target.output_dtype is None else ["--output-data-type", target.output_dtype]
    return ["--input-data-type", target.input_dtype, *output]


def generate_arguments(target: Target, model: str, major: int | None = None) -> list[str]:
    """Arguments of `stedgeai` that build a model, relative to the folder of the deployment package.

    Args:
        target: The board.
        model: File name of the TFLite.
        major: Major version of the tool, which has its own compiler options; None is the newest.

    Raises:
        HeatposeError: The target needs no tool.
    """
    tool = _tool(target)
    npu = (
        []
        if target.npu is None
        else ["--st-neural-art", f"{target.npu.profile_for(major)}@{PROFILE}"]
    )
    return [
        "generate",
        "--model",
        model,
        "--target",
        tool.target,
        *npu,
        *io_options(target),
        *tool.options,
        "--output",
        OUTPUT,
        "--workspace",
        WORKSPACE,
    ]


def validate_arguments(target: Target, model: str, board: str) -> list[str]:
    """Arguments of `stedgeai` that run a built model on a connected board.

    Args:
        target: The board's kind.
        model: File name of the TFLite.
        board: How it is connected, `serial:921600`, `serial:COM5:921600`, or the address of a Linux
            board.

    Raises:
        HeatposeError: The target needs no tool.
    """
    tool = _tool(target)
    return [
        "validate",
        "--model",
        model,
        "--target",
        tool.target,
        "--mode",
        "target",
        "--desc",
        board,
        "--batch-size",
        str(SAMPLES),
        *io_options(target),
        *tool.options,
        "--output",
        OUTPUT,
        "--workspace",
        WORKSPACE,
    ]


def shell_line(arguments: Sequence[str]) -> str:
    """The line as typed into a shell."""
    return shlex.join(["stedgeai", *arguments])


@dataclass(frozen=True)
class Weights:
    """Weights that are flashed: the file that the tool makes, and the address of its first byte."""

    raw: str
    address: int


def weights_of(target: Target) -> Weights | None:
    """What is flashed beside the application; None where nothing is."""
    pool = None if target.npu is None else target.npu.weights_pool()
    if pool is None or target.flashing.kind != "neural_art":
        return None
    own = target.flashing.weights_address
    return Weights(f"network_atonbuf.{pool.file}.raw", pool.address if own is None else own)


def run_sh(target: Target, model: str) -> str:
    """`run.sh`: builds, then turns the weights into the files that are flashed."""
    return render("run.sh", **_script(target, model))


def run_ps1(target: Target, model: str) -> str:
    """`run.ps1`: the same for PowerShell."""
    return render("run.ps1", **_script(target, model))


def _script(target: Target, model: str) -> dict[str, Any]:
    """What both scripts name. Every product of an earlier run is removed first."""
    tool, weights = _tool(target), weights_of(target)
    folders = list(dict.fromkeys((OUTPUT, tool.output)))
    product, *moved = [f"{folder}/{tool.product.format(model=_stem(model))}" for folder in folders]
    needed = [product] if target.npu is None else [f"{OUTPUT}/network.c"]
    needed = [place for place in needed if "*" not in place]
    needed += [] if weights is None else [f"{OUTPUT}/{weights.raw}"]
    older = target.npu is not None and bool(target.npu.older_options)
    return {
        "arguments": generate_arguments(target, model),
        "older": generate_arguments(target, model, 2) if older else [],
        "stale": [*folders, WORKSPACE, "network_data.bin", "network_data.hex"],
        "output": OUTPUT,
        "product": product,
        "moved": moved if target.npu is None else [],
        "needed": needed,
        "weights": weights,
        "application": "" if target.application is None else target.application.name,
        "pairs": list(target.application.pairs.values()) if target.application and older else [],
    }


def _stem(model: str) -> str:
    return model.removesuffix(".tflite")
