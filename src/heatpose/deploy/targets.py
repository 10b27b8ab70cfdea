"""What a board is: which artefact it takes, its memory, its limits.

And which versions of ST's compiler can build for it.

A target is a YAML file: the built-in ones are `conf/target/*.yaml`, a board of one's own is another
file in that form, named by its path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from heatpose.deploy.application import Application
from heatpose.deploy.facts import EXTERNAL
from heatpose.deploy.parts import part, version_of
from heatpose.errors import HeatposeError

ARTEFACTS = ("float32", "int8_pc", "int8_pt")
RIGHTS = ("ACC_WRITE", "ACC_READ")
OLDER = "core_2"
"""Profile for ST Edge AI Core 2, beside the one for newer versions."""


@dataclass(frozen=True)
class Tool:
    """ST Edge AI Core for one target.

    Attributes:
        target: Value of its `--target`.
        path: `stedgeai` or its installation folder for this target alone; None looks in the usual
            places.
        oldest: Oldest Core version that is known to work, "major.minor".
        newest: Newest one; None where none is known to be too new.
        component: What a line of `stedgeai --version` begins with where the needed component is
            installed; None where nothing is needed.
        compiler: A program beside `stedgeai` that it needs; None where nothing is needed.
        options: Further options of `generate`.
        product: Pattern of the file that makes a run a success; `{model}` stands for the model
            file's stem.
        output: Folder below the working directory where the tool looks first when it is not told;
            searched for products.
        time_limit_s: Seconds after which a run is ended.
    """

    target: str
    oldest: str
    product: str
    newest: str | None = None
    component: str | None = None
    compiler: str | None = None
    options: Sequence[str] = ()
    output: str = "st_ai_output"
    time_limit_s: float = 1800.0
    path: str | None = None

    def range_text(self) -> str:
        """The range of versions in words."""
        return f"{self.oldest} to {self.newest}" if self.newest else f"{self.oldest} or newer"

    def supports(self, version: Sequence[int]) -> bool:
        """Whether a Core version (major, minor, ...) is in the range."""
        own = tuple(version[:2])
        return version_of(self.oldest) <= own and (
            self.newest is None or own <= version_of(self.newest)
        )


@dataclass(frozen=True)
class Pool:
    """A memory of the board as the NPU compiler's memory pool file describes it.

    Attributes:
        name: "npuRAM5".
        file: Suffix of the initialisation file, "AXISRAM5".
        address: Of its first byte.
        kib: Size in KiB; 0 keeps the compiler off it.
        rights: "ACC_WRITE" (RAM) or "ACC_READ" (flash).
        throughput: "LOW", "MID" or "HIGH".
        latency: Likewise.
        byte_width: Bytes per access.
        freq_ratio: NPU clock over this memory's clock.
        cacheable: Behind the NPU's cache.
        read_power: mW, for the compiler's power estimate.
        write_power: Likewise.
        constants: Weights go here first.
    """

    name: str
    file: str
    address: int
    kib: int
    rights: str = "ACC_WRITE"
    throughput: str = "MID"
    latency: str = "MID"
    byte_width: int = 8
    freq_ratio: float = 2.5
    cacheable: bool = False
    read_power: float = 0.0
    write_power: float = 0.0
    constants: bool = False

    @property
    def external(self) -> bool:
        """Whether it lies outside the chip."""
        return self.address >= EXTERNAL

    def __post_init__(self) -> None:
        if self.rights not in RIGHTS or self.kib < 0 or not 0 <= self.address < 1 << 32:
            raise HeatposeError(
                f"Memory pool '{self.name}' needs rights {' or '.join(RIGHTS)}, a size >= 0 KiB and"
                " a 32-bit address."
            )


@dataclass(frozen=True)
class Npu:
    """Neural-ART compiler settings.

    Attributes:
        profile: Name of the profile in `user_neuralart.json`.
        options: Compiler options, as in that file.
        pools: Memories.
        cache: The NPU cache's entry of the memory pool file.
        older_options: Options for ST Edge AI Core 2, where they differ; empty where they do not.
    """

    profile: str
    options: str
    pools: Sequence[Pool]
    cache: Mapping[str, Any] = field(default_factory=dict)
    older_options: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "pools", tuple(part(Pool, pool, "npu.pools") for pool in self.pools)
        )

    def profiles(self) -> dict[str, str]:
        """Names of the profiles and their options."""
        older = {OLDER: self.older_options} if self.older_options else {}
        return {self.profile: self.options, **older}

    def profile_for(self, major: int | None) -> str:
        """Name of the profile for a major version of ST Edge AI Core; None is the newest."""
        return OLDER if major is not None and major < 3 and self.older_options else self.profile

    def on_chip_kib(self) -> float:
        """RAM on the chip that the compiler may use."""
        ram = (pool for pool in self.pools if pool.rights == "ACC_WRITE" and not pool.external)
        return float(sum(pool.kib for pool in ram))

    def weights_pool(self) -> Pool | None:
        """Where the weights go: the pool that prefers constants, else the first read-only one."""
        usable = [pool for pool in self.pools if pool.kib]
        return next(
            (p for p in usable if p.constants),
            next((p for p in usable if p.rights == "ACC_READ"), None),
        )


@dataclass(frozen=True)
class Budget:
    """What a model may take; None is no limit. KiB are 1024 bytes."""

    ram_kib: float | None = None
    flash_kib: float | None = None
    ms: float | None = None


@dataclass(frozen=True)
class Rules:
    """What the target's compiler does with a TFLite's operators.

    Attributes:
        software: Operator -> why it runs on the processor instead of the NPU.
        unsupported: Operator -> why it does not compile.
        unconfirmed: Operator -> why it is not known whether it runs on the NPU or the processor.
        kernel_height: Tallest convolution kernel that is not decomposed; None for any.
        kernel_width: Widest one at stride 1.
        kernel_width_strided: Widest one at larger strides.
        pool_side: Largest pooling window that is not decomposed.
        max_rank: Most dimensions of a tensor.
        max_dimension: Longest dimension of a tensor.
        input_alignment: The size of the input in bytes should be a multiple of this.
        other_granularity: What happens with an artefact of the other weight granularity; empty
            where that is no matter.
        float_output: What a float32 output costs; empty where that is no matter.
    """

    software: Mapping[str, str] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    unconfirmed: Mapping[str, str] = field(default_factory=dict)
    kernel_height: int | None = None
    kernel_width: int | None = None
    kernel_width_strided: int | None = None
    pool_side: int | None = None
    max_rank: int | None = None
    max_dimension: int | None = None
    input_alignment: int = 1
    other_granularity: str = ""
    float_output: str = ""


@dataclass(frozen=True)
class Flashing:
    """How the result gets onto the board.

    Addresses as numbers, texts for the README of the deployment package.

    Attributes:
        kind: "neural_art" (weights and a signed application in external flash) or "linux" (files
            copied to a running system).
        application_address: Where the signed application starts.
        weights_address: Where the weights start; the weights pool's address where None.
        loader: External flash loader of STM32CubeProgrammer.
        boot_loader: The application's first-stage boot loader, below its folder.
        folder: On a Linux board: where the application goes.
    """

    kind: str
    application_address: int | None = None
    weights_address: int | None = None
    loader: str = ""
    folder: str = ""
    boot_loader: str = "FSBL/ai_fsbl.hex"

    def __post_init__(self) -> None:
        if self.kind not in ("neural_art", "linux"):
            raise HeatposeError(
                f"Flashing kind '{self.kind}' is unknown; choose neural_art or linux."
            )


@dataclass(frozen=True)
class Export:
    """How the int8 files made for a target end, where `quant` leaves it open.

    Attributes:
        output: "float32", or "int8" without the last dequantisation.
        sigmoid: Ends them in a sigmoid; else they give logits.
    """

    output: Literal["float32", "int8"] = "float32"
    sigmoid: bool = True

    def __post_init__(self) -> None:
        if self.output not in ("float32", "int8"):
            raise HeatposeError(
                f"A target's export.output is '{self.output}'; choose float32 or int8."
            )


@dataclass(frozen=True)
class Target:
    """A board.

    Attributes:
        name: Short; also the name of the folder in a bundle.
        board: What it is.
        artefact: Which of the bundle's forms it takes: "int8_pc", "int8_pt" or "float32".
        flashing: How the result gets onto it.
        input_dtype: Of the network's input there; "uint8" takes camera bytes.
        output_dtype: "float32" or "int8"; None leaves the file's own.
        export: How files that are made for it end.
        tool: ST's compiler; None where the TFLite runs as it is.
        npu: Settings of the NPU compiler, where there is one.
        budget: What a model may take.
        rules: About operators.
        application: ST's application for the board; None where there is none.
        estimator: Profile of the estimator that `heatpose estimate` takes by default; None where
            there is none for this target.
    """

    name: str
    board: str
    artefact: str
    flashing: Flashing
    input_dtype: str = "uint8"
    output_dtype: str | None = None
    export: Export = field(default_factory=Export)
    tool: Tool | None = None
    npu: Npu | None = None
    budget: Budget = field(default_factory=Budget)
    rules: Rules = field(default_factory=Rules)
    application: Application | None = None
    estimator: str | None = None

    def __post_init__(self) -> None:
        kinds: dict[str, type[Any]] = {
            "flashing": Flashing,
            "export": Export,
            "tool": Tool,
            "npu": Npu,
            "budget": Budget,
            "rules": Rules,
            "application": Application,
        }
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value is None and name not in ("tool", "npu", "application"):
                value = {}  # an empty entry in the YAML
            if value is not None:
                object.__setattr__(self, name, part(kind, value, name))
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(self.name)):
            raise HeatposeError(
                f"Target name '{self.name}' becomes a folder; use letters, digits, '-' and '_'."
            )
        if self.artefact not in ARTEFACTS:
            raise HeatposeError(
                f"Target '{self.name}' asks for artefact '{self.artefact}'; choose one of"
                f" {', '.join(ARTEFACTS)}."
            )
        if self.output_dtype not in (None, "float32", "int8", "uint8") or self.input_dtype not in (
            "uint8",
            "int8",
            "float32",
        ):
            raise HeatposeError(
                f"Target '{self.name}': input_dtype and output_dtype are uint8, int8 or float32."
            )
