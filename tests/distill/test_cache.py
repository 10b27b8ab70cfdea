"""A teacher's predictions on disk.

Made once, for what they were made from, and safe against a killed build.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from heatpose.data.sample import Person
from heatpose.distill import cache
from heatpose.distill.cache import RANGE, cache_key, teacher_maps
from heatpose.distill.teacher import DistillSettings, Teacher, show, view_box
from heatpose.errors import HeatposeError
from heatpose.runners import open_runner

from .conftest import DOTS, SIZE

Teachers = Callable[..., Path]


class Counted:
    """The real runner, which counts the images it was shown and can be killed at one of them."""

    def __init__(self, path: Path) -> None:
        self.runner = open_runner(path)
        self.seen, self.last = 0, 10**9

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def heatmaps(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if images.any():  # the empty image that tests for maps is not a person
            self.seen += len(images)
        if self.seen > self.last:
            raise KeyboardInterrupt
        return self.runner.heatmaps(images)


@pytest.fixture
def counted(teachers: Teachers, monkeypatch: pytest.MonkeyPatch) -> Counted:
    runner = Counted(teachers("maps"))
    monkeypatch.setattr(cache, "open_runner", lambda path, size, normalisation: runner)
    monkeypatch.setattr(cache, "PIECE", 2)
    return runner


@pytest.fixture
def settings(teachers: Teachers, tmp_path: Path) -> DistillSettings:
    return DistillSettings(str(teachers("maps")), folder=str(tmp_path / "kept"))


def test_predictions_are_those_of_the_teacher_to_a_byte(
    settings: DistillSettings, dotted: list[Person], teachers: Teachers
) -> None:
    kept = teacher_maps(settings, dotted, DOTS, progress=False)
    assert isinstance(kept.maps, np.memmap) and kept.maps.dtype == np.uint8
    teacher = Teacher(open_runner(teachers("maps")), DOTS)
    for i, person in enumerate(dotted):
        box = view_box(person, settings.margin)
        prediction = teacher.predict(show(person, box, SIZE)[None])
        assert prediction.maps is not None
        back = (kept.maps[i] / 255 - 1) * RANGE
        np.testing.assert_allclose(
            back, np.maximum(prediction.maps[0], -RANGE), atol=RANGE / 255 / 2 + 1e-5
        )
        want = [box[0], box[1]] + prediction.points[0] * (box[2] - box[0])
        np.testing.assert_allclose(kept.points[i], want, atol=1e-4)
        np.testing.assert_array_equal(kept.scores[i], prediction.scores[0])
        assert np.abs(kept.points[i] - person.keypoints)[person.labelled].max() < 2
    assert kept.agreement(dotted, DOTS) > 95
    # averaged weights copy the module; the maps of all of COCO are gigabytes
    assert copy.deepcopy(kept) is kept


def test_nobody_is_asked_about_twice(
    settings: DistillSettings, dotted: list[Person], counted: Counted
) -> None:
    first = teacher_maps(settings, dotted, DOTS, progress=False)
    assert counted.seen == len(dotted)
    again = teacher_maps(settings, dotted, DOTS, progress=False)
    assert counted.seen == len(dotted)
    assert first.maps is not None and again.maps is not None
    np.testing.assert_array_equal(first.maps, again.maps)


@pytest.mark.parametrize("last", [0, 5, 8])
def test_a_killed_build_goes_on_where_it_was(
    last: int, settings: DistillSettings, dotted: list[Person], counted: Counted, tmp_path: Path
) -> None:
    whole = teacher_maps(
        replace(settings, folder=str(tmp_path / "whole")), dotted, DOTS, progress=False
    )
    counted.seen, counted.last = 0, last
    with pytest.raises(KeyboardInterrupt):
        teacher_maps(settings, dotted, DOTS, progress=False)
    assert [path.suffix for path in Path(settings.folder).iterdir() if path.is_dir()] == [".part"]
    counted.seen, counted.last = 0, 10**9
    resumed = teacher_maps(settings, dotted, DOTS, progress=False)
    assert counted.seen == len(dotted) - last // 2 * 2  # whole pieces are kept
    assert whole.maps is not None and resumed.maps is not None
    np.testing.assert_array_equal(resumed.maps, whole.maps)
    np.testing.assert_array_equal(resumed.points, whole.points)
    assert not list(Path(settings.folder).glob("*.part"))


def test_a_folder_is_valid_only_for_its_inputs(
    settings: DistillSettings, dotted: list[Person], teachers: Teachers
) -> None:
    runner = open_runner(teachers("maps"))
    names = [
        cache_key(runner, dotted, DOTS, settings),
        cache_key(open_runner(teachers("pose")), dotted, DOTS, settings),
    ]
    names += [
        cache_key(runner, instances, DOTS, settings)
        for instances in (
            dotted[:-1],
            dotted[::-1],
            [replace(dotted[0], box=(1, 2, 3, 4)), *dotted[1:]],
        )
    ]
    names += [
        cache_key(runner, [replace(dotted[0], reading="upright"), *dotted[1:]], DOTS, settings)
    ]
    names += [
        cache_key(runner, dotted, replace(DOTS, keypoints=["red", "blue", "green"]), settings)
    ]
    names += [
        cache_key(runner, dotted, DOTS, replace(settings, **changed))
        for changed in ({"margin": 1.5}, {"margin": None}, {"min_score": 0.5})
    ]
    assert len(set(names)) == len(names)
    same = [
        cache_key(runner, dotted, DOTS, replace(settings, **changed))
        for changed in ({"weight": 9.0}, {"temperature": 2.0}, {"fill": True})
    ]
    assert set(same) == {names[0]}  # what is done with the predictions changes none of them


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"temperature": 0}, "distill.temperature=0"),
        ({"spread": -1}, "distill.spread=-1"),
        ({"margin": 0.5}, "would cut the person"),
        ({"weight": -1}, "distill.weight=-1"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float], sentence: str) -> None:
    with pytest.raises(HeatposeError, match=sentence):
        DistillSettings("x", **wrong)  # type: ignore[arg-type]


def test_missing_parts_are_reported_before_anything_slow() -> None:
    DistillSettings().check()
    with pytest.raises(HeatposeError, match=r"needs distill\.path=FILE"):
        DistillSettings(required=True).check()
    with pytest.raises(HeatposeError, match=r"Teacher 'no\.onnx' does not exist"):
        DistillSettings("no.onnx").check()


def test_a_teacher_without_its_bundle_needs_options(
    settings: DistillSettings,
    dotted: list[Person],
    teachers: Teachers,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Names and normalisation are settings, told where assumed; predictions are the bundle's."""
    right = teacher_maps(settings, dotted, DOTS, progress=False)
    assert "distill." in capsys.readouterr().out  # its manifest states the names alone
    lonely = replace(settings, path=str(tmp_path / "lonely.onnx"))
    shutil.copy(teachers("maps"), tmp_path / "lonely.onnx")
    with pytest.raises(HeatposeError, match="no skeleton of its own.*distill.skeleton"):
        teacher_maps(lonely, dotted, DOTS, progress=False)
    (tmp_path / "dots.yaml").write_text(yaml.safe_dump(DOTS.to_dict()))
    named = replace(lonely, skeleton=str(tmp_path / "dots.yaml"))
    named.check()
    kept = teacher_maps(named, dotted, DOTS, progress=False)
    line = "lonely.onnx: assumed normalisation -1..1 (to change: distill.normalisation)."
    assert line in capsys.readouterr().out
    np.testing.assert_array_equal(kept.points, right.points)
    other = teacher_maps(replace(named, normalisation="-2..2"), dotted, DOTS, progress=False)
    assert "assumed" not in capsys.readouterr().out
    assert kept.maps is not None and other.maps is not None and (kept.maps != other.maps).any()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"skeleton": "coco18"}, "neither built in"),
        ({"normalisation": "caffe"}, "is not understood"),
    ],
)
def test_settings_about_a_teachers_file_are_checked_first(
    settings: DistillSettings, wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(HeatposeError, match=sentence):
        replace(settings, **wrong).check()
