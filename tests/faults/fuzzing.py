"""Gives a reader spoiled files, thousands of them, and watches what becomes of the process.

    python tests/faults/fuzzing.py SEEDS READER... --count 10000 --seed 0 --found FOLDER

SEEDS is a folder of real files (`seeds.py` makes one). Each input has a number, and number, seed
and SEEDS give it again: `--first N --count 1`.

The reader runs in a child. What the child may not do with any input: end, take longer than 10
seconds, need more than 2 GiB, raise anything but `HeatposeError`, write outside its folder, start a
program, run code of the file, or connect anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

HANG_S = 10.0
MEMORY = 2 * 1024**3
FORBIDDEN = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "socket.connect",
    "shutil.rmtree",
    "ctypes.dlopen",
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Forbidden(BaseException):
    """What no file may cause; no reader catches it."""


class Guard:
    """Python's audit hook: sees every file opened for writing, every program started.

    Every piece of code run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.active = str(folder), False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = (
                flags is not None
                and flags & WRITES
                or isinstance(mode, str)
                and set(mode) & set("wax+")
            )
            if (
                writes
                and isinstance(path, str | bytes)
                and not os.path.realpath(os.fsdecode(path)).startswith((self.folder, "/dev/null"))
            ):
                raise Forbidden(f"wrote to {path!r}")
        elif event in FORBIDDEN and not (
            event == "shutil.rmtree" and str(arguments[0]).startswith(self.folder)
        ):
            raise Forbidden(f"{event} {arguments!r:.200}")
        elif (
            event == "exec"
            and getattr(arguments[0], "co_filename", "").startswith("<string")
            and not _annotation()
        ):
            raise Forbidden("ran code of its own")


def _annotation() -> bool:
    """The code is an annotation of a class of ours, which `typing.get_type_hints` evaluates."""
    frame, names = sys._getframe(1), []
    while frame is not None and len(names) < 4:
        names.append(Path(frame.f_code.co_filename).name)
        frame = frame.f_back
    return "typing.py" in names


@cache
def _files(name: str, seeds: Path) -> list[bytes]:
    from readers import READERS

    return [path.read_bytes() for path in sorted(seeds.glob(READERS[name].pattern))]


def spoiled(name: str, seeds: Path, seed: int, number: int) -> bytes:
    """Input `number` of a reader."""
    from readers import READERS

    reader, files = READERS[name], _files(name, seeds)
    chance = random.Random(f"{name} {seed} {number}")
    return reader.mutate(chance.choice(files), files, chance)


def work(name: str, seeds: Path, folder: Path, seed: int, numbers: range) -> None:
    """The child: reads inputs one after the other and tells its parent before and after each."""
    from readers import READERS

    reader, steps = READERS[name], os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(folder.parent / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    for path in seeds.glob(f"beside/{name}/*"):
        shutil.copy(path, folder)
    path = folder / reader.name
    os.chdir(folder)
    for file in sorted(seeds.glob(reader.pattern)):  # whatever is imported or built once
        shutil.copy(file, path)
        try:
            reader.read(path)
        except Exception as error:
            print(
                json.dumps({"seed": file.name, "error": f"{type(error).__name__}: {error}"}),
                file=steps,
            )
    guard = Guard(folder)
    sys.addaudithook(guard)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for number in numbers:
        path.write_bytes(spoiled(name, seeds, seed, number))
        print(json.dumps({"number": number}), file=steps)
        guard.active = True
        message = _read(reader, path)
        guard.active = False
        if Path("pwned").exists():
            message = "code execution: the file 'pwned' is there"
            Path("pwned").unlink()
        print(json.dumps({"told": message}), file=steps)


def _read(reader: Any, path: Path) -> str:
    """What became of one input: "", "refused", or what must not be."""
    from heatpose.errors import HeatposeError

    try:
        reader.read(path)
    except HeatposeError as error:
        text = str(error)
        return (
            "refused"
            if text.strip() and "Traceback" not in text
            else f"an error without a sentence: {text[:200]}"
        )
    except (Exception, Forbidden) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        ours = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "heatpose" in frame.filename
        ]
        place = ours[-1] if ours else where
        return (
            f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno} {place.name}:"
            f" {str(error)[:150]}"
        )
    return ""


@dataclass
class Campaign:
    """What became of a reader's inputs.

    Attributes:
        reader: Its name.
        inputs: How many were read.
        refused: How many ended as a `HeatposeError`; the others were read.
        findings: What must not be -> numbers of the inputs.
        seconds: It took.
    """

    reader: str
    inputs: int = 0
    refused: int = 0
    findings: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0
    slowest: float = 0.0

    def find(self, what: str, number: int) -> None:
        """Counts a finding."""
        self.findings.setdefault(what, []).append(number)


def fuzz(name: str, seeds: Path, *, count: int, seed: int = 0, first: int = 0) -> Campaign:
    """Reads `count` inputs; a child that ends or hangs is replaced by another."""
    campaign, start, number = Campaign(name), time.monotonic(), first
    while number < first + count:
        with tempfile.TemporaryDirectory(prefix="heatpose_fuzz_") as temporary:
            folder = Path(temporary).resolve() / "here"
            folder.mkdir()
            number = _watch(campaign, seeds, folder, seed, range(number, first + count)) + 1
            if strays := [
                path.name
                for path in Path(temporary).iterdir()
                if path.name not in ("here", "stderr")
            ]:
                campaign.find(f"wrote outside its folder: {strays}", number)
    campaign.seconds = time.monotonic() - start
    return campaign


def _watch(campaign: Campaign, seeds: Path, folder: Path, seed: int, numbers: range) -> int:
    """One child, until it is done, has ended or is ended; returns the last number it was given."""
    arguments = [
        "--worker",
        campaign.reader,
        str(seeds),
        str(folder),
        str(seed),
        str(numbers.start),
        str(numbers.stop),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONHASHSEED": "0",
    }
    child = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None
    number, since, reading, waiting = numbers.start - 1, _seconds_used(child.pid), False, b""
    silent = 0
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            ready = selector.select(HANG_S)
            if (
                not ready
                and (not reading or _seconds_used(child.pid) - since < HANG_S)
                and (silent := silent + 1) < 60
            ):
                # the machine has other work: seconds of the processor are counted, and ten minutes
                # of silence are too long all the same
                continue
            chunk, silent = os.read(child.stdout.fileno(), 1 << 16) if ready else None, 0
            if chunk is None:
                child.kill()
                campaign.find("took longer than 10 seconds", number)
                break
            if not chunk:
                if child.wait() != 0:
                    words = (
                        (folder.parent / "stderr").read_text(errors="replace").strip().splitlines()
                    )
                    campaign.find(
                        f"ended the process with status {child.returncode}:"
                        f" {' | '.join(words[-2:])[-200:]}",
                        number,
                    )
                    if number < numbers.start:
                        raise RuntimeError(f"the worker does not start: {words[-5:]}")
                break
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                step = json.loads(line)
                if "number" in step:
                    number, reading, campaign.inputs = step["number"], True, campaign.inputs + 1
                elif "told" in step:
                    reading = False
                    campaign.slowest = max(campaign.slowest, _seconds_used(child.pid) - since)
                    campaign.refused += step["told"] == "refused"
                    if step["told"] not in ("", "refused"):
                        campaign.find(step["told"], number)
                else:
                    campaign.findings.setdefault(
                        f"seed {step['seed']} is not read: {step['error']}", []
                    )
                since = _seconds_used(child.pid)
    child.kill()
    child.wait()
    child.stdout.close()
    return number


def _seconds_used(pid: int) -> float:
    """Processor seconds of a process so far, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Runs campaigns and prints a line for each; status 1 where something was found."""
    if sys.argv[1] == "--worker":
        name, seeds, folder, seed, start, stop = sys.argv[2:]
        work(name, Path(seeds), Path(folder), int(seed), range(int(start), int(stop)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=Path)
    parser.add_argument("readers", nargs="+")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--found", type=Path, help="folder for inputs that found something")
    options = parser.parse_args()
    found = False
    for name in options.readers:
        campaign = fuzz(
            name,
            options.seeds.resolve(),
            count=options.count,
            seed=options.seed,
            first=options.first,
        )
        print(
            f"{name}: {campaign.inputs} inputs, {campaign.refused} refused,"
            f" {campaign.seconds:.0f} s, slowest {campaign.slowest:.1f} s",
            flush=True,
        )
        for what, numbers in sorted(campaign.findings.items(), key=lambda item: -len(item[1])):
            found = True
            print(f"  {len(numbers)}x {what}  {numbers[:3]}", flush=True)
            if options.found is not None and numbers:
                options.found.mkdir(parents=True, exist_ok=True)
                (options.found / f"{name}_{options.seed}_{numbers[0]}").write_bytes(
                    spoiled(name, options.seeds.resolve(), options.seed, numbers[0])
                )
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
