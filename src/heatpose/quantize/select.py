"""Which int8 file keeps the score.

Judged by views of training people that neither calibrate nor teach.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heatpose.data.augmented import AugmentedImages, draw_augmented
from heatpose.data.sample import Person
from heatpose.evaluation.metrics import (
    bootstrap_interval,
    keypoint_similarity,
    mean_over_labelled,
    normalised_truth,
)
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.quantize.settings import PLAIN, AutoChoice, PtqSettings, QatSettings
from heatpose.runners import open_runner
from heatpose.tflite.inspect import Artefact, Output

if TYPE_CHECKING:
    from heatpose.models.movenet import MoveNet
    from heatpose.quantize.simulate import Plan


_BATCH = 16


@dataclass(frozen=True)
class HoldoutScore:
    """How a file did.

    Attributes:
        oks: Mean over the images of the mean over their views, in percent.
        drop: Points lost against the float file, mean over the images.
        drop_low: Lower end of its 95 % interval, bootstrap over images.
        drop_high: Upper end.
    """

    oks: float
    drop: float
    drop_low: float
    drop_high: float


class HoldoutScorer:
    """Scores files on the same views.

    Several views of one person cost little and say much: rounding moves a keypoint by chance, in
    each view anew, while the number of labelled people is what it is.

    Args:
        instances: Training people on the images held out.
        views: How many are drawn.
        skeleton: Of their keypoints.
        preprocessing: As the network has it.
        reference: The float file.
    """

    def __init__(
        self,
        instances: Sequence[Person],
        views: int,
        skeleton: Skeleton,
        preprocessing: Preprocessing,
        reference: Path,
    ) -> None:
        self.skeleton = skeleton
        drawn = draw_augmented(instances, views, skeleton, preprocessing)
        message = [number for number, person in enumerate(drawn.instances) if person.labelled.any()]
        self.views = AugmentedImages(
            drawn.images[message], tuple(drawn.instances[number] for number in message)
        )
        names = [person.image_path for person in self.views.instances]
        self.images = len(set(names))
        self._image_of = np.unique([str(name) for name in names], return_inverse=True)[1]
        self._reference = self._values(reference)

    def holdout_score(self, path: Path) -> HoldoutScore:
        """Scores a TFLite file."""
        values = self._values(path)
        lost = 100 * (self._reference - values)
        low, high = bootstrap_interval(lost)
        return HoldoutScore(100 * float(values.mean()), float(lost.mean()), low, high)

    def _values(self, path: Path) -> NDArray[np.float64]:
        """f64[images] OKS in [0, 1], mean over the views of each image."""
        runner, truth = open_runner(path), normalised_truth(self.views.instances)
        images = self.views.images
        poses = np.concatenate(
            [
                runner.predict(images[start : start + _BATCH], "argmax")
                for start in range(0, len(images), _BATCH)
            ]
        )
        values = mean_over_labelled(
            keypoint_similarity(poses[..., :2], truth.keypoints, truth.area, self.skeleton.sigmas),
            truth.labelled,
        )
        mean: NDArray[np.float64] = np.bincount(self._image_of, values) / np.bincount(
            self._image_of
        )
        return mean


def split_training(
    instances: Sequence[Person], scored: set[int], auto: AutoChoice | None
) -> tuple[list[Person], list[Person]]:
    """Training people -> those that may calibrate and teach.

    And those that the automatic choice is made on.

    An image is in one part or the other, by a hash of its file name, and none of them is scored.
    The images that chose the checkpoint (`data.selection.in_held_out` with a smaller share) are
    among those of the choice.
    """
    from heatpose.data.selection import in_held_out

    usable = [person for person in instances if person.image_id not in scored]
    if auto is None:
        return usable, []
    rest, holdout = list[Person](), list[Person]()
    for person in usable:
        (holdout if in_held_out(person, auto.holdout) else rest).append(person)
    return (rest, holdout) if rest else (usable, [])


Method = str
"""plain: ranges as they are.

Recovery: post-training steps. tuning: recovery and quantisation-aware fine-tuning.
"""


@dataclass(frozen=True)
class Attempt:
    """One way that was tried.

    Attributes:
        method: "plain", "recovery" or "tuning".
        oks: On the training images held out, in percent; None where nothing was scored.
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
            "method": self.method,
            "tried": [vars(attempt) for attempt in self.tried],
            "judged_on": self.judged_on,
            "judged_by": (
                "OKS of views of training people on images that neither calibrate nor tune;"
                " interval over images"
            ),
            "note": self.note,
        }

    def sentence(self) -> str:
        """For the terminal: what was taken and what each way scored."""
        scored = [
            f"{a.method} lost {a.drop:.2f} [{a.drop_low:.2f}, {a.drop_high:.2f}]"
            for a in self.tried
            if a.drop is not None
        ]
        message = (
            f"{'; '.join(scored)} on {self.judged_on} training images held out" if scored else ""
        )
        return " ".join(
            part
            for part in (f"{self.method}.", f"{message}." if message else "", self.note)
            if part
        )


@dataclass
class Quantiser:
    """Makes int8 files of one network.

    Attributes:
        network: Float; it is left as it is.
        skeleton: What its channels are.
        preprocessing: How images become its input.
        float_file: The float TFLite file: the graph, and what the choice compares with.
        calibration: Calibration images u8[N, S, S, 3].
        instances: Training people that may teach; none that calibrates the choice or is scored.
        holdout: Training people that the choice is made on.
        output: Output type of the files.
        ptq: Per form.
        qat: Per form; None for none.
        auto: How to choose; None takes the recovery, and the tuning if there is one.
        seed: Of the choice of images.
    """

    network: MoveNet
    skeleton: Skeleton
    preprocessing: Preprocessing
    float_file: Path
    calibration: NDArray[np.uint8]
    instances: Sequence[Person]
    holdout: Sequence[Person]
    output: Output
    ptq: Mapping[str, PtqSettings]
    qat: Mapping[str, QatSettings | None]
    auto: AutoChoice | None
    seed: int = 0
    _scorer: HoldoutScorer | None = field(init=False, default=None)
    _images: NDArray[np.uint8] | None = field(init=False, default=None)

    def make(self, form: Artefact, tell: Callable[[str], object] = lambda _: None) -> Quantised:
        """Makes one file.

        Args:
            form: "int8_pc" or "int8_pt".
            tell: Is told what is going on.

        Raises:
            HeatposeError: The network cannot be quantised, or there is nothing to tune with.
        """
        scorer = self._choosing()
        tried: list[_Try] = []
        for method, plan_of in self._ways(form, scorer is not None):
            tell(f"{form}: {method}")
            start = time.perf_counter()
            plan = plan_of()
            content = self._write(plan)
            tried.append(_Try(self._attempt(method, content, start, scorer), content, plan))
            if self._good_enough(form, tried[-1].attempt):
                break
        last = tried[-1]
        taken = (
            last
            if scorer is None or self._good_enough(form, last.attempt)
            else min(tried, key=lambda entry: entry.attempt.drop or 0.0)
        )
        note = (
            ""
            if scorer is not None or self.auto is None
            else f"Only {self._shown()} training images are held out, too few to choose by."
        )
        attempts = tuple(entry.attempt for entry in tried)
        return Quantised(
            taken.content,
            taken.attempt.method,
            attempts,
            scorer.images if scorer else 0,
            note,
            _ranges(taken.plan),
        )

    def _choosing(self) -> HoldoutScorer | None:
        """Who decides; nobody where there is no choice or too little to judge by."""
        if self.auto is None or self._shown() < self.auto.least_images:
            return None
        if self._scorer is None:
            self._scorer = HoldoutScorer(
                self.holdout, self.auto.samples, self.skeleton, self.preprocessing, self.float_file
            )
        return self._scorer

    def _shown(self) -> int:
        return len({person.image_path for person in self.holdout})

    def _ways(self, form: Artefact, choosing: bool) -> list[tuple[Method, Callable[[], Plan]]]:
        """From the cheapest to the dearest; the one that is configured where nothing is chosen."""
        from heatpose.quantize.ptq import plan_int8
        from heatpose.quantize.qat import fine_tune

        def planned(ptq: PtqSettings) -> Plan:
            return plan_int8(
                self.network,
                self.calibration,
                self.preprocessing,
                per_channel=form == "int8_pc",
                ptq=ptq,
            )

        @cache
        def with_ptq() -> Plan:
            return planned(self.ptq[form])

        found: list[tuple[Method, Callable[[], Plan]]] = [
            ("plain", lambda: planned(PLAIN)),
            ("recovery", with_ptq),
        ]
        qat = self.qat.get(form)
        if qat is not None and (choosing or self.auto is None):
            found.append(
                (
                    "tuning",
                    lambda: fine_tune(
                        with_ptq(), self.network, self._teaching_images(qat.images), qat
                    ),
                )
            )
        return found if choosing else found[-1:]

    def _write(self, plan: Plan) -> bytes:
        from heatpose.quantize.write_int8 import write_int8

        return write_int8(self.float_file, plan, output=self.output)

    def _attempt(
        self, method: Method, content: bytes, start: float, scorer: HoldoutScorer | None
    ) -> Attempt:
        if scorer is None:
            return Attempt(method, None, None, None, None, time.perf_counter() - start)
        path = self.float_file.with_name(".candidate.tflite")
        path.write_bytes(content)
        holdout_score = scorer.holdout_score(path)
        path.unlink()
        return Attempt(
            method,
            holdout_score.oks,
            holdout_score.drop,
            holdout_score.drop_low,
            holdout_score.drop_high,
            time.perf_counter() - start,
        )

    def _good_enough(self, form: Artefact, attempt: Attempt) -> bool:
        if self.auto is None or attempt.drop is None:
            return False
        return attempt.drop <= (self.auto.drop_pc if form == "int8_pc" else self.auto.drop_pt)

    def _teaching_images(self, count: int) -> NDArray[np.uint8]:
        if self._images is None:
            self._images = draw_augmented(
                self.instances, count, self.skeleton, self.preprocessing, self.seed + 1
            ).images
        return self._images


class _Try(NamedTuple):
    """One way: how it did, its file and its plan."""

    attempt: Attempt
    content: bytes
    plan: Plan


def _ranges(plan: Plan) -> dict[str, tuple[float, float]]:
    def ends(scale: float, zero_point: int) -> Iterator[float]:
        return (scale * (stored - zero_point) for stored in (-128, 127))

    return {
        name: (low, high)
        for name, (low, high) in (
            (name, tuple(ends(a.scale, a.zero_point))) for name, a in plan.activation_params.items()
        )
    }
