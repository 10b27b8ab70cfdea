"""How an int8 file comes about: one way of quantising, or the cheapest of several that keeps the score."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data.sample import Person
from heatpose.evaluate import EvalReport, evaluate, paired_difference
from heatpose.export.inspection import Artefact, Output
from heatpose.preprocessing import Preprocessing
from heatpose.quantize.calibration import calibration_images, choose_calibration, kept_aside
from heatpose.quantize.settings import PLAIN, AutoChoice, Recovery, Tuning
from heatpose.runners import open_runner
from heatpose.skeleton import Skeleton

if TYPE_CHECKING:
    from heatpose.models.movenet import MoveNet
    from heatpose.quantize.simulate import Plan

Method = str
"""plain: ranges as they are. recovery: post-training steps. tuning: recovery and quantisation-aware fine-tuning."""


@dataclass(frozen=True)
class Attempt:
    """One way that was tried.

    Attributes:
        method: "plain", "recovery" or "tuning".
        oks: On the training images kept aside, in percent; None where nothing was scored.
        drop: Points lost there against the float file, mean.
        drop_low: Lower end of its 95 % interval.
        drop_high: Upper end.
        seconds: What it took.
    """

    method: Method
    oks: float | None
    drop: float | None
    drop_low: float | None
    drop_high: float | None
    seconds: float


@dataclass(frozen=True)
class Quantised:
    """An int8 file and how it was made.

    Attributes:
        content: The file's bytes.
        method: What was taken.
        tried: Everything that was tried, in this order.
        judged_on: Images that the choice was made on; 0 where there was nothing to choose.
        note: A sentence where the choice could not be made as asked.
        ranges: Per stored tensor: the real values at both ends of its 256 steps.
    """

    content: bytes
    method: Method
    tried: tuple[Attempt, ...]
    judged_on: int
    note: str
    ranges: dict[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {
            "method": self.method, "tried": [vars(attempt) for attempt in self.tried], "judged_on": self.judged_on,
            "judged_by": "OKS of training images that neither calibrate nor tune", "note": self.note,
        }  # fmt: skip

    def sentence(self) -> str:
        """For the terminal: what was taken and what each way scored."""
        scored = [f"{a.method} lost {a.drop:.2f} [{a.drop_low:.2f}, {a.drop_high:.2f}]" for a in self.tried if a.drop is not None]
        told = f"{'; '.join(scored)} on {self.judged_on} training images kept aside" if scored else ""
        return " ".join(part for part in (f"{self.method}.", f"{told}." if told else "", self.note) if part)


@dataclass
class Quantiser:
    """Makes int8 files of one network.

    Attributes:
        network: Float; it is left as it is.
        skeleton: What its channels are.
        preprocessing: How images become its input.
        float_file: The float TFLite file: the graph, and what the choice compares with.
        calibration: Calibration images u8[N, S, S, 3].
        people: Training people that may teach; none that calibrates the choice or is scored.
        aside: Training people that the choice is made on.
        output: Output type of the files.
        recovery: Per form.
        tuning: Per form; None for none.
        auto: How to choose; None takes the recovery, and the tuning if there is one.
        seed: Of the choice of pictures.
    """

    network: MoveNet
    skeleton: Skeleton
    preprocessing: Preprocessing
    float_file: Path
    calibration: NDArray[np.uint8]
    people: Sequence[Person]
    aside: Sequence[Person]
    output: Output
    recovery: Mapping[str, Recovery]
    tuning: Mapping[str, Tuning | None]
    auto: AutoChoice | None
    seed: int = 0
    _reference: EvalReport | None = field(init=False, default=None)
    _pictures: NDArray[np.uint8] | None = field(init=False, default=None)

    def make(self, form: Artefact, tell: Callable[[str], object] = lambda _: None) -> Quantised:
        """Makes one file.

        Args:
            form: "int8_pc" or "int8_pt".
            tell: Is told what is going on.

        Raises:
            HeatposeError: The network cannot be quantised, or there is nothing to tune with.
        """
        judge = self.auto is not None and len(self.aside) >= self.auto.least_images
        ways = self._ways(form) if judge else self._ways(form)[-1:]
        if self.auto is not None and not judge:
            ways = [way for way in self._ways(form) if way[0] == "recovery"]
        tried: list[tuple[Attempt, bytes, Plan]] = []
        for method, plan_of in ways:
            tell(f"{form}: {method}")
            start = time.perf_counter()
            plan, content = self._write(plan_of)
            tried.append((self._judged(method, content, start, judge), content, plan))
            if self.auto is not None and judge and self._good_enough(form, tried[-1][0]):
                break
        taken, content, plan = min(tried, key=lambda entry: entry[0].drop or 0.0) if judge and not self._good_enough(form, tried[-1][0]) else tried[-1]
        note = "" if judge or self.auto is None else f"Only {len(self.aside)} training images are kept aside, too few to choose by."
        return Quantised(content, taken.method, tuple(entry[0] for entry in tried), len(self.aside) if judge else 0, note, _ranges(plan))

    def _ways(self, form: Artefact) -> list[tuple[Method, Callable[[], Plan]]]:
        """From the cheapest to the dearest."""
        from heatpose.quantize.recovery import plan_int8
        from heatpose.quantize.tuning import fine_tune

        def recovered(recovery: Recovery) -> Plan:
            return plan_int8(self.network, self.calibration, self.preprocessing, per_channel=form == "int8_pc", recovery=recovery)

        found: list[tuple[Method, Callable[[], Plan]]] = [("plain", lambda: recovered(PLAIN)), ("recovery", lambda: recovered(self.recovery[form]))]
        tuning = self.tuning.get(form)
        if tuning is not None:
            found.append(("tuning", lambda: fine_tune(recovered(self.recovery[form]), self.network, self._teaching_pictures(tuning.images), tuning)))
        return found

    def _write(self, plan_of: Callable[[], Plan]) -> tuple[Plan, bytes]:
        from heatpose.export.int8 import write_int8

        plan = plan_of()
        return plan, write_int8(self.float_file, plan, output=self.output)

    def _judged(self, method: Method, content: bytes, start: float, judge: bool) -> Attempt:
        if not judge:
            return Attempt(method, None, None, None, None, time.perf_counter() - start)
        if self._reference is None:
            self._reference = self._score(self.float_file)
        path = self.float_file.with_name(".candidate.tflite")
        path.write_bytes(content)
        report = self._score(path)
        path.unlink()
        lost = paired_difference(self._reference, report)
        return Attempt(method, report.oks, lost.mean, lost.low, lost.high, time.perf_counter() - start)

    def _score(self, path: Path) -> EvalReport:
        return evaluate(open_runner(path), self.aside, self.skeleton, sampling=self.preprocessing.sampling, progress=False)

    def _good_enough(self, form: Artefact, attempt: Attempt) -> bool:
        assert self.auto is not None and attempt.drop is not None
        return attempt.drop <= (self.auto.drop_pc if form == "int8_pc" else self.auto.drop_pt)

    def _teaching_pictures(self, count: int) -> NDArray[np.uint8]:
        if self._pictures is None:
            self._pictures = calibration_images(choose_calibration(self.people, count, self.seed, ()), self.preprocessing)
        return self._pictures


def split_training(people: Sequence[Person], scored: set[int], auto: AutoChoice | None) -> tuple[list[Person], list[Person]]:
    """Training people -> those that may calibrate and teach, and one each of the images that the automatic choice is made on.

    An image is in one part or the other, and none of them is scored.
    """
    usable = [person for person in people if person.image_id not in scored]
    if auto is None:
        return usable, []
    aside = kept_aside(usable, auto.share)
    names = {person.image_path for person in aside}
    return [person for person in usable if person.image_path not in names] or usable, aside[: auto.images]


def _ranges(plan: Plan) -> dict[str, tuple[float, float]]:
    def ends(scale: float, zero_point: int) -> Iterator[float]:
        return (scale * (stored - zero_point) for stored in (-128, 127))

    return {name: (low, high) for name, (low, high) in ((name, tuple(ends(a.scale, a.zero_point))) for name, a in plan.affines.items())}
