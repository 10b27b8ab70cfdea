"""What ST's tool says about a build, whatever file it says it in.

Sizes are bytes, None is "not said".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from heatpose.errors import HeatposeError

EXTERNAL = 0x60000000
"""Memories from this address on are outside the chip (ST's own rule for STM32N6)."""


class ReportError(HeatposeError):
    """A report that cannot be understood; another one may."""


@dataclass(frozen=True)
class PoolUse:
    """One memory.

    Attributes:
        name: As in the memory pool file.
        address: Of its first byte; None where the tool gives a symbol instead.
        size: Bytes it has; None where unlimited.
        used: Bytes the build takes of it.
        writable: RAM; else flash.
    """

    name: str
    address: int | None
    size: int | None
    used: int
    writable: bool

    @property
    def external(self) -> bool:
        """Whether it lies outside the chip."""
        return "EXTERNAL" in self.name.upper() or (
            self.address is not None and self.address >= EXTERNAL
        )


@dataclass(frozen=True)
class SoftwareOperator:
    """An operator that runs on the processor.

    The epoch's name and the operator's type as the tool writes them.
    """

    epoch: str
    operator: str


@dataclass(frozen=True)
class Facts:
    """What one report says, or several together.

    Attributes:
        tool_version: "3.0.0-20426 123672867".
        compiler_version: Of the NPU compiler.
        model: The model's name as the tool writes it.
        pools: Memories, without the virtual ones that others are part of.
        ram_internal: On-chip RAM for activations, inputs and outputs.
        ram_external: Likewise outside the chip.
        flash: Weights.
        runtime_flash: Code and constants of the runtime library.
        runtime_ram: Its RAM.
        macc: Multiply-accumulates.
        epochs_hw: Steps on the NPU.
        epochs_sw: Steps on the processor.
        epochs_hybrid: Steps on both.
        software: What runs on the processor.
        ms: Time of one inference, measured on a board.
        device: The board, where measured.
        rmse: Root mean square error of the outputs against the tool's reference.
        cosine: Cosine similarity of the outputs, likewise.
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
        """Whether there is more than who wrote the report about which model."""
        return any(
            value is not None
            for value in (self.ram_internal, self.flash, self.macc, self.epochs_hw, self.ms)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values under the same names."""
        plain = asdict(self)
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()
        }


def merged(reports: Iterable[Facts]) -> Facts:
    """Each fact from the first report that has it."""
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
