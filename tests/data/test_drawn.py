"""Views drawn once: labels lie where the image says, everybody comes in turn.

And chance is the seed's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatpose.data.augmented import draw_augmented
from heatpose.data.sample import Person
from heatpose.data.sources import CocoSource
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import ST_13


@pytest.fixture(scope="module")
def instances(synthetic_root: Path) -> list[Person]:
    return CocoSource(str(synthetic_root)).training(ST_13)


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_keypoints_lie_on_what_they_mark(
    instances: list[Person], tmp_path: Path, sampling: str
) -> None:
    marked = []
    # black images, a white square around one keypoint each
    for number, person in enumerate(instances[:6]):
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


def test_everyone_in_turn_and_the_same_again(instances: list[Person]) -> None:
    views, again, other = (
        draw_augmented(instances, 100, ST_13, Preprocessing(64), seed) for seed in (0, 0, 1)
    )
    assert (
        views.images.shape == (100, 64, 64, 3)
        and views.images.dtype == np.uint8
        and len(views.instances) == 100
    )
    assert (views.images == again.images).all() and (views.images != other.images).any()
    counts = np.unique([person.annotation_id for person in views.instances], return_counts=True)[1]
    assert counts.max() - counts.min() <= 1 and 40 <= len(counts) <= len(instances)
    pairs = [(views.images[n], views.images[n + len(counts)]) for n in range(10)]
    # the second view of someone is another one, but for unmoved images
    assert sum(bool((first != later).any()) for first, later in pairs) >= 5


def test_nobody_gives_no_views(instances: list[Person]) -> None:
    assert draw_augmented([], 5, ST_13, Preprocessing(64)).images.shape == (0, 64, 64, 3)
    assert draw_augmented(instances, 0, ST_13, Preprocessing(64)).instances == ()


def test_what_is_outside_the_view_is_not_labelled(instances: list[Person]) -> None:
    for person in draw_augmented(instances, 200, ST_13, Preprocessing(64)).instances:
        points = person.keypoints[person.labelled]
        assert ((points >= 0) & (points < 64)).all() and (person.width, person.height) == (64, 64)


def test_left_and_right_that_are_not_paired_are_not_mirrored(
    instances: list[Person], capsys: pytest.CaptureFixture[str]
) -> None:
    """A keypoint of the left half stays in the left half of every whole view."""
    unpaired = replace(ST_13, name="unpaired here", flip_pairs=())
    person = next(p for p in instances if p.alone)
    x = np.where(person.keypoints[:, 0] < person.width / 2, 1.0, 3.0) * person.width / 4
    marked = replace(person, keypoints=np.stack([x, person.keypoints[:, 1]], 1).astype(np.float32))
    order = [
        np.argsort(view.keypoints[:, 0], kind="stable").tolist()
        for view in draw_augmented([marked], 24, unpaired, Preprocessing(96)).instances
    ]
    assert len(set(map(tuple, order))) == 1
    assert (
        capsys.readouterr().err.count(
            "'unpaired here' pairs no left with right: drawn views are not mirrored"
        )
        == 1
    )
