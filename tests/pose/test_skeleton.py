"""Keypoint sets: the built-in ones, the merging of labels, and definitions that are wrong."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pycocotools.cocoeval import Params

from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import (
    COCO_17,
    ST_13,
    Skeleton,
    for_keypoint_count,
    for_labels,
    named_pairs,
)

BODY = list(COCO_17.keypoints[5:])


def test_coco17_is_cocos() -> None:
    np.testing.assert_allclose(COCO_17.sigmas, Params("keypoints").kpt_oks_sigmas)
    assert (
        len(COCO_17) == 17
        and COCO_17.keypoints[0] == "nose"
        and COCO_17.keypoints[16] == "right_ankle"
    )


def test_st13_is_a_head_and_cocos_body() -> None:
    assert list(ST_13.keypoints) == ["head", *BODY]
    assert ST_13.sigmas[0] == 0.035 and list(ST_13.sigmas[1:]) == list(COCO_17.sigmas[5:])


@pytest.mark.parametrize("skeleton", [COCO_17, ST_13])
def test_the_flip_swaps_left_and_right_and_nothing_else(skeleton: Skeleton) -> None:
    for k, name in enumerate(skeleton.keypoints):
        other = skeleton.keypoints[skeleton.flip_order[k]]
        swapped = name.replace("left", "?").replace("right", "left").replace("?", "right")
        assert other == swapped
    assert [skeleton.flip_order[k] for k in skeleton.flip_order] == list(range(len(skeleton)))


@pytest.mark.parametrize("skeleton", [COCO_17, ST_13])
def test_the_edges_reach_every_keypoint_and_mirror_onto_themselves(skeleton: Skeleton) -> None:
    edges = {frozenset(edge) for edge in skeleton.edge_indices}
    assert frozenset().union(*edges) == set(range(len(skeleton)))
    assert {frozenset(skeleton.flip_order[k] for k in edge) for edge in edges} == edges


@pytest.mark.parametrize("shape", [(), (7,), (2, 3)])
def test_merging_is_the_mean_of_labelled_keypoints(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-50, 500, (*shape, 17, 2)).astype(np.float32)
    labelled = rng.random((*shape, 17)) < 0.4
    merged, seen = ST_13.convert(points, labelled, COCO_17.keypoints)
    assert merged.shape == (*shape, 13, 2) and merged.dtype == np.float32 and seen.dtype == np.bool_
    for index in np.ndindex(shape):
        for k, name in enumerate(ST_13.keypoints):
            sources = range(5) if name == "head" else [COCO_17.index(name)]
            used = [points[index][d].astype(float) for d in sources if labelled[index][d]]
            assert bool(seen[index][k]) == bool(used)
            mean = sum(used) / len(used) if used else np.zeros(2)
            np.testing.assert_allclose(merged[index][k], mean, rtol=1e-5)


def test_the_same_skeleton_changes_nothing_that_is_labelled() -> None:
    rng = np.random.default_rng(1)
    points, labelled = rng.uniform(0, 500, (9, 17, 2)).astype(np.float32), rng.random((9, 17)) < 0.5
    same, seen = COCO_17.convert(points, labelled, COCO_17.keypoints)
    np.testing.assert_array_equal(seen, labelled)
    np.testing.assert_array_equal(same[seen], points[labelled])
    assert not same[~seen].any()


def test_the_datasets_order_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    points, labelled = rng.uniform(0, 500, (17, 2)).astype(np.float32), rng.random(17) < 0.7
    order = rng.permutation(17)
    names = [COCO_17.keypoints[i] for i in order]
    here, there = (
        ST_13.convert(points, labelled, COCO_17.keypoints),
        ST_13.convert(points[order], labelled[order], names),
    )
    np.testing.assert_allclose(here[0], there[0], rtol=1e-6)
    np.testing.assert_array_equal(here[1], there[1])


def definition() -> dict[str, Any]:
    return {
        "name": "hand",
        "keypoints": ["palm", "left_tip", "right_tip"],
        "sigmas": [0.1, 0.05, 0.05],
        "flip_pairs": [["left_tip", "right_tip"]],
        "edges": [["palm", "left_tip"]],
        "merge": {"palm": ["a", "b"]},
    }


def test_a_users_own_skeleton_comes_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "hand.yaml"
    path.write_text(yaml.safe_dump({"_target_": "heatpose.pose.skeleton.Skeleton", **definition()}))
    hand = Skeleton.from_yaml(path)
    assert (
        hand == Skeleton(**definition())
        and hand.flip_order == [0, 2, 1]
        and hand.edge_indices == [(0, 1)]
    )
    points = np.array([[0, 0], [2, 4], [10, 10], [20, 20]], np.float32)
    merged, seen = hand.convert(
        points, np.array([True, True, True, False]), ["a", "b", "left_tip", "right_tip"]
    )
    assert merged.tolist() == [[1, 2], [10, 10], [0, 0]] and seen.tolist() == [True, True, False]


@pytest.mark.parametrize("skeleton", [COCO_17, ST_13, Skeleton(**definition())])
def test_a_skeleton_survives_storage(skeleton: Skeleton) -> None:
    assert Skeleton(**skeleton.to_dict()) == skeleton
    assert Skeleton(**yaml.safe_load(yaml.safe_dump(skeleton.to_dict()))) == skeleton
    assert pickle.loads(pickle.dumps(skeleton)) == copy.deepcopy(skeleton) == skeleton


WRONG: dict[str, dict[str, Any]] = {
    "no keypoints": {"keypoints": [], "sigmas": []},
    "a name twice": {"keypoints": ["palm", "palm", "right_tip"]},
    "too few sigmas": {"sigmas": [0.1, 0.1]},
    "a sigma of zero": {"sigmas": [0.1, 0.0, 0.1]},
    "an unknown flip name": {"flip_pairs": [["left_tip", "nose"]]},
    "an unknown edge": {"edges": [["palm", "nose"]]},
    "an unknown merged keypoint": {"merge": {"nose": ["a"]}},
    "a keypoint in two pairs": {"flip_pairs": [["left_tip", "right_tip"], ["palm", "left_tip"]]},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_definition_is_one_sentence(what: str) -> None:
    with pytest.raises(HeatposeError, match="hand"):
        Skeleton(**{**definition(), **WRONG[what]})


UNCHECKED: dict[str, dict[str, Any]] = {
    "a sigma that is NaN": {"sigmas": [0.1, float("nan"), 0.1]},
    "a merge rule of nothing": {"merge": {"palm": []}},
    "a flip pair of three": {"flip_pairs": [["palm", "left_tip", "right_tip"]]},
}


@pytest.mark.parametrize("what", UNCHECKED)
def test_a_definition_that_cannot_work_is_one_sentence(what: str) -> None:
    with pytest.raises(HeatposeError, match="hand"):
        Skeleton(**{**definition(), **UNCHECKED[what]})


@pytest.mark.parametrize(
    "text", ["", "3", "a: [", "name: x", "name: x\nkeypoints: 3\nsigmas: [1]", "name: x\nother: 1"]
)
def test_a_file_that_is_not_a_skeleton_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(HeatposeError, match=r"x\.yaml"):
        Skeleton.from_yaml(tmp_path / "x.yaml")
    with pytest.raises(HeatposeError, match=r"none\.yaml"):
        Skeleton.from_yaml(tmp_path / "none.yaml")


def test_a_keypoint_that_the_dataset_lacks_is_named() -> None:
    with pytest.raises(HeatposeError, match=r"'head' needs \['left_ear'"):
        replace(ST_13, merge={"head": ["left_ear"]}).convert(
            np.zeros((12, 2), np.float32), np.ones(12, bool), BODY
        )
    with pytest.raises(HeatposeError, match=r"did you mean left_hip\? Else correct its merge rule"):
        replace(ST_13, merge={"head": ["left_hipp"]}).sources(COCO_17.keypoints)


def test_a_lacking_entry_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nkeypoints: [a, b]\n")
    with pytest.raises(HeatposeError, match=r"is not a skeleton YAML \(it lacks 'sigmas'\)"):
        Skeleton.from_yaml(path)


def test_a_model_file_is_given_its_skeleton_by_its_channels() -> None:
    assert for_keypoint_count(17) is COCO_17 and for_keypoint_count(13) is ST_13
    with pytest.raises(HeatposeError, match="16 keypoints"):
        for_keypoint_count(16)


def test_labels_are_looked_at_as_coco_or_as_they_are() -> None:
    assert (
        for_labels(COCO_17.keypoints) is COCO_17
        and for_labels(["left_toe", *COCO_17.keypoints]) is COCO_17
    )
    own = for_labels(["crown", "hand_l"])
    assert own.keypoints == ("crown", "hand_l") and own.sources(["hand_l", "crown"]) == [[1], [0]]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_wrist", "right_wrist"),
        ("Left Wrist", "Right Wrist"),
        ("wrist_left", "wrist_right"),
        ("l_wrist", "r_wrist"),
        ("wrist_l", "wrist_r"),
        ("LWrist", "RWrist"),
        ("leftWrist", "rightWrist"),
        ("wristL", "wristR"),
        ("wrist.L", "wrist.R"),
        ("LEFT_WRIST", "RIGHT_WRIST"),
        ("leftwrist", "rightwrist"),
        ("left", "right"),
        ("L-Wrist 2", "R-Wrist 2"),
        ("größe_l", "größe_r"),
    ],
)
def test_names_that_mean_left_and_right_must_be_paired(
    left: str, right: str, tmp_path: Path
) -> None:
    names = (right, "nose", left)
    assert named_pairs(names) == [(left, right)]
    alone = Skeleton("own", names, (0.1,) * 3)
    with pytest.raises(
        HeatposeError, match=r"write flip_pairs: \[\[.*\]\] into it, or set mirror=0"
    ) as caught:
        alone.require_flip_pairs("mirror=0")
    line = re.search(r"flip_pairs: \[\[.*\]\]", str(caught.value))
    assert line is not None
    text = yaml.safe_dump(
        {"name": "own", "keypoints": list(names), "sigmas": [0.1] * 3}, allow_unicode=True
    )
    (tmp_path / "own.yaml").write_text(f"{text}{line[0]}\n", encoding="utf-8")
    paired = Skeleton.from_yaml(tmp_path / "own.yaml")
    paired.require_flip_pairs("mirror=0")
    assert paired.flip_order == [2, 1, 0] == for_labels(names).flip_order


def test_names_without_sides_need_no_pairs() -> None:
    for names in (
        ("bright", "blight"),
        ("left_eye", "right_ear"),
        ("l_eye", "left_ear"),
        ("nose",),
        ("r", "rear"),
    ):
        assert named_pairs(names) == []
        Skeleton("own", names, (0.1,) * len(names)).require_flip_pairs("mirror=0")
    COCO_17.require_flip_pairs("mirror=0")
    ST_13.require_flip_pairs("mirror=0")


def test_a_wrong_pair_is_replaced_and_others_stay() -> None:
    names = ("left_eye", "right_eye", "left_ear", "right_ear", "thumb", "finger")
    wrong = [("left_eye", "right_ear"), ("right_eye", "left_ear"), ("thumb", "finger")]
    message = r"\[\[left_eye, right_eye\], \[left_ear, right_ear\], \[thumb, finger\]\]"
    with pytest.raises(HeatposeError, match=message):
        Skeleton("own", names, (0.1,) * 6, wrong).require_flip_pairs("mirror=0")
