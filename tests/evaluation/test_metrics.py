"""The protocol's OKS in plain loops, COCO's AP by COCO's own code.

Intervals that can be computed by hand.
"""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from heatpose.data.sample import Person
from heatpose.evaluation import metrics
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton


def crowd_of(count: int, skeleton: Skeleton, seed: int = 0) -> list[Person]:
    """People of many sizes with some of their keypoints labelled, one per image."""
    rng = np.random.default_rng(seed)
    result = []
    for i in range(count):
        width, height = (int(side) for side in rng.integers(200, 640, 2))
        labelled = rng.random(len(skeleton)) < rng.uniform(0.2, 1)
        labelled[rng.integers(len(skeleton))] = True
        box = (5.0, 7.0, float(rng.uniform(40, width - 10)), float(rng.uniform(40, height - 10)))
        points = (rng.random((len(skeleton), 2)) * box[2:] + box[:2]).astype(np.float32) * labelled[
            :, None
        ]
        area = float(box[2] * box[3] * rng.uniform(0.3, 0.7))
        others = np.zeros((0, 4), np.float32)
        result.append(
            Person(
                Path("x.jpg"), 10 + i, i, width, height, points, labelled, box, area, True, others
            )
        )
    return result


def poses_near(instances: list[Person], seed: int = 1) -> NDArray[np.float32]:
    """Predictions with errors between nothing and most of the body: f32[N, K, 3], normalised."""
    rng = np.random.default_rng(seed)
    poses = []
    for person in instances:
        noise = rng.normal(0, rng.uniform(0, 0.15), person.keypoints.shape) * person.box[2:]
        place = (person.keypoints + noise) / (person.width, person.height)
        poses.append(np.concatenate([place, rng.random((len(place), 1))], 1))
    stacked: NDArray[np.float32] = np.stack(poses).astype(np.float32)
    return stacked


def oks_by_hand(
    person: Person, pose: NDArray[np.float32], sigmas: list[float]
) -> tuple[float, list[float]]:
    """Protocol rule 4, one number at a time."""
    area = 0.53 * (person.box[2] / person.width) * (person.box[3] / person.height)
    similarities, total, count = [], 0.0, 0
    for k, sigma in enumerate(sigmas):
        dx = float(pose[k, 0]) - float(person.keypoints[k, 0]) / person.width
        dy = float(pose[k, 1]) - float(person.keypoints[k, 1]) / person.height
        similarities.append(math.exp(-(dx**2 + dy**2) / (2 * (2 * sigma) ** 2 * (area + 1e-7))))
        if person.labelled[k]:
            total, count = total + similarities[-1], count + 1
    return total / (count + 1e-7), similarities


@pytest.mark.parametrize("skeleton", [COCO_17, ST_13])
def test_oks_is_the_protocols(skeleton: Skeleton) -> None:
    instances = crowd_of(40, skeleton)
    poses = poses_near(instances)
    truth = metrics.normalised_truth(instances)
    similarity = metrics.keypoint_similarity(
        poses[..., :2], truth.keypoints, truth.area, skeleton.sigmas
    )
    oks = metrics.mean_over_labelled(similarity, truth.labelled)
    assert similarity.shape == (40, len(skeleton)) and oks.shape == (40,)
    for i, person in enumerate(instances):
        want, similarities = oks_by_hand(person, poses[i], list(skeleton.sigmas))
        np.testing.assert_allclose(similarity[i], similarities, rtol=1e-3, atol=1e-6)
        assert oks[i] == pytest.approx(want, abs=1e-5)
    assert 0.05 < oks.min() < 0.9 < oks.max()


def test_the_truth_is_perfect_and_a_far_guess_is_worth_nothing() -> None:
    truth = metrics.normalised_truth(crowd_of(5, COCO_17))
    for shift, want in ((0.0, 1.0), (5.0, 0.0)):
        similarity = metrics.keypoint_similarity(
            truth.keypoints + shift, truth.keypoints, truth.area, COCO_17.sigmas
        )
        np.testing.assert_allclose(
            metrics.mean_over_labelled(similarity, truth.labelled), want, atol=1e-6
        )


def test_only_labelled_keypoints_count() -> None:
    instances = crowd_of(20, COCO_17)
    truth, poses = metrics.normalised_truth(instances), poses_near(instances)
    other = np.where(truth.labelled[..., None], poses[..., :2], 9.0)
    scores = [
        metrics.mean_over_labelled(
            metrics.keypoint_similarity(guess, truth.keypoints, truth.area, COCO_17.sigmas),
            truth.labelled,
        )
        for guess in (poses[..., :2], other)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])


def evaluation_of(
    instances: list[Person], poses: NDArray[np.float32], skeleton: Skeleton
) -> COCOeval:
    """COCO's evaluation, fed by this test: pixels, the true area, all people in one file."""
    truth, guesses = [], []
    for i, (person, pose) in enumerate(zip(instances, poses, strict=True)):
        points = [
            v for k in range(len(skeleton)) for v in (*person.keypoints[k], 2 * person.labelled[k])
        ]
        fields = {"image_id": person.image_id, "category_id": 1}
        count = int(person.labelled.sum())
        label = {
            "id": i + 1,
            "iscrowd": 0,
            "area": person.area,
            "bbox": list(person.box),
            "num_keypoints": count,
        }
        truth.append({**fields, **label, "keypoints": [float(v) for v in points]})
        guess = [float(v) for k in pose for v in (k[0] * person.width, k[1] * person.height, k[2])]
        guesses.append({**fields, "keypoints": guess, "score": float(pose[:, 2].mean())})
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": p.image_id} for p in instances],
        "annotations": truth,
        "categories": [{"id": 1}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(guesses), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
        evaluation.evaluate()
    return evaluation


def pixel_oks(person: Person, pose: NDArray[np.float32], sigmas: list[float]) -> float:
    """COCO's own object keypoint similarity, one number at a time."""
    values = []
    for k, sigma in enumerate(sigmas):
        if person.labelled[k]:
            dx = float(pose[k, 0]) * person.width - float(person.keypoints[k, 0])
            dy = float(pose[k, 1]) * person.height - float(person.keypoints[k, 1])
            values.append(
                math.exp(-(dx**2 + dy**2) / (2 * (2 * sigma) ** 2 * (person.area + np.spacing(1))))
            )
    return sum(values) / len(values)


def average_precision(oks: list[float], scores: list[float], threshold: float) -> float:
    """Area under the interpolated precision at 101 recalls.

    One prediction and one truth per image.
    """
    order = sorted(range(len(oks)), key=lambda i: -scores[i])
    hits, points = 0, []
    for n, i in enumerate(order, start=1):
        hits += oks[i] >= threshold
        points.append((hits / len(oks), hits / n))
    highest = [
        max([p for r, p in points if r >= recall], default=0.0) for recall in np.linspace(0, 1, 101)
    ]
    return sum(highest) / 101


@pytest.mark.parametrize("skeleton", [COCO_17, ST_13])
def test_average_precision_is_cocos(skeleton: Skeleton) -> None:
    instances = crowd_of(40, skeleton)
    poses = poses_near(instances)
    ap, ap50 = metrics.coco_average_precision(instances, poses, skeleton)
    evaluation = evaluation_of(instances, poses, skeleton)
    oks = [float(evaluation.computeOks(person.image_id, 1)[0, 0]) for person in instances]
    by_hand = [
        pixel_oks(person, pose, list(skeleton.sigmas))
        for person, pose in zip(instances, poses, strict=True)
    ]
    np.testing.assert_allclose(oks, by_hand, rtol=1e-4, atol=1e-7)
    scores = [float(pose[:, 2].mean()) for pose in poses]
    thresholds = [0.5 + 0.05 * i for i in range(10)]
    assert ap50 == pytest.approx(100 * average_precision(oks, scores, 0.5), abs=1e-6)
    want = 100 * sum(average_precision(oks, scores, threshold) for threshold in thresholds) / 10
    assert ap == pytest.approx(want, abs=1e-6)
    assert 5 < ap < ap50 < 99


def test_average_precision_of_the_truth_is_everything() -> None:
    instances = crowd_of(10, COCO_17)
    truth = metrics.normalised_truth(instances).keypoints
    poses = np.concatenate([truth, np.ones((10, 17, 1))], -1).astype(np.float32)
    assert metrics.coco_average_precision(instances, poses, COCO_17) == pytest.approx((100, 100))
    assert metrics.coco_average_precision(instances, poses + 3, COCO_17) == pytest.approx((0, 0))


def test_several_people_on_one_image_are_all_counted() -> None:
    instances = crowd_of(6, COCO_17)
    instances = [replace(p, image_id=p.image_id // 2, width=500, height=500) for p in instances]
    truth = metrics.normalised_truth(instances).keypoints
    poses = np.concatenate([truth, np.ones((6, 17, 1))], -1).astype(np.float32)
    assert metrics.coco_average_precision(instances, poses, COCO_17) == pytest.approx((100, 100))


def test_results_are_cocos_format() -> None:
    instances = crowd_of(3, COCO_17)
    poses = poses_near(instances)
    for person, pose, result in zip(
        instances, poses, metrics.coco_results(instances, poses), strict=True
    ):
        assert result["image_id"] == person.image_id and result["category_id"] == 1
        values = np.array(result["keypoints"]).reshape(17, 3)
        np.testing.assert_allclose(values[:, 0], pose[:, 0] * person.width, rtol=1e-5)
        np.testing.assert_allclose(values[:, 1], pose[:, 1] * person.height, rtol=1e-5)


def test_the_interval_is_the_normal_one_for_many_values() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    low, high = metrics.bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)
    assert metrics.standard_error(values) == pytest.approx(half / 1.96)
    narrow = metrics.bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high


def test_the_interval_covers_the_mean_at_its_nominal_rate() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for i in range(100):
        low, high = metrics.bootstrap_interval(rng.normal(0, 1, 60), draws=200, seed=i)
        covered += low <= 0 <= high
    assert 88 <= covered <= 99  # 95 of 100, give or take three standard errors


def test_the_interval_is_seeded_and_exact_where_nothing_varies() -> None:
    values = np.random.default_rng(2).normal(size=50)
    assert metrics.bootstrap_interval(values, seed=3) == metrics.bootstrap_interval(values, seed=3)
    assert metrics.bootstrap_interval(values, seed=3) != metrics.bootstrap_interval(values, seed=4)
    assert metrics.bootstrap_interval(np.full(9, 0.25)) == (0.25, 0.25)
    assert metrics.standard_error(np.array([0.7])) == 0
    assert metrics.standard_error(np.array([1.0, 3.0])) == pytest.approx(1.0)
