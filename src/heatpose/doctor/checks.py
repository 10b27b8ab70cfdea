"""Checks of Python and of package versions, from metadata without importing the packages."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Literal

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from rich.markup import escape
from rich.table import Table

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """Result of a check.

    Attributes:
        name: Checked item.
        status: "ok"; "warn": an optional part is missing or doubtful; "fail": something does not
            work.
        found: What was found.
        remedy: One sentence; empty for "ok".
    """

    name: str
    status: Status
    found: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Attributes as plain values."""
        return asdict(self)


def check_table(checks: Sequence[Check]) -> Table:
    """Terminal table with a line per check."""
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(title="heatpose doctor", title_justify="left")
    for heading in ("", "check", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(
            f"[{colours[check.status]}]{check.status}[/]",
            escape(check.name),
            escape(check.found),
            escape(check.remedy),
        )
    return table


EXTRAS = {
    "export": "exports, ONNX and TFLite files need it",
    "video": "videos and cameras need it",
}
"""Optional extra -> its purpose. Other extras are checked like required packages if installed."""
DEPENDENTS = ("torchvision", "lightning", "tensorflow", "onnx2tf", "onnxruntime", "ai-edge-litert")
"""Packages whose own requirements are checked against the installed versions."""
COMPROMISED = ("2.6.2", "2.6.3")
GROUPED_CONVOLUTIONS = SpecifierSet(">=1.29.17,<=1.29.24")


def installed_versions() -> dict[str, str]:
    """Canonical name -> version of all installed packages."""
    found: dict[str, str] = {}
    for entry in metadata.distributions():
        name = entry.metadata["Name"]
        if name:  # leftovers of a broken uninstallation have none
            found.setdefault(canonicalize_name(name), entry.version)
    return found


def python_check(version: str | None = None) -> Check:
    """Checks the Python version against the package's requirement."""
    version = version or platform.python_version()
    wanted = _python_of("heatpose")
    found = f"{version}, {platform.system()} {platform.machine()}"
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Check("python", "ok", found)
    return Check(
        "python",
        "fail",
        found,
        f"Install Python {wanted} (uv python install 3.11) and recreate the environment.",
    )


def _python_of(name: str) -> str:
    """Required Python versions of a package; empty if none or not installed."""
    try:
        return ",".join(metadata.metadata(name).get_all("Requires-Python") or ())
    except metadata.PackageNotFoundError:
        return ""


def _requirements_of(name: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in metadata.requires(name) or ()]
    except metadata.PackageNotFoundError:
        return []


def requirement_checks(
    versions: Mapping[str, str], requirements: Sequence[Requirement] | None = None
) -> list[Check]:
    """Checks the package's requirements, including those of its extras.

    Args:
        versions: From `installed_versions`.
        requirements: Requirements; None for those in the package's metadata.
    """
    wanted = _requirements_of("heatpose") if requirements is None else requirements
    own = versions.get("heatpose")
    if own is None:
        return [
            Check(
                "heatpose",
                "warn",
                "not installed",
                "Run uv sync in the checkout to have versions checked.",
            )
        ]
    checks: dict[str, Check] = {}
    for requirement, extra in _applicable(wanted):
        checks.setdefault(requirement.name, _requirement_check(requirement, extra, versions))
    return [Check("heatpose", "ok", own), *checks.values()]


def _applicable(requirements: Iterable[Requirement]) -> Iterator[tuple[Requirement, str | None]]:
    """Requirements that apply to this machine, with their extra."""
    plain = {**{key: str(value) for key, value in default_environment().items()}, "extra": ""}
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate(plain):
            yield requirement, None
            continue
        for extra in EXTRAS:
            if requirement.marker.evaluate({**plain, "extra": extra}):
                yield requirement, extra


def _requirement_check(
    requirement: Requirement, extra: str | None, versions: Mapping[str, str]
) -> Check:
    version = versions.get(canonicalize_name(requirement.name))
    install = f"pip install '{requirement.name}{requirement.specifier}'"
    if version is None and extra is not None:
        return Check(
            requirement.name,
            "warn",
            "not installed",
            f"Install it if needed ({EXTRAS[extra]}): pip install 'heatpose[{extra}]'.",
        )
    if version is None:
        return Check(requirement.name, "fail", "not installed", f"Install it: {install}.")
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(requirement.name, "fail", version, f"Install a matching version: {install}.")
    return Check(requirement.name, "ok", version)


def known_bad(versions: Mapping[str, str]) -> list[Check]:
    """Known bad versions and combinations that are installed."""
    rules = (
        _compromised(versions),
        _grouped(versions),
        _two_builds(versions),
        _numpy(versions),
        _two_opencvs(versions),
    )
    return [check for check in rules if check is not None]


def _compromised(versions: Mapping[str, str]) -> Check | None:
    for name in ("lightning", "pytorch-lightning"):
        if versions.get(name) in COMPROMISED:
            remedy = (
                "This release was tampered with (GHSA-w37p-236h-pfx3): remove the environment, and"
                " change the passwords and keys that this machine has."
            )
            return Check(f"{name} release", "fail", versions[name], remedy)
    return None


def _grouped(versions: Mapping[str, str]) -> Check | None:
    version = versions.get("onnx2tf")
    if version is None or not GROUPED_CONVOLUTIONS.contains(version):
        return None
    remedy = (
        "It converts depthwise convolutions to grouped ones, which NPUs do not support: pip install"
        " onnx2tf==1.29.16."
    )
    return Check("onnx2tf release", "fail", version, remedy)


def _two_builds(versions: Mapping[str, str]) -> Check | None:
    """A CPU build of one with the registry's build of the other, which breaks torchvision."""
    torch, vision = versions.get("torch"), versions.get("torchvision")
    if torch is None or vision is None or _build(torch) == _build(vision):
        return None
    remedy = (
        "Their builds differ, so torchvision cannot load its operators: install both from the same"
        " index, such as download.pytorch.org/whl/cpu."
    )
    return Check("torch and torchvision", "fail", f"{torch} and {vision}", remedy)


def _build(version: str) -> str:
    try:
        return Version(version).local or ""
    except InvalidVersion:
        return ""


def _numpy(versions: Mapping[str, str]) -> Check | None:
    tensorflow, numpy = versions.get("tensorflow", ""), versions.get("numpy", "")
    if not tensorflow.startswith("2.19.") or numpy.startswith(("0.", "1.")) or not numpy:
        return None
    remedy = (
        "Exports are tested with numpy 1.26, which onnx2tf requires: pip install numpy==1.26.4."
    )
    return Check("tensorflow and numpy", "warn", f"{tensorflow} and {numpy}", remedy)


def _two_opencvs(versions: Mapping[str, str]) -> Check | None:
    both = [
        name
        for name in ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
        if name in versions
    ]
    if len(both) < 2:
        return None
    return Check(
        "opencv",
        "warn",
        " and ".join(both),
        "They write the same files: uninstall all, then pip install --force-reinstall"
        " opencv-python.",
    )


def unmet_checks(versions: Mapping[str, str]) -> list[Check]:
    """Unmet requirements of the heavy packages."""
    checks = []
    for name in DEPENDENTS:
        if name in versions:
            checks += [
                _unmet(name, requirement, versions)
                for requirement, extra in _applicable(_requirements_of(name))
                if extra is None
            ]
    return [check for check in checks if check is not None]


def _unmet(name: str, requirement: Requirement, versions: Mapping[str, str]) -> Check | None:
    version = versions.get(canonicalize_name(requirement.name))
    if version is not None and requirement.specifier.contains(version, prereleases=True):
        return None
    asked = f"{requirement.name}{requirement.specifier}"
    return Check(
        f"{name} needs {requirement.name}",
        "warn",
        version or "not installed",
        f"{name} requires {asked}: pip install '{asked}'.",
    )
