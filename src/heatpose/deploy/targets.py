"""Boards: artefact, memory, limits, operator rules, and the versions of ST's compiler for it.

A target is a YAML file: the built-in ones are `conf/target/*.yaml`; a custom board is another file
with the same keys, given by its path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from heatpose.deploy.application import Application
from heatpose.deploy.reports import EXTERNAL
from heatpose.errors import HeatposeError
from heatpose.utils.files import conf_folder

_HYDRA = ("_target_", "_convert_", "_partial_", "_recursive_")
_Part = TypeVar("_Part")


def part(kind: type[_Part], value: Any, where: str) -> _Part:
    """Converts an entry of the YAML to a dataclass; instances are returned unchanged.

    Raises:
        HeatposeError: The entry is not a mapping, or keys are unknown, missing or of another type.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise HeatposeError(
            f"The target's entry '{where}' is {value!r}, not a mapping; see"
            " conf/target/stm32n6.yaml for an example."
        )
    given = {str(key): content for key, content in value.items() if key not in _HYDRA}
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(given) - known):
        raise HeatposeError(
            f"The target's entry '{where}' has unknown keys {unknown}; known are"
            f" {', '.join(sorted(known))}."
        )
    if wrong := [
        f"{key}: {content!r}"
        for key, content in given.items()
        if not _has_type(content, get_type_hints(kind)[key])
    ]:
        raise HeatposeError(
            f"The target's entry '{where}' has values of the wrong type ({', '.join(wrong)}); see"
            " conf/target/stm32n6.yaml for an example."
        )
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise HeatposeError(
            f"The target's entry '{where}' is incomplete or of the wrong type ({error}); see"
            " conf/target/stm32n6.yaml for an example."
        ) from error


def _has_type(value: Any, hint: Any) -> bool:
    """Checks scalars and mappings of strings; nested entries are checked by their own classes."""
    choices = get_args(hint) if get_args(hint) and type(None) in get_args(hint) else (hint,)
    scalars = {choice for choice in choices if choice in (str, int, float, bool, NoneType)}
    if len(scalars) < len(choices):
        texts = Mapping[str, str]
        return not (
            texts in choices
            and not (
                isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values())
            )
        )
    if float in scalars and type(value) is int:
        return True
    return type(value) in scalars


def version_of(text: str) -> tuple[int, ...]:
    """Converts "2.2" to (2, 2)."""
    try:
        return tuple(int(number) for number in str(text).split("."))
    except ValueError as error:
        raise HeatposeError(
            f"'{text}' is not a version; write it like \"2.2\", with quotes."
        ) from error


ARTEFACTS = ("float32", "int8_pc", "int8_pt")
RIGHTS = ("ACC_WRITE", "ACC_READ")
OLDER = "core_2"
"""Name of the additional profile for ST Edge AI Core 2."""


@dataclass(frozen=True)
class Tool:
    """ST Edge AI Core for one target.

    Attributes:
        target: Value of its `--target`.
        path: `stedgeai` or its installation folder for this target alone; None searches the
            standard locations.
        oldest: Oldest supported Core version, "major.minor".
        newest: Newest supported version; None for no upper limit.
        component: Required component, as a prefix of a line of `stedgeai --version`; None if none.
        compiler: Required program beside `stedgeai`; None if none.
        options: Further options of `generate`.
        product: Pattern of the file that a successful run writes; `{model}` stands for the stem of
            the model file.
        output: The tool's default output folder below the working directory, also searched for
            products.
        time_limit_s: Seconds after which a run is killed.
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
        """Supported versions as text."""
        return f"{self.oldest} to {self.newest}" if self.newest else f"{self.oldest} or newer"

    def supports(self, version: Sequence[int]) -> bool:
        """Whether a Core version (major, minor, ...) is supported."""
        own = tuple(version[:2])
        return version_of(self.oldest) <= own and (
            self.newest is None or own <= version_of(self.newest)
        )


@dataclass(frozen=True)
class Pool:
    """A memory of the board, as in the NPU compiler's memory pool file.

    Attributes:
        name: For instance "npuRAM5".
        file: Suffix of the initialisation file, for instance "AXISRAM5".
        address: Address of the first byte.
        kib: Size in KiB; 0 excludes it from allocation.
        rights: "ACC_WRITE" (RAM) or "ACC_READ" (flash).
        throughput: "LOW", "MID" or "HIGH".
        latency: "LOW", "MID" or "HIGH".
        byte_width: Bytes per access.
        freq_ratio: NPU clock divided by this memory's clock.
        cacheable: Whether it is behind the NPU's cache.
        read_power: mW, for the compiler's power estimate.
        write_power: mW, likewise.
        constants: Preferred for weights.
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
        """Whether it is off-chip."""
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
        cache: NPU cache entry of the memory pool file.
        older_options: Options for ST Edge AI Core 2; empty if they are the same.
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
        """Profile name -> compiler options."""
        older = {OLDER: self.older_options} if self.older_options else {}
        return {self.profile: self.options, **older}

    def profile_for(self, major: int | None) -> str:
        """Profile name for a major version of ST Edge AI Core; None for the newest."""
        return OLDER if major is not None and major < 3 and self.older_options else self.profile

    def on_chip_kib(self) -> float:
        """On-chip RAM that the compiler may use, KiB."""
        ram = (pool for pool in self.pools if pool.rights == "ACC_WRITE" and not pool.external)
        return float(sum(pool.kib for pool in ram))

    def weights_pool(self) -> Pool | None:
        """Pool of the weights: the one preferred for constants, else the first read-only one."""
        usable = [pool for pool in self.pools if pool.kib]
        return next(
            (p for p in usable if p.constants),
            next((p for p in usable if p.rights == "ACC_READ"), None),
        )


@dataclass(frozen=True)
class Budget:
    """Limits for a model; None for no limit. 1 KiB = 1024 bytes."""

    ram_kib: float | None = None
    flash_kib: float | None = None
    ms: float | None = None


@dataclass(frozen=True)
class Rules:
    """Operator support and limits of the target's compiler.

    Attributes:
        software: Operator -> why it runs on the CPU instead of the NPU.
        unsupported: Operator -> why it does not compile.
        unconfirmed: Operator -> why it is unknown whether it runs on the NPU or the CPU.
        kernel_height: Largest height of a convolution kernel that is not decomposed; None for any.
        kernel_width: Largest width at stride 1.
        kernel_width_strided: Largest width at larger strides.
        pool_side: Largest side of a pooling window that is not decomposed.
        max_rank: Maximum number of dimensions of a tensor.
        max_dimension: Maximum length of a dimension.
        input_alignment: The input's size in bytes should be a multiple of this.
        other_granularity: Effect of the other weight granularity; empty if there is none.
        float_output: Cost of a float32 output; empty if there is none.
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
    """How the build is loaded onto the board, for the README of the deployment package.

    Attributes:
        kind: "neural_art" (weights and a signed application in external flash) or "linux" (files
            copied to a running system).
        application_address: Address of the signed application.
        weights_address: Address of the weights; None for that of the weights pool.
        loader: External flash loader of STM32CubeProgrammer.
        boot_loader: First-stage boot loader, below the application's folder.
        folder: Folder of the application on a Linux board.
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
    """Output of the int8 files exported for a target, unless `quant` sets it.

    Attributes:
        output: "float32", or "int8" without the final DEQUANTIZE.
        sigmoid: Whether the output is a probability (sigmoid) instead of a logit.
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
        name: Short name, also of the folder in a bundle.
        board: Full name.
        artefact: TFLite artefact of the bundle that it runs: "int8_pc", "int8_pt" or "float32".
        flashing: How the build is loaded onto the board.
        input_dtype: Type of the network's input on the board; "uint8" accepts camera bytes.
        output_dtype: "float32" or "int8"; None for the file's own.
        export: Output of files exported for it.
        tool: ST Edge AI Core settings; None if the TFLite runs without conversion.
        npu: NPU compiler settings; None without that compiler.
        budget: Limits for a model.
        rules: Operator support.
        application: ST's application for the board, if any.
        estimator: Default estimator profile of `heatpose estimate`; None if there is none.
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
                f"Target '{self.name}' has the unknown artefact '{self.artefact}'; choose one of"
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


def built_in() -> dict[str, Path]:
    """Name -> YAML file of the built-in targets."""
    return {path.stem: path for path in sorted((conf_folder() / "target").glob("*.yaml"))}


def load_target(name: str) -> Target:
    """Loads a built-in target by name, or any target by the path of its YAML.

    Raises:
        HeatposeError: The target is unknown, or its file is malformed.
    """
    import yaml

    known = built_in()
    path = known.get(name, Path(name))
    if name not in known and path.suffix not in (".yaml", ".yml"):
        raise HeatposeError(
            f"Target '{name}' is unknown; choose one of {', '.join(known)} or give the path of a"
            " YAML like conf/target/stm32n6.yaml."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise HeatposeError(
            f"Target file '{path}' cannot be read ({reason}); give {', '.join(known)} or a YAML"
            " like conf/target/stm32n6.yaml."
        ) from error
    return part(Target, content, path.name)
