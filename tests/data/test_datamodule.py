"""The split by image, the training instances, and the batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from heatpose.data.augment import GREY, GeometricAugment, fixed_transform, prominent
from heatpose.data.datamodule import (
    DataSettings,
    OverfitData,
    OverfitSettings,
    PersonDataset,
    PoseData,
    ValidationSampler,
    in_order,
    local_batch_size,
)
from heatpose.data.image_cache import open_cache
from heatpose.data.sample import Person
from heatpose.data.selection import in_held_out
from heatpose.data.sources import CocoSource
from heatpose.errors import HeatposeError
from heatpose.pose import geometry
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13, Skeleton
from heatpose.utils.image_files import load_image


def made_up(
    image: str,
    box: tuple[float, float, float, float] = (10, 10, 80, 100),
    labelled: int = 13,
    **changes: Any,
) -> Person:
    """Someone whose image does not exist."""
    flags = np.arange(13) < labelled
    person = Person(
        image_path=Path("pictures") / image,
        image_id=1,
        annotation_id=1,
        width=200,
        height=160,
        keypoints=np.full((13, 2), 50, np.float32),
        labelled=flags,
        box=box,
        area=box[2] * box[3],
        alone=True,
        others=np.zeros((0, 4), np.float32),
    )
    return replace(person, **changes)


@dataclass(frozen=True)
class Given:
    """A source of given people."""

    instances: Sequence[Person]

    def prepare(self) -> None:
        """Nothing."""

    def training(self, skeleton: Skeleton) -> list[Person]:
        return list(self.instances)

    def evaluation(self, skeleton: Skeleton) -> list[Person] | None:
        return None

    def describe(self) -> dict[str, Any]:
        return {}


def pose_data(instances: Sequence[Person], size: int = 64, **settings: Any) -> PoseData:
    data = PoseData(
        Given(instances),
        ST_13,
        Preprocessing(size),
        GeometricAugment(),
        DataSettings(**{"workers": 0, **settings}),
    )
    data.setup()
    return data


def names(instances: Sequence[Person]) -> set[str]:
    return {person.image_path.name for person in instances}


CROWD = [made_up(f"{image:012d}.jpg", annotation_id=i) for image in range(500) for i in range(2)]


def test_all_people_of_an_image_fall_on_one_side() -> None:
    data = pose_data(CROWD, held_out=0.2)
    trained, chosen = names(data.train_instances), names(data.validation_instances)
    assert not trained & chosen and len(trained | chosen) == 500
    assert len(data.train_instances) + len(data.validation_instances) == 1000
    assert 0.15 < len(chosen) / 500 < 0.25


def test_adding_data_keeps_the_split_of_the_others() -> None:
    few, many = pose_data(CROWD[::7], held_out=0.2), pose_data(CROWD, held_out=0.2)
    assert names(few.train_instances) <= names(many.train_instances)
    assert names(few.validation_instances) <= names(many.validation_instances)


def test_a_larger_share_keeps_the_held_out_instances() -> None:
    small, large = pose_data(CROWD, held_out=0.05), pose_data(CROWD, held_out=0.3)
    assert names(small.validation_instances) < names(large.validation_instances)


def test_the_side_depends_on_the_file_name_alone() -> None:
    for person in CROWD[:50]:
        elsewhere = replace(
            person, image_path=Path("/another/folder") / person.image_path.name, image_id=7
        )
        assert in_held_out(person, 0.3) == in_held_out(elsewhere, 0.3)
    assert not any(in_held_out(person, 0.0) for person in CROWD)
    assert all(in_held_out(person, 1.0) for person in CROWD)


def test_images_of_one_name_in_different_folders_are_different_images() -> None:
    """Sessions that each have their image.png fall on both sides."""
    instances = [made_up("image.png", file_name=f"session{i}/image.png") for i in range(300)]
    sides = [in_held_out(person, 0.3) for person in instances]
    assert 0.2 < np.mean(sides) < 0.4


def test_people_with_few_keypoints_or_small_ones_are_left_out() -> None:
    poor = [made_up(f"poor{i}.jpg", labelled=2) for i in range(40)]
    small = [made_up(f"small{i}.jpg", box=(10, 10, 20, 30)) for i in range(40)]
    data = pose_data([*CROWD, *poor, *small], min_keypoints=3, min_side=36)
    everyone = [*data.train_instances, *data.validation_instances]
    assert len(everyone) == len(CROWD)
    data = pose_data([*CROWD, *poor, *small], min_keypoints=2, min_side=24)
    assert len(data.train_instances) + len(data.validation_instances) == len(CROWD) + 80


def test_people_within_larger_people_are_left_out() -> None:
    around = np.array([[0, 0, 190, 150]], np.float32)
    hidden = [
        made_up(f"hidden{i}.jpg", box=(60, 40, 45, 45), alone=False, others=around)
        for i in range(40)
    ]
    data = pose_data([*CROWD, *hidden])
    assert not names(data.train_instances) & names(hidden) and not names(
        data.validation_instances
    ) & names(hidden)


def test_the_checkpoint_is_chosen_on_prominent_people() -> None:
    beside = np.array([[110, 0, 90, 160]], np.float32)
    others = [made_up(f"other{i}.jpg", alone=False, others=beside) for i in range(100)]
    assert not any(map(prominent, others))
    data = pose_data([*CROWD, *others], held_out=0.2)
    assert all(map(prominent, data.validation_instances))
    assert names(data.train_instances) & names(others)
    data = pose_data(others, held_out=0.2)  # nobody prominent: better than nobody at all
    assert data.validation_instances


def test_a_limit_sets_the_number_of_training_instances() -> None:
    data = pose_data(CROWD, limit=30)
    assert len(data.train_instances) == 30
    assert len(data.validation_instances) == len(pose_data(CROWD).validation_instances)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", 0),
        ("limit", "ten"),
        ("batch_size", 0),
        ("workers", -1),
        ("min_keypoints", 2.5),
        ("held_out", 0.0),
        ("held_out", 1.0),
    ],
)
def test_impossible_settings_are_one_sentence(name: str, value: Any) -> None:
    with pytest.raises(HeatposeError, match=rf"^data\.module\.{name}={value} is .*\.$"):
        pose_data(CROWD, **{name: value})


def test_a_small_skeleton_needs_no_three_keypoints() -> None:
    skeleton = Skeleton("hands", ("left", "right"), (0.1, 0.1), [("left", "right")])
    instances = [replace(p, keypoints=p.keypoints[:2], labelled=p.labelled[:2]) for p in CROWD]
    settings = DataSettings(min_keypoints=3)
    data = PoseData(Given(instances), skeleton, Preprocessing(64), GeometricAugment(), settings)
    data.setup()
    assert data.train_instances


def test_left_and_right_that_are_not_paired_are_not_mirrored() -> None:
    skeleton, settings = replace(ST_13, flip_pairs=()), DataSettings(workers=0)
    with pytest.raises(
        HeatposeError, match=r"write flip_pairs: \[\[left_shoulder, .*mirror=0"
    ) as caught:
        PoseData(
            Given(CROWD), skeleton, Preprocessing(64), GeometricAugment(), DataSettings(workers=0)
        )
    assert "or set augment.geometric.mirror=0." in str(caught.value)
    PoseData(
        Given(CROWD), skeleton, Preprocessing(64), GeometricAugment(mirror=0), settings
    ).setup()


def test_left_out_instances_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    poor = [made_up(f"poor{i}.jpg", labelled=2) for i in range(37)]
    data = pose_data([*CROWD, *poor])
    assert (
        capsys.readouterr().err
        == f"Training: {len(data.train_instances)} of 1037 instances to train on,"
        f" {len(data.validation_instances)} held out for model selection; left out: fewer"
        " labelled keypoints than data.module.min_keypoints=3 (37).\n"
    )


def test_a_part_without_anybody_is_refused_with_a_setting_that_works() -> None:
    instances = [made_up(f"{i}.jpg") for i in range(4)]
    with pytest.raises(
        HeatposeError, match=r"None of the 4 images .*; set data\.module\.held_out=0\.\d+\.$"
    ) as caught:
        pose_data(instances)
    data = pose_data(instances, held_out=float(str(caught.value).rpartition("=")[2].rstrip(".")))
    assert data.train_instances and data.validation_instances


def test_prominent_people_come_up_as_often_as_weighted() -> None:
    beside = np.array([[110, 0, 90, 160]], np.float32)
    others = [made_up(f"other{i}.jpg", alone=False, others=beside) for i in range(1000)]
    data = pose_data([*CROWD, *others], prominent_weight=3.0)
    drawn = [
        data.train_instances[i] for plan in data.train_dataloader().sampler for i in plan.instances
    ]
    assert len(drawn) == len(data.train_instances) // 32 * 32
    expected = 3 / (3 + 1)  # as many of one kind as of the other
    assert np.mean([prominent(person) for person in drawn]) == pytest.approx(expected, abs=0.04)


def test_training_instances_can_be_chosen() -> None:
    beside, large = (
        np.array([[180, 140, 10, 10]], np.float32),
        np.array([[110, 0, 90, 160]], np.float32),
    )
    small = [made_up(f"small{i}.jpg", alone=False, others=beside) for i in range(50)]
    behind = [made_up(f"behind{i}.jpg", alone=False, others=large) for i in range(50)]
    everyone = [*CROWD, *small, *behind]
    kinds = {
        select: {p.image_path.name[:4] for p in pose_data(everyone, select=select).train_instances}
        for select in ("all", "prominent", "alone")
    }
    assert (
        kinds["all"] == kinds["prominent"] | {"behi"}
        and kinds["prominent"] == kinds["alone"] | {"smal"}
        and "smal" not in kinds["alone"]
    )
    with pytest.raises(
        HeatposeError,
        match=r"data\.module\.select=some is unknown; choose one of all, prominent, alone",
    ):
        pose_data(CROWD, select="some")


def test_without_weights_everyone_comes_up_once() -> None:
    data = pose_data(CROWD, batch_size=7)
    order = [i for plan in data.train_dataloader().sampler for i in plan.instances]
    assert (
        len(order) > len(data.train_instances) - 7
        and len({*order}) == len(order)
        and order != sorted(order)
    )


def test_the_last_small_batch_is_left_out_where_there_are_several() -> None:
    sizes = {
        count: len(pose_data(CROWD, batch_size=32, limit=count).train_dataloader())
        for count in (10, 40, 64, 95, 96)
    }
    assert sizes == {10: 1, 40: 2, 64: 2, 95: 2, 96: 3}


@pytest.fixture(scope="module")
def rendered(synthetic_root: Path) -> PoseData:
    data = PoseData(
        CocoSource(str(synthetic_root)),
        ST_13,
        Preprocessing(64),
        GeometricAugment(),
        DataSettings(batch_size=4, workers=0, held_out=0.3),
    )
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_batches_have_the_layout_of_the_module(rendered: PoseData, loader: str) -> None:
    batch = next(iter(getattr(rendered, loader)()))
    found = {
        name: (tuple(value.shape), value.dtype)
        for name, value in batch.items()
        if name not in ("mirrored", "colour")
    }
    assert found == {
        "image": ((4, 3, 64, 64), torch.uint8),
        "points": ((4, 13, 2), torch.float32),
        "labelled": ((4, 13), torch.bool),
        "box": ((4, 2), torch.float32),
        "index": ((4,), torch.int64),
        "matrix": ((4, 2, 3), torch.float32),
    }
    assert batch["labelled"].any(1).all() and (batch["box"] > 0).all()
    assert batch["image"].float().std() > 10
    assert torch.isfinite(batch["points"]).all()


def test_a_held_out_persons_view_is_the_protocols_input(rendered: PoseData) -> None:
    dataset = rendered.val_dataloader().dataset
    assert isinstance(dataset, PersonDataset)
    for i, person in enumerate(rendered.validation_instances):
        sample, again = dataset[i], dataset[i]
        assert all(torch.equal(sample[key], again[key]) for key in sample)
        assert prominent(person)
        scale = np.array([64 / person.width, 64 / person.height])
        np.testing.assert_allclose(sample["points"], person.keypoints * scale, atol=1e-3)
        np.testing.assert_allclose(sample["box"], np.array(person.box[2:]) * scale, rtol=1e-4)
        exact = Preprocessing(64).resize(load_image(person.image_path)).astype(int)
        different = np.abs(exact - sample["image"].permute(1, 2, 0).numpy()).max(-1) > 0
        # Pillow's affine rounds where a sample falls on a pixel's edge; elsewhere the two are the
        # same bytes.
        rows, columns = (
            ((2 * np.arange(64) + 1) * side) % 128 == 0 for side in (person.height, person.width)
        )
        on_edge = rows[:, None] | columns[None, :]
        assert not different[~on_edge].any()
        np.testing.assert_allclose(fixed_transform(person, 64)[:, 2], 0)


def test_a_held_out_person_is_seen_in_the_files_own_pixels(
    rendered: PoseData, tmp_path: Path
) -> None:
    """Also where the cache keeps smaller images: a score is not made on them."""
    instances = rendered.validation_instances[:3]
    kept, reduced = (
        PersonDataset(instances, ST_13, Preprocessing(64), open_cache(instances, tmp_path, side))
        for side in (None, 100)
    )
    plain = PersonDataset(instances, ST_13, Preprocessing(64))
    for i in range(3):
        assert torch.equal(kept[i]["image"], plain[i]["image"]) and torch.equal(
            reduced[i]["image"], plain[i]["image"]
        )


def test_people_are_chosen_on_alone(rendered: PoseData) -> None:
    """Every pixel of the view is the image's or.

    Within another person's box and outside the own, grey; the image itself stays what it was.
    """
    instances = [
        person
        for person in rendered.validation_instances + rendered.train_instances
        if len(person.others)
    ][:4]
    assert instances
    alone, kept = (
        PersonDataset(instances, ST_13, Preprocessing(64), alone=alone) for alone in (True, False)
    )
    changed = 0
    for i, person in enumerate(instances):
        seen, whole = (
            alone[i]["image"].permute(1, 2, 0).numpy(),
            kept[i]["image"].permute(1, 2, 0).numpy(),
        )
        back = geometry.invert(alone[i]["matrix"].double().numpy())
        for row, column in np.ndindex(64, 64):
            x, y = geometry.apply(back, np.array([[column + 0.5, row + 0.5]]))[0]
            depth = max(
                min(x - a, a + w - x, y - b, b + h - y) for a, b, w, h in person.others.tolist()
            )
            own = min(
                x - person.box[0],
                person.box[0] + person.box[2] - x,
                y - person.box[1],
                person.box[1] + person.box[3] - y,
            )
            if min(abs(depth), abs(own)) < 1.5:
                continue  # boxes begin and end within a pixel
            hidden = depth > 0 > own and 0 <= x < person.width and 0 <= y < person.height
            assert (seen[row, column] == (GREY if hidden else whole[row, column])).all()
            changed += hidden
        assert torch.equal(
            kept[i]["image"], PersonDataset(instances, ST_13, Preprocessing(64))[i]["image"]
        )
    assert changed > 100


def test_workers_load_the_same_kind_of_batches(synthetic_root: Path) -> None:
    data = PoseData(
        CocoSource(str(synthetic_root)),
        ST_13,
        Preprocessing(64),
        GeometricAugment(),
        DataSettings(batch_size=8, workers=1, held_out=0.3),
    )
    data.setup()
    batches = list(data.val_dataloader())
    assert sum(len(batch["image"]) for batch in batches) == len(data.validation_instances)


def test_setting_up_twice_reads_once(rendered: PoseData, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rendered.train_instances
    monkeypatch.setattr(
        CocoSource, "training", lambda *args: pytest.fail("the labels were read again")
    )
    rendered.setup("fit")
    assert rendered.train_instances is before


@pytest.mark.parametrize(("count", "ranks"), [(12, 1), (12, 2), (13, 2), (13, 4), (2, 4), (1, 3)])
def test_everyone_comes_in_order_whatever_the_number_of_processes(count: int, ranks: int) -> None:
    parts = [list(ValidationSampler(count, rank, ranks)) for rank in range(ranks)]
    assert (
        len({len(part) for part in parts})
        == 1
        == len({len(ValidationSampler(count, rank, ranks)) for rank in range(ranks)})
    )
    assert len(parts[0]) == len(ValidationSampler(count, 0, ranks))
    assert in_order(torch.tensor(parts), count).tolist() == list(range(count))


def test_a_batch_is_shared_out_evenly() -> None:
    assert local_batch_size(32, 4) == 8
    with pytest.raises(
        HeatposeError,
        match="data.batch_size=32 is that of all 3 processes together; set a multiple of 3",
    ):
        local_batch_size(32, 3)


CONF = str(Path(__file__).parents[2] / "conf")


def few(root: Path) -> OverfitData:
    data = OverfitData(
        CocoSource(str(root)),
        ST_13,
        Preprocessing(64),
        GeometricAugment(),
        OverfitSettings(instances=5, repeats=3, batch_size=4, held_out=0.3),
    )
    data.setup()
    return data


def test_an_overfit_subset_has_one_instance_per_image(synthetic_root: Path) -> None:
    data = few(synthetic_root)
    assert data.train_instances == data.validation_instances and len(data.train_instances) == 5
    assert len({person.image_id for person in data.train_instances}) == 5
    assert [person.annotation_id for person in data.train_instances] == [
        person.annotation_id for person in few(synthetic_root).train_instances
    ]


def test_every_batch_is_the_same(synthetic_root: Path) -> None:
    data = few(synthetic_root)
    (held,) = list(data.val_dataloader())
    batches = list(data.train_dataloader())
    assert len(batches) == 3 and len(held["image"]) == 5
    for batch in batches:
        assert batch.keys() == held.keys() and all(
            torch.equal(batch[key], held[key]) for key in held
        )


def test_the_configuration_builds_it(synthetic_root: Path) -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        for experiment in ("quickstart", "st_movenet_13kpt"):
            config = compose("train", [f"experiment={experiment}", "debug=overfit"])
            data = instantiate(config.data.module)().datamodule(
                CocoSource(str(synthetic_root)), ST_13, Preprocessing(64), GeometricAugment()
            )
            assert isinstance(data, OverfitData) and data.settings.instances == 8
            assert config.export is False and config.augment.photometric is None
