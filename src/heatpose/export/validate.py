"""Acceptance checks, score, agreement and time of every file of a bundle, beside the network."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data.augment import prominent
from heatpose.data.sample import Person
from heatpose.evaluation.evaluate import EvalReport, evaluate
from heatpose.evaluation.metrics import LEAST_INSTANCES, ThresholdCurve, threshold_curve
from heatpose.evaluation.parity import (
    Maps,
    float_parity,
    output_use,
    pixel_drift,
    pose_drift,
    sigmoid,
)
from heatpose.export.checks import (
    CheckResult,
    DecodedReference,
    accuracy_check,
    decoded_reference,
    drift_check,
    expected_operators,
    flatbuffer_check,
    float_check,
    not_scored,
    pose_check,
    pose_parity,
    with_decode,
)
from heatpose.quantize.settings import ExportConfig
from heatpose.runners import PoseRunner, open_runner
from heatpose.tflite.inspect import Artefact

if TYPE_CHECKING:
    from heatpose.models.checkpoint import LoadedCheckpoint


from typing import TYPE_CHECKING

from heatpose.data.selection import in_held_out
from heatpose.evaluation.evaluate import predict_poses
from heatpose.evaluation.metrics import agreement
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.quantize.calibration import choose_calibration
from heatpose.quantize.settings import AutoChoice

if TYPE_CHECKING:
    from heatpose.export.job import ExportJob

IMAGES = 256
"""Held-out training images that are compared, at most."""
SETS = {"evaluation": "evaluation images", "holdout": "held-out training images"}


def held_out(job: ExportJob, calibration: Mapping[str, Any]) -> list[Person]:
    """Training instances on images that neither calibrate nor fine-tune, one per image.

    Those of the automatic selection; without one the images that it would hold out, less those that
    calibrate. None where quantisation-aware fine-tuning may use every image.

    Args:
        job: The export.
        calibration: The record of the calibration images.
    """
    holdout = list(job.data.holdout)
    if not holdout:
        if any(settings is not None for settings in job.config.qat.values()):
            return []
        calibrates = {entry["file_name"] for entry in calibration["images"]}
        share = AutoChoice().holdout
        holdout = [
            p for p in job.data.fitting if in_held_out(p, share) and p.name not in calibrates
        ]
    return choose_calibration(holdout, IMAGES, job.config.calibration_seed) if holdout else []


@dataclass(frozen=True)
class FloatPoses:
    """The float network's poses, the labels of the comparison.

    Attributes:
        evaluation: f32[N, K, 3] on the evaluation images; None where nothing is scored.
        holdout: f32[M, K, 3] on the held-out training images; None where there are none.
    """

    evaluation: NDArray[np.float32] | None
    holdout: NDArray[np.float32] | None

    @classmethod
    def of(
        cls,
        runner: PoseRunner,
        report: EvalReport | None,
        holdout: Sequence[Person],
        preprocessing: Preprocessing,
    ) -> FloatPoses:
        """The score's own poses, and those of the held-out images."""
        poses = predict_poses(runner, holdout, preprocessing)[0] if holdout else None
        return cls(None if report is None else report.poses, poses)

    def compare(
        self,
        found: FloatPoses,
        evaluation: Sequence[Person] | None,
        holdout: Sequence[Person],
        skeleton: Skeleton,
    ) -> dict[str, Any]:
        """The entry of an int8 file in `metrics.json`: one for each of `SETS`, or None.

        Args:
            found: Of the file.
            evaluation: N instances.
            holdout: M instances.
            skeleton: What the channels are.
        """
        sets = {
            "evaluation": (self.evaluation, found.evaluation, evaluation or ()),
            "holdout": (self.holdout, found.holdout, holdout),
        }
        return {
            name: None if a is None or b is None else agreement(a, b, people, skeleton).to_json()
            for name, (a, b, people) in sets.items()
        }


TORCH = "torch"
ONNX = "onnx"
_TIMED_IMAGES = 24


@dataclass(frozen=True)
class ValidationResult:
    """Checks, score and time of one model.

    Attributes:
        artefact: "torch", "onnx", "float32", "int8_pc" or "int8_pt".
        path: The file; None for the network in memory.
        checks: Results of the acceptance checks; none for the network.
        report: Its score; None without an evaluation set.
        milliseconds: Median time of one image through the runner, one at a time.
        kernels: Implementation that ran it.
        agreement: With the poses of the float network (`FloatPoses.compare`); int8 files only.
        threshold: Precision and recall over the score threshold; int8 files alone.
    """

    artefact: str
    path: Path | None
    checks: tuple[CheckResult, ...]
    report: EvalReport | None
    milliseconds: float
    kernels: str
    agreement: Mapping[str, Any] | None = None
    threshold: ThresholdCurve | None = None

    @property
    def passed(self) -> bool:
        """It passed every acceptance check."""
        return all(check.passed for check in self.checks)


@dataclass(kw_only=True)
class Validator:
    """Compares, scores and times every file beside the network.

    Attributes:
        model: The network that was exported; it is left as it is.
        config: Output of the files, and limits of the acceptance checks.
        images: u8[N, S, S, 3] for parity and timing: training images, never scored ones.
        instances: Evaluation instances; None where nothing is scored.
        holdout: Training instances, one per image, for the agreement of int8 files and network.
    """

    model: LoadedCheckpoint
    config: ExportConfig
    images: NDArray[np.uint8]
    instances: Sequence[Person] | None
    holdout: Sequence[Person] = ()
    _float: FloatPoses = field(init=False)
    _logits: Maps = field(init=False)
    _poses: DecodedReference = field(init=False)
    _reference: EvalReport | None = field(init=False, default=None)

    def validate_network(self, name: str) -> ValidationResult:
        """Scores the network; must run first, because the files are compared with it.

        Args:
            name: Its name in reports.
        """
        # Imported here: torch takes seconds, and the command line imports this module.
        from heatpose.runners.torch_runner import TorchRunner

        network = copy.deepcopy(self.model.network).float().cpu().eval()
        runner = TorchRunner(Path(name), replace(self.model, network=network))
        if network.four_heads:
            self._poses = decoded_reference(network, self.model.preprocessing, self.images)
        else:
            self._logits = _heatmaps(runner, self.images)
        self._reference = self._score(runner)
        self._float = self._poses_of(runner, self._reference)
        return ValidationResult(
            artefact=TORCH,
            path=None,
            checks=(),
            report=self._reference,
            milliseconds=milliseconds(runner, self.images),
            kernels=runner.kernels,
        )

    def validate_onnx(self, path: Path) -> ValidationResult:
        """Compares, scores and times the ONNX file."""
        runner = open_runner(path)
        return self._validation(ONNX, path, (self._float_check(ONNX, runner),), runner)

    def validate_tflite(self, artefact: Artefact, path: Path) -> ValidationResult:
        """Checks, scores and times a TFLite file."""
        network, config = self.model.network, self.config
        decoded = network.four_heads
        operators = expected_operators(
            network,
            artefact,
            sigmoid=config.ends_in_sigmoid and not decoded,
            output=config.output_dtype,
        )
        if decoded:
            operators = with_decode(operators, network.keypoints, config.pose)
        first = flatbuffer_check(
            path, artefact, self.model.preprocessing, operators, decoded=decoded
        )
        runner = open_runner(path)
        if artefact == "float32":
            return self._validation(
                artefact, path, (first, self._float_check(artefact, runner)), runner
            )
        validation = self._validation(
            artefact, path, (first, self._drift_check(artefact, runner)), runner
        )
        poses = self._poses_of(runner, validation.report)
        return replace(
            validation,
            checks=(*validation.checks, self._accuracy_check(artefact, validation.report)),
            agreement=self._float.compare(poses, self.instances, self.holdout, self.model.skeleton),
            threshold=self._threshold(poses.holdout),
        )

    def _poses_of(self, runner: PoseRunner, report: EvalReport | None) -> FloatPoses:
        return FloatPoses.of(runner, report, self.holdout, self.model.preprocessing)

    def _threshold(self, poses: NDArray[np.float32] | None) -> ThresholdCurve | None:
        """Precision and recall on the held-out instances that are prominent on their image."""
        chosen = [i for i, person in enumerate(self.holdout) if prominent(person)]
        if poses is None or len(chosen) < LEAST_INSTANCES:
            return None
        instances = [self.holdout[i] for i in chosen]
        return threshold_curve(poses[chosen], instances, self.model.skeleton.sigmas)

    def _validation(
        self, artefact: str, path: Path, checks: tuple[CheckResult, ...], runner: PoseRunner
    ) -> ValidationResult:
        return ValidationResult(
            artefact=artefact,
            path=path,
            checks=checks,
            milliseconds=milliseconds(runner, self.images),
            report=self._score(runner),
            kernels=runner.kernels,
        )

    def _float_check(self, artefact: str, runner: PoseRunner) -> CheckResult:
        size, limits = self.model.preprocessing.size, self.config.limits
        if self.model.network.four_heads:
            found = runner.predict(self.images)
            poses = pose_parity(self._poses, found, size=size, tie=limits.logits)
            return pose_check(artefact, poses, limits)
        parity = float_parity(
            self._logits,
            _heatmaps(runner, self.images),
            size=size,
            probabilities=self.config.ends_in_sigmoid,
            tie=limits.logits,
        )
        return float_check(artefact, parity, limits)

    def _drift_check(self, artefact: str, runner: PoseRunner) -> CheckResult:
        size, names = self.model.preprocessing.size, self.model.skeleton.keypoints
        limits = self.config.limits
        if self.model.network.four_heads:
            found = runner.predict(self.images)
            moved = pose_drift(self._poses.poses, found, size=size, names=names)
            return drift_check(artefact, moved, limits)
        reference = sigmoid(self._logits) if self.config.ends_in_sigmoid else self._logits
        found = _heatmaps(runner, self.images)
        drift = pixel_drift(reference, found, size=size, names=names)
        return drift_check(artefact, drift, limits, output_use(found, names))

    def _accuracy_check(self, artefact: Artefact, report: EvalReport | None) -> CheckResult:
        if self._reference is None or report is None:
            return not_scored(artefact)
        return accuracy_check(artefact, self._reference, report, self.config.limits)

    def _score(self, runner: PoseRunner) -> EvalReport | None:
        if not self.instances:
            return None
        sampling = self.model.preprocessing.sampling
        return evaluate(runner, self.instances, self.model.skeleton, sampling=sampling)


def _heatmaps(runner: PoseRunner, images: NDArray[np.uint8]) -> Maps:
    """f32[N, K, S/4, S/4], a few images at a time."""
    return np.concatenate([runner.heatmaps(images[i : i + 16]) for i in range(0, len(images), 16)])


def milliseconds(runner: PoseRunner, images: NDArray[np.uint8]) -> float:
    """Median time of one image through the runner, decode included, one image at a time.

    Args:
        runner: The model; its first three runs are not timed.
        images: u8[N, S, S, 3], N >= 1; repeated if they are too few.
    """
    taken = []
    for i in range(_TIMED_IMAGES + 3):
        image = images[i % len(images)][None]
        start = time.perf_counter()
        runner.predict(image)
        taken.append(time.perf_counter() - start)
    return 1000 * float(np.median(taken[3:]))
