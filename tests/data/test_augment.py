"""Augmented samples: labels stay on their instances, crops stay on the image.

The labelled person is the largest one in a crop.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heatpose.data.augment import (
    PROMINENCE,
    Box,
    GeometricAugment,
    InputLabels,
    Photometric,
    fixed_transform,
    prominent,
    transform_labels,
)
from heatpose.data.sample import Person
from heatpose.pose import geometry
from heatpose.pose.skeleton import Skeleton

TRIPLE = Skeleton(
    "triple",
    ("nose", "left_hand", "right_hand"),
    (0.1, 0.1, 0.1),
    flip_pairs=(("left_hand", "right_hand"),),
)
SIZE = 192


def view(
    image: NDArray[np.uint8],
    person: Person,
    transform: geometry.Matrix,
    size: int,
    mirrored: bool,
    sampling: str,
) -> tuple[NDArray[np.uint8], InputLabels]:
    """Image and labels by the same transform."""
    return (
        geometry.warp(image, transform, size, sampling),
        transform_labels(person, transform, mirrored, TRIPLE.flip_order),
    )


def a_person(
    width: int = 320,
    height: int = 240,
    box: Box = (100, 60, 90, 140),
    keypoints: NDArray[np.float64] | None = None,
    others: list[Box] | None = None,
) -> Person:
    points = np.zeros((3, 2)) if keypoints is None else keypoints
    neighbours = np.array(others or [], np.float32).reshape(-1, 4)
    return Person(
        image_path=Path("none.png"),
        image_id=1,
        annotation_id=1,
        width=width,
        height=height,
        keypoints=points.astype(np.float32),
        labelled=np.ones(3, np.bool_),
        box=box,
        area=box[2] * box[3] / 2,
        alone=not len(neighbours),
        others=neighbours,
    )


def dots(
    points: NDArray[np.float64], width: int, height: int, radius: float = 7
) -> NDArray[np.uint8]:
    """A black image with a disc around point k in colour k."""
    v, u = np.mgrid[:height, :width] + 0.5
    image = np.zeros((height, width, 3), np.uint8)
    for k, (x, y) in enumerate(points):
        image[(u - x) ** 2 + (v - y) ** 2 <= radius**2, k] = 255
    return image


def centroid(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(x, y) of the mean of a channel, in the continuous frame."""
    v, u = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    weight = image / image.sum(dtype=np.float64)
    return np.array([(u * weight).sum(), (v * weight).sum()])


def errors(augment: GeometricAugment, sampling: str, draws: int = 60) -> NDArray[np.float64]:
    """Centroid of each keypoint's dot in drawn views, minus where the label went.

    f64[N, 2] input pixels.
    """
    random = np.random.default_rng(0)
    found = []
    for draw in range(draws):
        width, height = int(random.integers(200, 420)), int(random.integers(200, 420))
        points = np.stack(
            [random.uniform(40, width - 40, 3), random.uniform(40, height - 40, 3)], 1
        )
        if min(np.linalg.norm(points[a] - points[b]) for a, b in ((0, 1), (0, 2), (1, 2))) < 20:
            continue
        box = (30.0, 30.0, width - 60.0, height - 60.0)
        # every second one is cropped
        crowded = [(0.0, 0.0, width * 0.5, height * 0.9)] if draw % 2 else None
        person = a_person(width, height, box, points, crowded)
        transform, mirrored = augment.transform(person, SIZE, random)
        image, labels = view(
            dots(points, width, height), person, transform, SIZE, mirrored, sampling
        )
        for k, point in enumerate(labels.points):
            # the left hand of the mirror image is the right hand's dot
            colour = TRIPLE.flip_order[k] if mirrored else k
            if ((point > 12) & (point < SIZE - 12)).all():
                found.append(centroid(image[..., colour]) - point)
    return np.array(found)


VIEWS = {
    "whole": GeometricAugment(whole=1, crop=0, rotate=0, mirror=0),
    "zoomed": GeometricAugment(whole=0, crop=0, rotate=0, mirror=0),
    "mirrored": GeometricAugment(rotate=0, mirror=1),
    "rotated": GeometricAugment(rotate=1, mirror=0),
    "all": GeometricAugment(rotate=1, crop=1),
}


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("augment", VIEWS.values(), ids=VIEWS.keys())
def test_labels_stay_on_their_instances(augment: GeometricAugment, sampling: str) -> None:
    found = errors(augment, sampling)
    assert len(found) > 60
    assert np.linalg.norm(found, axis=1).max() < 0.75
    # half a pixel of the image or of the input would show
    assert (np.abs(found.mean(0)) < 0.08).all()


def test_a_mirrored_view_swaps_left_and_right() -> None:
    keypoints = np.array([[160.0, 50.0], [100.0, 120.0], [220.0, 130.0]])
    person = a_person(keypoints=keypoints)
    labelled = np.array([True, True, False])
    person = Person(**{**person.__dict__, "labelled": labelled})
    transform = geometry.compose(geometry.stretch(320, 240, SIZE), geometry.mirror(SIZE))
    _, moved = view(dots(keypoints, 320, 240), person, transform, SIZE, True, "nearest")
    expected = [[(320 - x) * 0.6, y * 0.8] for x, y in keypoints[[0, 2, 1]]]
    np.testing.assert_allclose(moved.points, expected, atol=1e-4)
    assert moved.labelled.tolist() == [True, False, True]
    # what is now the left hand lies where a left hand was
    assert moved.points[1, 0] < moved.points[2, 0]


def test_a_mirrored_view_is_the_mirror_image() -> None:
    person, image = a_person(), np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    images = []
    for probability in (0, 1):
        augment = GeometricAugment(whole=1, rotate=0, mirror=probability)
        transform, mirrored = augment.transform(person, 160, np.random.default_rng(0))
        images.append(view(image, person, transform, 160, mirrored, "bilinear")[0])
    np.testing.assert_array_equal(images[1], images[0][:, ::-1])


@pytest.mark.parametrize("augment", VIEWS.values(), ids=VIEWS.keys())
def test_the_boxs_sides_are_measured_in_the_view(augment: GeometricAugment) -> None:
    random = np.random.default_rng(1)
    image = np.zeros((240, 320, 3), np.uint8)
    for _ in range(20):
        x, y, w, h = *random.uniform(0, 100, 2), *random.uniform(40, 130, 2)
        person = a_person(box=(x, y, w, h))
        transform, mirrored = augment.transform(person, SIZE, random)
        _, moved = view(image, person, transform, SIZE, mirrored, "nearest")
        corners = geometry.apply(transform, np.array([[x, y], [x + w, y], [x, y + h]])).astype(
            float
        )
        lengths = [np.linalg.norm(corners[i] - corners[0]) for i in (1, 2)]
        np.testing.assert_allclose(moved.box, lengths, rtol=1e-4)


def region_of(transform: geometry.Matrix) -> Box:
    """The rectangle of the image that an unrotated, unmirrored transform maps onto the input."""
    (x, y), (right, bottom) = geometry.apply(
        geometry.invert(transform), np.array([[0.0, 0.0], [SIZE, SIZE]])
    )
    return float(x), float(y), float(right - x), float(bottom - y)


def some_people(count: int, random: np.random.Generator) -> list[Person]:
    """People anywhere on images of any shape, every second one with a neighbour."""
    instances = []
    for i in range(count):
        width, height = (int(side) for side in random.integers(100, 700, 2))
        w, h = random.uniform(0.05, 0.95) * width, random.uniform(0.05, 0.95) * height
        x, y = random.uniform(0, width - w), random.uniform(0, height - h)
        other = (
            random.uniform(0, width * 0.8),
            random.uniform(0, height * 0.8),
            width * 0.2,
            height * 0.2,
        )
        instances.append(a_person(width, height, (x, y, w, h), others=[other] if i % 2 else None))
    return instances


@pytest.mark.parametrize("crop", [0.0, 1.0])
def test_a_region_stays_on_the_image_and_contains_the_person_if_possible(crop: float) -> None:
    random = np.random.default_rng(2)
    augment = GeometricAugment(crop=crop, rotate=0, mirror=0)
    moved = 0
    for person in some_people(400, random):
        transform, _ = augment.transform(person, SIZE, random)
        region = region_of(transform)
        moved += region != (0.0, 0.0, float(person.width), float(person.height))
        for axis, limit in ((0, person.width), (1, person.height)):
            start, side = region[axis], region[axis + 2]
            first, length = person.box[axis], person.box[axis + 2]
            slack = 1e-3 * limit
            if side <= limit:
                assert start >= -slack and start + side <= limit + slack
            else:
                assert start <= slack and start + side >= limit - slack  # all of the image
            if side >= length:
                assert start <= first + slack and start + side >= first + length - slack
            else:
                assert start >= first - slack and start + side <= first + length + slack
    assert moved > 200


def test_a_crop_gives_the_person_a_share_of_the_image() -> None:
    random = np.random.default_rng(3)
    augment = GeometricAugment(crop=1, rotate=0, mirror=0)
    neighbour = [(10.0, 10.0, 30.0, 30.0)]
    shares, aspects = [], []
    for _ in range(300):
        person = a_person(2000, 1500, (900, 600, 200, 300), others=neighbour)
        x, y, w, h = region_of(augment.transform(person, SIZE, random)[0])
        shares.append(np.sqrt(200 * 300 / (w * h)))
        aspects.append(w / h)
        assert min(w, h) >= SIZE / augment.magnification - 1e-3
    assert 0.199 < min(shares) < 0.25 and 0.7 < max(shares) < 0.901
    assert 1 / 1.5 - 1e-3 < min(aspects) < 0.75 and 1.35 < max(aspects) < 1.5 + 1e-3


def test_a_crop_is_not_magnified_more_than_allowed() -> None:
    random = np.random.default_rng(4)
    person = a_person(640, 480, (300, 200, 30, 40), others=[(0.0, 0.0, 300.0, 200.0)])
    for magnification in (1.0, 1.25, 2.0):
        augment = GeometricAugment(magnification=magnification, rotate=0, mirror=0)
        for _ in range(50):
            x, y, w, h = region_of(augment.transform(person, SIZE, random)[0])
            assert min(w, h) >= SIZE / magnification - 1e-2


def largest_neighbour(person: Person, crop: Box) -> float:
    """Pixels of the largest other person within the crop over the person's own, by counting.

    (whole numbers).
    """
    cells = np.zeros((person.height, person.width), np.bool_)
    largest = 0
    for x, y, w, h in person.others.astype(int):
        other, within = cells.copy(), cells.copy()
        other[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = True
        left, top, width, height = (int(value) for value in crop)
        within[top : top + height, left : left + width] = True
        largest = max(largest, int((other & within).sum()))
    return largest / (person.box[2] * person.box[3])


def test_prominent_means_no_other_person_fills_more_than_the_limit() -> None:
    random = np.random.default_rng(5)
    answers = []
    for _ in range(300):
        box = (*random.integers(0, 60, 2).tolist(), *random.integers(10, 60, 2).tolist())
        others = [
            (*random.integers(-20, 100, 2).tolist(), *random.integers(5, 80, 2).tolist())
            for _ in range(int(random.integers(1, 4)))
        ]
        person = a_person(120, 120, box, others=others)
        crop = (*random.integers(0, 60, 2).tolist(), *random.integers(10, 60, 2).tolist())
        assert prominent(person) == (largest_neighbour(person, (0, 0, 120, 120)) < PROMINENCE)
        assert prominent(person, crop) == (largest_neighbour(person, crop) < PROMINENCE)
        answers.append(prominent(person))
    assert 0.1 < np.mean(answers) < 0.9
    assert prominent(a_person())  # nobody else


def test_a_small_instance_is_cropped_until_it_is_prominent() -> None:
    random = np.random.default_rng(6)
    augment = GeometricAugment(crop=0, rotate=0, mirror=0, magnification=4)
    person = a_person(640, 480, (40, 100, 80, 160), others=[(300.0, 20.0, 300.0, 440.0)])
    assert not prominent(person) and augment.separable(person, SIZE)
    for _ in range(100):
        assert prominent(person, region_of(augment.transform(person, SIZE, random)[0]))


def test_someone_inside_a_larger_person_does_not_suit() -> None:
    augment = GeometricAugment()
    assert not augment.separable(
        a_person(640, 480, (300, 200, 60, 80), others=[(200.0, 50.0, 300.0, 400.0)]), SIZE
    )
    assert augment.separable(a_person(640, 480, (300, 200, 60, 80)), SIZE)


def test_the_fixed_sample_of_a_prominent_instance_is_the_whole_image() -> None:
    alone, small = a_person(), a_person(others=[(0.0, 0.0, 40.0, 40.0)])
    for person in (alone, small):
        np.testing.assert_array_equal(
            fixed_transform(person, SIZE), geometry.stretch(320, 240, SIZE)
        )


def test_the_fixed_view_of_the_others_is_one_crop_around_them() -> None:
    for person in some_people(200, np.random.default_rng(7)):
        if prominent(person):
            continue
        transform = fixed_transform(person, SIZE)
        np.testing.assert_array_equal(transform, fixed_transform(person, SIZE))
        x, y, w, h = person.box
        corners = geometry.apply(transform, np.array([[x, y], [x + w, y + h]]))
        assert corners.min() > -0.1 and corners.max() < SIZE + 0.1


def test_drawing_repeats_with_the_same_generator() -> None:
    person = a_person(others=[(0.0, 0.0, 40.0, 40.0)])
    augment = GeometricAugment()
    draws = [
        [augment.transform(person, SIZE, np.random.default_rng(seed)) for seed in range(9)]
        for _ in (0, 1)
    ]
    for (first, mirrored), (second, again) in zip(*draws, strict=True):
        np.testing.assert_array_equal(first, second)
        assert mirrored == again
    assert len({draw[0].tobytes() for draw in draws[0]}) > 7


def test_probabilities_are_kept() -> None:
    random = np.random.default_rng(8)
    augment = GeometricAugment(rotate=0.25, mirror=0.75, whole=0.4)
    drawn = [augment.transform(a_person(), SIZE, random) for _ in range(2000)]
    assert np.mean([mirrored for _, mirrored in drawn]) == pytest.approx(0.75, abs=0.04)
    turned = [abs(transform[0, 1]) > 1e-9 for transform, _ in drawn]
    assert np.mean(turned) == pytest.approx(0.25, abs=0.04)
    upright = [t for (t, _), rotated in zip(drawn, turned, strict=True) if not rotated]
    whole = [
        abs(abs(t[0, 0]) - SIZE / 320) < 1e-9 and abs(t[1, 1] - SIZE / 240) < 1e-9 for t in upright
    ]
    assert np.mean(whole) == pytest.approx(0.4, abs=0.05)
    degrees = [np.degrees(np.arctan2(t[1, 0] / 320 * 240, t[0, 0])) for t, m in drawn if not m]
    assert max(degrees) > 15 and min(degrees) < -15


def photos(seed: int) -> torch.Tensor:
    """Equal images u8[64, 3, 16, 16] with values in the middle.

    Which no change drives to the ends.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 156, (1, 3, 16, 16), generator=generator, dtype=torch.uint8).expand(
        64, -1, -1, -1
    )


def draws(count: int = 64) -> torch.Tensor:
    return 2 * torch.rand(count, 3) - 1


def test_colours_stay_in_range_and_differ_between_images() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8).expand(8, -1, -1, -1)
    changed = Photometric(0.5, 0.9, 0.9)(images, draws(8))
    assert changed.dtype == torch.float32 and changed.shape == images.shape
    assert changed.min() == 0 and changed.max() == 255
    assert len({image.mean().item() for image in changed}) == 8
    torch.testing.assert_close(
        Photometric(0, 0, 0)(images, draws(8)), images.float(), atol=1e-3, rtol=0
    )


def test_brightness_adds_one_number_per_image() -> None:
    torch.manual_seed(0)
    images = photos(0)
    added = (Photometric(0.2, 0, 0)(images, draws()) - images).flatten(1)
    assert added.std(1).max() < 1e-3
    means = added.mean(1)
    assert -51.01 < means.min() < -45 and 45 < means.max() < 51.01


def test_contrast_stretches_about_the_images_mean() -> None:
    torch.manual_seed(0)
    images = photos(1).float()
    changed = Photometric(0, 0.3, 0)(images, draws())
    torch.testing.assert_close(changed.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=0.01, rtol=0)
    factors = changed.flatten(1).std(1) / images.flatten(1).std(1)
    assert 0.699 < factors.min() < 0.75 and 1.25 < factors.max() < 1.301
    centre = images.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(
        changed, centre + (images - centre) * factors[:, None, None, None], atol=0.01, rtol=0
    )


def test_saturation_stretches_about_grey() -> None:
    torch.manual_seed(0)
    images = photos(2).float()
    changed = Photometric(0, 0, 0.3)(images, draws())
    grey = images.mean(1, keepdim=True)
    torch.testing.assert_close(changed.mean(1, keepdim=True), grey, atol=0.01, rtol=0)
    factors = (changed - grey).flatten(1).std(1) / (images - grey).flatten(1).std(1)
    assert 0.699 < factors.min() < 0.75 and 1.25 < factors.max() < 1.301
    torch.testing.assert_close(
        changed, grey + (images - grey) * factors[:, None, None, None], atol=0.01, rtol=0
    )
