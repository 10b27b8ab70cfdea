"""The files of a bundle put through the gates, scored and timed, beside the torch network."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data.augment import prominent
from heatpose.data.sample import Person
from heatpose.evaluation.evaluate import EvalReport, evaluate
from heatpose.evaluation.parity import (
    Maps,
    float_parity,
    output_use,
    pixel_drift,
    pose_drift,
    sigmoid,
)
from heatpose.evaluation.threshold import LEAST_INSTANCES, ThresholdCurve, threshold_curve
from heatpose.export.agreement import FloatPoses
from heatpose.export.checks import (
    CheckResult,
    accuracy_check,
    drift_check,
    expected_operators,
    flatbuffer_check,
    float_check,
    not_scored,
)
from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.settings import CheckLimits, ExportConfig
from heatpose.runners import PoseRunner, open_runner
from heatpose.tflite.inspect import Artefact

if TYPE_CHECKING:
    from heatpose.models.checkpoint import LoadedCheckpoint
    from heatpose.models.decode import PoseForm
    from heatpose.models.movenet import MoveNet


TORCH = "torch"
ONNX = "onnx"
_TIMED_IMAGES = 24


@dataclass(frozen=True)
class ValidationResult:
    """What is known about one model.

    Attributes:
        artefact: "torch", "onnx", "float32", "int8_pc" or "int8_pt".
        path: The file; None for the network in memory.
        checks: What the gates said; none for the network.
        report: Its score; None without an evaluation set.
        milliseconds: Median time of one image through the runner, one at a time.
        kernels: What computed.
        agreement: With the poses of the float network (`export.agreement`); int8 files alone.
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
        """No gate refuses it."""
        return all(check.passed for check in self.checks)


@dataclass(kw_only=True)
class Validator:
    """Compares, scores and times every file beside the network.

    Attributes:
        model: The network that was exported; it is left as it is.
        config: Form of the files and limits of the acceptance checks.
        images: u8[N, S, S, 3] for parity and timing: training images, never scored ones.
        instances: Evaluation instances; None where nothing is scored.
        holdout: Training people, one per image, on which int8 files are compared with the network.
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
        """Scores the network itself; comes first, because the files are compared with it.

        Args:
            name: What reports call it.
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
            TORCH, None, (), self._reference, milliseconds(runner, self.images), runner.kernels
        )

    def validate_onnx(self, path: Path) -> ValidationResult:
        """Compares, scores and times the ONNX file."""
        runner = open_runner(path)
        return self._validation(ONNX, path, (self._float_check(ONNX, runner),), runner)

    def validate_tflite(self, form: Artefact, path: Path) -> ValidationResult:
        """Puts a TFLite file through the gates, scores and times it."""
        network, config = self.model.network, self.config
        decoded = network.four_heads
        operators = expected_operators(
            network,
            form,
            sigmoid=config.ends_in_sigmoid and not decoded,
            output=config.output_dtype,
        )
        if decoded:
            operators = with_decode(operators, network.keypoints, config.pose)
        first = flatbuffer_check(path, form, self.model.preprocessing, operators, decoded=decoded)
        runner = open_runner(path)
        if form == "float32":
            return self._validation(form, path, (first, self._float_check(form, runner)), runner)
        validation = self._validation(form, path, (first, self._drift_check(form, runner)), runner)
        poses = self._poses_of(runner, validation.report)
        return replace(
            validation,
            checks=(*validation.checks, self._accuracy_check(form, validation.report)),
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
        time_taken = milliseconds(runner, self.images)
        return ValidationResult(
            artefact, path, checks, self._score(runner), time_taken, runner.kernels
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

    def _accuracy_check(self, form: Artefact, report: EvalReport | None) -> CheckResult:
        if self._reference is None or report is None:
            return not_scored(form)
        return accuracy_check(form, self._reference, report, self.config.limits)

    def _score(self, runner: PoseRunner) -> EvalReport | None:
        if not self.instances:
            return None
        sampling = self.model.preprocessing.sampling
        return evaluate(runner, self.instances, self.model.skeleton, sampling=sampling)


def _heatmaps(runner: PoseRunner, images: NDArray[np.uint8]) -> Maps:
    """f32[N, K, S/4, S/4], a few images at a time."""
    return np.concatenate([runner.heatmaps(images[i : i + 16]) for i in range(0, len(images), 16)])


def milliseconds(runner: PoseRunner, images: NDArray[np.uint8]) -> float:
    """Median time of one image, decode included, images one at a time; the first three warm up."""
    taken = []
    for i in range(_TIMED_IMAGES + 3):
        image = images[i % len(images)][None]
        start = time.perf_counter()
        runner.predict(image)
        taken.append(time.perf_counter() - start)
    return 1000 * float(np.median(taken[3:]))


DECODE_OPERATORS = {
    "ADD": 8, "ARG_MAX": 2, "CAST": 3, "CONCATENATION": 1,
    "DIV": 1, "GATHER": 8, "LESS": 3, "LOGISTIC": 2, "MUL": 8,
    "RESHAPE": 9, "SQRT": 1, "STRIDED_SLICE": 2, "SUB": 2,
}  # fmt: skip
"""What the converter makes of `models.decode`: all of them TFLite's own, no TRANSPOSE.

CAST and LESS guard its GATHERs against negative indices.
"""
# the index of a single keypoint needs no arithmetic
_NOT_FOR_ONE = {"ADD": 2, "CAST": 1, "LESS": 1, "MUL": 2, "RESHAPE": 1}


@dataclass(frozen=True)
class DecodedReference:
    """What the network itself says.

    Attributes:
        poses: f32[N, K, 3] x and y as fractions of the input, score.
        margins: f32[N, K] of `models.decode.decode_margins`.
    """

    poses: NDArray[np.float32]
    margins: NDArray[np.float32]


@dataclass(frozen=True)
class PoseParity:
    """A float file that decodes inside, against the network.

    Attributes:
        score: Largest difference of a score, over keypoints that are not tied.
        pose_px: Largest distance of a keypoint, in pixels, over the same.
        tied: Keypoints left out: two cells are so near to each other in a search that the float
            differences allowed may choose either.
        keypoints: N * K.
    """

    score: float
    pose_px: float
    tied: int
    keypoints: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def with_decode(
    operators: Mapping[str, int], keypoints: int, pose: PoseForm = "xy"
) -> dict[str, int]:
    """The operators of a float file by name, decode included.

    Args:
        operators: Of the network alone, without a sigmoid at its end.
        keypoints: K.
        pose: Form of the output.
    """
    decode = Counter(DECODE_OPERATORS)
    if pose == "yx":
        decode["GATHER"] += 1  # turns x, y into y, x
    if keypoints == 1:
        decode -= Counter(_NOT_FOR_ONE)
    return dict(Counter(operators) + decode)


def decoded_reference(
    network: MoveNet, preprocessing: Preprocessing, images: NDArray[np.uint8]
) -> DecodedReference:
    """Runs a network with four heads over u8[N, S, S, 3], a few images at a time."""
    import torch

    from heatpose.models.decode import decode_maps, decode_margins

    poses, margins = [], []
    for start in range(0, len(images), 16):
        with torch.inference_mode():
            maps = network(
                preprocessing.normalise(
                    torch.tensor(images[start : start + 16]).permute(0, 3, 1, 2)
                )
            )
            poses.append(decode_maps(maps).numpy())
            margins.append(decode_margins(maps).numpy())
    return DecodedReference(np.concatenate(poses), np.concatenate(margins))


def pose_parity(
    reference: DecodedReference, found: NDArray[np.float32], *, size: int, tie: float
) -> PoseParity:
    """Compares a file's poses with the network's.

    Args:
        reference: The network's.
        found: f32[N, K, 3] the file's, x and y first.
        size: Side S of the input.
        tie: How far two logits or two lengths in cells of the same place may be apart. That changes
            a cell's share of a search by less than twice as much, and a lead by less than four
            times.
    """
    clear = reference.margins > 4 * tie
    moved = (reference.poses - found)[clear]
    return PoseParity(
        score=float(np.abs(moved[:, 2]).max(initial=0)),
        pose_px=size * float(np.hypot(moved[:, 0], moved[:, 1]).max(initial=0)),
        tied=int((~clear).sum()),
        keypoints=clear.size,
    )


def pose_check(artefact: str, parity: PoseParity, limits: CheckLimits) -> CheckResult:
    """Gate 2 for a float file that decodes inside: it gives the poses that the network gives."""
    all_tied = parity.tied == parity.keypoints
    passed = parity.score <= limits.logits and parity.pose_px <= limits.pose_px and not all_tied
    sentence = (
        f"Scores differ by at most {parity.score:.1e} (limit {limits.logits:g}), poses by"
        f" {parity.pose_px:.4f} px (limit {limits.pose_px:g}); {parity.tied} of"
        f" {parity.keypoints} keypoints are tied."
    )
    return CheckResult("parity", artefact, passed, sentence, parity.to_json())
