"""What the kill campaigns share.

Victims, moments, and what is looked at afterwards (`kill_campaign.py`).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

REPOSITORY = Path(__file__).parents[2]
WARM = REPOSITORY / "tests/integration/warm.py"
POLL_S = 0.05


@dataclass
class Tally:
    """What became of the kills of one kind of work.

    Attributes:
        what: The work.
        kills: How many victims were still running when they were killed.
        late: How many had ended before.
        lost: Sentences about what was not whole, or what the next run did not make good.
        undisturbed_s: What an undisturbed run takes, by the clock that the moments are drawn on.
    """

    what: str
    kills: int = 0
    late: int = 0
    lost: list[str] = field(default_factory=list)
    undisturbed_s: float = 0.0

    def __str__(self) -> str:
        lines = [
            f"{self.what}: {self.kills} killed, {self.late} already done,"
            f" {self.undisturbed_s:.1f} s undisturbed, {len(self.lost)} losses"
        ]
        return "\n".join(lines + [f"  {text}" for text in self.lost])


@dataclass(frozen=True)
class Ended:
    """A run of a victim: its status, whether it was killed, the end of its output,
    and its duration.
    """

    status: int
    killed: bool
    said: str
    seconds: float


class Victim(Protocol):
    """Starts a command in a process group of its own.

    Which is killed after some seconds of its clock, or runs to its end.
    """

    def __call__(self, command: list[str], kill_after: float | None = None) -> Ended: ...


def cold(command: list[str], kill_after: float | None = None) -> Ended:
    """A program as a person starts it; its clock is the wall's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begin = time.monotonic()
    child = subprocess.Popen(
        command,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    killed = False
    try:
        out, _ = child.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        killed = True
        out, _ = child.communicate()
    return Ended(
        child.returncode, killed, out.decode(errors="replace")[-600:], time.monotonic() - begin
    )


class Warm:
    """Forks of a process that has imported everything (`tests/integration/warm.py`).

    So that the moments fall into the work and not into imports.

    Its clock counts seconds of the processor, of all processes of the group: other programs on the
    machine do not move the moments.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, str(WARM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __call__(self, command: list[str], kill_after: float | None = None) -> Ended:
        assert self.server.stdin is not None and self.server.stdout is not None
        said = self.folder / "said.txt"
        said.unlink(missing_ok=True)
        job = {
            "argv": command,
            "cwd": str(self.folder),
            "out": str(said),
            "err": str(said),
            "group": True,
        }
        print(json.dumps(job), file=self.server.stdin, flush=True)
        group, used, killed = int(self.server.stdout.readline()), 0.0, False
        while (now := seconds_used(group)) is not None:
            used = max(used, now)
            if kill_after is not None and used >= kill_after:
                os.killpg(group, signal.SIGKILL)
                killed = True
                break
            time.sleep(POLL_S)
        status = int(self.server.stdout.readline())
        end_of_group(group)
        return Ended(
            status,
            killed and status < 0,
            said.read_text(errors="replace")[-600:] if said.exists() else "",
            used,
        )

    def close(self) -> None:
        """Ends the process."""
        self.server.communicate()


def processes(group: int) -> list[list[str]]:
    """The fields of /proc/PID/stat, from the state on, of the living processes of a group."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            if int(fields[2]) == group and fields[0] not in "ZX":
                found.append(fields)
    return found


def seconds_used(group: int) -> float | None:
    """Processor seconds of a group so far, ended children included.

    None if none of its processes lives.
    """
    found = processes(group)
    return (
        sum(int(value) for fields in found for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")
        if found
        else None
    )


def end_of_group(group: int) -> None:
    """Waits until no process of a killed group is left that could still write."""
    while processes(group):
        time.sleep(POLL_S)


def campaign(
    what: str,
    start: Callable[[], list[str]],
    check: Callable[[], list[str]],
    finished: Callable[[], list[str]],
    moments: int,
    seed: int,
    victim: Victim = cold,
) -> Tally:
    """Kills `start`'s command at random moments.

    Args:
        what: Name.
        start: Prepares the place and gives the command.
        check: After a kill: what is not whole.
        finished: After an undisturbed run: what is not as it must be.
        moments: How many.
        seed: Of the moments.
        victim: How the command is run.
    """
    tally, chance = Tally(what), random.Random(f"{what} {seed}")
    whole = victim(start())
    tally.undisturbed_s = whole.seconds
    tally.lost += [
        f"undisturbed: {text}"
        for text in (finished() if whole.status == 0 else [f"status {whole.status}: {whole.said}"])
    ]
    for number in range(moments):
        command = start()
        moment = chance.uniform(0, tally.undisturbed_s)
        killed = victim(command, moment).killed
        tally.kills, tally.late = tally.kills + killed, tally.late + (not killed)
        where = f"moment {number} ({moment:.2f} s)"
        tally.lost += [f"{where}: {text}" for text in check()]
        again = victim(command)
        tally.lost += [
            f"{where}, next run: {text}"
            for text in (
                finished() if again.status == 0 else [f"status {again.status}: {again.said}"]
            )
        ]
        print(
            f"{what} {where}: {'killed' if killed else 'already done'}, {len(tally.lost)} losses",
            flush=True,
        )
    return tally


def json_files(folder: Path) -> list[str]:
    """Sentences about json files below a folder that cannot be parsed."""
    return [text for path in folder.rglob("*.json") for text in json_file(path)]


def json_file(path: Path) -> list[str]:
    """As `json_files`, of one file that may be absent."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError:
        return [f"'{path}' is no whole json"]
    return []


def difference(found: dict[str, Any], whole: dict[str, Any]) -> float:
    """Largest absolute difference of the tensors of two state dicts.

    Infinite where their names are not the same.
    """
    if found.keys() != whole.keys():
        return float("inf")
    return max(
        (
            float((found[name].double() - value.double()).abs().max())
            for name, value in whole.items()
            if value.numel()
        ),
        default=0.0,
    )
