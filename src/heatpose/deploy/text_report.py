"""Reads the tool's text reports.

(`network_generate_report.txt`, `..._analyze_report.txt`, `..._validate_report.txt`) and its console
output.

Sizes are written with 1024-based units, whatever they are called. Two generations of the table of
epochs are known: up to Core 2.2, and from 3.0 on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heatpose.deploy.facts import Facts, PoolUse, ReportError, SoftwareOperator, memory_sums

_UNITS = {
    "B": 1,
    "BYTES": 1,
    "KB": 1024,
    "KIB": 1024,
    "KBYTES": 1024,
    "MB": 1024**2,
    "MIB": 1024**2,
    "GB": 1024**3,
    "GIB": 1024**3,
}
_SIZE = r"([\d.,]+)\s*([kKMG]?i?B(?:ytes)?)"
# CubeMX puts this before every line of the console
_LOGGED = re.compile(r"^.*?CmdLine:\d+ - ", re.MULTILINE)
_VERSION = re.compile(r"^\s*ST Edge AI Core v(\S+(?: [0-9a-f]{6,})?)", re.MULTILINE)
_COMPILER = re.compile(r"^\s*Compiler version:\s*(\S+)", re.MULTILINE)
_MODEL = re.compile(r"^\s*(?:Model name - |model_name\s+:\s+)(\S+)", re.MULTILINE)
_POOL = re.compile(
    rf"^\s*(\w+)\s+\[(0x[0-9A-Fa-f]+) - (0x[0-9A-Fa-f]+)\]:\s*{_SIZE}\s*/\s*{_SIZE}\s*\(.*?\)\s*--"
    rf" weights:\s*{_SIZE}\s*\(.*?\)\s*activations:\s*{_SIZE}",
    re.MULTILINE,
)
_MACC = (
    re.compile(r"^model(?:/c-model)?: macc=([\d,]+)", re.MULTILINE),
    re.compile(r"^\s*macc\s+:\s+([\d,]+)", re.MULTILINE),
)
_ACTIVATIONS = re.compile(r"^\s*activations \(rw\)\s+:\s+([\d,]+) B", re.MULTILINE)
_WEIGHTS = re.compile(r"^\s*weights \(ro\)\s+:\s+([\d,]+) B", re.MULTILINE)
_RAM_TOTAL = re.compile(r"^\s*ram \(total\)\s+:\s+([\d,]+) B", re.MULTILINE)
_RUNTIME = re.compile(r"^\s*RT total\s+([\d,]+)\s+[\d.]+%\s+([\d,]+)\s+[\d.]+%", re.MULTILINE)
_OLD_TOTAL = re.compile(r"Total number of epochs:\s*(\d+) of which (\d+) implemented in software")
_OLD_ROW = re.compile(r"^\s*epoch\s+(\d+)\s+-SW-\s+\(\s*(.*?)\s*\)", re.MULTILINE)
_NEW_TOTALS = {
    "epochs_sw": re.compile(r"^>> pure software \(SW\) epochs\s+(\d+)", re.MULTILINE),
    "epochs_hybrid": re.compile(r"^>> hybrid epochs .*?\)\s+(\d+)", re.MULTILINE),
    "epochs_hw": re.compile(r"^>> pure hardware \(HW or EC\) epochs\s+(\d+)", re.MULTILINE),
}
_NEW_ROW = re.compile(r"^\|\s*(epochs?[^|]*?)\s*\|\s*([^|]*?)\s*\|\s*([^|]*?)\s*\|$", re.MULTILINE)
_DURATION = re.compile(r"^\s*duration\s+:\s+([\d.,]+) ms", re.MULTILINE)
_DEVICE = re.compile(r"^\s*device\.desc\s+:\s+(.*?)\s*$", re.MULTILINE)
_CROSS = re.compile(r"^X-cross #1\s+(.*)$", re.MULTILINE)


def read_text_report(path: Path) -> Facts:
    """Reads one report.

    Raises:
        ReportError: It cannot be read, or says nothing that is looked for.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ReportError(f"'{path}' cannot be read ({error.strerror}).") from error
    facts = facts_in(text)
    if facts == Facts():
        raise ReportError(f"'{path}' is no report of ST Edge AI Core.")
    return facts


def facts_in(text: str) -> Facts:
    """What a report or a console output says; nothing is an answer, too."""
    text = _LOGGED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    values: dict[str, Any] = {
        "tool_version": _first(_VERSION, text),
        "compiler_version": _first(_COMPILER, text),
        "model": _first(_MODEL, text),
        "device": _first(_DEVICE, text),
        # 2.x says 0 first
        "macc": next(
            (
                count
                for pattern in _MACC
                for found in pattern.findall(text)
                if (count := int(found.replace(",", "")))
            ),
            None,
        ),
    }
    try:
        values |= _sizes(text) | _epochs(text) | _measured(text)
    except (ValueError, KeyError) as error:  # a figure like "1.2.3" in a damaged file
        raise ReportError(f"The report has a figure that is none ({error}).") from error
    return Facts(**values)


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return None if found is None else found[1]


def _count(pattern: re.Pattern[str], text: str) -> int | None:
    found = _first(pattern, text)
    return None if found is None else int(found.replace(",", ""))


def _bytes(number: str, unit: str) -> int:
    return round(float(number.replace(",", "")) * _UNITS[unit.upper()])


def _sizes(text: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if (runtime := _RUNTIME.search(text)) is not None:
        facts |= {
            "runtime_flash": int(runtime[1].replace(",", "")),
            "runtime_ram": int(runtime[2].replace(",", "")),
        }
    pools = tuple(_pools(text))
    if pools:
        return facts | {"pools": pools} | memory_sums(pools)
    ram, weights = _count(_RAM_TOTAL, text), _count(_WEIGHTS, text)
    return facts | {
        "ram_internal": ram if ram is not None else _count(_ACTIVATIONS, text),
        "flash": weights,
    }


def _pools(text: str) -> Iterator[PoolUse]:
    """The table of memories. A virtual pool is named after the pools it is made of.

    Which are listed as well.
    """
    # a console may hold the table twice
    rows = list({row[1]: row for row in _POOL.finditer(text)}.values())
    names = {row[1] for row in rows}
    for row in rows:
        name, start, end = row[1], int(row[2], 16), int(row[3], 16)
        if "_" in name and set(name.split("_")) <= names:
            continue
        used, activations = _bytes(row[4], row[5]), _bytes(row[10], row[11])
        # The table does not say which memories are read-only: outside the chip, those called flash,
        # and those that hold weights alone.
        flash = PoolUse(name, start, None, 0, True).external and (
            "flash" in name.lower() or (used > 0 and activations == 0)
        )
        yield PoolUse(name, start, end - start, used, not flash)


def _epochs(text: str) -> dict[str, Any]:
    old = _OLD_TOTAL.search(text)
    if old is not None:
        total, software = int(old[1]), int(old[2])
        operators = tuple(
            SoftwareOperator(f"epoch_{row[1]}", row[2]) for row in _OLD_ROW.finditer(text)
        )
        return {
            "epochs_hw": total - software,
            "epochs_sw": software,
            "epochs_hybrid": 0,
            "software": operators,
        }
    totals = {key: _count(pattern, text) for key, pattern in _NEW_TOTALS.items()}
    if any(total is None for total in totals.values()):
        return {}  # another layout: better nothing than a guess
    rows = [
        row for row in _NEW_ROW.finditer(text) if "SW" in row[2].upper() or "HYB" in row[2].upper()
    ]
    return totals | {"software": tuple(SoftwareOperator(row[1], row[3]) for row in rows)}


def _measured(text: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    duration, cross = _first(_DURATION, text), _first(_CROSS, text)
    if duration is not None:
        facts["ms"] = float(duration.replace(",", ""))
    if cross is not None:
        values = cross.split()  # acc, rmse, mae, l2r, mean, std, nse, cos, ...
        facts |= {"rmse": _figure(values, 1), "cosine": _figure(values, 7)}
    return facts


def _figure(values: list[str], place: int) -> float | None:
    return float(values[place]) if len(values) > place and values[place] != "n.a." else None
