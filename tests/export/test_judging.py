"""Hold-out scores of int8 files: OKS over augmented samples by brute force, and the split."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13
from heatpose.quantize.calibration import split_training
from heatpose.quantize.select import HoldoutScorer
from heatpose.quantize.settings import AutoChoice
from heatpose.runners import open_runner
from tests.exporting import Case

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scorer(case: Case) -> HoldoutScorer:
    return HoldoutScorer(
        case.training, 60, ST_13, Preprocessing(64), case.result.folder / "net_64_float32.tflite"
    )


def test_a_file_loses_nothing_against_itself(case: Case, scorer: HoldoutScorer) -> None:
    drop = scorer.score(case.result.folder / "net_64_float32.tflite").drop
    assert (drop.mean, drop.low, drop.high) == (0, 0, 0)


def test_scores_by_hand(case: Case, scorer: HoldoutScorer) -> None:
    found: dict[str, dict[str, list[float]]] = {}
    for artefact in ("float32", "int8_pt"):
        runner = open_runner(case.result.folder / f"net_64_{artefact}.tflite")
        for image, person in zip(scorer.views.images, scorer.views.instances, strict=True):
            pose = runner.predict(image[None], "argmax")[0]
            area = 0.53 * person.box[2] * person.box[3] / 64**2
            similar = [
                math.exp(
                    -float(((pose[k, :2] - person.keypoints[k] / 64) ** 2).sum())
                    / (2 * (2 * ST_13.sigmas[k]) ** 2 * area)
                )
                for k in range(13)
                if person.labelled[k]
            ]
            found.setdefault(artefact, {}).setdefault(person.image_path.name, []).append(
                100 * sum(similar) / len(similar)
            )
    means = {
        artefact: np.array([np.mean(values) for values in images.values()])
        for artefact, images in found.items()
    }
    score = scorer.score(case.result.folder / "net_64_int8_pt.tflite")
    assert (
        scorer.images
        == len(means["float32"])
        == len({person.image_path for person in case.training})
    )
    assert score.oks == pytest.approx(means["int8_pt"].mean(), abs=1e-3)
    assert score.drop.mean == pytest.approx((means["float32"] - means["int8_pt"]).mean(), abs=1e-3)
    error = (means["float32"] - means["int8_pt"]).std(ddof=1) / math.sqrt(scorer.images)
    assert score.drop.high - score.drop.low == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_holdout_images_are_used_for_neither_calibration_nor_qat_nor_the_score(case: Case) -> None:
    scored = {case.training[0].image_id}
    instances, holdout = split_training(case.training, scored, AutoChoice(holdout=0.5))
    judged, taught = ({person.image_path for person in part} for part in (holdout, instances))
    assert holdout and instances and not judged & taught
    assert not scored & {person.image_id for person in (*instances, *holdout)}
    assert len(instances) + len(holdout) == sum(
        person.image_id not in scored for person in case.training
    )


def test_without_training_images_left_there_is_no_holdout(case: Case) -> None:
    instances, holdout = split_training(case.training, set(), AutoChoice(holdout=1.0))
    assert len(instances) == len(case.training) and not holdout
    assert split_training(case.training, set(), None) == (list(case.training), [])
