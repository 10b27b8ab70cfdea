"""Poses for images, folders, videos and cameras: drawings, and keypoints as COCO results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from heatpose.errors import HeatposeError
from heatpose.predict.estimator import require_torso
from heatpose.predict.files import Names, find_sources
from heatpose.predict.frames import UnreadableVideo
from heatpose.predict.options import Drawing, PredictSummary, Skipped, VideoOptions
from heatpose.predict.run import predict_images, predict_video

__all__ = ["Drawing", "PredictSummary", "Skipped", "VideoOptions", "predict_sources"]
Progress = Callable[[int, int | None], None]


def predict_sources(
    sources: Sequence[Path], out: Path, drawing: Drawing, options: VideoOptions | None = None
) -> PredictSummary:
    """Predicts the pose on every image and on every frame of every video and camera.

    Images give `<stem>_pose.jpg` (or `.png`) and together `predictions.json`; a video gives
    `<stem>_pose.mp4` and `<stem>_predictions.json`, where image ids are frame numbers from 0. Each
    JSON entry is a COCO result (`image_id`, `category_id`, `keypoints` as x, y, score in pixels,
    `score`) with `file_name`, `keypoint_names` and, for frames, `seconds`. The id of an image is
    its file name if all names are different numbers (as in COCO), else its position in the list.
    JSON files of a second model end in `_beside.json`.

    Args:
        sources: Image files, video files, folders (searched recursively), camera numbers.
        out: Output folder, created if missing.
        drawing: Models and drawing options.
        options: Options for videos and cameras.

    Raises:
        HeatposeError: A source does not exist, there is none, none could be read, `out` cannot be
            written or is one of the sources, or the skeleton lacks keypoints for cropping.
    """
    options = options or VideoOptions()
    found = find_sources(sources, out)
    if options.crop and (found.videos or found.cameras):
        for estimator in drawing.estimators:
            require_torso(estimator.skeleton)
    names = Names(out, [*found.images, *found.videos])
    summary = PredictSummary()
    if found.images:
        with _bar(f"{len(found.images)} images") as progress:
            summary.add(
                predict_images(
                    found.images,
                    out,
                    drawing,
                    names,
                    lambda done: progress(done, len(found.images)),
                )
            )
    films: list[Path | int] = [*found.videos, *found.cameras]
    for source in films:
        with _bar(
            f"camera {source}, Ctrl-C ends it" if isinstance(source, int) else source.name
        ) as progress:
            try:
                summary.add(predict_video(source, out, drawing, options, names, progress))
            except UnreadableVideo as error:
                if isinstance(source, int):
                    raise
                summary.skipped.append(Skipped(source, str(error)))
    if not summary.results:
        count = len(found.images) + len(found.videos)
        if count == 1:
            raise HeatposeError(summary.skipped[0].reason)
        raise HeatposeError(
            f"None of the {count} files could be read; the first: {summary.skipped[0].reason}"
        )
    return summary


@contextmanager
def _bar(text: str) -> Iterator[Progress]:
    """A progress bar on stderr, removed at the end."""
    from rich import progress as bars
    from rich.console import Console
    from rich.markup import escape

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(escape(text.encode("utf-8", "replace").decode()), total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
