"""The scoring loop against a second implementation of the published protocol.

In loops and fractions only.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from heatpose.data.coco import benchmark_instances, read_labels
from heatpose.data.sample import Person
from heatpose.errors import HeatposeError
from heatpose.evaluation import evaluate as scoring
from heatpose.evaluation.evaluate import EvalReport, evaluate, paired_difference, skeleton_of
from heatpose.models.checkpoint import save_checkpoint
from heatpose.models.movenet import MoveNet
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton
from heatpose.runners import PoseRunner, open_runner

SIGMAS_17 = [0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072]
SIGMAS_17 += [0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089]
SIGMAS_13 = [0.035, *SIGMAS_17[5:]]
SIZE = 64
SINGLE = 19  # images of the data set below that the benchmark scores: more than one batch


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`labels.json` and `images/`.

    Noise of awkward sizes and formats, and every kind of image that is not scored.
    """
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "images").mkdir()
    rng = np.random.default_rng(7)
    images, annotations = [], []
    for i in range(SINGLE):
        image = _image(rng, folder / "images", i, mode=("RGB", "L", "RGBA", "P")[i % 4])
        images.append(image)
        annotations.append(_person(rng, image, number=len(annotations) + 1))
    for kind in ("crowd", "two", "crowd_and_one", "flat_box", "no_keypoint", "nobody"):
        image = _image(rng, folder / "images", 50 + len(images))
        images.append(image)
        annotations += _not_scored(kind, rng, image, len(annotations) + 1)
    rng.shuffle(annotations)  # the order of the file is the order of the report
    person = {"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints)}
    dog = {"id": 2, "name": "dog"}
    annotations.append(
        {"id": 999, "image_id": images[0]["id"], "category_id": 2, "bbox": [0, 0, 5, 5]}
    )
    content = {"images": images, "annotations": annotations, "categories": [dog, person]}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


def _image(
    rng: np.random.Generator, folder: Path, number: int, mode: str = "RGB"
) -> dict[str, Any]:
    """Blocks of random colours, in sizes that no network has."""
    width, height = (int(side) for side in rng.integers(40, 300, 2))
    small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)
    image.convert(mode).save(folder / f"{number}.png")
    return {"id": 1000 - number, "file_name": f"{number}.png", "width": width, "height": height}


def _person(rng: np.random.Generator, image: dict[str, Any], number: int) -> dict[str, Any]:
    """Points all over the image, some unlabelled and some outside.

    The face is often partly labelled.
    """
    points = []
    for _ in range(17):
        x = round(float(rng.uniform(-0.05, 1.05)) * image["width"], 2)
        y = round(float(rng.uniform(-0.05, 1.05)) * image["height"], 2)
        v = int(rng.choice([0, 1, 2]))
        points += [x, y, v] if v else [0, 0, 0]
    points[3 * 7 : 3 * 7 + 3] = [image["width"] / 3, image["height"] / 2, 2]  # at least one
    box = [1.5, 2.25, round(0.8 * image["width"], 1), round(0.7 * image["height"], 1)]
    area = round(box[2] * box[3] * 0.61, 1)
    labelled = sum(v > 0 for v in points[2::3])
    entry = {"id": number, "image_id": image["id"], "category_id": 1, "iscrowd": 0}
    return entry | {"keypoints": points, "num_keypoints": labelled, "bbox": box, "area": area}


def _not_scored(
    kind: str, rng: np.random.Generator, image: dict[str, Any], number: int
) -> list[dict[str, Any]]:
    one, other = _person(rng, image, number), _person(rng, image, number + 1)
    if kind == "crowd":
        return [one | {"iscrowd": 1}]
    if kind == "two":
        return [one, other]
    if kind == "crowd_and_one":
        return [one, other | {"iscrowd": 1}]
    if kind == "flat_box":
        return [one | {"bbox": [3, 3, 20, 0]}]
    return [one | {"keypoints": [0] * 51, "num_keypoints": 0}] if kind == "no_keypoint" else []


@pytest.fixture(scope="module", params=[13, 17])
def runner(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> PoseRunner:
    """A real network of random weights, with ST's and with COCO's keypoints."""
    if request.param == 13:
        return open_runner(tiny_checkpoint, threads=1)
    path = tmp_path_factory.mktemp("seventeen") / "seventeen.ckpt"
    save_checkpoint(path, MoveNet(17, width=0.35), COCO_17, Preprocessing(SIZE))
    return open_runner(path, threads=1)


@pytest.fixture(scope="module")
def report(runner: PoseRunner, dataset: Path) -> EvalReport:
    """Report of the package."""
    return _evaluate(runner, dataset)


def _instances(dataset: Path, skeleton: Skeleton) -> list[Person]:
    return benchmark_instances(read_labels(dataset / "labels.json"), dataset / "images", skeleton)[
        0
    ]


def _evaluate(runner: PoseRunner, dataset: Path, **how: str) -> EvalReport:
    skeleton = skeleton_of(runner)
    return evaluate(runner, _instances(dataset, skeleton), skeleton, progress=False, **how)


class Protocol:
    """The published rules, one after the other, with nothing of the package but the network."""

    def __init__(self, dataset: Path) -> None:
        content = json.loads((dataset / "labels.json").read_text())
        self.folder = dataset / "images"
        self.images = {image["id"]: image for image in content["images"]}
        self.annotations = [a for a in content["annotations"] if a["category_id"] == 1]

    def selected(self) -> list[dict[str, Any]]:
        """Rule 1: exactly one person annotation, not a crowd, with box and a labelled keypoint."""
        kept = []
        for annotation in self.annotations:
            alone = (
                sum(other["image_id"] == annotation["image_id"] for other in self.annotations) == 1
            )
            real_box = annotation["bbox"][2] > 0 and annotation["bbox"][3] > 0
            if (
                alone
                and not annotation["iscrowd"]
                and real_box
                and any(annotation["keypoints"][2::3])
            ):
                kept.append(annotation)
        return kept

    def input(self, image: dict[str, Any]) -> np.ndarray:
        """Rule 2: stretched, nearest, half-pixel centres, no antialias."""
        pixels = Image.open(self.folder / image["file_name"]).convert("RGB").load()
        assert pixels is not None
        half = Fraction(1, 2)
        columns = [math.floor((x + half) * Fraction(image["width"], SIZE)) for x in range(SIZE)]
        rows = [math.floor((y + half) * Fraction(image["height"], SIZE)) for y in range(SIZE)]
        return np.array([[pixels[x, y] for x in columns] for y in rows], np.uint8)

    @staticmethod
    def pose(heatmaps: np.ndarray) -> list[tuple[float, float]]:
        """Rule 3: centre of the highest cell, the first one on ties."""
        pose = []
        for heatmap in heatmaps.tolist():
            best, at = -math.inf, (0, 0)
            for v, row in enumerate(heatmap):
                for u, value in enumerate(row):
                    if value > best:
                        best, at = value, (u, v)
            pose.append(((at[0] + 0.5) / len(heatmap[0]), (at[1] + 0.5) / len(heatmap)))
        return pose

    @staticmethod
    def truth(annotation: dict[str, Any], keypoints: int) -> list[tuple[float, float, int]]:
        """Rules 5 and 6: COCO's seventeen, or the mean of the labelled face points and the rest."""
        flat = annotation["keypoints"]
        points = [(flat[i], flat[i + 1], int(flat[i + 2] >= 1)) for i in range(0, 51, 3)]
        if keypoints == 17:
            return points
        face = [(x, y) for x, y, v in points[:5] if v]
        head = (
            (statistics.fmean(x for x, _ in face), statistics.fmean(y for _, y in face), 1)
            if face
            else (0.0, 0.0, 0)
        )
        return [head, *points[5:]]

    def similarities(
        self, annotation: dict[str, Any], pose: list[tuple[float, float]]
    ) -> list[float | None]:
        """Rule 4, per keypoint; None where it is not labelled."""
        image = self.images[annotation["image_id"]]
        width, height = image["width"], image["height"]
        area = 0.53 * (annotation["bbox"][2] / width) * (annotation["bbox"][3] / height)
        sigmas = SIGMAS_17 if len(pose) == 17 else SIGMAS_13
        similarities: list[float | None] = []
        for (px, py), (x, y, v), sigma in zip(
            pose, self.truth(annotation, len(pose)), sigmas, strict=True
        ):
            d2 = (px - x / width) ** 2 + (py - y / height) ** 2
            similarities.append(
                math.exp(-d2 / (2 * (2 * sigma) ** 2 * (area + 1e-7))) if v else None
            )
        return similarities


def _similarities(protocol: Protocol, runner: PoseRunner) -> list[list[float | None]]:
    """Per person and keypoint, by the second implementation."""
    selected = protocol.selected()
    inputs = np.stack([protocol.input(protocol.images[a["image_id"]]) for a in selected])
    # In the batches of the first implementation: a random network's best cells are near ties.
    batches = [inputs[i : i + scoring.BATCH] for i in range(0, len(inputs), scoring.BATCH)]
    heatmaps = np.concatenate([runner.heatmaps(batch) for batch in batches])
    poses = [protocol.pose(maps) for maps in heatmaps]
    return [protocol.similarities(a, pose) for a, pose in zip(selected, poses, strict=True)]


def test_the_whole_protocol(runner: PoseRunner, report: EvalReport, dataset: Path) -> None:
    protocol = Protocol(dataset)
    instances = _similarities(protocol, runner)
    seen = [[s for s in person if s is not None] for person in instances]
    oks = [sum(s) / (len(s) + 1e-7) for s in seen]
    assert report.image_ids == [annotation["image_id"] for annotation in protocol.selected()]
    assert report.images == len(oks) == SINGLE > scoring.BATCH
    assert report.oks_values.tolist() == pytest.approx(oks, abs=1e-6)
    assert (
        report.oks == pytest.approx(100 * statistics.fmean(oks), abs=1e-4) and 1 < report.oks < 60
    )
    error = 100 * statistics.stdev(oks) / math.sqrt(len(oks))
    assert report.oks_standard_error == pytest.approx(error, abs=1e-4)
    for k, name in enumerate(skeleton_of(runner).keypoints):
        column = [person[k] for person in instances if person[k] is not None]
        assert report.oks_per_keypoint[name] == pytest.approx(
            100 * statistics.fmean(column), abs=1e-4
        )


def test_ap_is_that_of_pycocotools_on_the_label_file(
    runner: PoseRunner, report: EvalReport, dataset: Path, tmp_path: Path
) -> None:
    content = json.loads((dataset / "labels.json").read_text())
    for annotation in content["annotations"]:
        if annotation["category_id"] == 1:
            points = Protocol.truth(annotation, runner.keypoints)
            flat = [value for point in points for value in point]
            annotation |= {"keypoints": flat, "num_keypoints": sum(v for _, _, v in points)}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    truth = COCO(str(tmp_path / "labels.json"))
    results = []
    for image_id, pose in zip(report.image_ids, report.poses.astype(float), strict=True):
        image = truth.imgs[image_id]
        flat = [v for x, y, s in pose for v in (x * image["width"], y * image["height"], s)]
        results.append(
            {"image_id": image_id, "category_id": 1, "keypoints": flat, "score": pose[:, 2].mean()}
        )
    evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(SIGMAS_17 if runner.keypoints == 17 else SIGMAS_13)
    evaluation.params.imgIds, evaluation.params.catIds = sorted(report.image_ids), [1]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert [report.ap, report.ap50] == pytest.approx(
        [100 * evaluation.stats[0], 100 * evaluation.stats[1]], abs=1e-6
    )


def test_a_perfect_model_scores_a_hundred(dataset: Path) -> None:
    instances = _instances(dataset, COCO_17)
    inside = [
        p
        for p in instances
        if (p.keypoints >= 0).all() and (p.keypoints <= (p.width, p.height)).all()
    ]
    perfect = Oracle(inside or instances)
    report = evaluate(perfect, perfect.instances, COCO_17, progress=False)
    assert report.oks == pytest.approx(100, abs=1e-3) and report.ap == pytest.approx(100)
    assert report.oks_standard_error == pytest.approx(0, abs=1e-6)
    assert report.protocol["kernels"] == "memory" and report.sha256 == ""


class Oracle:
    """A runner that knows the labels; asked in the order of the people."""

    name, kind, kernels, size = "oracle", "checkpoint", "memory", 32
    path, skeleton, preprocessing = Path("no such file"), None, None

    def __init__(self, instances: list[Person]) -> None:
        self.instances, self.keypoints, self._asked = instances, len(instances[0].labelled), 0

    def heatmaps(self, images: np.ndarray) -> np.ndarray:
        raise HeatposeError("none")

    def predict(self, images: np.ndarray, decode: str = "argmax") -> np.ndarray:
        batch = self.instances[self._asked : self._asked + len(images)]
        self._asked += len(images)
        points = np.stack([p.keypoints / (p.width, p.height) for p in batch])
        return np.concatenate([points, np.ones_like(points[..., :1])], -1).astype(np.float32)


def test_json_has_the_keys_of_the_contract(runner: PoseRunner, report: EvalReport) -> None:
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert set(content) == {
        "model",
        "sha256",
        "images",
        "keypoints",
        "protocol",
        "oks",
        "oks_standard_error",
        "oks_per_keypoint",
        "ap",
        "ap50",
        "oks_per_size",
        "per_image",
        "seconds",
        "images_per_second",
        "assumed",
        "computed",
    }
    assert set(content["protocol"]) >= {"sampling", "decode", "coordinates"}
    assert (content["model"], content["images"], content["keypoints"]) == (
        runner.name,
        SINGLE,
        runner.keypoints,
    )
    assert list(content["oks_per_keypoint"]) == list(skeleton_of(runner).keypoints)
    assert all(set(entry) == {"image_id", "oks", "size"} for entry in content["per_image"])
    mean = statistics.fmean(entry["oks"] for entry in content["per_image"])
    assert mean == pytest.approx(content["oks"])  # one unit throughout: percent
    assert content["images_per_second"] == pytest.approx(SINGLE / content["seconds"])
    assert len(content["sha256"]) == 64


def test_a_keypoint_without_labels_has_no_score(runner: PoseRunner, dataset: Path) -> None:
    skeleton = skeleton_of(runner)
    k = skeleton.index("left_ankle")
    instances = [
        replace(p, labelled=p.labelled & (np.arange(len(skeleton)) != k))
        for p in _instances(dataset, skeleton)
    ]
    report = evaluate(runner, instances, skeleton, progress=False)
    assert report.oks_per_keypoint["left_ankle"] is None
    assert (
        json.loads(json.dumps(report.to_json(), allow_nan=False))["oks_per_keypoint"]["left_ankle"]
        is None
    )


def test_sampling_and_decode_change_the_poses_and_are_named(
    runner: PoseRunner, report: EvalReport, dataset: Path
) -> None:
    bilinear = _evaluate(runner, dataset, sampling="bilinear")
    refined = _evaluate(runner, dataset, decode="refined")
    assert (bilinear.protocol["sampling"], refined.protocol["decode"]) == ("bilinear", "refined")
    assert not np.array_equal(bilinear.poses, report.poses)
    moved = np.abs(refined.poses[..., :2] - report.poses[..., :2]) * SIZE / 4
    assert 0 < moved.max() <= 0.5 + 1e-5  # at most half a cell


@pytest.mark.parametrize(
    ("how", "named"), [({"sampling": "cubic"}, "cubic"), ({"decode": "mean"}, "mean")]
)
def test_unknown_ways_are_refused(
    runner: PoseRunner, dataset: Path, how: dict[str, str], named: str
) -> None:
    with pytest.raises(HeatposeError, match=named):
        _evaluate(runner, dataset, **how)


def test_another_number_of_keypoints_is_refused(runner: PoseRunner, dataset: Path) -> None:
    other = COCO_17 if runner.keypoints == 13 else ST_13
    with pytest.raises(HeatposeError, match=f"has {runner.keypoints} keypoints.*has {len(other)}"):
        evaluate(runner, _instances(dataset, other), other, progress=False)


@pytest.mark.parametrize("harm", ["missing", "truncated", "other size"])
def test_an_image_that_cannot_be_read_is_named(
    runner: PoseRunner, dataset: Path, tmp_path: Path, harm: str
) -> None:
    instances = _instances(dataset, skeleton_of(runner))
    bad = tmp_path / "bad.png"
    if harm == "truncated":
        bad.write_bytes(instances[17].image_path.read_bytes()[:200])
    elif harm == "other size":
        Image.new("RGB", (31, 33)).save(bad)
    instances[17] = replace(instances[17], image_path=bad)  # in the second batch
    with pytest.raises(HeatposeError, match="bad.png"):
        evaluate(runner, instances, skeleton_of(runner), progress=False)


def _scored(report: EvalReport, oks: list[float]) -> EvalReport:
    ids = list(range(len(oks)))
    return replace(report, image_ids=ids, oks_values=np.array(oks), images=len(oks))


def test_paired_difference_against_all_resamples(report: EvalReport) -> None:
    a, b = [0.9, 0.2, 0.7, 0.55, 0.31], [0.5, 0.25, 0.4, 0.5, 0.3]
    found = paired_difference(_scored(report, a), _scored(report, b))
    differences = [100 * (x - y) for x, y in zip(a, b, strict=True)]
    means = sorted(statistics.fmean(chosen) for chosen in itertools.product(differences, repeat=5))
    assert found.mean == pytest.approx(statistics.fmean(differences))
    assert means[int(0.012 * len(means))] <= found.low <= means[int(0.038 * len(means))]
    assert means[int(0.962 * len(means))] <= found.high <= means[int(0.988 * len(means))]


def test_pairing_removes_the_variance_between_images(report: EvalReport) -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.2, 0.9, 400)
    a = _scored(report, (hard + rng.normal(0.01, 0.005, 400)).tolist())
    found = paired_difference(a, _scored(report, hard.tolist()))
    assert found.high - found.low < 0.2 and 0.9 < found.low < 1.0 < found.high < 1.1
    nothing = paired_difference(a, a)
    assert (nothing.mean, nothing.low, nothing.high) == (0, 0, 0)
    # the same numbers every time
    assert paired_difference(a, _scored(report, hard.tolist())) == found


def test_paired_difference_needs_the_same_images(report: EvalReport) -> None:
    other = replace(report, image_ids=[*report.image_ids[1:], 5], model="other.tflite")
    with pytest.raises(HeatposeError, match=r"other\.tflite.*different images"):
        paired_difference(report, other)


def test_googles_file_has_the_published_score(shared: Path) -> None:
    labels = read_labels(shared / "data/coco_val_dev/person_keypoints_val2017.json")
    instances = benchmark_instances(labels, shared / "data/coco_val_dev/val2017", COCO_17)[0]
    runner = open_runner(shared / "models/movenet_singlepose_lightning_int8_4.tflite")
    report = evaluate(runner, instances, COCO_17, progress=False)
    assert report.images == 470
    assert report.oks == pytest.approx(52.76, abs=0.05)
    assert report.oks_standard_error == pytest.approx(1.5, abs=0.1)
