"""Agreement of int8 files with the float network, on evaluation and on held-out training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatpose.data.sample import Person
from heatpose.data.selection import in_held_out
from heatpose.evaluation.agreement import agreement
from heatpose.evaluation.evaluate import EvalReport, predict_poses
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.quantize.calibration import choose_calibration
from heatpose.quantize.settings import AutoChoice
from heatpose.runners import PoseRunner

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
            evaluation: N people.
            holdout: M people.
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
