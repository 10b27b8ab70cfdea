"""Finds ST Edge AI Core on this machine.

And says which version it is and what is installed with it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from heatpose.deploy.targets import Target, Tool
from heatpose.errors import HeatposeError
from heatpose.utils.process import run_process

# a first question may stand before it
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
    """A found tool.

    Attributes:
        path: The executable.
        version: (major, minor, patch, build).
        components: Name -> version of what `--version` lists.
    """

    path: Path
    version: tuple[int, int, int, int]
    components: Mapping[str, str]

    @property
    def version_text(self) -> str:
        """As ST writes it."""
        return "{}.{}.{}-{}".format(*self.version)


def find_installation(
    target: Target,
    explicit: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    release: str | None = None,
) -> Installation:
    """The tool for a target: the one that is named.

    Else the newest fitting one of the usual places.

    Looked at in this order: `explicit`, the variable STEDGEAI_CORE_DIR_<TARGET>, `tool.path` of the
    target, STEDGEAI_CORE_DIR, STM32_AI_EXE and STM_AI_EXE (variables of ST's model zoo), the
    folders that ST's installers use, the search path. The first three are taken or refused; of the
    others the first one that fits is taken. One that does not go with `release` of ST's application
    does not fit.

    Raises:
        HeatposeError: There is none, or none of a version and with the component that the target
            needs.
    """
    tool = target.tool
    if tool is None:
        raise HeatposeError(
            f"Target '{target.name}' needs no ST Edge AI Core: its TFLite runs as it is."
        )
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
        "Without it, the folder of the deployment package holds the exact command and run.sh."
    )


def _named(target: Target, tool: Tool, environment: Mapping[str, str]) -> Path | None:
    own = environment.get(f"STEDGEAI_CORE_DIR_{target.name.upper()}") or tool.path
    return Path(own).expanduser() if own else None


def _executable(named: Path) -> Path:
    """The executable that a path means: itself, or the one of an installation folder."""
    if named.is_file():
        return named
    for inside in _inside(named):
        if inside.is_file():
            return inside
    raise HeatposeError(
        f"'{named}' is no stedgeai and no installation folder of ST Edge AI Core (it has no"
        f" Utilities/{_system()[0]}/{_system()[1]})."
    )


def _inside(root: Path) -> Iterator[Path]:
    folder, name = _system()
    yield root / "Utilities" / folder / name
    if folder == "mac":
        yield root / "Utilities" / "macarm" / name
    yield root / name


def _system() -> tuple[str, str]:
    """Folder and name of the executable on this system."""
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
    """Asks an executable for its version.

    Raises:
        HeatposeError: It does not start, does not answer, or is something else.
    """
    ended = run_process([str(path), "--version"], path.parent, time_limit_s=VERSION_LIMIT_S)
    found = _FIRST_LINE.search(ended.text)
    if found is None:
        waited = (
            f"did not answer within {VERSION_LIMIT_S:.0f} s"
            if ended.status is None
            else f"answered '{' '.join(ended.text.split())[:120]}'"
        )
        raise HeatposeError(
            f"'{path} --version' {waited}, which is not ST Edge AI Core; run it once in a terminal,"
            " or name another with --tool PATH."
        )
    version = (int(found[1]), int(found[2]), int(found[3]), int(found[4]))
    return Installation(path, version, dict(_COMPONENT.findall(ended.text[found.end() :])))


def _require(installation: Installation, target: Target, tool: Tool, release: str | None) -> None:
    """Refuses a version or a set of components that cannot build for the target."""
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
    """A warning where the NPU compiler does not lie beside the tool."""
    if tool.compiler is None:
        return None
    beside = (
        installation.path.parent / tool.compiler,
        installation.path.parent / f"{tool.compiler}.exe",
    )
    if any(path.is_file() for path in beside):
        return None
    return (
        f"'{tool.compiler}', the NPU compiler, does not lie beside '{installation.path}'; if the"
        " build fails, add the STM32N6 component with ST's installer."
    )
