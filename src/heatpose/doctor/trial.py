"""Trial run of the whole pipeline: rendering, training, scoring, export, speed.

All steps but the first run in separate processes, so that a crash of a driver or library fails one
step instead of the whole trial.
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
"""Time limit of a step in seconds; a slow processor needs some minutes for all steps."""
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
"""Disables acceptance checks that are meaningless for a network that is hardly trained."""
_REMEDIES = {
    "working folder": "Use a writable working directory; runs and exports are created there too.",
    "images": "Make room in the working directory, or reinstall numpy and pillow.",
    "training": (
        "If the first line of the log works with trainer.accelerator=cpu trainer.precision=32-true"
        " added, install matching versions of GPU driver and torch; else reinstall the package"
        " named in the log."
    ),
    "export": "Reinstall the export extra: pip install --force-reinstall 'heatpose[export]'.",
}
_OTHER = "Reinstall the package named in the log, or report the log."


@dataclass(frozen=True)
class Step(Check):
    """Result of a step of the trial.

    Attributes:
        seconds: Duration; 0 if skipped.
        speeds: Measurements, plain values of `doctor.speed.Speed`.
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
    """Overrides that select the rendered images of a trial.

    Args:
        images: Folder of the rendered images.
    """
    counts = [f"data.source.train_images={TRAIN_IMAGES}", f"data.source.val_images={VAL_IMAGES}"]
    return ["experiment=quickstart", f"data.source.root={images}", *counts]


def run_trial(on_step: Callable[[Step], None]) -> list[Step]:
    """Renders, trains, scores, exports and measures, in a new folder of the working directory.

    Args:
        on_step: Called with each finished step.

    Returns:
        All steps; those that depend on a failed one are skipped. The folder with the logs is kept
        if a step failed.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="heatpose_doctor_", dir=Path.cwd()))
    except OSError as error:
        found = f"'{Path.cwd()}' cannot be written ({error.strerror})"
        steps = [Step("working folder", "fail", found, _REMEDIES["working folder"])]
        on_step(steps[0])
        return steps
    trial, steps = _Trial(folder), []
    for name, needed, work in trial.plan():
        steps.append(_step(name, needed, work, steps))
        on_step(steps[-1])
    if all(step.status != "fail" for step in steps):
        shutil.rmtree(folder, ignore_errors=True)
    return steps


def _step(name: str, needed: str, work: Callable[[], _Found], before: Sequence[Step]) -> Step:
    """Runs a step, or skips it if the step that it depends on failed."""
    if any(step.name == needed and step.status != "ok" for step in before):
        return Step(name, "warn", f"skipped, because it needs {needed}", "See the step above.")
    start = time.monotonic()
    try:
        done = work()
    except (HeatposeError, OSError, ImportError) as error:
        remedy = _REMEDIES.get(name, _OTHER)
        return Step(name, "fail", str(error), remedy, time.monotonic() - start)
    status: Any = done.status
    return Step(name, status, done.text, done.remedy, time.monotonic() - start, done.speeds)


class _Trial:
    """The steps of a trial in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, folder / "images"

    def plan(self) -> list[tuple[str, str, Callable[[], _Found]]]:
        """(name, name of the required step, function) of each step."""
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
        """Renders the images."""
        from heatpose.data.sources import SyntheticSource

        SyntheticSource(str(self.images), TRAIN_IMAGES, VAL_IMAGES).prepare()
        return _Found(f"{TRAIN_IMAGES + VAL_IMAGES} images rendered")

    def train(self) -> _Found:
        """Runs `heatpose train`; the loss must decrease."""
        self._heatpose("training", "train", *source_overrides(self.images), *_TINY)
        record = (self.folder / "runs/trial/csv/metrics.csv").read_text(encoding="utf-8")
        names, *rows = (line.split(",") for line in record.splitlines())
        column = names.index("train/loss_epoch")
        losses = [float(row[column]) for row in rows if row[column]]
        if losses[-1] >= losses[0]:
            raise HeatposeError(f"The loss did not decrease ({losses[0]:.3f} to {losses[-1]:.3f}).")
        return _Found(f"{EPOCHS} epochs, loss {losses[0]:.2f} to {losses[-1]:.2f}")

    @property
    def _checkpoint(self) -> str:
        return "runs/trial/checkpoints/best.ckpt"

    def score(self) -> _Found:
        """Runs `heatpose evaluate` on the rendered evaluation set."""
        [root] = (path for path in self.images.iterdir() if (path / "annotations").is_dir())
        labels = root / "annotations/person_keypoints_val2017.json"
        options = ["--annotations", labels, "--images", root / "val2017", "--json", "score.json"]
        self._heatpose("scoring", "evaluate", self._checkpoint, *map(str, options))
        score = json.loads((self.folder / "score.json").read_text(encoding="utf-8"))
        return _Found(f"OKS {score['oks']:.1f} % (after {EPOCHS} epochs, not meaningful)")

    def export(self) -> _Found:
        """Runs `heatpose export`; skipped if its packages are not installed."""
        from heatpose.export.convert import check_installed

        try:
            check_installed()
        except HeatposeError as error:
            remedy = "Install the extra if exports are needed: pip install 'heatpose[export]'."
            return _Found(f"skipped: {error}", status="warn", remedy=remedy)
        small = ["quant.artefacts=[float32,int8_pc]", "quant.calibration_images=8"]
        start = [f"checkpoint={self._checkpoint}", "name=trial", *small]
        self._heatpose("export", "export", *start, *_NO_LIMITS)
        files = sorted(path.name for path in self.folder.glob("exports/trial/*.tflite"))
        return _Found(f"{len(files)} TFLite files exported and compared with the network")

    def speed(self, what: str, processes: int) -> _Found:
        """Runs `doctor.speed` in several processes in parallel."""
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
        remedy = "Keep compile=false, or install a C compiler and a triton that matches torch."
        return _Found(text, speeds, "warn", remedy)

    def _heatpose(self, name: str, *arguments: str) -> None:
        self._python(name, "heatpose.cli", *arguments)

    def _python(self, name: str, *module: str) -> None:
        """Runs a module, with its output in `<name>.log`.

        Raises:
            HeatposeError: It failed, crashed or timed out.
        """
        log = self.folder / f"{name}.log"
        command = [sys.executable, "-m", *module]
        log.write_text(f"{shlex.join(command)}\n", encoding="utf-8")
        ended = run_process(command, self.folder, time_limit_s=LONGEST_S, log=log)
        if ended.status != 0:
            raise HeatposeError(f"{_reason(ended)} (log: '{log}')")


def _summary(speeds: Sequence[dict[str, Any]], processes: int) -> str:
    """The measurements in one line; those of parallel processes are added up."""
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
    """Cause of failure: error sentence, last line of the traceback, or signal."""
    if ended.status is None:
        return f"not finished after {LONGEST_S} s"
    if ended.status < 0:
        return f"crashed with {signal.Signals(-ended.status).name}"
    lines = [line.strip() for line in ended.text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    # Lines below the error are general advice.
    advice = ("Set the environment variable HYDRA_FULL_ERROR", BUG)
    lines = [line for line in lines if not line.startswith(advice)]
    return (errors or lines or [f"exit status {ended.status}"])[-1]
