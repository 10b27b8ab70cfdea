"""Kills what writes files, at random moments, and looks at what is left and at what the next run makes of it.

    python tests/faults/kill_campaign.py FOLDER --what json download rendering training export --moments 20 --seed 0

Every victim runs as the head of a process group of its own, which gets SIGKILL at a moment drawn between 0 and the time that an undisturbed run
takes. Then each file that a next run would read must be whole or absent, and the next run must end as an undisturbed one does.
"""

from __future__ import annotations

import argparse
import hashlib
import http.server
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Tally:
    """What became of the kills of one kind of work.

    Attributes:
        what: The work.
        kills: How many victims were still running when they were killed.
        late: How many had ended before.
        lost: Sentences about what was not whole, or what the next run did not make good.
    """

    what: str
    kills: int = 0
    late: int = 0
    lost: list[str] = field(default_factory=list)
    undisturbed_s: float = 0.0

    def __str__(self) -> str:
        lines = [f"{self.what}: {self.kills} killed, {self.late} already done, {self.undisturbed_s:.1f} s undisturbed, {len(self.lost)} losses"]
        return "\n".join(lines + [f"  {text}" for text in self.lost])


def run(command: list[str], kill_after: float | None = None) -> tuple[int, bool, str]:
    """Runs a command as the head of a group; returns its status, whether it was killed, and the end of what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    killed = False
    try:
        out, _ = child.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        killed = True
        out, _ = child.communicate()
    return child.returncode, killed, out.decode(errors="replace")[-600:]


def campaign(what: str, start: Callable[[], list[str]], check: Callable[[], list[str]], finished: Callable[[], list[str]], moments: int, seed: int) -> Tally:
    """Kills `start`'s command at random moments.

    Args:
        what: Name.
        start: Prepares the place and gives the command.
        check: After a kill: what is not whole.
        finished: After an undisturbed run: what is not as it must be.
    """
    tally, chance = Tally(what), random.Random(f"{what} {seed}")
    begin = time.monotonic()
    status, _, said = run(start())
    tally.undisturbed_s = time.monotonic() - begin
    tally.lost += [f"undisturbed: {text}" for text in (finished() if status == 0 else [f"status {status}: {said}"])]
    for number in range(moments):
        command = start()
        moment = chance.uniform(0, tally.undisturbed_s)
        _, killed, _ = run(command, moment)
        tally.kills, tally.late = tally.kills + killed, tally.late + (not killed)
        where = f"moment {number} ({moment:.2f} s)"
        tally.lost += [f"{where}: {text}" for text in check()]
        status, _, said = run(command)
        tally.lost += [f"{where}, next run: {text}" for text in (finished() if status == 0 else [f"status {status}: {said}"])]
        print(f"{what} {where}: {len(tally.lost)} losses", flush=True)
    return tally


def json_files(folder: Path) -> list[str]:
    """Names of json files below a folder that cannot be parsed."""
    broken = []
    for path in folder.rglob("*.json"):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            broken.append(f"'{path}' is no whole json")
    return broken


# --- the small files -------------------------------------------------------------------------------------------------------------------------------


def write_jsons(folder: Path) -> None:
    """Victim: writes manifests, results and run records over and over."""
    from heatpose.cli.output import write_json as of_a_command
    from heatpose.export.manifest import write_json

    end = time.monotonic() + 2
    while time.monotonic() < end:
        content = {"numbers": list(range(random.randrange(2000, 20000)))}
        write_json(folder / "manifest.json", content)
        of_a_command(folder / "result.json", content)


def kill_json(folder: Path, moments: int, seed: int) -> Tally:
    """Whole or absent, and the next write succeeds."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--victim", "json", str(folder)]
    absent = lambda: [f"'{name}' is missing" for name in ("manifest.json", "result.json") if not (folder / name).is_file()]  # noqa: E731
    return campaign("json", lambda: command, lambda: json_files(folder), lambda: json_files(folder) + absent(), moments, seed)


# --- download --------------------------------------------------------------------------------------------------------------------------------------


class _Slow(http.server.SimpleHTTPRequestHandler):
    """Serves a folder slowly, with ranges, as the host of the archives does."""

    def log_message(self, *arguments: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        wanted = self.headers.get("Range")
        first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.send_header("ETag", '"1"')
        self.end_headers()
        for at in range(first, len(content), 1 << 16):
            self.wfile.write(content[at : min(len(content), at + (1 << 16))])
            time.sleep(0.02)


def _archives(served: Path) -> dict[str, dict[str, Any]]:
    """Small zips in the official layout; returns what `Archive` takes."""
    chance, described = random.Random(0), {}
    parts = {
        "annotations": ("annotations", ("person_keypoints_train2017.json", "person_keypoints_val2017.json"), 2),
        "val2017": ("val2017", tuple(f"{i:012d}.jpg" for i in range(120)), 120),
    }
    for name, (folder, names, count) in parts.items():
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as file:
            for entry in names:
                file.writestr(f"{folder}/{entry}", chance.randbytes(10_000))
        content = sink.getvalue()
        (served / f"{name}.zip").write_bytes(content)
        described[name] = {
            "path": f"{name}.zip", "folder": folder, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "unpacked": 10_000 * count,
            "files": count, "names": names if name == "annotations" else (),
        }  # fmt: skip
    return described


def download(folder: Path, url: str, described: Path) -> None:
    """Victim: the official download, from a local server."""
    from heatpose.data.archive import Archive
    from heatpose.data.download import download_coco

    entries = json.loads(described.read_text())
    download_coco(folder, ("val2017",), url, {name: Archive(**{**entry, "names": tuple(entry["names"])}) for name, entry in entries.items()})


def kill_download(folder: Path, moments: int, seed: int) -> Tally:
    """A folder of images is whole or absent, and the next run completes it."""
    served, root = folder / "served", folder / "root"
    served.mkdir(parents=True)
    described = _archives(served)
    (folder / "archives.json").write_text(json.dumps(described))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Slow, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    expected = {}
    for name in described:
        with zipfile.ZipFile(served / f"{name}.zip") as file:
            expected |= {entry.filename: file.read(entry) for entry in file.infolist()}

    def start() -> list[str]:
        shutil.rmtree(root, ignore_errors=True)
        return [sys.executable, __file__, "--victim", "download", str(root), f"http://127.0.0.1:{server.server_port}", str(folder / "archives.json")]

    def check() -> list[str]:
        found = [f"'{name}' is not whole" for name, data in expected.items() if (root / name).is_file() and (root / name).read_bytes() != data]
        pictures = len(list((root / "val2017").glob("*"))) if (root / "val2017").exists() else 0
        return found + ([f"val2017 has {pictures} of 120 pictures"] if pictures not in (0, 120) else []) + json_files_at(root / ".heatpose-download.json")

    def finished() -> list[str]:
        missing = [f"'{name}' is missing or wrong" for name, data in expected.items() if not (root / name).is_file() or (root / name).read_bytes() != data]
        left = [f"'{path.name}' was left" for path in root.iterdir() if path.suffix in (".part", ".zip")]
        return missing + left

    try:
        return campaign("download", start, check, finished, moments, seed)
    finally:
        server.shutdown()


def json_files_at(path: Path) -> list[str]:
    """As `json_files`, of one file that may be absent."""
    if not path.is_file():
        return []
    try:
        json.loads(path.read_text())
    except ValueError:
        return [f"'{path}' is no whole json"]
    return []


# --- rendering -------------------------------------------------------------------------------------------------------------------------------------


def render(folder: Path) -> None:
    """Victim: renders a small data set."""
    from heatpose.data.synthetic import SyntheticSettings, build_synthetic

    build_synthetic(folder, SyntheticSettings(train_images=6, val_images=4), progress=False)


def kill_rendering(folder: Path, moments: int, seed: int) -> Tally:
    """What is taken for a finished set is one, byte for byte."""
    whole: dict[str, str] = {}

    def start() -> list[str]:
        shutil.rmtree(folder, ignore_errors=True)
        return [sys.executable, __file__, "--victim", "rendering", str(folder)]

    def contents() -> dict[str, str]:
        files = (path for path in folder.rglob("*") if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts))
        return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def check() -> list[str]:
        return [f"'{name}' is not whole" for name, digest in contents().items() if whole.get(name) != digest]

    def finished() -> list[str]:
        if not whole:
            whole.update(contents())
        return [] if contents() == whole and whole else ["the set is not the one that an undisturbed run renders"]

    return campaign("rendering", start, check, finished, moments, seed)


# --- training and export ---------------------------------------------------------------------------------------------------------------------------


def entry(name: str, folder: Path, data: Path, *overrides: str) -> list[str]:
    """`train.py` or `export.py` with a network and data that are tiny."""
    source = [f"data.source.root={data}", "data.source.train_images=12", "data.source.val_images=6"]
    loaders = ["data.workers=0", "data.batch_size=4", "data.module.held_out=0.3", "resolution=64", "trainer.accelerator=cpu", "trainer.precision=32-true"]
    network = ["model.width=0.1", "+model.last_channels=16", "+model.pyramid=[8,8,8,8]", "+model.head_channels=8", "callbacks.pictures=null"]
    places = [f"runs={folder}/runs", f"exports={folder}/exports"]
    return [sys.executable, str(REPOSITORY / f"{name}.py"), "experiment=quickstart", *source, *loaders, *network, *places, *overrides]


def broken_checkpoints(folder: Path) -> list[str]:
    """Checkpoints below a folder that cannot be read."""
    from heatpose.errors import HeatposeError
    from heatpose.models.checkpoint import load_checkpoint

    broken = []
    for path in folder.rglob("*.ckpt"):
        try:
            load_checkpoint(path)
        except HeatposeError as error:
            broken.append(str(error))
    return broken


def broken_bundles(folder: Path) -> list[str]:
    """Bundles that are not whole."""
    from heatpose.errors import HeatposeError
    from heatpose.export.verify import verify_bundle

    broken = []
    for bundle in (path for path in folder.glob("*") if path.is_dir() and not path.name.startswith(".")):
        try:
            broken += verify_bundle(bundle).findings
        except HeatposeError as error:
            broken.append(str(error))
    return broken


def kill_training(folder: Path, moments: int, seed: int) -> Tally:
    """Every checkpoint can be read, and the run ends as if it had not been killed."""
    whole: dict[str, Any] = {}

    def start() -> list[str]:
        shutil.rmtree(folder / "runs", ignore_errors=True)
        return entry("train", folder, folder / "data", "name=killed", "trainer.max_epochs=3", "export=false", "evaluate=false")

    def weights() -> dict[str, Any]:
        import torch

        return torch.load(folder / "runs/killed/checkpoints/last.ckpt", weights_only=True)["state_dict"]

    def finished() -> list[str]:
        found = weights()
        if not whole:
            whole.update(found)
        apart = max((float((found[name].double() - value.double()).abs().max()) for name, value in whole.items() if value.numel()), default=0.0)
        told = [f"the weights are {apart:.1e} from the undisturbed run's"] if apart > 1e-6 else []
        return broken_checkpoints(folder / "runs") + json_files(folder / "runs") + told

    return campaign("training", start, lambda: broken_checkpoints(folder / "runs") + json_files(folder / "runs"), finished, moments, seed)


def kill_export(folder: Path, moments: int, seed: int, forms: str = "[float32,int8_pt]") -> Tally:
    """The older bundle stays whole until the new one takes its place."""
    checkpoint = folder / "first.ckpt"

    def start() -> list[str]:
        if not checkpoint.is_file():
            run(entry("train", folder, folder / "data", "name=first", "fit=false", "export=false", "evaluate=false"))
            shutil.copy(folder / "runs/first/checkpoints/initial.ckpt", checkpoint)
        limits = ["quant.limits.drift_p50_px=1000", "quant.limits.drop_pc=100", "quant.limits.drop_pt=100"]  # random weights pass no other
        chosen = [f"checkpoint={checkpoint}", "name=killed", f"quant.forms={forms}", "quant.calibration_images=4"]
        return entry("export", folder, folder / "data", *chosen, *limits)

    def finished() -> list[str]:
        temporary = [f"'{path.name}' was left" for path in (folder / "exports").iterdir() if path.is_dir() and path.name.startswith(".")]
        return broken_bundles(folder / "exports") + temporary

    return campaign("export", start, lambda: broken_bundles(folder / "exports"), finished, moments, seed)


KINDS = {"json": kill_json, "download": kill_download, "rendering": kill_rendering, "training": kill_training, "export": kill_export}
VICTIMS: dict[str, Callable[..., None]] = {
    "json": lambda folder: write_jsons(Path(folder)),
    "download": lambda folder, url, described: download(Path(folder), url, Path(described)),
    "rendering": lambda folder: render(Path(folder)),
}


def main() -> int:
    """Status 1 where anything was lost."""
    if sys.argv[1] == "--victim":
        VICTIMS[sys.argv[2]](*sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--what", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tallies = []
    for what in options.what:
        place = options.folder.resolve() / what
        shutil.rmtree(place, ignore_errors=True)
        tallies.append(KINDS[what](place, options.moments, options.seed))
        print(tallies[-1], flush=True)
    return int(any(tally.lost for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
