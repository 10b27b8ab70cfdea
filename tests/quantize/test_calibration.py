"""The choice of calibration images, what it refuses, and the record of it."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatpose.data.sample import Person
from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.quantize.calibration import (
    ExportData,
    calibration_images,
    calibration_record,
    choose_calibration,
)
from heatpose.utils.image_files import load_image


def a_person(
    number: int, side: float = 50, path: Path | None = None, annotation: int | None = None
) -> Person:
    """Somebody on a 100x100 image whose box is a square of `side`."""
    return Person(
        image_path=path or Path(f"images/{number:012d}.png"),
        image_id=number,
        annotation_id=number * 10 if annotation is None else annotation,
        width=100,
        height=100,
        keypoints=np.zeros((3, 2), np.float32),
        labelled=np.ones(3, np.bool_),
        box=(0, 0, side, side),
        area=side * side,
        alone=True,
        others=np.zeros((0, 4), np.float32),
    )


def a_picture(path: Path, seed: int, side: int = 100, low: int = 0, high: int = 256) -> Path:
    """Large random patches, so that two seeds look different and a resized copy looks the same."""
    patches = np.random.default_rng(seed).integers(low, high, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(patches).resize((side, side), Image.Resampling.NEAREST).save(path)
    return path


def test_the_choice_depends_on_the_seed_and_not_on_the_order() -> None:
    everyone = [a_person(i, 1 + i % 90) for i in range(1, 200)]
    shuffled = random.Random(0).sample(everyone, len(everyone))
    first, second = (choose_calibration(instances, 20, 3) for instances in (everyone, shuffled))
    assert [p.image_id for p in first] == [p.image_id for p in second]
    other = choose_calibration(everyone, 20, 4)
    assert [p.image_id for p in first] != [p.image_id for p in other]


def test_every_tenth_of_the_sizes_gives_one() -> None:
    everyone = [a_person(i, i) for i in range(1, 101)]  # the id is the size's rank
    chosen = choose_calibration(random.Random(1).sample(everyone, 100), 10, 0)
    assert sorted((person.image_id - 1) // 10 for person in chosen) == list(range(10))


def test_one_person_per_image_and_the_largest_stands_for_it() -> None:
    everyone = [
        a_person(i, side, annotation=10 * i + side) for i in range(1, 9) for side in (20, 60, 40)
    ]
    chosen = choose_calibration(everyone, 100, 0)
    assert [person.image_id for person in chosen] == list(range(1, 9))
    assert all(person.box[2] == 60 for person in chosen)


def test_two_data_sets_may_use_the_same_ids() -> None:
    everyone = [a_person(1, 30, Path("a/1.png")), a_person(1, 60, Path("b/2.png"))]
    assert len(choose_calibration(everyone, 10, 0)) == 2


@pytest.mark.parametrize(("count", "instances"), [(0, 5), (8, 0)])
def test_an_empty_set_is_refused(count: int, instances: int) -> None:
    with pytest.raises(HeatposeError, match="calibration set is empty"):
        choose_calibration([a_person(i) for i in range(instances)], count, 0)


def test_a_scored_image_is_refused_or_left_out(tmp_path: Path) -> None:
    trained = [a_person(i, path=a_picture(tmp_path / f"{i}.png", i)) for i in (1, 2, 3)]
    scored = [a_person(77, path=trained[1].image_path)]
    with pytest.raises(HeatposeError, match=r"Images \[2\] are in the evaluation set"):
        ExportData(trained, scored).check()
    apart = ExportData(trained, scored, scored=False)
    apart.check()
    assert apart.evaluation is None and apart.fitting == [trained[0], trained[2]]
    assert apart.holdout == []
    nothing_scored = ExportData(trained, None)
    nothing_scored.check()
    assert nothing_scored.fitting == trained


def test_the_same_file_is_shared_whatever_its_id(tmp_path: Path) -> None:
    image = a_picture(tmp_path / "a.png", 0)
    assert ExportData([a_person(1, path=image)], [a_person(77, path=image)]).shared == {1}


def test_the_same_id_is_shared_only_if_it_is_the_same_picture(tmp_path: Path) -> None:
    trained = [a_person(i, path=a_picture(tmp_path / f"{i}.png", i)) for i in (1, 2, 3)]
    small = tmp_path / "small.jpg"
    Image.open(trained[1].image_path).resize((60, 60)).save(small, quality=80)
    other = a_picture(tmp_path / "other.png", 99)
    scored = [a_person(1, path=other), a_person(2, path=small)]
    assert ExportData(trained, scored).shared == {2}
    assert ExportData(trained, []).shared == set()


def test_images_are_what_the_network_gets_but_for_the_pinned_pixel(tmp_path: Path) -> None:
    instances = [
        a_person(i, path=a_picture(tmp_path / f"{i}.png", i, low=90, high=110)) for i in (1, 2)
    ]  # dull images: neither black nor white
    preprocessing = Preprocessing(64)
    images = calibration_images(instances, preprocessing)
    expected = np.stack(
        [preprocessing.resize(load_image(person.image_path)) for person in instances]
    )
    assert images.shape == (2, 64, 64, 3) and images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    assert np.argwhere(images != expected).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]


def test_random_noise_is_refused(tmp_path: Path) -> None:
    instances = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        Image.fromarray(
            np.random.default_rng(i).integers(0, 256, (100, 100, 3), dtype=np.uint8)
        ).save(path)
        instances.append(a_person(i, path=path))
    with pytest.raises(HeatposeError, match="random noise"):
        calibration_images(instances, Preprocessing(64))


def test_no_images_are_refused() -> None:
    with pytest.raises(HeatposeError, match="calibration set is empty"):
        calibration_images([], Preprocessing(64))


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    missing = a_person(1, path=tmp_path / "gone.png")
    with pytest.raises(HeatposeError, match=r"gone\.png"):
        calibration_images([missing], Preprocessing(64))
    with pytest.raises(HeatposeError, match=r"gone\.png"):
        calibration_record([missing], 0, 1)


def test_the_record_proves_the_files(tmp_path: Path) -> None:
    person = a_person(7, path=a_picture(tmp_path / "7.png", 0))
    record = calibration_record([person], seed=5, wanted=128)
    digest = hashlib.sha256(person.image_path.read_bytes()).hexdigest()
    assert record["images"] == [{"image_id": 7, "file_name": "7.png", "sha256": digest}]
    assert (record["count"], record["wanted"], record["seed"]) == (1, 128, 5)
    moved = replace(person, image_path=a_picture(tmp_path / "8.png", 1))
    assert calibration_record([moved], 5, 128)["images"][0]["sha256"] != digest
