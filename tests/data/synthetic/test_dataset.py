"""The rendered data set: read by pycocotools, exact in its labels, deterministic.

And whole or absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from heatpose.data.synthetic import dataset as synthetic
from heatpose.data.synthetic import figure
from heatpose.data.synthetic.dataset import Scene, SyntheticSettings, build_synthetic, render_scene
from heatpose.data.synthetic.figure import Part, dress
from heatpose.data.synthetic.render import OVERSAMPLING, Canvas
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17

SMALL = SyntheticSettings(train_images=24, val_images=12, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_synthetic(tmp_path_factory.mktemp("data"), SMALL, progress=False)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(SyntheticSettings(), "train", number) for number in range(100)]


def read(folder: Path, split: str) -> dict[str, Any]:
    text = (folder / "annotations" / f"person_keypoints_{split}2017.json").read_text(
        encoding="utf-8"
    )
    content: dict[str, Any] = json.loads(text)
    return content


def keypoints(annotation: dict[str, Any]) -> NDArray[np.float64]:
    return np.array(annotation["keypoints"], np.float64).reshape(17, 3)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_same_settings_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = build_synthetic(tmp_path / "made" / "on the way", SMALL, progress=True)
    assert again.name == folder.name
    assert digests(again) == digests(folder)


def test_other_settings_give_another_folder_and_other_images() -> None:
    names = {
        settings.folder_name
        for settings in (
            SMALL,
            SyntheticSettings(),
            SyntheticSettings(seed=1),
            SyntheticSettings(short_side=256),
        )
    }
    assert len(names) == 4
    images = [
        render_scene(SyntheticSettings(seed=seed), split, number).image
        for seed, split, number in (
            (0, "train", 0),
            (1, "train", 0),
            (0, "val", 0),
            (0, "train", 1),
        )
    ]
    assert len({image.tobytes() for image in images}) == 4


def test_an_image_does_not_depend_on_how_many_there_are() -> None:
    few = render_scene(SyntheticSettings(train_images=5), "train", 4)
    many = render_scene(SyntheticSettings(train_images=5000), "train", 4)
    assert few.image.tobytes() == many.image.tobytes()
    assert few.annotations == many.annotations


@pytest.mark.parametrize("split", ["train", "val"])
def test_pycocotools_reads_the_labels(folder: Path, split: str) -> None:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "annotations" / f"person_keypoints_{split}2017.json"))
    person = coco.loadCats(coco.getCatIds(catNms=["person"]))[0]
    assert person["keypoints"] == list(COCO_17.keypoints)
    assert sorted(min(pair) for pair in person["skeleton"])[0] == 1
    assert max(max(pair) for pair in person["skeleton"]) == 17
    wanted = {"train": SMALL.train_images, "val": SMALL.val_images}[split]
    assert len(coco.getImgIds()) == wanted == len(list((folder / f"{split}2017").iterdir()))
    for image in coco.loadImgs(coco.getImgIds()):
        assert image["file_name"] == f"{image['id']:012d}.jpg"
        with Image.open(folder / f"{split}2017" / image["file_name"]) as photo:
            assert photo.format == "JPEG" and photo.mode == "RGB"
            assert photo.size == (image["width"], image["height"])


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_are_consistent(folder: Path, split: str) -> None:
    content = read(folder, split)
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(
        content["annotations"]
    )
    for annotation in content["annotations"]:
        width, height = sizes[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        assert w > 0 and h > 0 and x >= 0 and y >= 0 and x + w <= width and y + h <= height
        assert 0 < annotation["area"] <= w * h
        assert annotation["iscrowd"] == 0 and annotation["category_id"] == 1
        points = keypoints(annotation)
        assert set(points[:, 2]) <= {0, 1, 2}
        labelled = points[:, 2] > 0
        assert annotation["num_keypoints"] == labelled.sum() > 0
        assert (points[~labelled] == 0).all()
        assert ((points[labelled, :2] >= (x, y)) & (points[labelled, :2] <= (x + w, y + h))).all()


def test_the_labels_score_full_marks_in_cocoeval(folder: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    content = read(folder, "val")
    results = [
        {key: annotation[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 1.0}
        for annotation in content["annotations"]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "annotations" / "person_keypoints_val2017.json"))
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_val_images_show_one_person_and_ids_do_not_repeat(folder: Path) -> None:
    train, val = read(folder, "train"), read(folder, "val")
    owners = [annotation["image_id"] for annotation in val["annotations"]]
    assert sorted(owners) == sorted(image["id"] for image in val["images"])
    assert not {image["id"] for image in train["images"]} & {image["id"] for image in val["images"]}


def test_a_fifth_of_the_training_images_shows_several_people(scenes: list[Scene]) -> None:
    counts = np.array([len(scene.annotations) for scene in scenes])
    assert set(counts) == {1, 2, 3}
    assert 0.1 < (counts > 1).mean() < 0.32  # 0.2 +- 3 standard errors of 100 images
    assert {scene.image.size for scene in scenes} == {(320, 240), (240, 320), (240, 240)}


def test_people_are_large_enough_for_training(scenes: list[Scene]) -> None:
    alone = [scene for scene in scenes if len(scene.annotations) == 1]
    boxes = np.array([scene.annotations[0]["bbox"] for scene in alone])
    sizes = np.array([scene.image.size for scene in alone])
    share = boxes[:, 2:].prod(1) / sizes.prod(1)
    assert np.quantile(share, 0.25) > 0.15 and np.quantile(share, 0.75) < 0.6
    assert (boxes[:, 3] / sizes[:, 1]).min() > 0.35


def test_joints_lie_on_their_body(scenes: list[Scene]) -> None:
    for scene in scenes:
        for annotation, silhouette in zip(scene.annotations, scene.silhouettes, strict=True):
            points = keypoints(annotation)
            columns, rows = np.floor(points[points[:, 2] > 0, :2].T * OVERSAMPLING).astype(int)
            assert silhouette[rows, columns].all()


def test_the_box_is_tight(scenes: list[Scene]) -> None:
    for scene in scenes[:20]:
        for annotation, silhouette in zip(scene.annotations, scene.silhouettes, strict=True):
            rows, columns = np.nonzero(silhouette)
            low, high = (
                np.array([columns.min(), rows.min()]),
                np.array([columns.max(), rows.max()]) + 1,
            )
            assert annotation["bbox"] == pytest.approx(
                [*low / OVERSAMPLING, *(high - low) / OVERSAMPLING]
            )


def test_what_is_drawn_is_where_the_labels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images with and without paint on the bodies differ at visible joints.

    And nowhere off the bodies.
    """
    numbers = range(25)
    settings = SyntheticSettings(seed=7)
    painted = [render_scene(settings, "train", number) for number in numbers]
    draw_person = Canvas.draw_person

    def invisible(canvas: Canvas, *args: Any) -> NDArray[np.bool_]:
        before = canvas.image.copy()
        silhouette = draw_person(canvas, *args)
        canvas.image = before
        return silhouette

    monkeypatch.setattr(Canvas, "draw_person", invisible)
    changed = []
    for number, scene in zip(numbers, painted, strict=True):
        empty = render_scene(settings, "train", number)
        difference = np.abs(np.asarray(scene.image, int) - np.asarray(empty.image, int)).max(-1)
        for annotation in scene.annotations:
            points = keypoints(annotation)
            columns, rows = np.floor(points[points[:, 2] == 2, :2].T).astype(int)
            changed += list(difference[rows, columns] > 4)
        bodies = Image.fromarray(np.any(scene.silhouettes, 0)).convert("L").reduce(OVERSAMPLING)
        near = (
            np.asarray(bodies.filter(ImageFilter.MaxFilter(11))) > 0
        )  # blurred edges reach a few pixels out
        assert not difference[~near].any()
    assert len(changed) > 250
    assert np.mean(changed) > 0.97


@pytest.mark.parametrize("place", [(30.0, 30.0), (30.5, 30.5), (30.25, 29.6), (31.9, 30.1)])
def test_a_disc_is_drawn_at_its_place_in_the_continuous_frame(place: tuple[float, float]) -> None:
    canvas = Canvas(Image.new("RGB", (60 * OVERSAMPLING, 60 * OVERSAMPLING)))
    centre, white = np.zeros(3), np.full(3, 255.0)
    disc = Part("nose", centre, centre, (10.0, 10.0), white, 0.0, flat=True)
    canvas.draw_person([disc], 1.0, np.array(place), 0, np.array([0.0, -1.0]))
    weight = np.asarray(canvas.finished(), float)[..., 0]
    grid = np.arange(60) + 0.5
    centroid = (
        (weight.sum(0) * grid).sum() / weight.sum(),
        (weight.sum(1) * grid).sum() / weight.sum(),
    )
    assert centroid == pytest.approx(place, abs=0.3)
    assert weight.sum() / 255 == pytest.approx(np.pi * 100, rel=0.08)


def test_discs_are_not_shifted_on_average() -> None:
    rng = np.random.default_rng(0)
    errors = []
    grid = np.arange(40) + 0.5
    for place in rng.uniform(15, 25, (200, 2)):
        canvas = Canvas(Image.new("RGB", (40 * OVERSAMPLING, 40 * OVERSAMPLING)))
        disc = Part("nose", np.zeros(3), np.zeros(3), (8.0, 8.0), np.full(3, 255.0), 0.0, flat=True)
        canvas.draw_person([disc], 1.0, place, 0, np.array([0.0, -1.0]))
        weight = np.asarray(canvas.finished(), float)[..., 0] / 255
        errors.append(
            [
                weight.sum(0) @ grid / weight.sum() - place[0],
                weight.sum(1) @ grid / weight.sum() - place[1],
            ]
        )
    assert np.abs(np.mean(errors, 0)).max() < 0.04  # a half-pixel slip would be 0.25 or 0.5


@pytest.mark.parametrize(
    ("degrees", "left_is_right_of", "nose"), [(0.0, True, 2), (180.0, False, 1)]
)
def test_left_and_right_follow_the_view(
    monkeypatch: pytest.MonkeyPatch, degrees: float, left_is_right_of: bool, nose: int
) -> None:
    monkeypatch.setattr(figure, "_yaw", lambda rng: degrees)
    annotations = [
        render_scene(SyntheticSettings(), "val", number).annotations[0] for number in range(30)
    ]
    points = np.array([keypoints(annotation) for annotation in annotations])
    left, right = (points[:, COCO_17.index(f"{side}_shoulder")] for side in ("left", "right"))
    both = (left[:, 2] > 0) & (right[:, 2] > 0)
    assert ((left[both, 0] > right[both, 0]) == left_is_right_of).mean() > 0.95
    assert (points[:, COCO_17.index("nose"), 2] == nose).mean() > 0.75


def test_nothing_is_worn_on_one_side_alone() -> None:
    """Training mirrors images and swaps the names.

    A mark on one side would then contradict itself.
    """
    rng = np.random.default_rng(1)
    for _ in range(40):
        parts = dress(figure.random_pose(rng), rng)
        sides = [
            [
                (part.owner.removeprefix(side), part.radii, part.colour.tolist(), part.flat)
                for part in parts
                if part.owner.startswith(side)
            ]
            for side in ("left", "right")
        ]
        assert sides[0] == sides[1] != []


def test_a_covered_joint_is_occluded_and_one_outside_is_unlabelled(scenes: list[Scene]) -> None:
    states = np.concatenate(
        [keypoints(annotation)[:, 2] for scene in scenes for annotation in scene.annotations]
    )
    shares = [(states == state).mean() for state in (0, 1, 2)]
    assert 0 < shares[0] < 0.1 and 0.1 < shares[1] < 0.4 and shares[2] > 0.6
    canvas = Canvas(Image.new("RGB", (100, 100)))
    pose = figure.random_pose(np.random.default_rng(0))
    arm = Part(
        "left_forearm", np.zeros(3), np.array([20.0, 0, 0]), (5.0, 5.0), np.full(3, 200.0), 0.0
    )
    canvas.draw_person([arm], 1.0, np.array([20.0, 25.0]), 1, np.array([0.0, -1.0]))
    wrist = np.array([40.0, 25.0])
    assert canvas.visible(pose, "left_wrist", wrist, 1)
    assert not canvas.visible(pose, "right_wrist", wrist, 1)
    assert not canvas.visible(pose, "left_wrist", wrist, 0)
    canvas.draw_occluder(np.array([[35.0, 0], [45, 0], [45, 50], [35, 50]]), np.zeros(3))
    assert not canvas.visible(pose, "left_wrist", wrist, 1)


def test_limbs_keep_their_lengths_and_elbows_their_angles() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        build = figure.Build.random(rng)
        elbow = rng.uniform(0, 130)
        ranges = [
            (value, value) for value in (*rng.uniform(-80, 160, 2), elbow, rng.uniform(-90, 90))
        ]
        arm = figure._arm(rng, build, "left", 1, figure.Arm(*ranges))
        upper = arm["left_elbow"] - arm["left_shoulder"]
        fore = arm["left_wrist"] - arm["left_elbow"]
        assert np.linalg.norm(upper) == pytest.approx(build.upper_arm)
        assert np.linalg.norm(fore) == pytest.approx(build.forearm)
        cosine = upper @ fore / (build.upper_arm * build.forearm)
        assert np.rad2deg(np.arccos(np.clip(cosine, -1, 1))) == pytest.approx(elbow, abs=1e-3)
        legs = figure._legs(rng, build, figure.LEGS[3])
        for side in ("left", "right"):
            assert np.linalg.norm(legs[f"{side}_knee"] - legs[f"{side}_hip"]) == pytest.approx(
                build.thigh
            )
            assert np.linalg.norm(legs[f"{side}_ankle"] - legs[f"{side}_knee"]) == pytest.approx(
                build.shin
            )


def test_a_finished_folder_is_reused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Scene:
        raise AssertionError("rendered again")

    monkeypatch.setattr(synthetic, "render_scene", fail)
    assert build_synthetic(folder.parent, SMALL, progress=False) == folder


def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(settings: SyntheticSettings, split: str, number: int) -> Scene:
        if number == 2:
            raise KeyboardInterrupt
        return render_scene(settings, split, number)

    monkeypatch.setattr(synthetic, "render_scene", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_synthetic(tmp_path, SMALL, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_what_a_killed_build_left_is_not_taken_for_whole(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from heatpose.data.synthetic.dataset import *; "
        "build_synthetic(Path(sys.argv[1]), SyntheticSettings(train_images=5000), progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    left_over = list(tmp_path.iterdir())
    assert left_over and all(path.name.startswith(".synthetic_") for path in left_over)
    assert not (tmp_path / SyntheticSettings(train_images=5000).folder_name).exists()
    folder = build_synthetic(
        tmp_path, SyntheticSettings(train_images=1, val_images=1), progress=False
    )
    assert len(read(folder, "train")["images"]) == 1


def test_two_builds_at_once_end_with_one_whole_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = synthetic._write

    def overtaken(unfinished: Path, settings: SyntheticSettings, progress: bool) -> None:
        write(unfinished, settings, progress)
        write(tmp_path / settings.folder_name, settings, progress)  # the other process comes first

    monkeypatch.setattr(synthetic, "_write", overtaken)
    built = build_synthetic(tmp_path, SMALL, progress=False)
    assert list(tmp_path.iterdir()) == [built]
    assert digests(built) == digests(folder)


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_images": 0},
        {"val_images": 0},
        {"train_images": 2_000_000},
        {"seed": -1},
        {"short_side": 8},
        {"several_people": 1.5},
        {"quality": 100},
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(wrong: dict[str, Any]) -> None:
    with pytest.raises(HeatposeError, match="Synthetic data needs"):
        SyntheticSettings(**wrong)


def test_a_root_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("no folder")
    with pytest.raises(HeatposeError, match="cannot be written"):
        build_synthetic(root, SMALL, progress=False)
