"""Compares the files that `uv.lock` would install with the ones that the tests ran with.

The same name must have the same content.

    uv lock && uv run --no-project python .ci/hashes.py [--write]

`hashes.txt` names no registry, so it holds for every mirror that has the same files. A file that it
does not know, such as a wheel of another index, is told and let through: `uv` holds each download
against the hash that its registry gave. A known name with another content ends with status 1.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

REPOSITORY = Path(__file__).parents[1]
RECORD = Path(__file__).with_name("hashes.txt")


def fits(name: str) -> bool:
    """A wheel for Python 3.11 on Linux and x86-64, where CI runs."""
    if not name.endswith(".whl"):
        return False
    python, abi, platform = name.removesuffix(".whl").split("-")[-3:]
    machine = any(
        tag == "any" or tag.startswith(("manylinux", "linux")) and tag.endswith("x86_64")
        for tag in platform.split(".")
    )
    stable = [int(minor) for minor in re.findall(r"cp3(\d+)", python)] if abi == "abi3" else []
    return machine and (
        bool({"py3", "py311", "cp311"} & {*python.split(".")})
        or any(minor <= 11 for minor in stable)
    )


def locked(lock: Path) -> dict[str, str]:
    """File name -> sha256 ("" where the registry gives none) of what a machine of CI would take.

    Wheels that fit, else sources.
    """
    found: dict[str, str] = {}
    for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]:
        wheels = {_name(entry): entry for entry in package.get("wheels", [])}
        chosen = {name: entry for name, entry in wheels.items() if fits(name)}
        if not chosen and "sdist" in package:
            chosen = {_name(package["sdist"]): package["sdist"]}
        found |= {
            name: entry.get("hash", "").removeprefix("sha256:") for name, entry in chosen.items()
        }
    return found


def _name(entry: dict[str, str]) -> str:
    return unquote(
        re.split(r"[/\\]", entry.get("url") or entry.get("path") or entry.get("filename") or "")[-1]
    )


def recorded(path: Path) -> dict[str, str]:
    """File name -> sha256."""
    return {
        name: digest
        for digest, name in (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    }


def compare(found: dict[str, str], known: dict[str, str]) -> tuple[list[str], list[str]]:
    """Names whose content is another one than recorded.

    And names that are not recorded or have no hash.
    """
    other = [name for name, digest in found.items() if digest and known.get(name, digest) != digest]
    return sorted(other), sorted(
        name for name, digest in found.items() if name not in known or not digest
    )


def main() -> int:
    """Status 1 where a file has another content."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lock", type=Path, default=REPOSITORY / "uv.lock")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--write", action="store_true", help="record what the lock has now")
    options = parser.parse_args()
    found = locked(options.lock)
    if options.write:
        lines = (f"{digest}  {name}\n" for name, digest in sorted(found.items()) if digest)
        options.record.write_text("".join(lines), encoding="utf-8")
        return 0
    other, unknown = compare(found, recorded(options.record))
    print(
        f"hashes: {len(found) - len(unknown) - len(other)} files of packages are those that the "
        f"tests ran with, {len(unknown)} are not recorded"
    )
    for name in unknown[:10]:
        print(f"  not recorded: {name}")
    for name in other:
        print(
            f"error: '{name}' is not the file that the tests ran with; "
            "do not install it before you know why.",
            file=sys.stderr,
        )
    return int(bool(other))


if __name__ == "__main__":
    sys.exit(main())
