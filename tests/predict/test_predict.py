"""Files and folders in, images and COCO results out, with a stand-in for the model."""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import COCO_17, Skeleton
from heatpose.predict import Drawing, PredictSummary, predict_sources
from heatpose.predict.estimator import Estimator
from heatpose.predict.files import find_sources

TWO = Skeleton(
    "two", ("left_hand", "right_hand"), (0.1, 0.1), flip_pairs=(("left_hand", "right_hand"),)
)
POSE = np.array([[0.25, 0.5, 0.9], [0.75, 0.5, 0.1]], np.float32)


@dataclass
class Model:
    """A `PoseRunner` that always answers `POSE` and remembers what it saw."""

    preprocessing: Preprocessing | None = None
    name: str = "model.tflite"
    path: Path = Path("model.tflite")
    kind: str = "tflite"
    keypoints: int = 2
    skeleton: Skeleton | None = None
    size: int = 32
    kernels: str = "none"
    seen: list[tuple[NDArray[Any], str]] = field(default_factory=list)

    def predict(self, images: NDArray[Any], decode: str = "argmax") -> NDArray[Any]:
        self.seen.append((images, decode))
        return np.repeat(POSE[None], len(images), 0)

    def heatmaps(self, images: NDArray[Any]) -> NDArray[Any]:
        raise HeatposeError("none")


def _image(
    path: Path,
    size: tuple[int, int] = (80, 40),
    colour: tuple[int, int, int] = (9, 9, 9),
    **options: Any,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def _predict(
    model: Model, sources: list[Path], out: Path, skeleton: Skeleton, sampling: str | None = None
) -> PredictSummary:
    return predict_sources(
        sources, out, Drawing([Estimator.of(model, skeleton, sampling=sampling)])
    )


def _results(out: Path) -> list[dict[str, object]]:
    content: list[dict[str, object]] = json.loads((out / "predictions.json").read_text())
    return content


def test_draws_and_lists(tmp_path: Path) -> None:
    source, out = _image(tmp_path / "in" / "a.png"), tmp_path / "new" / "out"
    model = Model()
    summary = _predict(model, [source], out, TWO)
    assert (summary.drawn, summary.results, summary.skipped) == (
        [out / "a_pose.png"],
        [out / "predictions.json"],
        [],
    )
    drawn = np.asarray(Image.open(summary.drawn[0]))
    assert drawn.shape == (40, 80, 3) and tuple(drawn[20, 20]) == (255, 140, 0)  # the left hand
    assert tuple(drawn[20, 60]) == (9, 9, 9)  # the right hand is below the threshold
    [entry] = _results(out)
    assert entry["keypoints"] == pytest.approx([20, 20, 0.9, 60, 20, 0.1], abs=1e-3)  # image pixels
    assert (
        entry["keypoint_names"] == ["left_hand", "right_hand"]
        and entry["file_name"] == source.as_posix()
    )
    assert (entry["image_id"], entry["category_id"]) == (1, 1) and entry["score"] == pytest.approx(
        0.5
    )
    [(images, decode)] = model.seen
    assert images.shape == (1, 32, 32, 3) and images.dtype == np.uint8 and decode == "refined"
    # nothing temporary is left
    assert sorted(os.listdir(out)) == ["a_pose.png", "predictions.json"]


def test_images_are_resized_as_in_training_without_an_option(tmp_path: Path) -> None:
    """A fine checkerboard: nearest sampling keeps black and white, bilinear makes it grey."""
    board = ((np.indices((128, 128)).sum(0) % 2) * 255).astype(np.uint8)
    Image.fromarray(np.dstack([board] * 3)).save(tmp_path / "board.png")
    known = Preprocessing(192, "nearest")

    def values(model: Model, sampling: str | None) -> set[int]:
        _predict(model, [tmp_path / "board.png"], tmp_path / "out", TWO, sampling=sampling)
        return set(np.unique(model.seen[-1][0]).tolist())

    assert values(Model(known), None) <= {0, 255} and values(Model(), "nearest") <= {0, 255}
    assert not values(Model(), None) & {0, 255} and not values(Model(known), "bilinear") & {0, 255}


def test_folders_are_searched(tmp_path: Path) -> None:
    names = ["b.JPG", "a.jpeg", "deep/er/c.png", "d.bmp", "e.webp"]
    images = [_image(tmp_path / "in" / name, format=None) for name in names]
    (tmp_path / "in" / "notes.txt").write_text("hello")
    summary = _predict(Model(), [tmp_path / "in", images[0]], tmp_path / "out", TWO)
    assert [path.name for path in summary.drawn] == [
        "a_pose.jpg",
        "b_pose.jpg",
        "d_pose.png",
        "e_pose.png",
        "c_pose.png",
    ]
    assert [Image.open(path).format for path in summary.drawn] == [
        "JPEG",
        "JPEG",
        "PNG",
        "PNG",
        "PNG",
    ]


def test_equal_stems_do_not_overwrite_each_other(tmp_path: Path) -> None:
    shades = {
        "a/x.jpg": 10,
        "b/x.jpg": 60,
        "c/x.jpeg": 110,
        "d/X.jpg": 160,
        "e/x_2.jpg": 210,
        "f/x.png": 250,
    }
    for name, shade in shades.items():
        _image(tmp_path / "in" / name, colour=(shade,) * 3)
    summary = _predict(Model(), [tmp_path / "in"], tmp_path / "out", TWO)
    assert len({path.name.lower() for path in summary.drawn}) == 6
    for path, shade in zip(summary.drawn, shades.values(), strict=True):
        assert abs(int(np.asarray(Image.open(path))[0, 0, 0]) - shade) < 5
    assert [
        Path(str(entry["file_name"])).parent.name for entry in _results(tmp_path / "out")
    ] == list("abcdef")


def test_damaged_images_are_skipped_and_reported(tmp_path: Path) -> None:
    good = _image(tmp_path / "in" / "good.jpg", (300, 300))
    (tmp_path / "in" / "text.jpg").write_text("hello")
    (tmp_path / "in" / "cut.jpg").write_bytes(good.read_bytes()[:500])
    (tmp_path / "in" / "empty.png").touch()
    (tmp_path / "in" / "film.mp4").write_bytes(bytes(100))
    sources = [tmp_path / "in", tmp_path / "in" / "film.mp4"]
    summary = _predict(Model(), sources, tmp_path / "out", TWO)
    assert [path.name for path in summary.drawn] == ["good_pose.jpg"]
    assert [skipped.path.name for skipped in summary.skipped] == [
        "cut.jpg",
        "empty.png",
        "text.jpg",
        "film.mp4",
    ]
    assert all(skipped.path.name in skipped.reason for skipped in summary.skipped)
    assert len(_results(tmp_path / "out")) == 1
    message = str(summary).splitlines()
    assert (
        message[0].startswith("Drew 1 image into")
        and len(message) == 5
        and "film.mp4" in message[4]
    )


def test_all_broken_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(HeatposeError, match=r"a\.jpg' cannot be decoded"):
        _predict(Model(), [tmp_path / "a.jpg"], tmp_path / "out", TWO)
    (tmp_path / "b.jpg").touch()
    with pytest.raises(
        HeatposeError, match=r"None of the 2 files could be read; the first: .*a\.jpg"
    ):
        _predict(Model(), [tmp_path], tmp_path / "out", TWO)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tag", range(1, 9))
def test_photographs_are_drawn_upright_and_keypoints_fit_them(tag: int, tmp_path: Path) -> None:
    """A bright square at the upper right of the upright image, stored in each way."""
    upright = np.zeros((60, 120, 3), np.uint8)
    upright[:20, 100:] = 200
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[tag]
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    summary = _predict(Model(), [tmp_path / "a.png"], tmp_path / "out", TWO)
    with Image.open(summary.drawn[0]) as drawn:
        assert drawn.size == (120, 60) and drawn.getexif().get(0x0112, 1) == 1
        assert np.abs(np.asarray(drawn.convert("RGB"))[5, 115].astype(int) - 200).max() < 5
    (found,) = _results(tmp_path / "out")
    with Image.open(tmp_path / "a.png") as file:  # the model sees what Pillow turns
        turned = np.asarray(ImageOps.exif_transpose(file))
    np.testing.assert_array_equal(turned, upright)
    plain = tmp_path / "plain.png"
    Image.fromarray(upright).save(plain)
    _predict(Model(), [plain], tmp_path / "second", TWO)
    assert found["keypoints"] == _results(tmp_path / "second")[0]["keypoints"]
    said = {key: found[key] for key in ("exif_orientation", "keypoints_frame") if key in found}
    assert said == ({} if tag == 1 else {"exif_orientation": tag, "keypoints_frame": "upright"})
    assert ("1 images have an EXIF orientation tag" in str(summary)) == (tag != 1)


def test_16_bit_images_are_not_drawn_white(tmp_path: Path) -> None:
    values = np.full((60, 120), 100 * 257, np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    summary = _predict(Model(), [tmp_path / "a.png"], tmp_path / "out", TWO)
    drawn = np.asarray(Image.open(summary.drawn[0]))
    assert int(np.median(drawn)) == 100


def test_heic_in_a_folder_is_skipped_and_reported(tmp_path: Path) -> None:
    _image(tmp_path / "in" / "a.png")
    _image(tmp_path / "in" / "b.TIFF")
    (tmp_path / "in" / "c.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    summary = _predict(Model(), [tmp_path / "in"], tmp_path / "out", TWO)
    assert [path.name for path in summary.drawn] == ["a_pose.png", "b_pose.png"]
    assert "Skipped: Image" in str(summary) and "c.HEIC' is HEIC or AVIF" in str(summary)


def test_odd_file_names(tmp_path: Path) -> None:
    names = [
        "a b.png",
        "[red]x[/].png",
        "日本.png",
        "-rf.png",
        "n" * 240 + ".png",
        "new\nline.png",
        ".hidden.png",
    ]
    for name in names:
        _image(tmp_path / "in" / name)
    with contextlib.suppress(OSError):  # not every file system takes names that are no UTF-8
        (tmp_path / "in" / os.fsdecode(b"\xff.png")).write_bytes(
            (tmp_path / "in" / names[0]).read_bytes()
        )
    summary = _predict(Model(), [tmp_path / "in"], tmp_path / "out", TWO)
    found = len(os.listdir(tmp_path / "in"))
    assert len(summary.drawn) == found and all(path.is_file() for path in summary.drawn)
    assert len(_results(tmp_path / "out")) == found


def test_results_are_cocos(tmp_path: Path) -> None:
    """pycocotools reads them, and numeric names are the image ids."""
    coco = pytest.importorskip("pycocotools.coco")
    for name in ("000000000139.png", "000000581781.png"):
        _image(tmp_path / "in" / name)
    _predict(Model(), [tmp_path / "in"], tmp_path / "out", TWO)
    truth = coco.COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 139}, {"id": 581781}],
        "annotations": [],
        "categories": [{"id": 1}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        loaded = truth.loadRes(str(tmp_path / "out" / "predictions.json"))
    assert sorted(loaded.getImgIds()) == [139, 581781] and len(loaded.anns) == 2


@pytest.mark.parametrize("names", [("1.png", "01.png"), ("1.png", "b.png")])
def test_ids_count_if_names_are_not_distinct_numbers(
    names: tuple[str, str], tmp_path: Path
) -> None:
    for name in names:
        _image(tmp_path / "in" / name)
    _predict(Model(), [tmp_path / "in"], tmp_path / "out", TWO)
    assert [entry["image_id"] for entry in _results(tmp_path / "out")] == [1, 2]


def test_a_second_run_does_not_read_its_own_drawings(tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    for _ in range(2):
        summary = _predict(Model(), [tmp_path], tmp_path / "out", TWO)
        assert [path.name for path in summary.drawn] == ["a_pose.png"]


def test_never_writes_over_an_image(tmp_path: Path) -> None:
    images = [_image(tmp_path / "a.png"), _image(tmp_path / "a_pose.png", colour=(77, 77, 77))]
    before = images[1].read_bytes()
    summary = _predict(Model(), images, tmp_path, TWO)
    assert images[1].read_bytes() == before and not set(summary.drawn) & set(images)


@pytest.mark.parametrize(
    ("sources", "out", "said"),
    [
        (["missing"], "out", "'.*missing' does not exist"),
        (["empty"], "out", "There is no image or video in '.*empty'"),
        ([], "out", "There is no image or video in no source"),
        (["in"], "in", "holds the images themselves"),
        (["in"], "in/a.png", "cannot be created"),
    ],
)
def test_refuses_bad_sources(sources: list[str], out: str, said: str, tmp_path: Path) -> None:
    _image(tmp_path / "in" / "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HeatposeError, match=said) as error:
        _predict(Model(), [tmp_path / source for source in sources], tmp_path / out, TWO)
    assert "\n" not in str(error.value) and sorted(os.listdir(tmp_path)) == ["empty", "in"]


def test_refuses_another_skeleton(tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match="has 2 keypoints, but skeleton 'coco17' has 17"):
        _predict(Model(), [_image(tmp_path / "a.png")], tmp_path / "out", COCO_17)
    assert not (tmp_path / "out").exists()


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    image = _image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in", target_is_directory=True)
    assert find_sources([tmp_path / "in"]).images == [image]
