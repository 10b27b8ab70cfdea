"""Reads the reports of ST Edge AI Core into `Facts`.

Formats: `network_c_info.json` (schema 2.x) of NPU builds, CPU builds and validations; text reports
(`network_generate_report.txt`, `..._analyze_report.txt`, `..._validate_report.txt`) and console
output. Text reports use 1024-based units under any name. The table of epochs has two layouts: up
to Core 2.2, and from 3.0 on. Sizes are bytes; None means "not reported".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from heatpose.errors import HeatposeError

EXTERNAL = 0x60000000
"""Memories from this address on are off-chip (ST's rule for STM32N6)."""


class ReportError(HeatposeError):
    """A report that cannot be parsed; callers try the next one."""


@dataclass(frozen=True)
class PoolUse:
    """Use of one memory pool.

    Attributes:
        name: As in the memory pool file.
        address: Address of the first byte; None if the report has a symbol.
        size: Size in bytes; None if unlimited.
        used: Bytes used by the build.
        writable: RAM, else flash.
    """

    name: str
    address: int | None
    size: int | None
    used: int
    writable: bool

    @property
    def external(self) -> bool:
        """Whether it is off-chip."""
        return "EXTERNAL" in self.name.upper() or (
            self.address is not None and self.address >= EXTERNAL
        )


@dataclass(frozen=True)
class SoftwareOperator:
    """An operator that runs on the CPU: epoch name and operator type as in the report."""

    epoch: str
    operator: str


@dataclass(frozen=True)
class Facts:
    """Values of one report or of several merged ones.

    Attributes:
        tool_version: For instance "3.0.0-20426 123672867".
        compiler_version: Version of the NPU compiler.
        model: Model name.
        pools: Memory pools, without virtual pools that consist of others.
        ram_internal: On-chip RAM for activations, inputs and outputs, bytes.
        ram_external: Off-chip RAM for activations, inputs and outputs, bytes.
        flash: Weights, bytes.
        runtime_flash: Code and constants of the runtime library, bytes.
        runtime_ram: RAM of the runtime library, bytes.
        macc: Multiply-accumulate operations.
        epochs_hw: Epochs on the NPU.
        epochs_sw: Epochs on the CPU.
        epochs_hybrid: Epochs on both.
        software: Operators on the CPU.
        ms: Time of one inference measured on a board, milliseconds.
        device: Board of the measurement.
        rmse: Root mean square error of the outputs against the tool's reference.
        cosine: Cosine similarity of the outputs with the tool's reference.
    """

    tool_version: str | None = None
    compiler_version: str | None = None
    model: str | None = None
    pools: tuple[PoolUse, ...] | None = None
    ram_internal: int | None = None
    ram_external: int | None = None
    flash: int | None = None
    runtime_flash: int | None = None
    runtime_ram: int | None = None
    macc: int | None = None
    epochs_hw: int | None = None
    epochs_sw: int | None = None
    epochs_hybrid: int | None = None
    software: tuple[SoftwareOperator, ...] | None = None
    ms: float | None = None
    device: str | None = None
    rmse: float | None = None
    cosine: float | None = None

    def declares_sizes(self) -> bool:
        """Whether the sizes of the build are known."""
        return self.ram_internal is not None and self.flash is not None

    def has_signal(self) -> bool:
        """Whether there is any size, count or time, not only names and versions."""
        return any(
            value is not None
            for value in (self.ram_internal, self.flash, self.macc, self.epochs_hw, self.ms)
        )

    def to_json(self) -> dict[str, Any]:
        """Attributes as plain values."""
        plain = asdict(self)
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()
        }


def merged(reports: Iterable[Facts]) -> Facts:
    """Merges reports: each value is taken from the first report that has it."""
    ordered = list(reports)
    values = {
        entry.name: next(
            (v for report in ordered if (v := getattr(report, entry.name)) is not None), None
        )
        for entry in fields(Facts)
    }
    return Facts(**values)


def memory_sums(pools: Sequence[PoolUse]) -> dict[str, int]:
    """`ram_internal`, `ram_external` and `flash` as sums over pools."""
    return {
        "ram_internal": sum(pool.used for pool in pools if pool.writable and not pool.external),
        "ram_external": sum(pool.used for pool in pools if pool.writable and pool.external),
        "flash": sum(pool.used for pool in pools if not pool.writable),
    }


SCHEMA = "2."


def read_c_info(path: Path) -> Facts:
    """Reads a c_info file.

    Raises:
        ReportError: The file is not JSON, has another schema, or violates the schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(
            f"'{path}' is not a c_info JSON of ST Edge AI Core ({type(error).__name__})."
        ) from error
    return facts_of(content, path)


def facts_of(content: Any, path: Path) -> Facts:
    """Extracts the values of a parsed c_info.

    Args:
        content: Parsed JSON.
        path: Its file, for error messages.

    Raises:
        ReportError: As `read_c_info`.
    """
    schema = content.get("json_schema_version") if isinstance(content, dict) else None
    if schema is None:
        raise ReportError(f"'{path}' is not a c_info JSON of ST Edge AI Core.")
    if not str(schema).startswith(SCHEMA):
        raise ReportError(
            f"'{path}' has schema {schema}, but only 2.x is supported; the tool may be newer than"
            " this version of heatpose."
        )
    try:
        return Facts(
            **_json_tools(content),
            **_json_memory(content),
            **_json_epochs(content),
            **_json_measured(content),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ReportError(f"'{path}' is damaged ({type(error).__name__}: {error}).") from error


def _json_tools(content: Mapping[str, Any]) -> dict[str, Any]:
    environment = content.get("environment") or {}
    tools = {tool["name"]: tool for tool in environment.get("tools") or []}
    core, compiler = tools.get("ST.EdgeAI.Core"), tools.get("ATONN Compiler")
    model = None if core is None else (core.get("input_model") or {}).get("name")
    return {
        "tool_version": None if core is None else _text_or_none(core.get("version")),
        "compiler_version": None if compiler is None else _text_or_none(compiler.get("version")),
        "model": _text_or_none(model),
        "device": _text_or_none(environment.get("device")),
    }


def _json_memory(content: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes; empty for the file of a validation, which has none."""
    footprint = content.get("memory_footprint")
    if not footprint:
        return {}
    facts: dict[str, Any] = {
        "ram_internal": (
            int(footprint["activations"]) + sum(int(size) for size in footprint.get("io") or [])
        ),
        "flash": int(footprint["weights"]),
        "runtime_flash": int(footprint.get("kernel_flash") or 0) or None,
        "runtime_ram": int(footprint.get("kernel_ram") or 0) or None,
    }
    pools = tuple(
        _json_pool(entry)
        for entry in content.get("memory_pools") or []
        if not entry.get("subpools")
    )
    facts["pools"] = pools
    # an NPU build; in other builds pools are linker symbols
    if pools and all(pool.address is not None for pool in pools):
        facts |= memory_sums(pools)
    return facts


def _json_pool(entry: Mapping[str, Any]) -> PoolUse:
    """A pool entry.

    Addresses are decimal strings in NPU builds, symbols or "NULL" in others; size -1 is unlimited.
    """
    address, size = str(entry["address"]), int(entry["size_bytes"])
    return PoolUse(
        str(entry["name"]),
        int(address, 0) if address[:1].isdigit() else None,
        None if size < 0 else size,
        int(entry["used_size_bytes"]),
        entry["rights"] != "ACC_READ",
    )


def _json_epochs(content: Mapping[str, Any]) -> dict[str, Any]:
    """Epochs and multiply-accumulates of an NPU build; some versions report 0 of the latter."""
    graphs = content.get("graphs")
    if not graphs:
        return {}
    nodes = graphs[0].get("nodes") or []
    facts: dict[str, Any] = {"macc": sum(int(node.get("macc") or 0) for node in nodes) or None}
    epochs = [node for node in nodes if str(node["name"]).startswith("epoch")]
    if not epochs:
        return facts
    kinds = [_epoch_kind(node) for node in epochs]
    software = [
        (node, kind) for node, kind in zip(epochs, kinds, strict=True) if kind in ("sw", "hybrid")
    ]
    return facts | {
        "epochs_hw": kinds.count("hw"),
        "epochs_sw": kinds.count("sw"),
        "epochs_hybrid": kinds.count("hybrid"),
        "software": tuple(operator for node, _ in software for operator in _json_software(node)),
    }


def _epoch_kind(node: Mapping[str, Any]) -> str:
    """Kind "sw", "hw" or "hybrid"; empty for the first and last epoch, without operators."""
    mapping = str(node["mapping"])
    if mapping.endswith("NO_X"):
        return ""
    inner = [str(part["mapping"]) for part in node.get("subgraph_nodes") or []]
    in_software = any(part.startswith("NODE_SW") for part in inner)
    in_hardware = any(part.startswith(("NODE_HW", "NODE_EC")) for part in inner)
    if in_software and in_hardware:
        return "hybrid"
    return "sw" if mapping.startswith("NODE_SW") or in_software else "hw"


def _json_software(node: Mapping[str, Any]) -> list[SoftwareOperator]:
    parts = [
        part
        for part in node.get("subgraph_nodes") or []
        if str(part["mapping"]).startswith("NODE_SW")
    ]
    return [
        SoftwareOperator(str(node["name"]), str(part.get("type") or part["name"])) for part in parts
    ] or [SoftwareOperator(str(node["name"]), "")]


def _json_measured(content: Mapping[str, Any]) -> dict[str, Any]:
    """Time and accuracy of a validation."""
    facts: dict[str, Any] = {}
    steps = content.get("aton_execution_time") or [
        graph["exec_time"] for graph in (content.get("graphs") or [])[:1] if graph.get("exec_time")
    ]
    if steps:
        facts["ms"] = sum(float(step["duration_ms"]) for step in steps)
    metrics = (content.get("validation") or {}).get("val_metrics") or []
    cross = next(
        (metric for metric in metrics if str(metric.get("desc", "")).startswith("X-cross")), None
    )
    if cross is not None:
        facts |= {
            "rmse": _number_or_none(cross.get("rmse")),
            "cosine": _number_or_none(cross.get("cos")),
        }
    return facts


def _text_or_none(value: Any) -> str | None:
    return str(value) if value else None


def _number_or_none(value: Any) -> float | None:
    """A number; None for "n.a."."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


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
# prefix of every console line in CubeMX
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
    """Reads a text report.

    Raises:
        ReportError: The file cannot be read or contains none of the expected values.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ReportError(f"'{path}' cannot be read ({error.strerror}).") from error
    facts = facts_in(text)
    if facts == Facts():
        raise ReportError(f"'{path}' is not a report of ST Edge AI Core.")
    return facts


def facts_in(text: str) -> Facts:
    """Extracts the values of a report or console output; may be empty."""
    text = _LOGGED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    values: dict[str, Any] = {
        "tool_version": _first(_VERSION, text),
        "compiler_version": _first(_COMPILER, text),
        "model": _first(_MODEL, text),
        "device": _first(_DEVICE, text),
        # 2.x prints 0 first
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
        values |= _text_sizes(text) | _text_epochs(text) | _text_measured(text)
    except (ValueError, KeyError) as error:  # a figure like "1.2.3" in a damaged file
        raise ReportError(f"The report has an invalid number ({error}).") from error
    return Facts(**values)


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return None if found is None else found[1]


def _count(pattern: re.Pattern[str], text: str) -> int | None:
    found = _first(pattern, text)
    return None if found is None else int(found.replace(",", ""))


def _bytes(number: str, unit: str) -> int:
    return round(float(number.replace(",", "")) * _UNITS[unit.upper()])


def _text_sizes(text: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if (runtime := _RUNTIME.search(text)) is not None:
        facts |= {
            "runtime_flash": int(runtime[1].replace(",", "")),
            "runtime_ram": int(runtime[2].replace(",", "")),
        }
    pools = tuple(_text_pools(text))
    if pools:
        return facts | {"pools": pools} | memory_sums(pools)
    ram, weights = _count(_RAM_TOTAL, text), _count(_WEIGHTS, text)
    return facts | {
        "ram_internal": ram if ram is not None else _count(_ACTIVATIONS, text),
        "flash": weights,
    }


def _text_pools(text: str) -> Iterator[PoolUse]:
    """Rows of the memory table, without virtual pools, which are named after their parts."""
    # the console output may contain the table twice
    rows = list({row[1]: row for row in _POOL.finditer(text)}.values())
    names = {row[1] for row in rows}
    for row in rows:
        name, start, end = row[1], int(row[2], 16), int(row[3], 16)
        if "_" in name and set(name.split("_")) <= names:
            continue
        used, activations = _bytes(row[4], row[5]), _bytes(row[10], row[11])
        # The table does not mark read-only memories. Off-chip memories count as flash if they are
        # named so or hold only weights.
        flash = PoolUse(name, start, None, 0, True).external and (
            "flash" in name.lower() or (used > 0 and activations == 0)
        )
        yield PoolUse(name, start, end - start, used, not flash)


def _text_epochs(text: str) -> dict[str, Any]:
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
        return {}  # unknown layout
    rows = [
        row for row in _NEW_ROW.finditer(text) if "SW" in row[2].upper() or "HYB" in row[2].upper()
    ]
    return totals | {"software": tuple(SoftwareOperator(row[1], row[3]) for row in rows)}


def _text_measured(text: str) -> dict[str, Any]:
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
