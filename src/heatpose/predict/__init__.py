"""Poses for images, folders, videos and cameras.

Drawn images, and keypoints in COCO's results format.
"""

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
    """Finds the person on every image and on every frame of every video and camera.

    One after the other.

    Images give `<stem>_pose.jpg` (or `.png`) and together `predictions.json`; a video gives
    `<stem>_pose.mp4` and `<stem>_predictions.json`, where image ids are the numbers of its frames,
    from 0. Each entry of a json is one of COCO's results (`image_id`, `category_id`, `keypoints` as
    x, y, score in pixels, `score`) with `file_name`, `keypoint_names` and, for frames, `seconds`
    added. The id of an image is its file's name where all names are different numbers (as COCO's
    are), else its place in the list. A second model's json files end in `_beside.json`.

    Args:
        sources: Image files, video files, folders that are searched with everything below them,
            numbers of cameras.
        out: Folder to write into; made where it does not exist.
        drawing: The models, and what is drawn.
        options: For videos and cameras.

    Raises:
        HeatposeError: A source does not exist, there is none, none of them could be read, `out`
            cannot be written or is one of the sources, or the skeleton lacks what a crop needs.
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
    """A progress bar on stderr, which is gone in the end."""
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
