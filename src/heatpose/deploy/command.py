"""The command lines of ST Edge AI Core, and the scripts that run them without heatpose."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from heatpose.deploy.npu_profile import PROFILE
from heatpose.deploy.targets import Target, Tool
from heatpose.errors import HeatposeError

OUTPUT, WORKSPACE = "st_ai_output", "st_ai_ws"
SAMPLES = 10
"""Inputs that a validation on the board runs."""


def _tool(target: Target) -> Tool:
    if target.tool is None:
        raise HeatposeError(f"Target '{target.name}' needs no ST Edge AI Core: its TFLite runs as it is.")
    return target.tool


def io_options(target: Target) -> list[str]:
    """Options about inputs and outputs, the same for `generate` and `validate`. The output's type is left to the file unless the target names one."""
    if target.npu is None:  # a converter for Linux boards keeps the file's own
        return []
    output = [] if target.output_dtype is None else ["--output-data-type", target.output_dtype]
    return ["--input-data-type", target.input_dtype, *output]


def generate_arguments(target: Target, model: str) -> list[str]:
    """Arguments of `stedgeai` that build a model, relative to the folder of the hand-off.

    Args:
        target: The board.
        model: File name of the TFLite.

    Raises:
        HeatposeError: The target needs no tool.
    """
    tool = _tool(target)
    npu = [] if target.npu is None else ["--st-neural-art", f"{target.npu.profile}@{PROFILE}"]
    return [
        "generate", "--model", model, "--target", tool.target, *npu, *io_options(target), *tool.options, "--output", OUTPUT, "--workspace", WORKSPACE
    ]  # fmt: skip


def validate_arguments(target: Target, model: str, board: str) -> list[str]:
    """Arguments of `stedgeai` that run a built model on a connected board.

    Args:
        target: The board's kind.
        model: File name of the TFLite.
        board: How it is connected, `serial:921600`, `serial:COM5:921600`, or the address of a Linux board.

    Raises:
        HeatposeError: The target needs no tool.
    """
    tool = _tool(target)
    return [
        "validate", "--model", model, "--target", tool.target, "--mode", "target", "--desc", board, "--batch-size", str(SAMPLES),
        *io_options(target), *tool.options, "--output", OUTPUT, "--workspace", WORKSPACE,
    ]  # fmt: skip


def shell_line(arguments: Sequence[str]) -> str:
    """The line as typed into a shell."""
    return shlex.join(["stedgeai", *arguments])


def run_sh(target: Target, model: str) -> str:
    """`run.sh`: builds, then turns the weights into the hex file that is flashed."""
    arguments = shlex.join(generate_arguments(target, model))
    after = _sh_after(target) if target.npu is not None else _sh_product(_tool(target), model)
    stale = " ".join(f'"{place}"' for place in _flashed(target, model))
    return _SH.format(find=_sh_find(), stale=stale, arguments=arguments, after=after)


def _sh_find() -> str:
    return (
        'case "$(uname -s)" in Darwin) os=mac; [ "$(uname -m)" = arm64 ] && os=macarm;; *) os=linux;; esac\n'
        'tool="${1:-}"\n'
        '[ -n "$tool" ] || { [ -n "${STEDGEAI_CORE_DIR:-}" ] && tool="$STEDGEAI_CORE_DIR/Utilities/$os/stedgeai"; }\n'
        '[ -n "$tool" ] || tool=stedgeai\n'
        'command -v "$tool" >/dev/null || { echo "ST Edge AI Core not found: set STEDGEAI_CORE_DIR or give the path of stedgeai" >&2; exit 1; }'
    )


def _weights(target: Target) -> tuple[str, str] | None:
    """The raw weights file and the address it is flashed to."""
    pool = None if target.npu is None else target.npu.weights_pool()
    if pool is None or target.flashing.kind != "neural_art":
        return None
    address = target.flashing.weights_address if target.flashing.weights_address is not None else pool.address
    return f"network_atonbuf.{pool.file}.raw", f"0x{address:08X}"


def _flashed(target: Target, model: str) -> list[str]:
    """What goes onto the board, below the hand-off; an earlier run's is removed first, so that it cannot be taken for this one's."""
    if target.npu is None:
        return _places(_tool(target), model)
    weights = _weights(target)
    return [f"{OUTPUT}/network_c_info.json", *([f"{OUTPUT}/{weights[0]}"] if weights is not None else [])]


def _sh_after(target: Target) -> str:
    weights = _weights(target)
    if weights is None:
        return f"ls {OUTPUT}"
    raw, address = weights
    return (
        f'ls {OUTPUT}\nif command -v arm-none-eabi-objcopy >/dev/null; then\n  cp "{OUTPUT}/{raw}" network_data.bin\n'
        f"  arm-none-eabi-objcopy -I binary network_data.bin --change-addresses {address} -O ihex network_data.hex\n"
        'else\n  echo "arm-none-eabi-objcopy not found: network_data.hex is not made" >&2\nfi'
    )


def _places(tool: Tool, model: str) -> list[str]:
    """Where a converter for Linux boards puts its one file: where it is told to, or in a folder of its own."""
    product = tool.product.format(model=model.removesuffix(".tflite"))
    return [f"{folder}/{product}" for folder in dict.fromkeys((OUTPUT, tool.output))]


def _sh_product(tool: Tool, model: str) -> str:
    told, *others = _places(tool, model)
    moves = "".join(f'\nif [ ! -s "{told}" ] && [ -s "{other}" ]; then mkdir -p {OUTPUT} && mv "{other}" "{told}"; fi' for other in others)
    return f'{moves.lstrip()}\n[ -s "{told}" ] || {{ echo "{told} was not made" >&2; exit 1; }}\nls "{told}"'


def _ps1_product(tool: Tool, model: str) -> str:
    told, *others = _places(tool, model)
    moves = "".join(
        f"\nif (!(Test-Path '{told}') -and (Test-Path '{other}')) {{ New-Item -Force -ItemType Directory {OUTPUT} | Out-Null; Move-Item '{other}' '{told}' }}"
        for other in others
    )
    return f"{moves.lstrip()}\nGet-ChildItem '{told}'"


def run_ps1(target: Target, model: str) -> str:
    """`run.ps1`: the same for PowerShell."""
    arguments = ", ".join("'" + argument.replace("'", "''") + "'" for argument in generate_arguments(target, model))
    weights = _weights(target)
    after = f"Get-ChildItem {OUTPUT}" if target.npu is not None else _ps1_product(_tool(target), model)
    if weights is not None:
        raw, address = weights
        after += (
            f"\nif (Get-Command arm-none-eabi-objcopy -ErrorAction SilentlyContinue) {{\n  Copy-Item '{OUTPUT}/{raw}' network_data.bin\n"
            f"  arm-none-eabi-objcopy -I binary network_data.bin --change-addresses {address} -O ihex network_data.hex\n"
            "}} else { Write-Warning 'arm-none-eabi-objcopy not found: network_data.hex is not made' }".replace("}}", "}")
        )
    stale = ", ".join(f"'{place}'" for place in _flashed(target, model))
    return _PS1.format(arguments=arguments, stale=stale, after=after)


_SH = """#!/bin/sh
# Builds the model with ST Edge AI Core: ./run.sh [path of stedgeai]
set -eu
cd "$(dirname "$0")"
if printf %s "$PWD" | LC_ALL=C grep -q '[^ -~]'; then
  echo "Move this folder: ST's compiler crashes on paths that are not plain ASCII" >&2
  exit 1
fi
{find}
rm -f {stale}
# A fresh installation asks about usage statistics on its first run; "n" is the answer.
echo n | "$tool" {arguments} || echo "stedgeai ended with status $?; look whether the files below are complete" >&2
{after}
"""

_PS1 = """# Builds the model with ST Edge AI Core: .\\run.ps1 [path of stedgeai.exe]
param([string]$Tool = "")
$ErrorActionPreference = "Stop"
Set-Location $PSScriptRoot
if ($Tool -eq "" -and $env:STEDGEAI_CORE_DIR) {{ $Tool = Join-Path $env:STEDGEAI_CORE_DIR "Utilities/windows/stedgeai.exe" }}
if ($Tool -eq "") {{ $Tool = "stedgeai" }}
Remove-Item -ErrorAction SilentlyContinue {stale}
# A fresh installation asks about usage statistics on its first run; "n" is the answer.
"n" | & $Tool @({arguments})
if ($LASTEXITCODE -ne 0) {{ Write-Warning "stedgeai ended with status $LASTEXITCODE; look whether the files below are complete" }}
{after}
"""
