"""Names of released networks: what they stand for, and what stands for itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from heatpose.bundles import released
from heatpose.bundles.released import default_model, package_folder, resolve, resolve_bundle
from heatpose.errors import HeatposeError
from heatpose.pose.skeleton import COCO_17, ST_13, Skeleton


def _network(place: Path, name: str, skeleton: Skeleton = COCO_17, resolution: int = 192) -> Path:
    folder = place / name
    folder.mkdir(parents=True)
    content = {"skeleton": skeleton.to_dict(), "resolution": resolution}
    (folder / "manifest.json").write_text(json.dumps(content))
    for file in ("net_int8_pc.tflite", "net_int8_pt.tflite", "net_float16.ckpt"):
        (folder / file).write_text(f"{name} {file}")
    return folder


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Folders of a checkout and of an installed package, and a working folder of one's own."""
    found = tmp_path / "checkout", tmp_path / "package"
    monkeypatch.setattr(released, "FOLDERS", found)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return found


def test_names_stand_for_files_and_bundles(places: tuple[Path, Path]) -> None:
    folder = _network(places[0], "runner")
    assert resolve("runner") == folder / "net_int8_pc.tflite"
    assert resolve("runner", "checkpoint") == folder / "net_float16.ckpt"
    assert resolve("runner/int8_pt", "checkpoint") == folder / "net_int8_pt.tflite"
    assert resolve_bundle(Path("runner")) == folder
    assert resolve_bundle("runner/checkpoint") == folder / "net_float16.ckpt"
    assert package_folder("runner") == package_folder("runner/int8_pc") != folder


def test_the_checkout_comes_before_the_package(places: tuple[Path, Path]) -> None:
    _network(places[1], "a", resolution=256)
    _network(places[1], "b")
    first = _network(places[0], "a")
    assert list(released.released()) == ["a", "b"]
    assert resolve_bundle("a") == first and resolve_bundle("b") == places[1] / "b"


def test_paths_stand_for_themselves(places: tuple[Path, Path]) -> None:
    _network(places[0], "runner")
    Path("runner").mkdir()
    for path in ("runner", "absent.ckpt", "exports/absent", "/absent/model", "a/b/int8_pc", "."):
        assert resolve(path) == resolve_bundle(path) == Path(path)
        assert package_folder(path) is None
    os.rmdir("runner")
    assert resolve("runner") != Path("runner")


def test_a_bundles_folder_stands_for_its_file(places: tuple[Path, Path]) -> None:
    mine = _network(Path("exports"), "mine")
    assert resolve(mine) == mine / "net_int8_pc.tflite"
    assert resolve(mine, "checkpoint") == mine / "net_float16.ckpt"
    assert resolve_bundle(mine) == mine
    (mine / "net_int8_pc.tflite").unlink()
    assert resolve(mine) == mine


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("walker", "'walker' is neither .*; the released networks are hopper, runner"),
        ("walker/int8_pt", "the released networks are hopper, runner"),
        ("runner/float32", "has no file 'float32'; it has runner/int8_pc, runner/int8_pt, runner/"),
    ],
)
def test_unknown_names_list_the_known_ones(text: str, said: str, places: tuple[Path, Path]) -> None:
    _network(places[0], "runner")
    _network(places[1], "hopper")
    for function in (resolve, resolve_bundle):
        with pytest.raises(HeatposeError, match=said) as error:
            function(text)
        assert "\n" not in str(error.value)


def test_where_nothing_is_released(places: tuple[Path, Path]) -> None:
    assert released.released() == {}
    with pytest.raises(HeatposeError, match="this version has no released networks"):
        resolve("runner")
    with pytest.raises(HeatposeError, match="No model was given, and no released network"):
        default_model()


def test_the_default_is_the_usual_network_else_one_like_it(places: tuple[Path, Path]) -> None:
    _network(places[0], "a_13", ST_13)
    _network(places[0], "a_256", resolution=256)
    with pytest.raises(HeatposeError, match="No model was given"):
        default_model()
    like = _network(places[0], "z_17")
    assert default_model() == ("z_17", like / "net_int8_pc.tflite")
    usual = _network(places[1], released.DEFAULT)
    assert default_model() == (released.DEFAULT, usual / "net_int8_pc.tflite")


def test_a_damaged_network_is_named(places: tuple[Path, Path]) -> None:
    folder = _network(places[0], "runner")
    for content in ("", "[]", '{"skeleton": 3}'):
        (folder / "manifest.json").write_text(content)
        with pytest.raises(HeatposeError, match="runner' is damaged; get the folder again"):
            resolve("runner")
