"""Reports in the formats of ST Edge AI Core, made up for the tests.

Also imported by the stand-in executable, which runs without heatpose.
"""

from __future__ import annotations

import json
from typing import Any

KIB = 1024
POOLS = {  # name: (address, KiB, used bytes, rights, file)
    "npuRAM5": (0x342E0000, 448, 442368, "ACC_WRITE", "AXISRAM5"),
    "npuRAM4": (0x34270000, 448, 387072, "ACC_WRITE", "AXISRAM4"),
    "cpuRAM2": (0x34100000, 1024, 884736, "ACC_WRITE", "AXISRAM2"),
    "cpuRAM1": (0x34064000, 0, 0, "ACC_WRITE", "AXISRAM1"),
    "octoFlash": (0x70380000, 62464, 2361344, "ACC_READ", "xSPI2"),
    "hyperRAM": (0x90000000, 16384, 0, "ACC_WRITE", "xSPI1"),
}
RAM, FLASH, MACC = 442368 + 387072 + 884736, 2361344, 242130944
SOFTWARE = {59: "Resize", 63: "Resize", 67: "Resize", 74: "DequantizeLinear"}
EPOCHS = 75


def c_info(
    version: str = "4.0.0-20500 359356bb0", macc: int = MACC, spilled: int = 0
) -> dict[str, Any]:
    """A `network_c_info.json` of an NPU build; `spilled` bytes lie in external RAM."""
    nodes = [_node("epoch_0", "NODE_NO_X", [("bias", "Param", "NODE_NO_X")], 0)]
    for number in range(1, EPOCHS + 1):
        operator = SOFTWARE.get(number)
        inner = (
            [(f"{operator}_{number}", operator, "NODE_SW_INTEGER")]
            if operator
            else [("Conv2D", "Conv", "NODE_HW")]
        )
        nodes.append(
            _node(
                f"epoch_{number}",
                "NODE_SW" if operator else "NODE_HW",
                inner,
                macc if number == 1 else 0,
            )
        )
    nodes.append(_node(f"epoch_{EPOCHS + 1}", "NODE_NO_X", [("return", "Return", "NODE_NO_X")], 0))
    pools = [
        {
            "name": n,
            "address": str(a),
            "size_bytes": k * KIB,
            "used_size_bytes": u,
            "rights": r,
            "subpools": [],
            "fname": f"atonbuf.{f}.raw",
        }
        for n, (a, k, u, r, f) in POOLS.items()
    ]
    pools[-1]["used_size_bytes"] = spilled
    virtual = {
        "name": "cpuRAM2_npuRAM4_npuRAM5",
        "address": str(0x34100000),
        "size_bytes": 2883584,
        "used_size_bytes": 2211840,
        "rights": "ACC_WRITE",
    }
    pools.append(virtual | {"subpools": [3, 2, 1], "fname": ""})
    return {
        "json_schema_version": "2.0",
        "environment": {
            "tools": [
                {
                    "name": "ST.EdgeAI.Core",
                    "version": version,
                    "arguments": "generate",
                    "input_model": {"name": "pose_192", "type": "tflite"},
                },
                {
                    "name": "ATONN Compiler",
                    "version": "1.1.3-262",
                    "arguments": "",
                    "input_model": {"name": "network"},
                },
            ],
            "generated_model": {"name": "network", "model_files": []},
        },
        "graphs": [{"name": "network", "nodes": nodes, "inputs": [1], "outputs": [2]}],
        "memory_footprint": {
            "activations": RAM,
            "weights": FLASH,
            "io": [0, 0],
            "series": "generic",
            **dict.fromkeys(
                ("kernel_flash", "kernel_ram", "toolchain", "toolchain_flash", "toolchain_ram")
            ),
        },
        "memory_pools": pools,
        "buffers": [],
        "ec_blobs_info": [],
        "memory_accesses": [],
        "power_estimates": [],
    }


def _node(name: str, mapping: str, inner: list[tuple[str, str, str]], macc: int) -> dict[str, Any]:
    parts = [{"name": n, "type": t, "mapping": m, "macc": 0, "attributes": {}} for n, t, m in inner]
    return {"name": name, "mapping": mapping, "macc": macc, "type": "", "subgraph_nodes": parts}


def processor_c_info() -> dict[str, Any]:
    """A build for the processor: pools are symbols without a size."""
    pools = [
        {
            "name": "heap_overlay_pool",
            "address": "NULL",
            "size_bytes": -1,
            "used_size_bytes": 23936,
            "rights": "ACC_WRITE",
            "subpools": [],
        },
        {
            "name": "weights_array",
            "address": "g_network_weights_array",
            "size_bytes": -1,
            "used_size_bytes": 492504,
            "rights": "ACC_READ",
            "subpools": [],
        },
    ]
    footprint = {
        "activations": 23936,
        "weights": 492504,
        "io": [0, 0],
        "kernel_flash": 10846,
        "kernel_ram": 1984,
        "series": "stm32n6",
    }
    nodes = [
        {"name": "conv_0", "mapping": "NODE_SW", "macc": 5000, "subgraph_nodes": []},
        {"name": "action", "mapping": "NODE_SW", "macc": 345},
    ]
    graphs = [{"name": "network", "nodes": nodes}]
    return {
        "json_schema_version": "2.0",
        "environment": {},
        "graphs": graphs,
        "memory_footprint": footprint,
        "memory_pools": pools,
    }


def validation_c_info(ms: float = 18.44) -> dict[str, Any]:
    """What a validation leaves in place of the file above: no memory, no nodes."""
    metrics = [{"desc": "X-cross #1", "acc": "n.a.", "rmse": 0.0012, "cos": 0.9998}]
    return {
        "json_schema_version": "2.0",
        "environment": {"device": "stm32 family - 0x486 - STM32N6xx @800/400MHz", "tools": []},
        "aton_execution_time": [
            {"counters": [1, 2, 3], "cycles": 6, "duration_ms": ms, "percentage": 100.0}
        ],
        "validation": {"val_error": 0.0012, "val_metrics": metrics},
    }


def report(generation: str, version: str) -> str:
    """`network_generate_report.txt` of an NPU build.

    `generation` of the epoch table: "old", "new", "blobs" or "unknown".
    """
    head = (
        f"ST Edge AI Core v{version}\nCreated date          : 2026-02-03 11:06:47\nParameters      "
        "      : generate -m pose_192.tflite --target stm32n6\n\n"
    )
    model = (
        f"Model name - pose_192\n------ ----\nmodel: macc={MACC:,} weights=9,192,000 activations=--"
        " io=--\n\n"
    )
    details = (
        "Compilation details\n-----\nCompiler version: 1.1.3-262\nCompiler arguments:  -i"
        " x.onnx\n=====\n\n"
    )
    title = "Memory usage information  (input/output buffers are included in activations)\n-----\n"
    rows = "".join(_pool_row(name) for name in POOLS)
    virtual = (
        "\tcpuRAM2_npuRAM4_npuRAM5    [0x34100000 - 0x343C0000]:      1.000 MB /      2.750 MB  ("
        " 36.36 % used) -- "
    )
    virtual += (
        "weights:          0  B (  0.00 % used)  activations:      1.000 MB ( 36.36 % used)\n"
    )
    total = (
        f"---\nTotal:   {(RAM + FLASH) / KIB / KIB:.3f} MB   -- weights: {FLASH / KIB / KIB:.3f} MB"
        f"   activations:  {RAM / KIB / KIB:.3f} MB\n=====\n\n"
    )
    summary = (
        ' Summary - "stm32n6npu" target\n               FLASH (ro)      %*    RAM (rw)      %\n  RT'
        " total         18,531   0.8%          13   0.0%\n"
    )
    return (
        head
        + model
        + details
        + title
        + rows
        + virtual
        + total
        + "Epochs details\n-----\n"
        + _epochs(generation)
        + "=====\n"
        + summary
    )


def _size(count: int) -> str:
    """As the tool writes sizes: 1024-based, with names that say otherwise."""
    if count < KIB:
        return f"{count:>10}  B"
    return f"{count / KIB:>10.3f} kB" if count < KIB * KIB else f"{count / KIB / KIB:>10.3f} MB"


def _pool_row(name: str) -> str:
    address, kib, used, rights, _ = POOLS[name]
    weights, activations = (used, 0) if rights == "ACC_READ" else (0, used)
    return (
        f"\t{name}    [0x{address:08X} - 0x{address + kib * KIB:08X}]: {_size(used)} /"
        f" {_size(kib * KIB)}  ( 12.00 % used) -- weights: {_size(weights)} (  1.00 % used) "
        f" activations: {_size(activations)} (  3.00 % used)\n"
    )


def _epochs(generation: str) -> str:
    software = len(SOFTWARE)
    if generation == "old":
        rows = [
            (
                f"epoch {n}     -SW-   (  {SOFTWARE[n]}  )"
                if n in SOFTWARE
                else f"epoch {n}       HW    "
            )
            for n in range(1, EPOCHS + 1)
        ]
        head = (
            f"Total number of epochs: {EPOCHS} of which {software} implemented in"
            " software\n---\nepoch ID   HW/SW/EC Operation (SW only)\n"
        )
        return head + "\n".join(rows) + "\n"
    if generation == "unknown":
        return "Epochs: see the attached diagram\n"
    blobs = generation == "blobs"
    counts = (
        f"Total number of epochs                               {EPOCHS}\n>> pure software (SW)"
        f" epochs                          {software}\n>> hybrid epochs (using both software and"
        f" hardware)   0\n>> pure hardware (HW or EC) epochs                   {EPOCHS - software} "
        f" (implemented in {5 if blobs else 0} epoch controller blobs/meta epochs)\n"
    )
    line = "+------------------+------+------------------+\n"
    if blobs:
        rows = [
            f"| epochs    {first} -> {last} |  EC  |                  |\n"
            for first, last in ((1, 58), (60, 62), (64, 66), (68, 73), (75, 75))
        ]
        rows += [f"| epoch_{n}         |  SW  | {operator} |\n" for n, operator in SOFTWARE.items()]
    else:
        rows = [
            f"| epoch_{n:<9} | {' SW ' if n in SOFTWARE else ' HW '} |"
            f" {SOFTWARE.get(n, ''):<16} |\n"
            for n in range(1, EPOCHS + 1)
        ]
    return (
        counts
        + "---\n"
        + line
        + "| epoch ID         | Type | Details          |\n"
        + line
        + "".join(rows)
        + line
    )


def processor_report() -> str:
    """A build for the processor: the summary block instead of the tables of memories and epochs."""
    return (
        "ST Edge AI Core v2.2.0-20266 2adc00962\nCreated date          : 2026-05-19"
        " 08:25:30\nParameters            : generate\n\nExec/report summary"
        " (generate)\n------\nmodel_name         :   pose_192          \nmodel_fmt          :  "
        " ss/sa per channel          \nmacc               :   5,345                      \nweights"
        " (ro)       :   492,504 B (480.96 KiB) (1 segment)          \nactivations (rw)   :  "
        " 23,936 B (23.38 KiB) (1 segment) *         \nram (total)        :   24,960 B (24.38 KiB)"
        " = 23,936 + 512 + 512       \n"
    )


def validate_report() -> str:
    """`network_validate_report.txt` of a run on a board."""
    return (
        "ST Edge AI Core v4.0.0-20500 359356bb0\n  device.desc                 :   stm32 family -"
        ' 0x486 - STM32N6xx @800/400MHz            \n  ST.AI Profiling results v2.0 - "network"\n'
        "  nb sample(s)   :   10      \n  duration       :   18.440 ms by sample"
        " (18.431/18.473/0.004)   \n  CPU cycles     :   [30,050 327,134 12,470]     "
        " \n\nEvaluation report (summary)\n------\nOutput       acc    rmse          mae          "
        " l2r           mean       std        nse        cos        tensor\nX-cross #1   n.a.  "
        " 0.001200000   0.000020814   0.000911705   0.000021   0.000116   0.999920   0.999800  "
        " 'out', 10 x int8(1x48x48x13), m_id=[1]\n"
    )


def dump(content: dict[str, Any]) -> str:
    """As text."""
    return json.dumps(content, indent=1)
