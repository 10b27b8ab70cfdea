"""`heatpose label`: labels for images that have none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatpose.cli.options import (
    NormalisationText,
    Resolution,
    Sampling,
    SkeletonFile,
    Threads,
    model_names,
    read_normalisation,
    read_skeleton,
    tell_reading,
)
from heatpose.errors import HeatposeError
from heatpose.utils.files import require_writable_files, write_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from heatpose.pose.skeleton import Skeleton

NO_TEACHER = (
    "A teacher is needed: give --teacher MODEL, a .ckpt, .onnx or .tflite pose model that is "
    "larger than the network to be trained, such as MoveNet Thunder."
)


Photos = Annotated[Path, typer.Argument(help="Folder of images, searched recursively.")]
Out = Annotated[Path, typer.Option(help="COCO keypoint json to write.")]
Teacher = Annotated[
    Path | None,
    typer.Option(
        help="Pose model that makes the labels: checkpoint, ONNX or TFLite.",
        autocompletion=model_names,
    ),
]
Boxes = Annotated[
    Path | None,
    typer.Option(
        help=(
            "Boxes of the people: a COCO json, or a folder of Pascal VOC XML. Without them the "
            "teacher finds one person per image."
        )
    ),
]
Sheet = Annotated[
    Path | None,
    typer.Option(help="Write a contact sheet of labelled people here (PNG or JPEG)."),
]
MinScore = Annotated[
    float,
    typer.Option(help="Least score of a keypoint, in the image and in its mirror image."),
]
MaxDistance = Annotated[
    float,
    typer.Option(help="Largest distance between the two places, as a share of the crop's side."),
]
MinKeypoints = Annotated[int, typer.Option(help="People with fewer such keypoints are left out.")]
MinSide = Annotated[
    float,
    typer.Option(help="People whose box is smaller are left out: root of its area, in pixels."),
]
Shrinking = Annotated[
    Sampling | None,
    typer.Option(help="As in training by default, bilinear where the file does not say."),
]


def label(
    images: Photos,
    out: Out,
    teacher: Teacher = None,
    boxes: Boxes = None,
    sheet: Sheet = None,
    min_score: MinScore = 0.3,
    max_distance: MaxDistance = 0.04,
    min_keypoints: MinKeypoints = 4,
    min_side: MinSide = 36.0,
    sampling: Shrinking = None,
    skeleton: SkeletonFile = None,
    normalisation: NormalisationText = None,
    resolution: Resolution = None,
    threads: Threads = None,
) -> None:
    """Label images by a teacher model: COCO keypoints for `train`, without annotating by hand."""
    from rich.console import Console

    from heatpose.bundles.released import resolve
    from heatpose.label import LabelJob, LabelSettings, label_images
    from heatpose.label.run import print_counts
    from heatpose.predict.estimator import Estimator
    from heatpose.runners import open_runner
    from heatpose.runners.reading import check_runs, reading_of

    settings = LabelSettings(min_score, max_distance, min_keypoints, min_side)
    if teacher is None:
        raise HeatposeError(NO_TEACHER)
    require_writable_files(out, sheet)
    teacher = resolve(teacher)
    check_runs(teacher, resolution)
    given, values = read_skeleton(skeleton), read_normalisation(normalisation)
    runner = open_runner(teacher, threads=threads, size=resolution, normalisation=values)
    reading = reading_of(runner, given)
    tell_reading(reading)
    chosen = reading.skeleton
    estimator = Estimator.of(runner, chosen, sampling=None if sampling is None else str(sampling))
    counts = label_images(LabelJob(images, out, estimator, settings, boxes))
    print_counts(counts, Console())
    if not counts.labelled:
        raise HeatposeError(f"No image of '{images}' was labelled; '{out}' is not written.")
    if sheet is not None:
        write_image(sheet, _sheet(out, images, chosen))
    typer.echo(f"{out}: add to a training with {_as_extra(out, images)}")


def _as_extra(annotations: Path, images: Path) -> str:
    """The setting as it is typed in a shell; Hydra needs quotes around unusual names."""
    from heatpose.entries.overrides import quote, shell

    texts = [str(path) for path in (annotations, images)]
    one, two = (t if re.fullmatch(r"[\w./-]+", t, re.ASCII) else quote(t) for t in texts)
    return f"data.extra={shell(f'[{{annotations: {one}, images: {two}}}]')}"


def _sheet(annotations: Path, images: Path, skeleton: Skeleton) -> NDArray[np.uint8]:
    from heatpose.data.coco import instances, read_labels
    from heatpose.data.contact_sheet import contact_sheet_of

    labels = read_labels(annotations)
    return contact_sheet_of(instances(labels, images, skeleton)[0], skeleton)
