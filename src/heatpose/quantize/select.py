"""Int8 quantisation: one configured method, or automatic selection.

The methods are compared by the OKS of augmented samples of hold-out training images, which are used
for neither calibration nor QAT.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heatpose.data.batches import AugmentedImages, draw_augmented
from heatpose.data.sample import Person
from heatpose.evaluation.evaluate import PairedDifference
from heatpose.evaluation.metrics import (
    bootstrap_interval,
    keypoint_similarity,
    mean_over_labelled,
    normalised_truth,
)
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.quantize.calibration import ExportData
from heatpose.quantize.settings import PLAIN, ExportConfig, PtqSettings
from heatpose.runners import open_runner
from heatpose.tflite.inspect import Artefact

if TYPE_CHECKING:
    from heatpose.models.checkpoint import LoadedCheckpoint
    from heatpose.quantize.simulate import Plan


_BATCH = 16


@dataclass(frozen=True)
class HoldoutScore:
    """Score of a file on the hold-out images.

    Attributes:
        oks: Mean over the images of the mean over their augmented samples, in percent.
        drop: Points lost against the float file, mean over the images, with the 95 % interval of a
            bootstrap over images.
    """

    oks: float
    drop: PairedDifference


class HoldoutScorer:
    """Scores files on the same augmented samples.

    Several samples of one instance add precision at little cost: the error of rounding differs from
    sample to sample, while the number of labelled instances is fixed.

    Args:
        instances: Training instances on the hold-out images.
        views: Number of augmented samples.
        skeleton: Of their keypoints.
        preprocessing: Of the network.
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
        labelled = [i for i, person in enumerate(drawn.instances) if person.labelled.any()]
        self.views = AugmentedImages(
            drawn.images[labelled], tuple(drawn.instances[i] for i in labelled)
        )
        names = [person.image_path for person in self.views.instances]
        self.images = len(set(names))
        self._image_of = np.unique([str(name) for name in names], return_inverse=True)[1]
        self._reference = self._values(reference)

    def score(self, path: Path) -> HoldoutScore:
        """Scores a TFLite file."""
        values = self._values(path)
        lost = 100 * (self._reference - values)
        low, high = bootstrap_interval(lost)
        return HoldoutScore(
            100 * float(values.mean()), PairedDifference(float(lost.mean()), low, high)
        )

    def _values(self, path: Path) -> NDArray[np.float64]:
        """f64[images] OKS in [0, 1], mean over the samples of each image."""
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


Method = str
"""min-max: ranges as they are. ptq: post-training steps. qat: PTQ, then QAT."""


@dataclass(frozen=True)
class Attempt:
    """One method that was tried.

    Attributes:
        method: "min-max", "ptq" or "qat".
        score: On the hold-out images; None where nothing was scored.
        seconds: Time that it took.
    """

    method: Method
    score: HoldoutScore | None
    seconds: float

    @property
    def drop(self) -> float | None:
        """OKS points lost against the float file; None where nothing was scored."""
        return None if self.score is None else self.score.drop.mean

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the manifest."""
        score = self.score
        return {
            "method": self.method,
            "oks": score and score.oks,
            "drop": score and score.drop.mean,
            "drop_low": score and score.drop.low,
            "drop_high": score and score.drop.high,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """An int8 file and how it was made.

    Attributes:
        content: The file's bytes.
        method: The method that was taken.
        tried: Every method that was tried, in this order.
        judged_on: Images that the selection was made on; 0 where nothing was selected.
        note: A sentence where the selection could not be made as configured.
        ranges: Per stored tensor: the real values at both ends of its 256 steps.
    """

    content: bytes
    method: Method
    tried: tuple[Attempt, ...] = ()
    judged_on: int = 0
    note: str = ""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the manifest."""
        return {
            "method": self.method,
            "tried": [attempt.to_json() for attempt in self.tried],
            "judged_on": self.judged_on,
            "judged_by": (
                "OKS of augmented samples of training images that neither calibrate nor fine-tune;"
                " interval over images"
            ),
            "note": self.note,
        }

    def sentence(self) -> str:
        """For the terminal: the method and the score of each that was tried."""
        scored = "; ".join(
            f"{attempt.method} lost {drop.mean:.2f} [{drop.low:.2f}, {drop.high:.2f}]"
            for attempt in self.tried
            if attempt.score is not None and (drop := attempt.score.drop)
        )
        measured = f"{scored} on {self.judged_on} hold-out training images." if scored else ""
        return " ".join(part for part in (f"{self.method}.", measured, self.note) if part)


@dataclass(kw_only=True)
class Quantiser:
    """Makes int8 files of one network.

    Attributes:
        model: The float network; it is left as it is.
        config: Methods and output type.
        data: Instances for QAT and for the selection.
        float_file: The float TFLite file: the graph, and the reference of the selection.
        calibration: Calibration images u8[N, S, S, 3].
    """

    model: LoadedCheckpoint
    config: ExportConfig
    data: ExportData
    float_file: Path
    calibration: NDArray[np.uint8]
    _scorer: HoldoutScorer | None = field(init=False, default=None)
    _images: NDArray[np.uint8] | None = field(init=False, default=None)

    def make(
        self, artefact: Artefact, progress: Callable[[str], object] = lambda _: None
    ) -> Quantised:
        """Makes one file.

        Args:
            artefact: "int8_pc" or "int8_pt".
            progress: Called with the step that begins.

        Raises:
            HeatposeError: The network cannot be quantised, or there are no images for QAT.
        """
        scorer = self._holdout_scorer()
        tried: list[_Try] = []
        for method, plan_of in self._methods(artefact, scorer is not None):
            progress(f"{artefact}: {method}")
            start = time.perf_counter()
            plan = plan_of()
            content = self._write(plan)
            score = None if scorer is None else self._score(content, scorer)
            attempt = Attempt(method, score, time.perf_counter() - start)
            tried.append(_Try(attempt, content, plan))
            if self._good_enough(artefact, attempt):
                break
        last = tried[-1]
        taken = (
            last
            if scorer is None or self._good_enough(artefact, last.attempt)
            else min(tried, key=lambda entry: entry.attempt.drop or 0.0)
        )
        note = (
            ""
            if scorer is not None or self.config.auto is None
            else f"Only {self._holdout_images()} training images are held out, too few to select."
        )
        return Quantised(
            content=taken.content,
            method=taken.attempt.method,
            tried=tuple(entry.attempt for entry in tried),
            judged_on=scorer.images if scorer else 0,
            note=note,
            ranges=_ranges(taken.plan),
        )

    def _holdout_scorer(self) -> HoldoutScorer | None:
        """Scorer of the selection; None if nothing is selected or there are too few images."""
        auto = self.config.auto
        if auto is None or self._holdout_images() < auto.least_images:
            return None
        if self._scorer is None:
            self._scorer = HoldoutScorer(
                self.data.holdout,
                auto.samples,
                self.model.skeleton,
                self.model.preprocessing,
                self.float_file,
            )
        return self._scorer

    def _holdout_images(self) -> int:
        return len({person.image_path for person in self.data.holdout})

    def _methods(
        self, artefact: Artefact, selecting: bool
    ) -> list[tuple[Method, Callable[[], Plan]]]:
        """Methods by rising cost; only the configured one where nothing is selected."""
        # Imported here: torch takes seconds.
        from heatpose.quantize.ptq import plan_int8
        from heatpose.quantize.qat import fine_tune

        network = self.model.network

        def planned(ptq: PtqSettings) -> Plan:
            return plan_int8(
                network,
                self.calibration,
                self.model.preprocessing,
                per_channel=artefact == "int8_pc",
                ptq=ptq,
            )

        @cache
        def with_ptq() -> Plan:
            return planned(self.config.ptq[artefact])

        found: list[tuple[Method, Callable[[], Plan]]] = [
            ("min-max", lambda: planned(PLAIN)),
            ("ptq", with_ptq),
        ]
        qat = self.config.qat.get(artefact)
        if qat is not None and (selecting or self.config.auto is None):
            found.append(
                (
                    "qat",
                    lambda: fine_tune(with_ptq(), network, self._qat_images(qat.images), qat),
                )
            )
        return found if selecting else found[-1:]

    def _write(self, plan: Plan) -> bytes:
        from heatpose.quantize.write_int8 import write_int8

        return write_int8(self.float_file, plan, output=self.config.output_dtype)

    def _score(self, content: bytes, scorer: HoldoutScorer) -> HoldoutScore:
        path = self.float_file.with_name(".candidate.tflite")
        path.write_bytes(content)
        score = scorer.score(path)
        path.unlink()
        return score

    def _good_enough(self, artefact: Artefact, attempt: Attempt) -> bool:
        auto = self.config.auto
        if auto is None or attempt.drop is None:
            return False
        return attempt.drop <= (auto.drop_pc if artefact == "int8_pc" else auto.drop_pt)

    def _qat_images(self, count: int) -> NDArray[np.uint8]:
        if self._images is None:
            self._images = draw_augmented(
                self.data.fitting,
                count,
                self.model.skeleton,
                self.model.preprocessing,
                self.config.calibration_seed + 1,
            ).images
        return self._images


class _Try(NamedTuple):
    """An attempt with its file and its plan."""

    attempt: Attempt
    content: bytes
    plan: Plan


def _ranges(plan: Plan) -> dict[str, tuple[float, float]]:
    return {
        name: (params.scale * (-128 - params.zero_point), params.scale * (127 - params.zero_point))
        for name, params in plan.activation_params.items()
    }
