"""Teachers' predictions: keypoints in the student's order, maps in one layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from heatpose.data.sample import Person
from heatpose.distill.teacher import (
    Prediction,
    Teacher,
    as_logits,
    mean_prediction,
    mirrored,
    show,
    sources,
    view_box,
    view_matrix,
)
from heatpose.errors import HeatposeError
from heatpose.pose import geometry
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton
from heatpose.runners import open_runner
from heatpose.utils.image_files import load_image

from .conftest import DOTS, POSE, SIZE

Teachers = Callable[..., Path]


def test_it_finds_the_dots(teachers: Teachers, dotted: list[Person]) -> None:
    teacher = Teacher(open_runner(teachers("maps")), DOTS)
    for margin in (1.0, 1.5, None):
        boxes = [view_box(person, margin) for person in dotted]
        prediction = teacher.predict(
            np.stack([show(person, box, SIZE) for person, box in zip(dotted, boxes, strict=True)])
        )
        assert prediction.maps is not None and prediction.maps.shape == (9, 3, SIZE // 4, SIZE // 4)
        assert (prediction.maps.max((-1, -2)) == 0).all()
        for person, box, points in zip(dotted, boxes, prediction.points, strict=True):
            found = geometry.apply(geometry.invert(view_matrix(box)), points)
            error = np.abs(found - person.keypoints)[person.labelled]
            # half a cell
            assert error.max() < 0.5 * max(box[2] - box[0], box[3] - box[1]) / (SIZE / 4)


def test_a_sample_is_the_image_and_black_beyond_it(dotted: list[Person]) -> None:
    person = dotted[1]
    image = load_image(person.image_path)
    assert view_box(person, None) == (0, 0, person.width, person.height)
    left, top, right, bottom = view_box(person, 1.0)
    assert (right - left, bottom - top) == (80, 80) and (left, top) == (23, 22)
    assert np.array_equal(
        show(person, (left, top, right, bottom), 80), image[top:bottom, left:right]
    )
    over = show(person, (-40, -20, 100, 120), 140)
    assert (
        not over[:20].any()
        and not over[:, :40].any()
        and np.array_equal(over[20:, 40:], image[:120, :100])
    )


def test_a_decoded_teacher_gives_points_alone(teachers: Teachers) -> None:
    prediction = Teacher(open_runner(teachers("pose")), DOTS).predict(
        np.zeros((2, SIZE, SIZE, 3), np.uint8)
    )
    assert prediction.maps is None
    np.testing.assert_allclose(
        np.concatenate([prediction.points, prediction.scores[..., None]], -1),
        np.array([POSE, POSE]).reshape(2, 3, 3),
        rtol=1e-6,
    )


def test_keypoints_are_found_by_name(teachers: Teachers) -> None:
    other = Skeleton("other", ["blue", "red"], [0.1, 0.1])
    prediction = Teacher(open_runner(teachers("pose")), other).predict(
        np.zeros((1, SIZE, SIZE, 3), np.uint8)
    )
    np.testing.assert_allclose(prediction.points[0], [POSE[6:8], POSE[0:2]], rtol=1e-6)
    np.testing.assert_allclose(prediction.scores[0], [POSE[8], POSE[2]], rtol=1e-6)
    with pytest.raises(
        HeatposeError,
        match=(
            r"does not have keypoint 'hat' of skeleton 'hats' \(it has \['red', 'green',"
            r" 'blue'\]\); choose another teacher\.$"
        ),
    ):
        Teacher(open_runner(teachers("pose")), Skeleton("hats", ["red", "hat"], [0.1, 0.1]))


class Knows:
    """A runner's names alone."""

    def __init__(self, skeleton: Skeleton | None, keypoints: int) -> None:
        self.skeleton, self.keypoints, self.path = skeleton, keypoints, Path("teacher.tflite")


def test_seventeen_keypoints_teach_thirteen_and_not_the_other_way() -> None:
    found = sources(Knows(None, 17), ST_13, COCO_17)  # type: ignore[arg-type]
    assert found[0] == [0, 1, 2, 3, 4]
    assert [COCO_17.keypoints[channels[0]] for channels in found[1:]] == list(
        ST_13.keypoints[1:]
    ) and {len(c) for c in found[1:]} == {1}
    same = sources(Knows(ST_13, 13), ST_13, ST_13)  # type: ignore[arg-type]
    assert same == [[k] for k in range(13)]
    with pytest.raises(HeatposeError, match="does not have keypoint 'nose'"):
        sources(Knows(ST_13, 13), COCO_17, ST_13)  # type: ignore[arg-type]


def test_a_merged_keypoint_is_in_the_middle_of_its_sources(
    teachers: Teachers, dotted: list[Person]
) -> None:
    merged = Skeleton("merged", ["middle", "blue"], [0.1, 0.1], merge={"middle": ["red", "green"]})
    runner = open_runner(teachers("maps"))
    images = np.stack(
        [show(person, view_box(person, 1.0), SIZE) for person in dotted if person.labelled.all()]
    )
    single, both = Teacher(runner, DOTS).predict(images), Teacher(runner, merged).predict(images)
    np.testing.assert_allclose(both.points[:, 0], single.points[:, :2].mean(1), atol=1e-6)
    np.testing.assert_allclose(both.scores[:, 0], single.scores[:, :2].mean(1), atol=1e-6)
    np.testing.assert_array_equal(both.points[:, 1], single.points[:, 2])
    assert single.maps is not None and both.maps is not None
    cells = SIZE // 4
    for maps, point in zip(both.maps[:, 0], both.points[:, 0], strict=True):
        row, column = divmod(int(maps.argmax()), cells)
        assert (
            abs((column + 0.5) - point[0] * cells) <= 1.01
            and abs((row + 0.5) - point[1] * cells) <= 1.01
        )
    none_scores = Teacher(runner, merged, min_score=1.0).predict(images)
    # all of them where none is good enough
    np.testing.assert_allclose(none_scores.points, both.points)


def test_maps_of_any_shape_become_the_same_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32) * 2
    relative = logits - logits.max((-1, -2), keepdims=True)
    np.testing.assert_allclose(as_logits(logits), relative, atol=1e-5)
    np.testing.assert_allclose(
        as_logits(torch.from_numpy(logits).sigmoid().numpy()), relative, atol=1e-3
    )
    np.testing.assert_allclose(
        as_logits(torch.from_numpy(logits).flatten(2).softmax(-1).view(2, 3, 8, 8).numpy()),
        relative,
        atol=1e-3,
    )


def test_a_mirrored_prediction_is_about_the_view_again(
    teachers: Teachers, dotted: list[Person]
) -> None:
    """The dots have colours but no sides, so image and mirror image have equal predictions."""
    sideless = Skeleton("dots", DOTS.keypoints, DOTS.sigmas)
    images = np.stack([show(person, view_box(person, 1.5), SIZE) for person in dotted])
    plain, both = (
        Teacher(open_runner(teachers("maps")), sideless, mirror=mirror).predict(images)
        for mirror in (False, True)
    )
    assert plain.maps is not None and both.maps is not None
    np.testing.assert_allclose(both.maps, plain.maps, atol=1e-3)
    np.testing.assert_allclose(both.points, plain.points, atol=1e-3)
    np.testing.assert_allclose(both.scores, plain.scores, atol=1e-6)


def test_mirroring_swaps_left_and_right_and_turns_each_map() -> None:
    random = np.random.default_rng(0)
    prediction = Prediction(
        random.normal(size=(2, 3, 4, 5)).astype(np.float32),
        random.random((2, 3, 2), np.float32),
        random.random((2, 3), np.float32),
    )
    turned = mirrored(prediction, DOTS.flip_order)
    assert turned.maps is not None and prediction.maps is not None
    for b, k, row, column in np.ndindex(prediction.maps.shape):
        assert (
            turned.maps[b, k, row, column]
            == prediction.maps[b, {0: 1, 1: 0, 2: 2}[k], row, 4 - column]
        )
    np.testing.assert_allclose(
        turned.points[:, 0],
        np.stack([1 - prediction.points[:, 1, 0], prediction.points[:, 1, 1]], -1),
    )
    np.testing.assert_array_equal(turned.scores, prediction.scores[:, [1, 0, 2]])


def test_two_predictions_are_averaged_as_distributions() -> None:
    maps = np.full((2, 1, 1, 4, 4), -20, np.float32)
    maps[0, ..., 1, 1] = maps[1, ..., 1, 2] = 0
    points, scores = np.zeros((1, 1, 2), np.float32), np.array([0.9, 0.5], np.float32)
    one, other = (
        Prediction(m, points, np.full((1, 1), score, np.float32))
        for m, score in zip(maps, scores, strict=True)
    )
    mean = mean_prediction(one, other)
    assert mean.maps is not None
    distribution = np.exp(mean.maps) / np.exp(mean.maps).sum()
    np.testing.assert_allclose(distribution[0, 0, 1], [0, 0.5, 0.5, 0], atol=1e-5)
    # between the cells' centres, 3/8 and 5/8 of the width
    np.testing.assert_allclose(mean.points[0, 0], [0.5, 0.375], atol=1e-3)
    np.testing.assert_allclose(mean.scores, 0.7)


def test_of_decoded_predictions_the_surer_point_counts(teachers: Teachers) -> None:
    """The teacher gives the same prediction for every image.

    Red is at 0.25, with a higher score than green at 0.75; mirrored, they coincide.
    """
    prediction = Teacher(open_runner(teachers("pose")), DOTS, mirror=True).predict(
        np.zeros((1, SIZE, SIZE, 3), np.uint8)
    )
    assert prediction.maps is None
    np.testing.assert_allclose(
        prediction.points[0], [POSE[0:2], [1 - POSE[0], POSE[1]], POSE[6:8]], rtol=1e-6
    )
    np.testing.assert_allclose(prediction.scores[0], [POSE[2], POSE[2], POSE[8]], rtol=1e-6)
