"""The two files that tell ST's NPU compiler about a board.

`user_neuralart.json` and the memory pool file that it names.
"""

from __future__ import annotations

import json
from typing import Any

from heatpose.deploy.targets import Npu, Pool

PROFILE = "user_neuralart.json"


def pool_file_name(target_name: str) -> str:
    """Of the memory pool file."""
    return f"{target_name}.mpool"


def profile_text(npu: Npu, target_name: str) -> str:
    """`user_neuralart.json`; the memory pool file lies beside it."""
    pool = f"./{pool_file_name(target_name)}"
    named = {name: {"memory_pool": pool, "options": text} for name, text in npu.profiles().items()}
    return json.dumps({"Globals": {}, "Profiles": named}, indent=2) + "\n"


def pool_text(npu: Npu) -> str:
    """The memory pool file, in the form of the ones that ST ships."""
    content = {
        "params": {
            "param": [{"paramname": "max_onchip_sram_size", "value": "1024", "magnitude": "KBYTES"}]
        },
        "memory": {
            "cacheinfo": [dict(npu.cache)] if npu.cache else [],
            "mem_file_prefix": "atonbuf",
            "mempools": [_pool(pool) for pool in npu.pools],
        },
    }
    return json.dumps(content, indent=2) + "\n"


def _pool(pool: Pool) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "rights": pool.rights,
        "throughput": pool.throughput,
        "latency": pool.latency,
        "byteWidth": pool.byte_width,
        "freqRatio": pool.freq_ratio,
        "read_power": pool.read_power,
        "write_power": pool.write_power,
    }
    if pool.cacheable:
        properties["cacheable"] = "CACHEABLE_ON"
    if pool.constants:
        properties["constants_preferred"] = "true"
    return {
        "fname": pool.file,
        "name": pool.name,
        "fformat": "FORMAT_RAW",
        "prop": properties,
        "offset": {"value": f"0x{pool.address:08X}", "magnitude": "BYTES"},
        "size": {"value": str(pool.kib), "magnitude": "KBYTES"},
    }
