"""Prints the known vulnerabilities of the installed packages.

(pip-audit, by the registry's advisories).

    uv run python .ci/audit.py [--strict]

Where the service that knows them cannot be reached, or the tool cannot be had, it says so and ends
with status 0: a check of the code does not depend on other people's machines. With `--strict`,
status 1 for a known vulnerability and 2 where nothing could be looked up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

TOOL = "pip-audit==2.10.1"
LIMIT_S = 180


def audited(folder: str) -> dict[str, Any] | str:
    """What pip-audit found out about the packages in a folder, or why it did not."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "audit.json"
        command = [
            "uv",
            "tool",
            "run",
            "--from",
            TOOL,
            "pip-audit",
            "--path",
            folder,
            "--format",
            "json",
            "--output",
            str(out),
        ]
        command += ["--progress-spinner", "off", "--timeout", "15"]
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=LIMIT_S
            )
        except FileNotFoundError:
            return "uv is not installed"
        except subprocess.TimeoutExpired:
            return f"no answer in {LIMIT_S} s"
        if not out.is_file():
            return (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        found = dict(json.loads(out.read_text(encoding="utf-8")))
    packages = found.get("dependencies", [])
    if packages and all(
        "skip_reason" in package for package in packages
    ):  # a mirror that has files and knows nothing about them
        return (
            f"the service knows none of the {len(packages)} packages: {packages[0]['skip_reason']}"
        )
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """A line for each package with known vulnerabilities."""
    message = []
    for package in found.get("dependencies", []):
        for known in package.get("vulns", []):
            fixed = ", ".join(known.get("fix_versions", [])) or "no release"
            message.append(
                f"{package['name']} {package.get('version', '')}: {known['id']} (mended in {fixed})"
            )
    return message


def main() -> int:
    """Status 0 unless `--strict`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    found = audited(sysconfig.get_path("purelib"))
    if isinstance(found, str):
        print(
            "audit: nothing was looked up, the service cannot be reached or the tool cannot be had "
            f"({found[:300]})"
        )
        return 2 if options.strict else 0
    known = lines(found)
    skipped = sum("skip_reason" in package for package in found.get("dependencies", []))
    print(
        f"audit: {len(found.get('dependencies', []))} packages, {skipped} of them not known to the "
        f"service, {len(known)} known vulnerabilities"
    )
    print("".join(f"  {line}\n" for line in known), end="")
    return int(bool(known) and options.strict)


if __name__ == "__main__":
    sys.exit(main())
