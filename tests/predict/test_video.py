"""Videos in, videos and COCO results out.

A bright square moves, and a stand-in for the model finds it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from heatpose.errors import HeatposeError
from heatpose.pose.preprocessing import Preprocessing
from heatpose.pose.skeleton import Skeleton
from heatpose.predict import Drawing, PredictSummary, VideoOptions, predict_sources
from heatpose.predict.estimator import Estimator
from heatpose.predict.frames import Frame
from heatpose.predict.run import tracked

cv2 = pytest.importorskip("cv2", reason="the extra video is not installed")

TORSO = Skeleton("torso", ("left_shoulder", "right_shoulder", "left_hip", "right_hip"), (0.1,) * 4)
SIZE, FRAMES, RATE = (160, 120), 40, 20.0


@dataclass
class Finder:
    """A `PoseRunner` that puts a torso as large as the bright square on it."""

    path: Path = Path("a/finder.tflite")
    name: str = "finder.tflite"
    kind: str = "tflite"
    keypoints: int = 4
    skeleton: Skeleton | None = TORSO
    preprocessing: Preprocessing | None = field(
        default_factory=lambda: Preprocessing(96, "nearest")
    )
    size: int = 96
    kernels: str = "none"
    found: list[int] = field(default_factory=list)
    fails_at: int | None = None

    def predict(self, images: NDArray[Any], decode: str = "argmax") -> NDArray[Any]:
        if len(self.found) == self.fails_at:
            raise HeatposeError("The model broke.")
        rows, columns = np.nonzero(images[0][..., 0] > 150)
        self.found.append(len(rows))
        left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
        corners = np.array([[right, top], [left, top], [right, bottom], [left, bottom]]) / self.size
        return np.concatenate([corners, np.ones((4, 1))], 1).astype(np.float32)[None]

    def heatmaps(self, images: NDArray[Any]) -> NDArray[Any]:
        raise HeatposeError("none")


def _corner(n: int) -> tuple[int, int]:
    return 30 + 2 * n, 40 + n // 2


def _shaking(n: int) -> tuple[int, int]:
    return 60 + 2 * (n % 2), 50 + 2 * (n // 2 % 2)


def _image(n: int, corner: Callable[[int], tuple[int, int]] = _corner) -> NDArray[np.uint8]:
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    x, y = corner(n)
    image[y : y + 20, x : x + 20] = 255
    return image


def _video(
    path: Path,
    frames: int = FRAMES,
    code: str = "MJPG",
    corner: Callable[[int], tuple[int, int]] = _corner,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), RATE, SIZE)
    assert writer.isOpened()
    for n in range(frames):
        writer.write(_image(n, corner))
    writer.release()
    return path


def _run(
    sources: list[Path],
    out: Path,
    model: Finder | None = None,
    beside: Finder | None = None,
    draw: bool = True,
    **options: Any,
) -> PredictSummary:
    estimators = [
        Estimator.of(runner, TORSO) for runner in (model or Finder(), beside) if runner is not None
    ]
    return predict_sources(sources, out, Drawing(estimators, draw=draw), VideoOptions(**options))


def _entries(path: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(path.read_text())
    return content


def _corners(entries: list[dict[str, Any]]) -> NDArray[np.float64]:
    """f64[N, 2]: the right shoulder, which the finder puts at the square's upper left."""
    return np.array([entry["keypoints"][3:5] for entry in entries])


def _properties(path: Path) -> tuple[int, float, int, int]:
    capture = cv2.VideoCapture(str(path))
    frames, rate, width, height = (
        capture.get(p)
        for p in (
            cv2.CAP_PROP_FRAME_COUNT,
            cv2.CAP_PROP_FPS,
            cv2.CAP_PROP_FRAME_WIDTH,
            cv2.CAP_PROP_FRAME_HEIGHT,
        )
    )
    capture.release()
    return int(frames), rate, int(width), int(height)


TRUTH = np.array([_corner(n) for n in range(FRAMES)], np.float64)


@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
def test_a_video_is_drawn_and_listed(name: str, tmp_path: Path) -> None:
    source, out = (
        _video(tmp_path / "in" / name, code="MJPG" if name == "a.avi" else "mp4v"),
        tmp_path / "out",
    )
    summary = _run([source], out, smooth=False)
    # nothing temporary is left
    assert sorted(os.listdir(out)) == ["a_pose.mp4", "a_predictions.json"]
    assert (
        summary.drawn == [out / "a_pose.mp4"]
        and summary.frames == {source.as_posix(): FRAMES}
        and not summary.cut
    )
    assert _properties(summary.drawn[0]) == (FRAMES, RATE, *SIZE)
    entries = _entries(out / "a_predictions.json")
    assert [entry["image_id"] for entry in entries] == list(range(FRAMES))
    assert [entry["seconds"] for entry in entries] == pytest.approx(
        [n / RATE for n in range(FRAMES)], abs=1e-3
    )
    assert np.abs(_corners(entries) - TRUTH).max() < 3
    assert str(FRAMES) in str(summary) and "a_pose.mp4" in str(summary)


def test_the_drawn_frame_is_the_right_one(tmp_path: Path) -> None:
    _run([_video(tmp_path / "a.avi")], tmp_path / "out", smooth=False, images=True, limit=12)
    assert sorted(os.listdir(tmp_path / "out" / "a_pose")) == [f"{n:06d}.jpg" for n in range(12)]
    for n in (0, 11):
        x, y = _corner(n)
        image = np.asarray(Image.open(tmp_path / "out" / "a_pose" / f"{n:06d}.jpg")).astype(int)
        assert image[y + 10, x + 10].min() > 200 and image[y + 10, x - 8].max() < 60


def test_smoothing_takes_jitter_away(tmp_path: Path) -> None:
    source = _video(tmp_path / "a.avi", corner=_shaking)
    jumps = {}
    for smooth in (False, True):
        _run([source], tmp_path / str(smooth), smooth=smooth, draw=False)
        corners = _corners(_entries(tmp_path / str(smooth) / "a_predictions.json"))
        jumps[smooth] = float(np.abs(np.diff(corners, axis=0)).mean())
        assert np.abs(corners - (61, 51)).max() < 4
    assert jumps[True] < 0.6 * jumps[False]
    assert os.listdir(tmp_path / "True") == ["a_predictions.json"]  # nothing is drawn


def test_the_crop_follows_the_person(tmp_path: Path) -> None:
    """After the first frame the square fills much of the input, and is placed the more exactly."""
    model = Finder()
    _run([_video(tmp_path / "a.avi")], tmp_path / "out", model, smooth=False, crop=True)
    assert model.found[0] < 300 and min(model.found[1:]) > 2 * model.found[0]
    assert (
        np.abs(_corners(_entries(tmp_path / "out" / "a_predictions.json")) - TRUTH)[1:].max() < 1.5
    )


@dataclass(frozen=True)
class Watched(Preprocessing):
    """Remembers by whom frames are resized, and tells that there are enough of them."""

    threads: set[int] = field(default_factory=set)
    ready: threading.Event = field(default_factory=threading.Event)
    count: list[int] = field(default_factory=list)

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self.threads.add(threading.get_ident())
        self.count.append(1)
        if len(self.count) >= 3:
            self.ready.set()
        return super().resize(image)


@dataclass
class Waiting(Finder):
    """Answers for the first frame when the third one's input is there."""

    by: set[int] = field(default_factory=set)

    def predict(self, images: NDArray[Any], decode: str = "argmax") -> NDArray[Any]:
        assert isinstance(self.preprocessing, Watched)
        assert self.preprocessing.ready.wait(20), (
            "the network waits for its own thread to resize the next frames"
        )
        self.by.add(threading.get_ident())
        return super().predict(images, decode)


def test_the_network_waits_for_no_frame_to_be_resized(tmp_path: Path) -> None:
    watched = Watched(96)
    model = Waiting(preprocessing=watched)
    frames = list(
        tracked(
            (Frame(n, n / RATE, _image(n)) for n in range(9)),
            Drawing([Estimator(model, TORSO, watched, "argmax")]),
            VideoOptions(),
        )
    )
    assert len(frames) == 9 and len(model.by) == 1 and not watched.threads & model.by


def test_images_and_videos_of_a_folder(tmp_path: Path) -> None:
    _video(tmp_path / "in" / "deep" / "a.avi", 3)
    _video(tmp_path / "in" / "a.avi", 3)
    Image.new("RGB", SIZE, (255, 255, 255)).save(tmp_path / "in" / "a.png")
    summary = _run([tmp_path / "in"], tmp_path / "out")
    assert [path.name for path in summary.drawn] == ["a_pose.png", "a_pose.mp4", "a_2_pose.mp4"]
    assert [path.name for path in summary.results] == [
        "predictions.json",
        "a_predictions.json",
        "a_2_predictions.json",
    ]


def test_two_models_side_by_side(tmp_path: Path) -> None:
    summary = _run(
        [_video(tmp_path / "a.avi", 5)],
        tmp_path / "out",
        beside=Finder(path=Path("b/finder.tflite")),
    )
    frames, _, width, height = _properties(tmp_path / "out" / "a_pose.mp4")
    assert frames == 5 and width > 2 * SIZE[0] and width % 2 == height % 2 == 0
    assert [path.name for path in summary.results] == [
        "a_predictions.json",
        "a_predictions_beside.json",
    ]
    assert _entries(summary.results[0]) == _entries(summary.results[1]) and "0.0 px apart" in str(
        summary
    )


def test_a_truncated_video_gives_its_frames(tmp_path: Path) -> None:
    whole = _video(tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    summary = _run([tmp_path / "cut.avi"], tmp_path / "out")
    frames = len(_entries(tmp_path / "out" / "cut_predictions.json"))
    assert 5 < frames < FRAMES - 5
    [said] = summary.cut
    assert (
        said
        == f"'{(tmp_path / 'cut.avi').as_posix()}' ends after {frames} of {FRAMES} frames: the rest"
        " cannot be decoded."
        and said in str(summary)
    )


def test_files_that_are_not_videos_are_skipped_or_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = _video(tmp_path / "in" / "whole.mp4", 10, "mp4v").read_bytes()
    (tmp_path / "in" / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # its index is at the end
    (tmp_path / "in" / "empty.mkv").touch()
    (tmp_path / "in" / "text.avi").write_text("hello " * 100)
    summary = _run([tmp_path / "in"], tmp_path / "out")
    assert [path.name for path in summary.drawn] == ["whole_pose.mp4"]
    assert [skipped.path.name for skipped in summary.skipped] == [
        "cut.mp4",
        "empty.mkv",
        "text.avi",
    ]
    assert all(
        skipped.path.name in skipped.reason and skipped.reason.endswith(".")
        for skipped in summary.skipped
    )
    with pytest.raises(HeatposeError, match=r"cut\.mp4' cannot be decoded as a video") as error:
        _run([tmp_path / "in" / "cut.mp4"], tmp_path / "none")
    assert "\n" not in str(error.value) and not (tmp_path / "none").exists()
    assert "moov" not in capfd.readouterr().err  # FFmpeg keeps its opinion to itself


def test_a_camera_that_is_not_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HeatposeError, match=r"Camera 87 does not exist or gives no image"):
        _run([Path("87")], tmp_path / "out")
    assert not (tmp_path / "out").exists() and "WARN" not in capfd.readouterr().err


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    for images in (False, True):
        with pytest.raises(HeatposeError, match="The model broke"):
            _run([_video(tmp_path / "a.avi")], tmp_path / "out", Finder(fails_at=9), images=images)
        assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HeatposeError, match="cannot be created"):
        _run([_video(tmp_path / "a.avi", 3)], tmp_path / "file" / "out")
