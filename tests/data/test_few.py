"""The few people of `debug=overfit`.

The same ones, in the same view, to learn from and to be scored on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from heatpose.data.augment import GeometricAugment
from heatpose.data.datamodule import FewInstances
from heatpose.data.sources import CocoSource
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13

CONF = str(Path(__file__).parents[2] / "conf")


def few(root: Path, **settings: Any) -> FewInstances:
    data = FewInstances(
        CocoSource(str(root)),
        ST_13,
        Preprocessing(64),
        GeometricAugment(),
        instances=5,
        repeats=3,
        batch_size=4,
        held_out=0.3,
        **settings,
    )
    data.setup()
    return data


def test_a_few_people_of_as_many_pictures(synthetic_root: Path) -> None:
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
            data = instantiate(config.data.module)(
                CocoSource(str(synthetic_root)), ST_13, Preprocessing(64), GeometricAugment()
            )
            assert isinstance(data, FewInstances) and data.instances == 8
            assert config.export is False and config.augment.photometric is None
