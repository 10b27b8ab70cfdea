"""A stand-in for ST Edge AI Core's command line, for the tests.

The behaviours that its documentation, logs and users describe, switched on one by one.

Started by a wrapper that puts the behaviour into the variable STAND_IN (json). Knows nothing of
heatpose.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import st_reports

BUILDS = {
    "2.0.0": "20049",
    "2.2.0": "20266 2adc00962",
    "3.0.0": "20426 123672867",
    "4.0.0": "20500 359356bb0",
    "4.0.1": "20581 7ed50de05",
}
BEHAVIOUR: dict[str, Any] = json.loads(os.environ.get("STAND_IN", "{}"))
VERSION: str = BEHAVIOUR.get("version", "4.0.0")
MAJOR = int(VERSION.split(".", maxsplit=1)[0])
FULL = f"{VERSION}-{BUILDS[VERSION]}"
MODE: str = BEHAVIOUR.get("mode", "")
FAILURES = {
    "E010_nbg": (
        "E [main.c:vnn_VerifyGraph:93]CHECK STATUS(-3:The requested set of parameters produce a"
        " configuration that cannot be supported. )\nFatal model generation error:"
        " 64768\nE010(InvalidModelError): Error during NBG compilation, model is not supported"
    ),
    "E010_number": (
        "E010(InvalidModelError): Non-numerical or not-string elements in unsqueeze_11's parameter"
        " out_0"
    ),
    "E010_keras": (
        "E010(InvalidModelError): Unrecognized keyword arguments passed to Dense:"
        " {'quantization_config': None}"
    ),
    "E102_api": (
        "E102(CliArgumentError): --address/--copy-weights-at arguments are not supported with the"
        " 'st-ai' c-api."
    ),
    "E103_2": (
        ">>> Shell execution has FAILED (returned code = 1)\n   E103(CliRuntimeError): Error"
        " calling the Neural Art compiler - ['', 'saving memory pool description \"x.mpool\"',"
        " 'Warning: Oauto did not find valid compile options: aborting', 'total bytes left"
        " unallocated=3211264', '']"
    ),
    "E103_4": (
        ">>> Shell execution has FAILED (returned code = 1)\nE103(CliRuntimeError): Error calling"
        " the Neural Art compiler"
    ),
    "E700": (
        "Allocation Pass failed on schedule. Not enough memory on"
        " device\n\nE700(UnfeasibleAllocation): Allocation Pass failed on schedule. Not enough"
        " memory on device\nMinimal sizes needed are: {'unlimited memory': 6405160}\nGenerated"
        " device info file st_ai_ws/device_info.mpool.in"
    ),
    "tool": "TOOL ERROR: list index out of range",
    "ir_version": "INTERNAL ERROR: Your model ir_version 10 is higher than the checker's (9).",
    "malformed": (
        "INTERNAL ERROR: Exported ONNX could be malformed since ONNX shape inference fails"
    ),
    "not_implemented": "NOT IMPLEMENTED: Unkonwn layer format for layer Input_72",
    "unknown_code": "E999(NewError): something that no one has seen yet",
    "no_words": "",
}


def say(text: str, end: str = "\n") -> None:
    """Writes at once, as a terminal sees it."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def fail(text: str) -> NoReturn:
    """Every error ends with -1."""
    say(text)
    sys.exit(255)


def main() -> None:
    """Runs one call."""
    if BEHAVIOUR.get("first_run"):  # a fresh installation asks before anything else
        say("Do you accept the collection of anonymous usage statistics? [y/n]", end=" ")
        if not sys.stdin.readline():
            fail("EOFError: EOF when reading a line")
    if sys.argv[1:] == ["--version"]:
        if MODE == "other_program":
            say("edgetool 7.1")
            return
        components = BEHAVIOUR.get(
            "components", {"ISPU": "2.0.1-RC2", "MLC": "1.2.4-RC2", "STM32CubeAI": "12.0.1-RC2"}
        )
        say(
            f"ST Edge AI Core v{FULL}\n"
            + "".join(f"   {name} {version}\n" for name, version in components.items())
        )
        return
    say(f"ST Edge AI Core v{FULL}")
    if not os.getcwd().isascii():
        sys.stderr.write(
            "terminate called after throwing an instance of 'std::range_error'\n  what(): "
            " wstring_convert::from_bytes\n"
        )
        os.kill(os.getpid(), 6)
    options = parse()
    if not Path(options.model).is_file():
        fail(f"usage: stedgeai: no such file {options.model}")
    {"generate": generate, "validate": validate}[options.command](options)


def parse() -> argparse.Namespace:
    """The options that a deployment package uses; others are refused."""
    parser = argparse.ArgumentParser(prog="stedgeai")
    parser.add_argument("command", choices=["analyze", "generate", "validate", "supported-ops"])
    parser.add_argument("--model", "-m")
    parser.add_argument("--target")
    parser.add_argument("--st-neural-art", nargs="?", const="default")
    parser.add_argument("--output", "-o")
    parser.add_argument("--workspace", "-w", default="st_ai_ws")
    parser.add_argument(
        "--mode", choices=["host", "target", "host-io-only", "target-io-only"], default="host"
    )
    parser.add_argument("--desc", "-d")
    parser.add_argument("--batch-size", "-b", type=int)
    for name in ("input", "output"):
        parser.add_argument(f"--{name}-data-type", choices=["float32", "int8", "uint8"])
        parser.add_argument(f"--{name}s-ch-position", choices=["chfirst", "chlast"])
    return parser.parse_args()


def generate(options: argparse.Namespace) -> None:
    """Builds."""
    if MODE == "hang":
        say("PASS:   1%|          | 1/104 [00:00<?, ?it/s]", end="\r")
        time.sleep(600)
    if MODE == "hang_with_child":  # the compiler is a process of its own
        if os.fork() == 0:
            time.sleep(600)
        time.sleep(600)
    # something of it lives on and holds the output open
    if MODE == "leaves_child" and os.fork() == 0:
        time.sleep(600)
    if MODE == "asks":
        say("Overwrite existing files? [y/n]", end=" ")
        time.sleep(600)
    if MODE in ("flood", "latin"):
        speak_badly()
    if MODE == "crash":
        os.kill(os.getpid(), 11)
    if MODE == "nothing":
        say(f"elapsed time ({'GENERATE' if MAJOR >= 4 else 'generate'}): 4.753s")
        return
    if MODE in FAILURES:
        fail(FAILURES[MODE])
    if options.target == "stm32mp25":
        linux(options)
    elif options.target == "stm32n6":
        neural_art(options) if options.st_neural_art else processor(options)
    else:
        fail(f"E102(CliArgumentError): unknown target {options.target}")


def speak_badly() -> NoReturn:
    """Without end, or in another code page."""
    if MODE == "flood":
        for _ in range(400):
            sys.stdout.write("WARNING: the same line again\n" * 4000)
        fail(FAILURES["E103_4"])
    sys.stdout.flush()
    sys.stdout.buffer.write("Erreur : mémoire épuisée \x80\xff\x00\n".encode("latin-1", "replace"))
    fail(FAILURES["E700"])


def bar() -> None:
    """tqdm's progress bar, on the same stream, between the other lines."""
    for done in (0, 51, 102):
        say(
            f"\rPASS: {done * 100 // 104:3d}%|{'█' * (done // 10)}| {done}/104 [00:00<00:05, "
            " 2.94s/it]",
            end="\r",
        )
        time.sleep(0.01)
    say("")


def linux(options: argparse.Namespace) -> None:
    """The converter for STM32MP2: one file, no report."""
    if MAJOR >= 3:
        fail(
            "E102(CliArgumentError): stm32mp target is not supported. Use ST Edge AI Core 2.2"
            " instead."
        )
    bar()
    folder = Path(
        "stm32ai_output" if MODE == "own_folder" or options.output is None else options.output
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{Path(options.model).stem}.nb").write_bytes(
        b"" if MODE == "empty_product" else b"VPMN" + bytes(2048)
    )
    sys.exit(255 if MODE == "status" else 0)


def neural_art(options: argparse.Namespace) -> None:
    """The NPU build. The profile is checked as the tool does.

    Json (with comments), the profile in it, the memory pool file beside it.
    """
    name, _, file = options.st_neural_art.partition("@")
    try:
        profiles = json.loads(re.sub(r"//.*", "", Path(file).read_text()))["Profiles"]
        pool = Path(file).parent / profiles[name]["memory_pool"]
        pools = json.loads(pool.read_text())["memory"]["mempools"]
    except (OSError, ValueError, KeyError) as error:
        fail(f"E103(CliRuntimeError): profile {options.st_neural_art}: {error!r}")
    say(
        " >>>> EXECUTING NEURAL ART COMPILER\n   atonn -i x.onnx\n <<<< DONE EXECUTING NEURAL ART"
        " COMPILER"
    )
    if "--enable-epoch-controller" in profiles[name]["options"]:
        say(
            " >>>> EXECUTING EPOCH_CONTROLLER POST_PROCESSING\n <<<< DONE EXECUTING"
            " EPOCH_CONTROLLER POST_PROCESSING"
        )
    if MODE == "warns":
        say("WARNING: head_Add is not quantized\nWARNING: head_Mul is not quantized")
        say(
            "WARNING: Unsupported keys in the current profile default are ignored: memory_desc\n\t>"
            " memory_desc is not a valid key anymore"
        )
    bar()
    folder, stem = Path(options.output or "st_ai_output"), Path(options.model).stem
    workspace = Path(options.workspace) / "neural_art__network"
    for path in (folder, workspace):
        path.mkdir(parents=True, exist_ok=True)
    (workspace / "c_info.json").write_text("{}")
    names = [f"{stem}_OE_3_3_1.onnx", f"{stem}_OE_3_3_1_Q.json", "network.c"]
    if MAJOR >= 3:
        names += ["stai_network.h", "stai_network.c", "network.h", "network_ecblobs.h"]
    names += [
        f"network_atonbuf.{pool['fname']}.raw"
        for pool in pools
        if "constants_preferred" in pool["prop"]
    ]
    for made in names:
        (folder / made).write_text(f"/* {made} */\n")
    write_reports(folder)
    say(
        f"Generated files ({len(names) + 1})\nCreating txt report file"
        f" {folder}/network_generate_report.txt"
    )
    say(f"elapsed time ({'GENERATE' if MAJOR >= 4 else 'generate'}): 4.753s")
    sys.exit(255 if MODE == "status" else 0)


def write_reports(folder: Path) -> None:
    """c_info and text report, whole or spoiled."""
    generation = "old" if MAJOR < 3 else "blobs"
    info = st_reports.dump(
        st_reports.c_info(FULL, macc=0 if VERSION == "3.0.0" else st_reports.MACC)
    )
    if MODE in ("garbage_info", "garbage"):
        info = info[: len(info) // 2] + "\x80\xff"
    if MODE != "no_info":
        (folder / "network_c_info.json").write_text(info, encoding="latin-1", errors="replace")
    text = st_reports.report("unknown" if MODE == "unknown_epochs" else generation, FULL)
    (folder / "network_generate_report.txt").write_text(
        "\x00\x01 no report" if MODE == "garbage" else text
    )


def processor(options: argparse.Namespace) -> None:
    """Without --st-neural-art the network is built for the Cortex-M55."""
    folder = Path(options.output or "st_ai_output")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network_c_info.json").write_text(st_reports.dump(st_reports.processor_c_info()))
    (folder / "network_generate_report.txt").write_text(st_reports.processor_report())


def validate(options: argparse.Namespace) -> None:
    """Runs on a board; its c_info replaces the build's."""
    if options.mode == "host":
        fail(
            "E102(CliArgumentError): Validation on host is not supported for devices based on Arm"
            " Cortex M55/M85 core."
        )
    if MODE == "board_hangs":
        say("PASS:   1%|          | 1/10 [00:00<?, ?it/s]", end="\r")
        time.sleep(600)
    if MODE == "no_board":
        fail("LOAD ERROR: STM32 - read timeout 50094.0ms/50000ms")
    if MODE == "wrong_firmware":
        fail("E801(HwIOError): Invalid firmware")
    folder = Path(options.output or "st_ai_output")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network_validate_report.txt").write_text(
        "\x00" if MODE == "garbage_validation" else st_reports.validate_report()
    )
    info = st_reports.dump(st_reports.validation_c_info())
    (folder / "network_c_info.json").write_text(
        info[: len(info) // 2] if MODE == "garbage_validation" else info
    )


if __name__ == "__main__":
    main()
