"""ST Edge AI Core: installation, command lines, run scripts, NPU compiler profile."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatpose.deploy.targets import Npu, Pool, Target, Tool
from heatpose.deploy.templating import render
from heatpose.errors import HeatposeError
from heatpose.utils.process import run_process

# a question may precede it on the first run
_FIRST_LINE = re.compile(r"ST Edge AI Core v(\d+)\.(\d+)\.(\d+)-(\d+)")
_COMPONENT = re.compile(r"^\s+([A-Za-z][\w-]*) +(\d[\w.-]*)\s*$", re.MULTILINE)
_ROOTS = (
    "/opt/ST/STEdgeAI/*",
    "/Applications/ST/STEdgeAI/*",
    "C:/ST/STEdgeAI/*",
    "C:/ST/STEdgeAI_Core/*",
    "~/STM32Cube/Repository/Packs/STMicroelectronics/X-CUBE-AI/*",
)
VERSION_LIMIT_S = 120.0


@dataclass(frozen=True)
class Installation:
    """An installed ST Edge AI Core.

    Attributes:
        path: Executable.
        version: (major, minor, patch, build).
        components: Name -> version, from `--version`.
    """

    path: Path
    version: tuple[int, int, int, int]
    components: Mapping[str, str]

    @property
    def version_text(self) -> str:
        """Version in ST's notation, "4.0.1-20581"."""
        return "{}.{}.{}-{}".format(*self.version)


def find_installation(
    target: Target,
    explicit: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    release: str | None = None,
) -> Installation:
    """Finds the installation for a target.

    Order: `explicit`, the variable STEDGEAI_CORE_DIR_<TARGET>, `tool.path` of the target,
    STEDGEAI_CORE_DIR, STM32_AI_EXE and STM_AI_EXE (variables of ST's model zoo), the default
    folders of ST's installers (newest first), PATH. One of the first three must be suitable; of the
    others the first suitable one is used. Suitable: a version and component that the target needs,
    and a version that builds `release` of ST's application.

    Args:
        target: Board.
        explicit: Executable or installation folder.
        environment: Environment variables.
        release: Release of ST's application; None for any.

    Raises:
        HeatposeError: No installation is found, or none is suitable.
    """
    tool = target.tool
    if tool is None:
        raise _no_tool(target)
    named = explicit or _named(target, tool, environment)
    if named is not None:
        installation = identify(_executable(named))
        _require(installation, target, tool, release)
        return installation
    refused = []
    for path in _usual(environment):
        try:
            installation = identify(path)
            _require(installation, target, tool, release)
        except HeatposeError as error:
            refused.append(str(error))
        else:
            return installation
    if refused:
        raise HeatposeError(refused[0])
    raise HeatposeError(
        f"ST Edge AI Core is not found: install it from st.com (version {tool.range_text()}), then "
        "set STEDGEAI_CORE_DIR to its folder or name it with --tool PATH. "
        "Without it, the deployment package contains the exact command and run.sh."
    )


def is_installed(target: Target, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether any executable of ST Edge AI Core is found, suitable or not; none is run."""
    tool = target.tool
    named = tool is not None and _named(target, tool, environment) is not None
    return named or next(_usual(environment), None) is not None


def _named(target: Target, tool: Tool, environment: Mapping[str, str]) -> Path | None:
    own = environment.get(f"STEDGEAI_CORE_DIR_{target.name.upper()}") or tool.path
    return Path(own).expanduser() if own else None


def _executable(named: Path) -> Path:
    """A path that is the executable or an installation folder -> the executable."""
    if named.is_file():
        return named
    for inside in _inside(named):
        if inside.is_file():
            return inside
    raise HeatposeError(
        f"'{named}' is neither stedgeai nor an installation folder of ST Edge AI Core (it has no"
        f" Utilities/{_system()[0]}/{_system()[1]}); correct the path."
    )


def _inside(root: Path) -> Iterator[Path]:
    folder, name = _system()
    yield root / "Utilities" / folder / name
    if folder == "mac":
        yield root / "Utilities" / "macarm" / name
    yield root / name


def _system() -> tuple[str, str]:
    """Folder and name of the executable on this operating system."""
    if sys.platform == "win32":
        return "windows", "stedgeai.exe"
    return ("mac" if sys.platform == "darwin" else "linux"), "stedgeai"


def _usual(environment: Mapping[str, str]) -> Iterator[Path]:
    roots = [Path(environment["STEDGEAI_CORE_DIR"])] if environment.get("STEDGEAI_CORE_DIR") else []
    yield from (
        Path(environment[name])
        for name in ("STM32_AI_EXE", "STM_AI_EXE")
        if Path(environment.get(name) or "/none").is_file()
    )
    for pattern in _ROOTS:
        base = Path(
            pattern.replace(
                "~", environment.get("HOME") or environment.get("USERPROFILE") or "~"
            ).removesuffix("/*")
        )
        if base.is_dir():
            roots += sorted(base.iterdir(), key=_version_key, reverse=True)
    for root in roots:
        yield from (inside for inside in _inside(root) if inside.is_file())
    on_path = shutil.which("stedgeai", path=environment.get("PATH", ""))
    if on_path:
        yield Path(on_path)


def _version_key(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", folder.name))


def identify(path: Path) -> Installation:
    """Runs an executable with `--version`.

    Raises:
        HeatposeError: It does not start, times out, or is another program.
    """
    ended = run_process([str(path), "--version"], path.parent, time_limit_s=VERSION_LIMIT_S)
    found = _FIRST_LINE.search(ended.text)
    if found is None:
        waited = (
            f"did not finish within {VERSION_LIMIT_S:.0f} s"
            if ended.status is None
            else f"printed '{' '.join(ended.text.split())[:120]}'"
        )
        raise HeatposeError(
            f"'{path} --version' {waited}, which is not ST Edge AI Core; run it once in a terminal,"
            " or name another with --tool PATH."
        )
    version = (int(found[1]), int(found[2]), int(found[3]), int(found[4]))
    return Installation(path, version, dict(_COMPONENT.findall(ended.text[found.end() :])))


def _require(installation: Installation, target: Target, tool: Tool, release: str | None) -> None:
    """Raises for a version or a set of components that cannot build for the target."""
    if not tool.supports(installation.version):
        own = f"STEDGEAI_CORE_DIR_{target.name.upper()}"
        raise HeatposeError(
            f"ST Edge AI Core {installation.version_text} ('{installation.path}') cannot build for"
            f" {target.name}, which needs version {tool.range_text()}; install one beside it and"
            f" set {own} to its folder, or name it with --tool PATH."
        )
    if release is not None:
        if target.application is None:
            raise HeatposeError(f"Target '{target.name}' has no application; leave out --app.")
        if mismatch := target.application.mismatch(installation.version_text, release):
            raise HeatposeError(mismatch)
    if tool.component is not None and not any(
        name.startswith(tool.component) for name in installation.components
    ):
        has = ", ".join(installation.components) or "nothing"
        raise HeatposeError(
            f"ST Edge AI Core {installation.version_text} ('{installation.path}') lacks the"
            f" component {tool.component}* for {target.name} (it has {has}); add it with ST's"
            " installer on Linux, or convert on the board or in ST's Developer Cloud and use"
            " --import."
        )


def missing_compiler(installation: Installation, tool: Tool) -> str | None:
    """A warning if the NPU compiler is not beside the tool."""
    if tool.compiler is None:
        return None
    beside = (
        installation.path.parent / tool.compiler,
        installation.path.parent / f"{tool.compiler}.exe",
    )
    if any(path.is_file() for path in beside):
        return None
    return (
        f"'{tool.compiler}', the NPU compiler, is not beside '{installation.path}'; if the"
        " build fails, add the STM32N6 component with ST's installer."
    )


PROFILE = "user_neuralart.json"


def pool_file_name(target_name: str) -> str:
    """Name of the memory pool file."""
    return f"{target_name}.mpool"


def profile_text(npu: Npu, target_name: str) -> str:
    """Content of `user_neuralart.json`, which refers to the memory pool file beside it."""
    pool = f"./{pool_file_name(target_name)}"
    named = {name: {"memory_pool": pool, "options": text} for name, text in npu.profiles().items()}
    return json.dumps({"Globals": {}, "Profiles": named}, indent=2) + "\n"


def pool_text(npu: Npu) -> str:
    """Content of the memory pool file, in the format of ST's own."""
    content = {
        "params": {
            "param": [{"paramname": "max_onchip_sram_size", "value": "1024", "magnitude": "KBYTES"}]
        },
        "memory": {
            "cacheinfo": [dict(npu.cache)] if npu.cache else [],
            "mem_file_prefix": "atonbuf",
            "mempools": [_pool_entry(pool) for pool in npu.pools],
        },
    }
    return json.dumps(content, indent=2) + "\n"


def _pool_entry(pool: Pool) -> dict[str, Any]:
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


OUTPUT, WORKSPACE = "st_ai_output", "st_ai_ws"
SAMPLES = 10
"""Number of inputs of a validation on the board."""


def _tool(target: Target) -> Tool:
    if target.tool is None:
        raise _no_tool(target)
    return target.tool


def _no_tool(target: Target) -> HeatposeError:
    return HeatposeError(
        f"Target '{target.name}' runs the TFLite without ST Edge AI Core; choose another target."
    )


def io_options(target: Target) -> list[str]:
    """Input and output types for `generate` and `validate`; the output's if the target sets it."""
    if target.npu is None:  # the converter for Linux boards keeps the file's types
        return []
    output = [] if target.output_dtype is None else ["--output-data-type", target.output_dtype]
    return ["--input-data-type", target.input_dtype, *output]


def generate_arguments(target: Target, model: str, major: int | None = None) -> list[str]:
    """Arguments of `stedgeai` that build a model in the folder of the deployment package.

    Args:
        target: Board.
        model: File name of the TFLite.
        major: Major version of the tool, for its compiler options; None for the newest.

    Raises:
        HeatposeError: The target has no tool.
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
        target: Board.
        model: File name of the TFLite.
        board: Connection: `serial:921600`, `serial:COM5:921600`, or the address of a Linux board.

    Raises:
        HeatposeError: The target has no tool.
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
    """Shell command."""
    return shlex.join(["stedgeai", *arguments])


@dataclass(frozen=True)
class Weights:
    """Weights in flash: the file that the tool writes, and the address of its first byte."""

    raw: str
    address: int


def weights_of(target: Target) -> Weights | None:
    """Weights that are flashed beside the application; None if there are none."""
    pool = None if target.npu is None else target.npu.weights_pool()
    if pool is None or target.flashing.kind != "neural_art":
        return None
    own = target.flashing.weights_address
    return Weights(f"network_atonbuf.{pool.file}.raw", pool.address if own is None else own)


def run_sh(target: Target, model: str) -> str:
    """Content of `run.sh`: builds, then converts the weights into the files for flashing."""
    return render("run.sh", **_script(target, model))


def run_ps1(target: Target, model: str) -> str:
    """Content of `run.ps1`: the same for PowerShell."""
    return render("run.ps1", **_script(target, model))


def _script(target: Target, model: str) -> dict[str, Any]:
    """Variables of both templates; the scripts remove the products of an earlier run first."""
    tool, weights = _tool(target), weights_of(target)
    folders = list(dict.fromkeys((OUTPUT, tool.output)))
    product, *moved = [f"{folder}/{tool.product.format(model=_stem(model))}" for folder in folders]
    needed = [product] if target.npu is None else [f"{OUTPUT}/network.c"]
    needed = [place for place in needed if "*" not in place]
    needed += [] if weights is None else [f"{OUTPUT}/{weights.raw}"]
    older = target.npu is not None and bool(target.npu.older_options)
    return {
        "arguments": generate_arguments(target, model),
        "versions": tool.range_text(),
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
