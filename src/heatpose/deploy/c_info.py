"""Reads `network_c_info.json` (schema 2.0), of NPU builds, of processor builds.

And the short one that a validation leaves behind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heatpose.deploy.facts import Facts, PoolUse, ReportError, SoftwareOperator, memory_sums

SCHEMA = "2."


def read_c_info(path: Path) -> Facts:
    """Reads one file.

    Raises:
        ReportError: It is no json, of another schema, or an entry is not what the schema says.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(
            f"'{path}' is no c_info json of ST Edge AI Core ({type(error).__name__})."
        ) from error
    return facts_of(content, path)


def facts_of(content: Any, path: Path) -> Facts:
    """The facts in a c_info that has been read, from a file that is named in errors.

    Raises:
        ReportError: As `read_c_info`.
    """
    schema = content.get("json_schema_version") if isinstance(content, dict) else None
    if schema is None:
        raise ReportError(f"'{path}' is no c_info json of ST Edge AI Core.")
    if not str(schema).startswith(SCHEMA):
        raise ReportError(
            f"'{path}' has schema {schema}, which is not known here (2.x is); the tool may be newer"
            " than this version of heatpose."
        )
    try:
        return Facts(
            **_tools(content), **_memory(content), **_epochs(content), **_measured(content)
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ReportError(f"'{path}' is damaged ({type(error).__name__}: {error}).") from error


def _tools(content: Mapping[str, Any]) -> dict[str, Any]:
    environment = content.get("environment") or {}
    tools = {tool["name"]: tool for tool in environment.get("tools") or []}
    core, compiler = tools.get("ST.EdgeAI.Core"), tools.get("ATONN Compiler")
    model = None if core is None else (core.get("input_model") or {}).get("name")
    return {
        "tool_version": None if core is None else _text(core.get("version")),
        "compiler_version": None if compiler is None else _text(compiler.get("version")),
        "model": _text(model),
        "device": _text(environment.get("device")),
    }


def _memory(content: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes; nothing where the file has none (the one of a validation)."""
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
        _pool(entry) for entry in content.get("memory_pools") or [] if not entry.get("subpools")
    )
    facts["pools"] = pools
    # an NPU build; else the pools are symbols of the linker
    if pools and all(pool.address is not None for pool in pools):
        facts |= memory_sums(pools)
    return facts


def _pool(entry: Mapping[str, Any]) -> PoolUse:
    """Addresses are decimal strings in NPU builds, symbols or "NULL" in others.

    A size of -1 is no limit.
    """
    address, size = str(entry["address"]), int(entry["size_bytes"])
    return PoolUse(
        str(entry["name"]),
        int(address, 0) if address[:1].isdigit() else None,
        None if size < 0 else size,
        int(entry["used_size_bytes"]),
        entry["rights"] != "ACC_READ",
    )


def _epochs(content: Mapping[str, Any]) -> dict[str, Any]:
    """Epochs of an NPU build, and its multiply-accumulates, which some versions leave at 0."""
    graphs = content.get("graphs")
    if not graphs:
        return {}
    nodes = graphs[0].get("nodes") or []
    facts: dict[str, Any] = {"macc": sum(int(node.get("macc") or 0) for node in nodes) or None}
    epochs = [node for node in nodes if str(node["name"]).startswith("epoch")]
    if not epochs:
        return facts
    kinds = [_kind(node) for node in epochs]
    software = [
        (node, kind) for node, kind in zip(epochs, kinds, strict=True) if kind in ("sw", "hybrid")
    ]
    return facts | {
        "epochs_hw": kinds.count("hw"),
        "epochs_sw": kinds.count("sw"),
        "epochs_hybrid": kinds.count("hybrid"),
        "software": tuple(operator for node, _ in software for operator in _software(node)),
    }


def _kind(node: Mapping[str, Any]) -> str:
    """One of "sw", "hw", "hybrid", or empty for the first and last epoch, which do nothing."""
    mapping = str(node["mapping"])
    if mapping.endswith("NO_X"):
        return ""
    inner = [str(part["mapping"]) for part in node.get("subgraph_nodes") or []]
    in_software = any(part.startswith("NODE_SW") for part in inner)
    in_hardware = any(part.startswith(("NODE_HW", "NODE_EC")) for part in inner)
    if in_software and in_hardware:
        return "hybrid"
    return "sw" if mapping.startswith("NODE_SW") or in_software else "hw"


def _software(node: Mapping[str, Any]) -> list[SoftwareOperator]:
    parts = [
        part
        for part in node.get("subgraph_nodes") or []
        if str(part["mapping"]).startswith("NODE_SW")
    ]
    return [
        SoftwareOperator(str(node["name"]), str(part.get("type") or part["name"])) for part in parts
    ] or [SoftwareOperator(str(node["name"]), "")]


def _measured(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a validation adds."""
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
        facts |= {"rmse": _number(cross.get("rmse")), "cosine": _number(cross.get("cos"))}
    return facts


def _text(value: Any) -> str | None:
    return str(value) if value else None


def _number(value: Any) -> float | None:
    """Figures may be "n.a."."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
