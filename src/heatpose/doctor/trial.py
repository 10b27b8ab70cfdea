"""A trial of everything on this machine: rendered people, training, scoring, export, speed.

All steps but the first are processes of their own, so that a crash of a driver or a library is a
failed step and not the end of the trial.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatpose.doctor.checks import Check
from heatpose.errors import BUG, HeatposeError
from heatpose.utils.process import Ended, run_process

LONGEST_S = 600
"""For one step; a slow processor needs some minutes for all of them."""
TRAIN_IMAGES, VAL_IMAGES, EPOCHS = 96, 16, 4
_TINY = [
    "resolution=64",
    "model.width=0.35",
    "data.batch_size=8",
    f"trainer.max_epochs={EPOCHS}",
    "data.module.held_out=0.2",
    "logger=csv",
    "callbacks.progress=null",
    "name=trial",
    "+trainer.enable_progress_bar=false",
    "evaluate=false",
    "export=false",
]
_NO_LIMITS = [f"quant.limits.{name}=1000" for name in ("drift_p50_px", "drop_pc", "drop_pt")]
"""What a network that has hardly been trained loses by quantisation is noise."""
_REMEDIES = {
    "working folder": "Work in a folder that can be written; runs and exports go there too.",
    "images": "Make room in the working folder, or install numpy and pillow anew.",
    "training": (
        "If the first line of the log works with trainer.accelerator=cpu trainer.precision=32-true"
        " added, install a GPU driver and a torch build that fit together; else install the package"
        " that the log names anew."
    ),
    "export": "Install the export extra anew: pip install --force-reinstall 'heatpose[export]'.",
}
_OTHER = "Install the package that the log names anew, or report the log."


@dataclass(frozen=True)
class Step(Check):
    """A step of the trial.

    Attributes:
        seconds: It took; 0 where it was not tried.
        speeds: What was measured: plain values of `doctor.speed.Speed`.
    """

    seconds: float = 0.0
    speeds: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class _Found:
    text: str
    speeds: tuple[dict[str, Any], ...] = ()
    status: str = "ok"
    remedy: str = ""


def source_overrides(images: Path) -> list[str]:
    """The rendered people of a trial as overrides of the configuration.

    Args:
        images: The folder that they were rendered into.
    """
    counts = [f"data.source.train_images={TRAIN_IMAGES}", f"data.source.val_images={VAL_IMAGES}"]
    return ["experiment=quickstart", f"data.source.root={images}", *counts]


def try_machine(tell: Callable[[Step], None]) -> list[Step]:
    """Renders, trains, scores, exports and measures, in a new folder in the working folder.

    Args:
        tell: Called with each step when it has ended.

    Returns:
        All steps. What a failed step was needed for is not tried. The folder is kept where a step
        failed, because its logs are there.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="heatpose_doctor_", dir=Path.cwd()))
    except OSError as error:
        found = f"'{Path.cwd()}' cannot be written ({error.strerror})"
        steps = [Step("working folder", "fail", found, _REMEDIES["working folder"])]
        tell(steps[0])
        return steps
    trial, steps = _Trial(folder), []
    for name, needed, work in trial.plan():
        steps.append(_step(name, needed, work, steps))
        tell(steps[-1])
    if all(step.status != "fail" for step in steps):
        shutil.rmtree(folder, ignore_errors=True)
    return steps


def _step(name: str, needed: str, work: Callable[[], _Found], before: Sequence[Step]) -> Step:
    """One step, or why it was not tried."""
    if any(step.name == needed and step.status != "ok" for step in before):
        return Step(name, "warn", f"not tried, because it needs {needed}", "See the step above.")
    start = time.monotonic()
    try:
        done = work()
    except (HeatposeError, OSError, ImportError) as error:
        remedy = _REMEDIES.get(name, _OTHER)
        return Step(name, "fail", str(error), remedy, time.monotonic() - start)
    status: Any = done.status
    return Step(name, status, done.text, done.remedy, time.monotonic() - start, done.speeds)


class _Trial:
    """The steps, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, folder / "images"

    def plan(self) -> list[tuple[str, str, Callable[[], _Found]]]:
        """Name of each step, the one that it needs, and its work."""
        return [
            ("images", "", self.render),
            ("training", "images", self.train),
            ("scoring", "training", self.score),
            ("export", "training", self.export),
            ("speed of steps", "images", lambda: self.speed("steps", 1)),
            ("speed of training", "training", lambda: self.speed("training", 1)),
            ("speed of two trainings", "training", lambda: self.speed("training", 2)),
        ]

    def render(self) -> _Found:
        """Draws the people."""
        from heatpose.data.sources import SyntheticSource

        SyntheticSource(str(self.images), TRAIN_IMAGES, VAL_IMAGES).prepare()
        return _Found(f"{TRAIN_IMAGES + VAL_IMAGES} images rendered")

    def train(self) -> _Found:
        """`heatpose train`; the loss must fall."""
        self._heatpose("training", "train", *source_overrides(self.images), *_TINY)
        record = (self.folder / "runs/trial/csv/metrics.csv").read_text(encoding="utf-8")
        names, *rows = (line.split(",") for line in record.splitlines())
        column = names.index("train/loss_epoch")
        losses = [float(row[column]) for row in rows if row[column]]
        if losses[-1] >= losses[0]:
            raise HeatposeError(f"The loss did not fall ({losses[0]:.3f} to {losses[-1]:.3f}).")
        return _Found(f"{EPOCHS} epochs, loss {losses[0]:.2f} to {losses[-1]:.2f}")

    @property
    def _checkpoint(self) -> str:
        return "runs/trial/checkpoints/best.ckpt"

    def score(self) -> _Found:
        """`heatpose evaluate` on the rendered evaluation people."""
        [root] = (path for path in self.images.iterdir() if (path / "annotations").is_dir())
        labels = root / "annotations/person_keypoints_val2017.json"
        options = ["--annotations", labels, "--images", root / "val2017", "--json", "score.json"]
        self._heatpose("scoring", "evaluate", self._checkpoint, *map(str, options))
        score = json.loads((self.folder / "score.json").read_text(encoding="utf-8"))
        return _Found(f"OKS {score['oks']:.1f} % (a trial of {EPOCHS} epochs: no measure)")

    def export(self) -> _Found:
        """`heatpose export`, where its packages are installed."""
        from heatpose.export.convert import check_installed

        try:
            check_installed()
        except HeatposeError as error:
            remedy = "Install the extra where exports are wanted: pip install 'heatpose[export]'."
            return _Found(f"not tried: {error}", status="warn", remedy=remedy)
        small = ["quant.forms=[float32,int8_pc]", "quant.calibration_images=8"]
        start = [f"checkpoint={self._checkpoint}", "name=trial", *small]
        self._heatpose("export", "export", *start, *_NO_LIMITS)
        files = sorted(path.name for path in self.folder.glob("exports/trial/*.tflite"))
        return _Found(f"{len(files)} TFLite files made and compared with the network")

    def speed(self, what: str, processes: int) -> _Found:
        """Images per second, by `doctor.speed` in as many processes at once."""
        outs = [self.folder / f"together_{processes}_{i}" for i in range(processes)]
        outs = [out.with_name(f"{what}_{out.name}.jsonl") for out in outs]

        def run(out: Path) -> None:
            module = ["heatpose.doctor.speed", what, str(self.images), str(out), str(processes)]
            self._python(out.stem, *module)

        with ThreadPoolExecutor(processes) as pool:
            list(pool.map(run, outs))
        lines = [line for out in outs for line in out.read_text(encoding="utf-8").splitlines()]
        speeds = tuple(json.loads(line) for line in lines)
        broken = [speed for speed in speeds if speed["error"]]
        text = _summary(speeds, processes)
        if not broken:
            return _Found(text, speeds)
        if any("compiled" not in speed["name"] for speed in broken):
            raise HeatposeError(text)
        remedy = "Leave compile=false, or install a C compiler and a triton that fits torch."
        return _Found(text, speeds, "warn", remedy)

    def _heatpose(self, name: str, *arguments: str) -> None:
        self._python(name, "heatpose.cli", *arguments)

    def _python(self, name: str, *module: str) -> None:
        """Runs a module, its output in `<name>.log` below the command.

        Raises:
            HeatposeError: It failed, crashed or did not end.
        """
        log = self.folder / f"{name}.log"
        command = [sys.executable, "-m", *module]
        log.write_text(f"{shlex.join(command)}\n", encoding="utf-8")
        ended = run_process(command, self.folder, time_limit_s=LONGEST_S, log=log)
        if ended.status != 0:
            raise HeatposeError(f"{_reason(ended)} (log: '{log}')")


def _summary(speeds: Sequence[dict[str, Any]], processes: int) -> str:
    """The measurements in one line; those of processes that ran at once are added up."""
    if processes > 1 and all(not speed["error"] for speed in speeds):
        rates = [speed["images_per_second"] for speed in speeds]
        parts = " + ".join(f"{rate:.0f}" for rate in rates)
        return f"{parts} = {sum(rates):.0f} images/s"
    shown = [
        f"{s['name']}: {s['error'] or format(s['images_per_second'], '.0f') + ' images/s'}"
        for s in speeds
    ]
    return "; ".join(shown)


def _reason(ended: Ended) -> str:
    """How a process failed: its sentence, the last line of its traceback, or its signal."""
    if ended.status is None:
        return f"no end after {LONGEST_S} s"
    if ended.status < 0:
        return f"crashed with {signal.Signals(-ended.status).name}"
    lines = [line.strip() for line in ended.text.splitlines() if line.strip()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    # What stands below the error is advice.
    advice = ("Set the environment variable HYDRA_FULL_ERROR", BUG)
    lines = [line for line in lines if not line.startswith(advice)]
    return (said or lines or [f"exit status {ended.status}"])[-1]
