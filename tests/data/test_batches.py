"""Plans of batches: everyone once or as weighted, one size for all processes.

The same numbers again for the same seed and epoch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from heatpose.data.augment import GREY, GeometricAugment, Occlusion, paint
from heatpose.data.batches import (
    AugmentedBatches,
    BatchPlan,
    EpochBatches,
    crop_region,
    draw_augmented,
    generator,
    resample,
)
from heatpose.data.datamodule import DataSettings, PoseData
from heatpose.data.image_cache import CachedImage, ImageFiles, open_cache
from heatpose.data.sample import Person
from heatpose.data.selection import sampling_weights
from heatpose.data.sources import CocoSource
from heatpose.pose import geometry
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13


def plans(
    instances: int = 50,
    batch_size: int = 8,
    sizes: tuple[int, ...] = (64,),
    epoch: int = 0,
    **settings: object,
) -> list[BatchPlan]:
    batches = EpochBatches(instances, batch_size, sizes, **settings)  # type: ignore[arg-type]
    batches.set_epoch(epoch)
    found = list(batches)
    assert len(found) == len(batches)
    return found


def drawn(found: list[BatchPlan]) -> list[int]:
    return [person for plan in found for person in plan.instances]


def test_an_epoch_shows_everyone_at_most_once_in_another_order() -> None:
    first, second = drawn(plans()), drawn(plans(epoch=1))
    assert len(first) == len({*first}) == 48 and len({*second}) == 48
    assert first != second and first != sorted(first)
    assert drawn(plans()) == first and drawn(plans(seed=1)) != first
    assert drawn(plans(shuffle=False)) == list(range(48)) == drawn(plans(shuffle=False, epoch=3))


def test_positions_count_through_the_epoch() -> None:
    assert [place for plan in plans() for place in plan.positions] == list(range(48))
    assert {plan.epoch for plan in plans(epoch=5)} == {5}


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_share_the_batches_of_one(ranks: int) -> None:
    alone = plans(sizes=(64, 96, 128))
    together = [
        plans(batch_size=8 // ranks, sizes=(64, 96, 128), rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]
    assert {len(found) for found in together} == {len(alone)}
    for number, whole in enumerate(alone):
        parts = [found[number] for found in together]
        assert {part.size for part in parts} == {whole.size}
        assert {len(part.instances) for part in parts} == {8 // ranks}
        pairs = [
            pair for part in parts for pair in zip(part.positions, part.instances, strict=True)
        ]
        assert sorted(pairs) == list(zip(whole.positions, whole.instances, strict=True))


def test_a_last_small_batch_has_people_for_every_process() -> None:
    found = [plans(instances=5, batch_size=4, rank=rank, ranks=2) for rank in range(2)]
    assert [len(plan.instances) for rank in found for plan in rank] == [4, 4]
    assert {person for rank in found for person in drawn(rank)} == set(range(5))


def test_each_batch_has_one_of_the_sizes_in_equal_parts() -> None:
    sizes = [
        plan.size
        for epoch in range(20)
        for plan in plans(instances=480, sizes=(64, 96, 128), epoch=epoch)
    ]
    counts = np.array([sizes.count(size) for size in (64, 96, 128)])
    assert counts.sum() == 1200 and counts.min() > 340
    assert sizes[:60] != sizes[60:120]


def test_weights_decide_how_often_someone_comes_up() -> None:
    weights = np.arange(1, 51, dtype=float)
    found = np.bincount(
        [p for epoch in range(200) for p in drawn(plans(weights=weights, epoch=epoch))],
        minlength=50,
    )
    expected = weights / weights.sum() * found.sum()
    assert (np.abs(found - expected) < 5 * np.sqrt(expected)).all()


def a_person(
    side: float, labelled: int, others: list[tuple[float, float, float, float]] | None = None
) -> Person:
    flags = np.arange(4) < labelled
    neighbours = np.array(others or [], np.float32).reshape(-1, 4)
    return Person(
        Path("x"),
        1,
        1,
        100,
        100,
        np.zeros((4, 2), np.float32),
        flags,
        (0, 0, side, side),
        side**2,
        not len(neighbours),
        neighbours,
    )


def test_weights_by_prominence_size_and_keypoints() -> None:
    instances = [
        a_person(40, 4),
        a_person(20, 4),
        a_person(40, 2),
        a_person(20, 4, [(0, 0, 100, 100)]),
    ]
    assert sampling_weights(instances) is None

    def relative(**settings: float) -> list[float]:
        weights = sampling_weights(instances, **settings)
        assert weights is not None
        return [round(float(w / weights[0]), 6) for w in weights]

    assert relative(prominence=2) == [1, 1, 1, 0.5]
    assert relative(size=1) == [1, 0.5, 1, 0.5]
    assert relative(size=2) == [1, 0.25, 1, 0.25]
    assert relative(keypoints=1) == [1, 1, 0.5, 1]
    assert relative(prominence=2, size=1, keypoints=1) == [1, 0.5, 0.5, 0.25]


def test_generators_repeat_and_differ_by_everything_that_they_are_for() -> None:
    keys = [
        (0, 1, 0, 0),
        (1, 1, 0, 0),
        (0, 2, 0, 0),
        (0, 1, 1, 0),
        (0, 1, 0, 1),
        (2**32 - 1, 3, 139, 200_000),
    ]
    numbers = [generator(*key).random() for key in keys]
    assert len({*numbers}) == len(keys) and numbers == [generator(*key).random() for key in keys]
    many = np.array(
        [generator(0, 3, epoch, place).random() for epoch in range(20) for place in range(100)]
    )
    assert abs(many.mean() - 0.5) < 0.03 and abs(np.corrcoef(many[:-1], many[1:])[0, 1]) < 0.08


@pytest.fixture(scope="module")
def instances(synthetic_root: Path) -> list[Person]:
    found = CocoSource(str(synthetic_root)).training(ST_13)
    return [
        replace(
            p, others=p.others if i % 2 else np.array([[0, 0, 60, 200]], np.float32), alone=False
        )
        for i, p in enumerate(found)
    ]


def plan(instances: list[Person], size: int = 64, count: int = 16) -> BatchPlan:
    return BatchPlan(size, 0, tuple(range(count)), tuple(i % len(instances) for i in range(count)))


def views(instances: list[Person], **settings: Any) -> AugmentedBatches:
    return AugmentedBatches(
        instances, ST_13, **{"augment": GeometricAugment(), "images": ImageFiles(), **settings}
    )


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.int() - b.int()).abs().float()


@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("extra", [{}, {"antialias": 1.0, "mask_others": 1.0}])
def test_packed_batches_become_the_same_images(
    instances: list[Person], size: int, extra: dict[str, float]
) -> None:
    augment = GeometricAugment(**extra)  # type: ignore[arg-type]
    here, there = (
        views(instances, augment=augment, packed=packed)[plan(instances, size)]
        for packed in (False, True)
    )
    assert "image" not in there
    there = resample(there)
    assert here.keys() == there.keys() and here["image"].shape == (16, 3, size, size)
    for name in here.keys() - {"image"}:
        assert torch.equal(here[name], there[name])
    found = distance(here["image"], there["image"])
    # OpenCV's 32nds of a pixel, and edges under nearest
    assert found.mean() < 0.2 and (found > 4).float().mean() < 0.002


def test_samples_equal_pillows_of_the_whole_image(instances: list[Person]) -> None:
    """The cut, the cache and the new sampling against the plain way.

    Decode, one affine by Pillow.
    """
    dataset, one = views(instances), plan(instances)
    batch = dataset[one]
    for number, person in enumerate(instances[:16]):
        sample = dataset.sample(one, number)
        image = np.asarray(Image.open(person.image_path).convert("RGB"))
        want = geometry.warp(
            image,
            sample.matrix.astype(np.float64),
            64,
            "nearest" if sample.nearest else "bilinear",
        )
        found = distance(batch["image"][number].permute(1, 2, 0), torch.from_numpy(want.copy()))
        # Bilinear fades over half a pixel at the image's border, where Pillow cuts off; nearest
        # differs where a place is on a pixel's edge.
        assert (found > 4).float().mean() < 0.12
        inner = found[8:-8, 8:-8]
        assert sample.nearest or inner.median() <= 1


def test_labels_are_where_the_transform_takes_them(instances: list[Person]) -> None:
    batch = views(instances, augment=GeometricAugment(mirror=0.5))[plan(instances)]
    assert 0 < batch["mirrored"].sum() < 16
    for number, person in enumerate(instances[:16]):
        points = (
            person.keypoints @ batch["matrix"][number, :, :2].numpy().T
            + batch["matrix"][number, :, 2].numpy()
        )
        order = ST_13.flip_order if batch["mirrored"][number] else list(range(13))
        np.testing.assert_allclose(batch["points"][number], points[order], atol=1e-3)
        np.testing.assert_array_equal(batch["labelled"][number], person.labelled[order])


def test_the_cache_changes_nothing(instances: list[Person], tmp_path: Path) -> None:
    files, kept = (
        views(instances)[plan(instances)],
        views(instances, images=open_cache(instances, tmp_path, None))[plan(instances)],
    )
    assert files.keys() == kept.keys() and all(
        torch.equal(files[name], kept[name]) for name in files
    )


def test_smaller_cached_images_show_the_same_and_are_not_magnified_more(
    instances: list[Person], tmp_path: Path
) -> None:
    kept = open_cache(instances, tmp_path, 120)
    smaller = views(instances, images=kept, augment=GeometricAugment(nearest=0, rotate=0))
    one = plan(instances)
    for number, person in enumerate(instances[:16]):
        sample = smaller.sample(one, number)
        assert (
            np.abs(np.linalg.det(sample.inverse[:, :2]))
            > 0.98 / GeometricAugment().magnification ** 2
        )
        whole = geometry.warp(
            ImageFiles().image(person).pixels,
            sample.matrix.astype(np.float64),
            64,
            "bilinear",
        )
        assert (
            np.abs(
                geometry.warp_one(sample.pixels, sample.inverse, False, 64).astype(int) - whole
            ).mean()
            < 20
        )


def loaded(data: PoseData, epoch: int) -> list[dict[str, torch.Tensor]]:
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, EpochBatches)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def data(root: Path, occlusion: Occlusion | None = None, **settings: Any) -> PoseData:
    chosen = DataSettings(**{"batch_size": 8, "workers": 0, "held_out": 0.3, **settings})
    made = PoseData(
        CocoSource(str(root)), ST_13, Preprocessing(64), GeometricAugment(), chosen, occlusion
    )
    made.setup()
    return made


def same(first: list[dict[str, torch.Tensor]], second: list[dict[str, torch.Tensor]]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
        for a, b in zip(first, second, strict=True)
    )


def test_batches_depend_on_seed_and_epoch_alone(synthetic_root: Path) -> None:
    torch.manual_seed(1)
    alone = loaded(data(synthetic_root, resolutions=[64, 96]), 3)
    torch.manual_seed(2)
    np.random.seed(2)
    helped = loaded(data(synthetic_root, resolutions=[64, 96], workers=2), 3)
    assert same(alone, helped)
    assert {batch["image"].shape[-1] for batch in alone} <= {64, 96}
    assert not same(alone, loaded(data(synthetic_root, resolutions=[64, 96]), 2))
    assert not same(alone, loaded(data(synthetic_root, resolutions=[64, 96], seed=1), 3))


def test_an_instance_drawn_twice_is_augmented_differently(instances: list[Person]) -> None:
    batch = views(instances)[BatchPlan(64, 0, (0, 1), (3, 3))]
    assert not torch.equal(batch["image"][0], batch["image"][1])


def test_other_people_are_painted_grey_outside_the_persons_box() -> None:
    person = replace(
        Person(
            Path("x"),
            1,
            1,
            80,
            60,
            np.zeros((13, 2), np.float32),
            np.ones(13, np.bool_),
            (30, 10, 20, 40),
            800.0,
            False,
            np.zeros((0, 4), np.float32),
        ),
        others=np.array([[-5, 20, 45, 20], [60, 0, 100, 30]], np.float32),
    )
    image = np.random.default_rng(0).integers(0, 100, (60, 80, 3), np.uint8)
    before = image.copy()
    whole = geometry.stretch(80, 60, 64)
    pixels, inverse = crop_region(CachedImage(image), whole, 64, alone=person)
    expected = image.copy()
    for y in range(60):
        for x in range(80):
            other = (x < 40 and 20 <= y < 40) or (x >= 60 and y < 30)
            if other and not (30 <= x < 50 and 10 <= y < 50):
                expected[y, x] = GREY
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(image, before)
    plain, _ = crop_region(CachedImage(image), geometry.stretch(80, 60, 64), 64)
    np.testing.assert_array_equal(plain, image)


def test_averaging_keeps_a_fine_pattern_grey() -> None:
    """Stripes of one pixel, shrunk by three: without averaging they alias to black or white."""
    stripes = np.zeros((300, 300, 3), np.uint8)
    stripes[:, ::2] = 255
    transform = geometry.region((0, 0, 300, 300), 64)
    spread = {}
    for averaged in (False, True):
        pixels, inverse = crop_region(CachedImage(stripes), transform, 64, averaged)
        spread[averaged] = geometry.warp_one(pixels, inverse, False, 64)[2:-2, 2:-2].std()
    assert spread[True] < spread[False] / 1.5
    ramp = np.arange(250, dtype=np.uint8)[None, :, None].repeat(250, 0).repeat(3, 2)
    pixels, inverse = crop_region(
        CachedImage(ramp), geometry.region((0, 0, 250, 250), 64), 64, averaged=True
    )
    shrunk = geometry.warp_one(pixels, inverse, False, 64)[32, 2:-2, 0].astype(float)
    # nothing has moved
    np.testing.assert_allclose(shrunk, ((np.arange(64) + 0.5) * 250 / 64 - 0.5)[2:-2], atol=0.6)


def test_patches_lie_on_the_person(instances: list[Person]) -> None:
    occlusion = Occlusion(probability=0.6, patches=3, side=(0.1, 0.3))
    batches = [
        views(instances, occlusion=occlusion)[replace_epoch(plan(instances), epoch)]
        for epoch in range(6)
    ]
    patches = torch.cat([batch["patches"] for batch in batches])
    used = patches[..., 2] > patches[..., 0]
    assert 0.45 < used.any(1).float().mean() < 0.75
    assert {int(n) for n in used.sum(1)} == {0, 1, 2, 3}
    assert patches[used][:, 4:].min() >= 0 and patches[used][:, 4:].max() <= 255
    for batch in batches:
        for number, person in enumerate(instances[:16]):
            x, y, w, h = person.box
            corners = geometry.apply(
                batch["matrix"][number].double().numpy(),
                np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]]),
            )
            low, high = corners.min(0) - 1, corners.max(0) + 1
            for left, top, right, bottom, *_ in batch["patches"][number].numpy():
                if right > left:
                    centre = np.array([(left + right) / 2, (top + bottom) / 2])
                    assert (centre >= low).all() and (centre <= high).all()
                    assert 0.09 < (right - left) / np.sqrt(batch["box"][number].prod()) < 0.31


def replace_epoch(given: BatchPlan, epoch: int) -> BatchPlan:
    return given._replace(epoch=epoch)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_patches_are_painted_in_order_over_the_pixels_they_hold(dtype: torch.dtype) -> None:
    images = torch.full((2, 3, 8, 8), 7).to(dtype)
    patches = torch.zeros(2, 2, 7)
    patches[1, 0] = torch.tensor([1.2, 2.6, 4.4, 5.0, 10, 20, 30])
    patches[1, 1] = torch.tensor([3.0, 4.0, 20.0, 20.0, 40, 50, 60])
    found = paint(images, patches)
    expected = images.clone()
    expected[1, :, 3:5, 1:4] = torch.tensor([10, 20, 30])[:, None, None].to(dtype)
    expected[1, :, 4:, 3:] = torch.tensor([40, 50, 60])[:, None, None].to(dtype)
    assert torch.equal(found, expected) and torch.equal(images[1], images[0])


@pytest.fixture(scope="module")
def drawn_instances(synthetic_root: Path) -> list[Person]:
    return CocoSource(str(synthetic_root)).training(ST_13)


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_keypoints_stay_on_their_body_parts(
    drawn_instances: list[Person], tmp_path: Path, sampling: str
) -> None:
    marked = []
    # black images, a white square around one keypoint each
    for number, person in enumerate(drawn_instances[:6]):
        place = number % 13
        x, y = person.keypoints[place]
        canvas = np.zeros((person.height, person.width, 3), np.uint8)
        canvas[max(int(y) - 8, 0) : int(y) + 9, max(int(x) - 8, 0) : int(x) + 9] = 255
        Image.fromarray(canvas).save(tmp_path / f"{number}.png")
        only = np.arange(13) == place
        marked.append(
            replace(person, image_path=tmp_path / f"{number}.png", labelled=only & person.labelled)
        )
    views = draw_augmented(marked, 60, ST_13, Preprocessing(96, sampling))
    seen = 0
    for image, person in zip(views.images, views.instances, strict=True):
        for x, y in person.keypoints[person.labelled]:
            seen += 1
            assert image[int(y), int(x)].min() > 200
            assert (image > 200).mean() < 0.5  # not everywhere
    assert seen > 20


def test_everyone_in_turn_and_the_same_again(drawn_instances: list[Person]) -> None:
    views, again, other = (
        draw_augmented(drawn_instances, 100, ST_13, Preprocessing(64), seed) for seed in (0, 0, 1)
    )
    assert (
        views.images.shape == (100, 64, 64, 3)
        and views.images.dtype == np.uint8
        and len(views.instances) == 100
    )
    assert (views.images == again.images).all() and (views.images != other.images).any()
    counts = np.unique([person.annotation_id for person in views.instances], return_counts=True)[1]
    assert counts.max() - counts.min() <= 1 and 40 <= len(counts) <= len(drawn_instances)
    pairs = [(views.images[n], views.images[n + len(counts)]) for n in range(10)]
    # the second view of someone is another one, but for unmoved images
    assert sum(bool((first != later).any()) for first, later in pairs) >= 5


def test_fewer_samples_than_instances_come_from_all_of_them(drawn_instances: list[Person]) -> None:
    """Data sets follow one another; the last one takes part as well."""
    many = [replace(p, annotation_id=i) for i, p in enumerate(drawn_instances * 5)]
    first, other = (
        [
            person.annotation_id
            for person in draw_augmented(many, 40, ST_13, Preprocessing(64), seed).instances
        ]
        for seed in (0, 1)
    )
    assert len(set(first)) == 40 and first == sorted(first) and first != other
    assert first[5] < len(many) / 3 and first[-5] > 2 * len(many) / 3


def test_nobody_gives_no_views(drawn_instances: list[Person]) -> None:
    assert draw_augmented([], 5, ST_13, Preprocessing(64)).images.shape == (0, 64, 64, 3)
    assert draw_augmented(drawn_instances, 0, ST_13, Preprocessing(64)).instances == ()


def test_what_is_outside_the_view_is_not_labelled(drawn_instances: list[Person]) -> None:
    for person in draw_augmented(drawn_instances, 200, ST_13, Preprocessing(64)).instances:
        points = person.keypoints[person.labelled]
        assert ((points >= 0) & (points < 64)).all() and (person.width, person.height) == (64, 64)


def test_left_and_right_that_are_not_paired_are_not_mirrored(
    drawn_instances: list[Person], capsys: pytest.CaptureFixture[str]
) -> None:
    """A keypoint of the left half stays in the left half of every whole view."""
    unpaired = replace(ST_13, name="unpaired here", flip_pairs=())
    person = next(p for p in drawn_instances if p.alone)
    x = np.where(person.keypoints[:, 0] < person.width / 2, 1.0, 3.0) * person.width / 4
    marked = replace(person, keypoints=np.stack([x, person.keypoints[:, 1]], 1).astype(np.float32))
    order = [
        np.argsort(view.keypoints[:, 0], kind="stable").tolist()
        for view in draw_augmented([marked], 24, unpaired, Preprocessing(96)).instances
    ]
    assert len(set(map(tuple, order))) == 1
    assert (
        capsys.readouterr().err.count(
            "'unpaired here' does not pair left with right: augmented samples are not"
        )
        == 1
    )
