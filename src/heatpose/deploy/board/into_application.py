"""Installs this folder's network in a checkout of ST's pose application, and removes it again.

    python3 into_application.py CHECKOUT --dry-run          shows the difference
    python3 into_application.py CHECKOUT --build --flash    copies, builds, signs and flashes
    python3 into_application.py CHECKOUT --undo             restores the checkout

Needs no packages. `application.json` beside this file has the board's folder and the compatible
versions. The original files are kept in `.heatpose/` of the checkout until `--undo`. This file
contains no code of ST's; it edits the files of the checkout.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PRODUCTS = ("st_ai_output", "tool_output")
COPIED = ("network.c", "network_ecblobs.h", "stai_network.c", "stai_network.h")
KEPT = ".heatpose"


class Refused(Exception):
    """An error for the user, with its remedy."""


def products_folder() -> Path:
    """Folder of the newest build by `run.sh` or heatpose.

    Raises:
        Refused: There is no build.
    """
    found = [HERE / name for name in PRODUCTS if (HERE / name / "network.c").is_file()]
    if not found:
        raise Refused("There is no build in this folder; run ./run.sh first.")
    return max(found, key=lambda folder: (folder / "network.c").stat().st_mtime)


def core_version(folder: Path) -> str | None:
    """Core version of the build from its reports; None if they do not state it."""
    for path in sorted(folder.glob("*c_info.json")) + sorted(folder.glob("*report.txt")):
        found = re.search(
            r"(?:ST[. ]Edge[. ]?AI[. ]Core\"?,?\s*(?:v|\"version\":\s*\")?)(\d+\.\d+\.\d+)",
            path.read_text(encoding="utf-8", errors="replace"),
        )
        if found:
            return found[1]
    return None


def release_of(checkout: Path, facts: dict[str, Any]) -> str:
    """The application's release, from its release notes.

    Raises:
        Refused: The folder is not a checkout of the application.
    """
    notes, folder = checkout / "Release_Notes.md", f"Application/{facts['folder']}/Makefile"
    found = None
    if notes.is_file():
        text = notes.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^### [vV](\d+\.\d+\.\d+)", text, re.MULTILINE)
    if found is None or not (checkout / folder).is_file():
        raise Refused(
            f"'{checkout}' is not a checkout of {facts['name']} with {folder}; "
            f"git clone --recurse-submodules https://github.com/STMicroelectronics/{facts['name']}"
        )
    return found[1]


def check_pair(release: str, core: str | None, facts: dict[str, Any]) -> None:
    """Raises `Refused` for a release that cannot build the network."""
    if tuple(map(int, release.split(".")[:2])) < (2, 1):
        raise Refused(
            f"{facts['name']} {release} decodes float heatmaps only, this network's are int8; "
            "check out release 2.1 or newer."
        )
    starts = {a: b for a, b in facts["pairs"].items() if f"{release}.".startswith(f"{a}.")}
    wanted = next(iter(starts.values()), None)
    if core is None:
        print(f"note: the build does not state its Core version; {release} needs {wanted}")
    elif wanted is None or not f"{core}.".startswith(f"{wanted}."):
        pairs = ", ".join(f"{a} with Core {b}" for a, b in facts["pairs"].items())
        raise Refused(
            f"{facts['name']} {release} cannot build a network of ST Edge AI Core {core} ({pairs});"
            " check out the matching release, or build with the matching Core."
        )


def macros(text: str) -> dict[str, str]:
    """Macro name -> `#define` with its continuation lines."""
    found = re.finditer(r"^#define[ \t]+(\w+)(?:[^\n]*\\\n)*[^\n]*$", text, re.MULTILINE)
    return {match[1]: match[0] for match in found}


def configured(text: str, block: str) -> str:
    """Replaces the values of `app_config_block.h` in the application's `app_config.h`.

    Raises:
        Refused: A required macro is missing.
    """
    own, wanted = macros(text), macros(block)
    for name, line in wanted.items():
        if name in own:
            text = text.replace(own[name], line, 1)
    if "BINDINGS" not in wanted and "USE_BINDINGS" in own:  # no lines to draw
        text = text.replace(own["USE_BINDINGS"] + "\n", "", 1)
    if "BINDINGS" not in own and "BINDINGS" in wanted:  # release 2.1
        rows = re.findall(r"\{ [^}]* \},", wanted["BINDINGS"])
        lines = "".join(f"    {row}\n" for row in rows)
        array = r"(static const int bindings\[\]\[3\] = \{\n).*?(^\};)"
        text = re.sub(array, rf"\g<1>{lines}\2", text, count=1, flags=re.DOTALL | re.MULTILINE)
    needed = ("POSTPROCESS_TYPE", "AI_POSE_PP_POSE_KEYPOINTS_NB", "AI_POSE_PP_CONF_THRESHOLD")
    if missing := [name for name in needed if name not in own]:
        raise Refused(
            f"app_config.h has no {', '.join(missing)}; paste app_config_block.h manually."
        )
    size = re.search(r"heatpose_input_size (\d+)", block)
    for name in ("NN_WIDTH", "NN_HEIGHT"):
        if size and name in own:
            text = text.replace(own[name], f"#define {name} ({size[1]})", 1)
    return text


def signing(text: str, revision: str, align: bool) -> str:
    """Sets the silicon's header version in the Makefile, and `--align` if needed."""
    text = re.sub(r"(\$\(SIGNER\)[^\n]*-hv )\S+", rf"\g<1>{revision}", text)
    if align and not re.search(r"\$\(SIGNER\)[^\n]* -?-align", text):
        text = re.sub(r"(\$\(SIGNER\)[^\n]*-hv \S+)", r"\1 --align", text)
    return text


def programmer_aligns() -> bool:
    """Whether STM32CubeProgrammer is 2.21 or newer; True if it is not found."""
    try:
        command = ["STM32_Programmer_CLI", "--version"]
        output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return True
    found = re.search(r"version:?\s*v?(\d+)\.(\d+)", output.stdout, re.IGNORECASE)
    return found is None or (int(found[1]), int(found[2])) >= (2, 21)


def planned(checkout: Path, facts: dict[str, Any], options: argparse.Namespace) -> dict[str, bytes]:
    """Path in the checkout -> new content."""
    folder, board = products_folder(), facts["folder"]
    check_pair(release_of(checkout, facts), core_version(folder), facts)
    new = {
        f"Model/{board}/{name}": (folder / name).read_bytes()
        for name in COPIED
        if (folder / name).is_file()
    }
    weights = folder / facts["weights"]
    if not weights.is_file():
        raise Refused(f"'{weights}' is missing; run ./run.sh again.")
    new[f"Model/{board}/network_data.xSPI2.bin"] = weights.read_bytes()
    new[f"Model/{board}/network_data.hex"] = intel_hex(weights.read_bytes(), facts["address"])
    config, make = (f"Application/{board}/{name}" for name in ("Inc/app_config.h", "Makefile"))
    block = (HERE / "app_config_block.h").read_text(encoding="utf-8")
    new[config] = configured(read(checkout / config), block).encode()
    aligned = signing(read(checkout / make), options.revision, programmer_aligns())
    new[make] = aligned.encode()
    return new


def read(path: Path) -> str:
    """Reads a text of the checkout without changing line ends."""
    return path.read_bytes().decode("utf-8", errors="surrogateescape")


def intel_hex(content: bytes, address: int) -> bytes:
    """Intel HEX, as `objcopy -I binary --change-addresses ADDRESS -O ihex` writes it."""
    lines, upper = [], -1
    for start in range(0, len(content), 16):
        place = address + start
        if place >> 16 != upper:
            upper = place >> 16
            lines.append(_record(4, 0, upper.to_bytes(2, "big")))
        lines.append(_record(0, place & 0xFFFF, content[start : start + 16]))
    lines.append(_record(1, 0, b""))
    return "".join(f"{line}\r\n" for line in lines).encode()


def _record(kind: int, place: int, data: bytes) -> str:
    body = bytes([len(data), place >> 8, place & 255, kind]) + data
    return f":{(body + bytes([-sum(body) & 255])).hex().upper()}"


def show(checkout: Path, new: dict[str, bytes]) -> None:
    """Prints the changes: diffs of edited files, sizes of copied ones."""
    for name, content in new.items():
        path = checkout / name
        if name.startswith("Model/"):
            before = f"{path.stat().st_size:,} bytes" if path.is_file() else "absent"
            print(f"{name}: {before} -> {len(content):,} bytes")
            continue
        old, now = read(path).splitlines(), content.decode(errors="surrogateescape").splitlines()
        print("\n".join(difflib.unified_diff(old, now, name, f"{name} (new)", lineterm="", n=0)))


def apply(checkout: Path, new: dict[str, bytes]) -> None:
    """Writes the files; the original of each is kept for `--undo`."""
    kept = checkout / KEPT
    kept.mkdir(exist_ok=True)
    listed = kept / "files.json"
    known = json.loads(listed.read_text()) if listed.is_file() else {}
    for name in new:
        path = checkout / name
        if name not in known:
            known[name] = path.is_file()
            if path.is_file():
                (kept / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, kept / name)
    listed.write_text(json.dumps(known, indent=1))
    for name, content in new.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(content)


def undo(checkout: Path) -> None:
    """Restores the original files.

    Raises:
        Refused: Nothing was installed.
    """
    kept = checkout / KEPT
    if not (kept / "files.json").is_file():
        raise Refused(f"'{checkout}' contains no changes of this package to undo.")
    for name, existed in json.loads((kept / "files.json").read_text()).items():
        if existed:
            shutil.copyfile(kept / name, checkout / name)
        else:
            (checkout / name).unlink(missing_ok=True)
    shutil.rmtree(kept)
    print(f"{checkout} is restored.")


def make(checkout: Path, board: str, *goals: str) -> None:
    """Runs the application's Makefile.

    Raises:
        Refused: It failed.
    """
    command = ["make", "-C", str(checkout / "Application" / board), *goals]
    print("$", " ".join(command), flush=True)
    try:
        status = subprocess.run(command, check=False).returncode
    except OSError as error:
        raise Refused(f"'make' cannot be started ({error.strerror}); install it.") from error
    if status != 0:
        raise Refused(
            f"'{' '.join(command)}' ended with status {status}; --undo restores the files."
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description="This network into ST's pose application.")
    parser.add_argument("checkout", type=Path, help="of the application, with its submodules")
    parser.add_argument("--dry-run", action="store_true", help="only show the changes")
    parser.add_argument("--build", action="store_true", help="build and sign")
    parser.add_argument("--flash", action="store_true", help="flash; the switches must be set")
    parser.add_argument("--undo", action="store_true", help="restore the checkout")
    parser.add_argument(
        "--revision",
        default="2.3",
        choices=("2.1", "2.3"),
        help="header version of the signature: 2.3 for silicon revision B, 2.1 for revision Z",
    )
    options = parser.parse_args(arguments)
    try:
        run(options)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def run(options: argparse.Namespace) -> None:
    """Runs one command line."""
    facts = json.loads((HERE / "application.json").read_text(encoding="utf-8"))
    if options.undo:
        undo(options.checkout)
        return
    new = planned(options.checkout, facts, options)
    show(options.checkout, new)
    if options.dry_run:
        return
    apply(options.checkout, new)
    if options.build or options.flash:
        make(options.checkout, facts["folder"], "all", "sign")
    if options.flash:
        make(options.checkout, facts["folder"], "flash_weights", "flash")
        loader = "STM32_Programmer_CLI -c port=SWD mode=HOTPLUG -el <loader> -hardRst -w"
        print(f"Once per board: {loader} {options.checkout / 'FSBL/ai_fsbl.hex'}")


if __name__ == "__main__":
    main()
