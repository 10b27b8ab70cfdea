"""Prediction on image files, videos and cameras, with I/O in threads parallel to the network."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatpose.errors import HeatposeError
from heatpose.predict.estimator import Estimator, PendingPose, Tracker
from heatpose.predict.files import (
    BESIDE,
    RESULTS,
    Names,
    entry,
    image_ids,
    make_folder,
    orientation_entry,
    save_image,
    write_entries,
)
from heatpose.predict.frames import Frame, ImageStore, Mp4, Sink, Video
from heatpose.predict.options import Drawing, PredictSummary, Skipped, VideoOptions
from heatpose.predict.pipeline import ahead, in_parallel
from heatpose.utils.image_files import decode_image


@dataclass(frozen=True)
class _Loaded:
    """An upright image, its EXIF orientation, and the inputs of the models."""

    place: int
    image: NDArray[np.uint8]
    orientation: int
    inputs: list[NDArray[np.uint8]]


@dataclass(frozen=True)
class _Seen:
    """An image and the models' results: `pending`, then decoded `poses`."""

    place: int
    image: NDArray[np.uint8]
    orientation: int
    pending: list[PendingPose]
    poses: list[NDArray[np.float32]] = field(default_factory=list)


def predict_images(
    images: Sequence[Path], out: Path, drawing: Drawing, names: Names, progress: Any
) -> PredictSummary:
    """Predicts the pose on every image and writes drawings and keypoints.

    Args:
        images: Image files.
        out: Output folder.
        drawing: Models and drawing options.
        names: Unique output names.
        progress: Called with the number of processed images.

    Raises:
        HeatposeError: A file cannot be written.
    """
    estimators = drawing.estimators
    targets = [
        out
        / names.of(
            path.stem, "_pose.jpg" if path.suffix.lower() in (".jpg", ".jpeg") else "_pose.png"
        )[0]
        for path in images
    ]
    ids, entries, summary = (
        image_ids(images),
        [[] for _ in estimators],
        PredictSummary(),
    )  # type: list[int], list[list[dict[str, Any]]], PredictSummary

    def finish(seen: _Seen | Skipped) -> _Seen | Skipped:
        if isinstance(seen, Skipped):
            return seen
        seen = replace(seen, poses=[pose() for pose in seen.pending])
        if drawing.draw:
            make_folder(out)  # only when there is an output
            save_image(targets[seen.place], drawing.image(seen.image, seen.poses))
        return seen

    with closing(in_parallel(finish, ahead(_seen(images, estimators)))) as stream:
        for done, seen in enumerate(stream, 1):
            if isinstance(seen, Skipped):
                summary.skipped.append(seen)
            else:
                path = images[seen.place]
                for listed, estimator, pose in zip(entries, estimators, seen.poses, strict=True):
                    place, shape = ids[seen.place], seen.image.shape
                    found = entry(place, path.as_posix(), pose, shape, estimator)
                    listed.append(found | orientation_entry(seen.orientation))
                summary.images += 1
                summary.turned += seen.orientation != 1
                summary.drawn += [targets[seen.place]] if drawing.draw else []
                summary.compare(drawing, seen.poses, seen.image.shape)
            progress(done)
    if summary.images:
        make_folder(out)
        summary.results += [
            write_entries(out / name, listed)
            for name, listed in zip((RESULTS, BESIDE), entries, strict=False)
        ]
    return summary


def _seen(
    images: Sequence[Path], estimators: Sequence[Estimator]
) -> Generator[_Seen | Skipped, None, None]:
    """Results of the models in the order of the images."""

    def load(numbered: tuple[int, Path]) -> _Loaded | Skipped:
        place, path = numbered
        try:
            decoded = decode_image(path)
        except HeatposeError as error:
            return Skipped(path, str(error))
        image = decoded.pixels
        inputs = [estimator.resize(image) for estimator in estimators]
        return _Loaded(place, image, decoded.orientation, inputs)

    with closing(in_parallel(load, enumerate(images))) as stream:
        for loaded in stream:
            if isinstance(loaded, Skipped):
                yield loaded
            else:
                pending = [
                    estimator.run(resized)
                    for estimator, resized in zip(estimators, loaded.inputs, strict=True)
                ]
                yield _Seen(loaded.place, loaded.image, loaded.orientation, pending)


Tracked = tuple[Frame, list[NDArray[np.float32]]]
Drawn = tuple[Frame, list[NDArray[np.float32]], NDArray[np.uint8] | None]


def tracked(
    frames: Iterable[Frame], drawing: Drawing, options: VideoOptions
) -> Generator[Tracked, None, None]:
    """Yields each frame with a pose of every model.

    Reading, resizing, inference and decoding each have a thread.
    """
    trackers = [
        Tracker(estimator, options.smooth, options.crop, drawing.threshold)
        for estimator in drawing.estimators
    ]

    def prepare(frame: Frame) -> tuple[Frame, list[NDArray[np.uint8] | None]]:
        return frame, [tracker.prepare(frame) for tracker in trackers]

    def pending_poses() -> Generator[tuple[Frame, list[PendingPose]], None, None]:
        with closing(in_parallel(prepare, ahead(frames), workers=2)) as stream:
            for frame, inputs in stream:
                yield (
                    frame,
                    [
                        tracker.run(frame, prepared)
                        for tracker, prepared in zip(trackers, inputs, strict=True)
                    ],
                )

    with closing(ahead(pending_poses())) as stream:
        for frame, given in stream:
            yield (
                frame,
                [
                    tracker.follow(frame, pose)
                    for tracker, pose in zip(trackers, given, strict=True)
                ],
            )


def drawn(
    frames: Iterable[Frame], drawing: Drawing, options: VideoOptions
) -> Generator[Drawn, None, None]:
    """`tracked` with the drawn image, or None without drawing; drawn in parallel to the network."""

    def draw(item: Tracked) -> Drawn:
        frame, poses = item
        return frame, poses, drawing.image(frame.image, poses)

    if drawing.draw:
        return in_parallel(draw, ahead(tracked(frames, drawing, options)))
    return _undrawn(tracked(frames, drawing, options))


def _undrawn(items: Generator[Tracked, None, None]) -> Generator[Drawn, None, None]:
    with closing(items) as stream:
        for frame, poses in stream:
            yield frame, poses, None


def predict_video(
    source: Path | int,
    out: Path,
    drawing: Drawing,
    options: VideoOptions,
    names: Names,
    progress: Any,
) -> PredictSummary:
    """Predicts the pose on every frame; writes the drawn video and the keypoints.

    A camera runs until `options.limit` or Ctrl-C.

    Args:
        source: Video file, or camera number.
        out: Output folder.
        drawing: Models and drawing options.
        options: Video options.
        names: Unique output names.
        progress: Called with the number of processed frames and the total, if known.

    Raises:
        HeatposeError: The video cannot be opened, or a file cannot be written.
    """
    with closing(Video(source)) as video:
        stem = f"camera{source}" if isinstance(source, int) else source.stem
        ending = "_pose" if options.images else "_pose.mp4"
        shown, *written = names.of(
            stem,
            ending,
            *(f"_predictions{kind}.json" for kind in ("", "_beside")[: len(drawing.estimators)]),
        )
        sink: Sink = ImageStore(out / shown) if options.images else Mp4(out / shown, video.rate)
        entries, summary = _run(video, sink, drawing, options, progress)
    make_folder(out)
    summary.drawn += [sink.path] if drawing.draw else []
    summary.results += [
        write_entries(out / name, listed) for name, listed in zip(written, entries, strict=True)
    ]
    if video.missing and options.limit is None:
        summary.cut.append(
            f"'{video.name}' ends after {video.read} of {video.expected} frames: the rest cannot be"
            " decoded."
        )
    return summary


def _run(
    video: Video, sink: Sink, drawing: Drawing, options: VideoOptions, progress: Any
) -> tuple[list[list[dict[str, Any]]], PredictSummary]:
    """Results of each model; the sink is finished, or discarded after an error."""
    entries: list[list[dict[str, Any]]] = [[] for _ in drawing.estimators]
    summary = PredictSummary()
    total = min((n for n in (video.expected, options.limit) if n is not None), default=None)
    try:
        with closing(drawn(islice(iter(video), options.limit), drawing, options)) as stream:
            try:
                for frame, poses, image in stream:
                    if image is not None:
                        sink.write(frame.number, image)
                    _note(frame, poses, drawing, entries, summary, video.name)
                    progress(frame.number + 1, total)
            except KeyboardInterrupt:
                if not video.live:
                    raise
        summary.frames[video.name] = len(entries[0])
        sink.finish()
    finally:
        sink.discard()
    return entries, summary


def _note(
    frame: Frame,
    poses: Sequence[NDArray[np.float32]],
    drawing: Drawing,
    entries: list[list[dict[str, Any]]],
    summary: PredictSummary,
    name: str,
) -> None:
    for listed, estimator, pose in zip(entries, drawing.estimators, poses, strict=True):
        listed.append(entry(frame.number, name, pose, frame.image.shape, estimator, frame.seconds))
    summary.compare(drawing, poses, frame.image.shape)
